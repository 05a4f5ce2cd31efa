"""`arbiter explain` in what every form shares: what is asked about, keys, what is never decided.

tests/kernel has the live ones; tests/test_cli_explain.py the one by parts.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path

import pytest
from commands import ROOT
from explainscene import BROWSE, Run, explaining, record, remember
from sessions import like, session

from arbiter.store import Store

KEYS = {
    "query",
    "decision",
    "rule",
    "why",
    "beaten",
    "not_matching",
    "otherwise",
    "apps",
    "not_decided",
    "way",
    "record",
    "capture",
}
QUERY_KEYS = {
    "app",
    "parents",
    "pids",
    "no_owner",
    "uid",
    "user",
    "groups",
    "proto",
    "from",
    "from_port",
    "host",
    "port",
    "names",
    "hook",
    "sims",
    "networks",
    "profile",
    "metered",
    "roaming",
}


@pytest.fixture
def arbiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return explaining(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "a.db")


# --- one form at a time ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ((), "what is asked about? Give --host, or one of --pid, --connection, --record, --pcap"),
        (("--pid", "1", "--pcap", "x"), "--pid and --pcap ask about different things"),
        (("--record", "1", "--connection", "x"), "--connection and --record ask about different"),
        (("--pid", "1", "--app", "/x", "--host", "::1"), "--app does not go with --pid"),
        (("--pid", "1", "--user", "root"), "--user does not go with --pid: the process says it"),
        (("--pid", "1", "--port", "443"), "--port with --pid is about one destination: give its"),
        (("--pid", "1", "--name", "a.example"), "--name with --pid is about one destination"),
        (("--pid", "0"), "0 is not in the range"),
        (("--connection", "x", "--host", "::1"), "--host does not go with --connection"),
        (("--record", "1", "--metered", "yes"), "--metered does not go with --record: the record"),
        (("--pcap", "x", "--name", "a.example"), "--name does not go with --pcap: the capture"),
        (("--host", "::1", "--from", "::1"), "--from is about a capture: give it with --pcap"),
        (("--pcap", "x", "--from", "home"), "--from 'home' is not an address"),
        (("--connection", "tcp 1.2.3.4:5"), "it has 1 addresses, and needs two"),
        (("--connection", "\x1b[2J > \u202e"), "write it as 'tcp 192.0.2.1:40000 > 192.0.2.7:443'"),
        (("--record", "first"), "--record 'first': it is a record's number, or last"),
        (("--record", "-1"), "it is a record's number"),
    ],
)
def test_what_is_asked_about_is_said_in_one_way(
    arbiter: Run, store: Store, argv: tuple[str, ...], text: str
) -> None:
    done = arbiter("explain", *argv)
    assert done.code == 2 and text in done.err, done
    assert "\x1b" not in done.err and "\u202e" not in done.err


def test_every_form_has_the_same_keys(arbiter: Run, store: Store) -> None:
    arbiter("rules", "add", "allow port=443")
    store.record([record()])
    forms: list[tuple[str, ...]] = [("--host", "192.0.2.7"), ("--record", "last")]
    forms.append(("--pcap", BROWSE))
    forms.append(("--pid", str(os.getpid()), "--host", "192.0.2.7"))
    for form in forms:
        found = json.loads(arbiter("explain", *form, "--json").out)
        assert found
        for one in found:
            assert set(one) == KEYS, form
            assert set(one["query"]) == QUERY_KEYS, form
            assert (one["decision"] is None) == (one["otherwise"] is not None)


# --- what is never decided, and what nobody knows -------------------------------------------


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("--host", "127.0.0.1", "--port", "8000"), "it stays on this machine"),
        (("--host", "::1", "--proto", "udp"), "it stays on this machine"),
        (("--host", "224.0.0.251", "--proto", "udp"), "it is for many at once"),
        (("--host", "fe80::1"), "its destination is a link-local address"),
    ],
)
def test_what_is_never_decided_is_said_by_parts_too(
    arbiter: Run, store: Store, argv: tuple[str, ...], why: str
) -> None:
    remember(store, "deny app=/usr/bin/curl")
    for app, rest in (("/usr/bin/curl", "deny app="), ("/usr/bin/wget", "no rule decides")):
        done = arbiter("explain", "--app", app, *argv)
        first, second, *_ = done.out.splitlines()
        assert done.code == 0 and first.startswith(f"arbiter does not decide it: {why}"), done
        assert second.startswith(rest)
    (found,) = json.loads(arbiter("explain", *argv, "--json").out)
    assert found["not_decided"].startswith(why)
    done = arbiter("explain", "--app", "/usr/bin/curl", "--host", "192.0.2.7")
    assert done.out.startswith("deny app=")


def test_a_profile_or_user_that_is_not_there_is_noted(arbiter: Run, store: Store) -> None:
    assert arbiter("profiles", "add", "home").code == 0
    done = arbiter("explain", "--host", "192.0.2.7", "--profile", "nosuch", "--user", "no-such")
    assert done.code == 1
    assert "note: there is no profile nosuch: arbiter profiles list shows" in done.err
    assert "note: there is no user no-such on this machine now" in done.err
    for profile in ("home", "none"):
        assert arbiter("explain", "--host", "::2", "--profile", profile, "--user", "root").err == ""


# --- what nearly matched --------------------------------------------------------------------


def test_the_nearest_rules_that_do_not_match_are_shown_and_the_rest_counted(
    arbiter: Run, store: Store
) -> None:
    for number in range(11):
        remember(store, f"deny host=h{number}.example port=99 proto=udp")
    remember(store, "deny port=99")
    remember(store, "allow app=/usr/bin/curl port=99")
    argv = ("explain", "--app", "/usr/bin/curl", "--host", "192.0.2.7", "--port", "443")
    lines = arbiter(*argv).out.splitlines()
    assert [line.split(" does not match")[0].strip() for line in lines[1:3]] == [
        "rule 13",
        "rule 12",
    ]
    assert len(lines) == 5 and "host=h10.example" in lines[3], lines
    assert lines[4] == "  10 more rules do not match; --json lists all"
    (found,) = json.loads(arbiter(*argv, "--json").out)
    assert len(found["not_matching"]) == 13
    for rule in range(1, 10):
        store.remove(rule, "bob", at=time.time())
    assert arbiter(*argv).out.endswith("  1 more rule does not match; --json lists all\n")
    store.remove(10, "bob", at=time.time())
    assert "more rule" not in arbiter(*argv).out


# --- the page -------------------------------------------------------------------------------


def test_the_pages_session_is_real(arbiter: Run, store: Store) -> None:
    steps = session(ROOT / "docs" / "explain.md", "captures")
    assert len(steps) >= 3
    for command, shown in steps:
        name, *argv = shlex.split(command)
        assert name == "arbiter"
        done = arbiter(*argv)
        assert like(shown, done.out), f"$ {command}\n{done.out}{done.err}"
