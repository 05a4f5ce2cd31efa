"""`arbiter explain` of records and captures, and what every form shares. tests/kernel has the live
ones; tests/test_cli_explain.py the one by parts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from scripted_daemon import ScriptedDaemon
from sessions import like, session

from arbiter import cli, policyfiles
from arbiter.cli import explainask, explaincapture, running
from arbiter.events import Reason
from arbiter.records import Record, json_list
from arbiter.recordwords import THEN
from arbiter.rules import Layer, Lifetime, LifetimeKind, parse
from arbiter.store import Store

ROOT = Path(__file__).parent.parent
CAPTURES = ROOT / "fixtures" / "captures"
BROWSE = str(CAPTURES / "browse.pcap")
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


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def arbiter(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(ROOT)

    def run(*argv: str) -> Done:
        env = {
            "ARBITER_DB": str(home / "a.db"),
            "ARBITER_SOCKET": str(home / "socket"),
            "ARBITER_CONFIG": str(home / "config"),
        }
        done = CliRunner(env=env).invoke(cli.cli, argv, prog_name="arbiter")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def store(home: Path) -> Store:
    return Store.open(home / "a.db")


def settings(home: Path, text: str) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "arbiter.toml").write_text(text)


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


@pytest.mark.parametrize(
    ("text", "decision", "said"),
    [
        ("", "deny", "you are asked; without an answer within 30 s it is denied"),
        ("deadline = 5", "deny", "you are asked; without an answer within 5 s it is denied"),
        ('mode = "enforce"', "deny", "it is denied, as the mode is enforce"),
        ('mode = "enforce"\nfallback = "allow"', "allow", "it is allowed, as the mode is enforce"),
        ('mode = "observe"', "allow", "it is allowed, as the mode is observe"),
    ],
)
def test_where_no_rule_decides_the_settings_say_what_happens(
    arbiter: Run, store: Store, home: Path, text: str, decision: str, said: str
) -> None:
    settings(home, text)
    done = arbiter("explain", "--host", "192.0.2.7", "--port", "443")
    assert done == Done(1, f"no rule decides tcp 192.0.2.7 port 443: {said}\n", "")
    (found,) = json.loads(arbiter("explain", "--host", "192.0.2.7", "--json").out)
    assert found["decision"] is None and found["otherwise"]["decision"] == decision
    done = arbiter("explain", "--pcap", BROWSE)
    assert done.code == 1 and said in done.out
    assert f"8 connections in 15 packets: 8 {'ask' if 'mode' not in text else decision}" in done.out


@pytest.fixture
def daemon(home: Path) -> Iterator[ScriptedDaemon]:
    """A scripted daemon in a thread, without asks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = ScriptedDaemon(home / "socket")
    asyncio.run_coroutine_threadsafe(running.start(), loop).result(5)
    try:
        yield running
    finally:
        asyncio.run_coroutine_threadsafe(running.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@pytest.mark.parametrize(
    ("text", "mode", "fallback", "said"),
    [
        ("", "enforce", "deny", "it is denied, as the mode is enforce"),
        ("", "enforce", "allow", "it is allowed, as the mode is enforce"),
        ('mode = "enforce"', "observe", "deny", "it is allowed, as the mode is observe"),
        ('mode = "enforce"\ndeadline = 5', "ask", "allow",
         "you are asked; without an answer within 5 s it is allowed"),
        ("mod = 1", "enforce", "deny", "it is denied, as the mode is enforce"),
        ("mod = 1", "ask", "deny", "you are asked, unless the mode says otherwise"),
    ],
)  # fmt: skip
def test_the_mode_of_the_daemon_that_runs_counts_before_the_settings(
    arbiter: Run,
    store: Store,
    home: Path,
    daemon: ScriptedDaemon,
    text: str,
    mode: str,
    fallback: str,
    said: str,
) -> None:
    settings(home, text)
    daemon.mode, daemon.fallback = mode, fallback
    store.record([record(reason="enforce", rule_id=None)])
    for form in (("--host", "192.0.2.7"), ("--record", "last")):
        done = arbiter("explain", *form)
        assert done.code == 1 and done.out.count(said) == 1, done
    assert said in arbiter("explain", "--pcap", BROWSE).out
    assert ("settings cannot be read" in arbiter("explain", "--host", "::2").err) is (
        "mod " in text
    )


@pytest.mark.parametrize("word", ["of-tomorrow", "\x1b[2J"])
def test_a_daemon_that_does_not_say_its_mode_is_noted(
    arbiter: Run, store: Store, daemon: ScriptedDaemon, word: str
) -> None:
    daemon.mode = word
    done = arbiter("explain", "--host", "192.0.2.7")
    assert done.code == 1 and "you are asked; without an answer within 30 s" in done.out
    assert "does not say its mode (" in done.err and "is by the settings" in done.err
    assert "\x1b" not in done.err


def test_a_socket_that_cannot_be_asked_is_noted(
    arbiter: Run, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("explain", "--host", "192.0.2.7")
    assert arbiter(*argv).err == ""
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
        assert arbiter(*argv).err == "", "it is left over: nobody listens"
        listener.listen()
        assert "does not say its mode (timed out)" in arbiter(*argv).err


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


def test_names_that_records_know_are_said_with_what_they_would_decide(
    arbiter: Run, store: Store
) -> None:
    remember(store, "allow app=/usr/bin/curl")
    remember(store, "deny app=/usr/bin/curl host=*.lab.test")
    argv = ("explain", "--app", "/usr/bin/curl", "--host", "198.51.100.20", "--port", "80")
    assert "records know" not in arbiter(*argv).out
    names = json_list(["second.lab.test"])
    at = {"daddr": "198.51.100.20", "names": names, "time": time.time() - 60}
    store.record([record(**at)])
    done = arbiter(*argv)
    assert done.code == 0 and done.out.startswith("allow app=/usr/bin/curl\n")
    hint = "records know this address as second.lab.test: with --name second.lab.test it is "
    assert done.out.splitlines()[-1] == f"  {hint}deny by rule 2"
    assert f"note: {hint}deny by rule 2" in arbiter(*argv, "--json").err
    done = arbiter(*argv, "--name", "second.lab.test")
    assert done.out.startswith("deny app=") and "records know" not in done.out
    store.remove(2, "bob", at=time.time())
    assert f"{hint}still allow by rule 1" in arbiter(*argv).out
    assert "records know" not in arbiter("explain", "--host", "198.51.100.21").out
    many = json_list([f"{letter}.lab.test" for letter in "abcd"])
    store.record([record(**(at | {"names": many, "time": time.time()}))])
    out = arbiter(*argv).out
    assert "c.lab.test and 1 more: with --name a.lab.test --name b.lab.test" in out
    assert "--name c.lab.test ... it is still" in out


def test_the_newest_record_of_a_connection_is_found_by_all_its_ends(store: Store) -> None:
    ends = {"proto": "tcp", "saddr": "::1", "sport": 4, "daddr": "::2", "dport": 5}
    store.record([record(**ends, time=2.0), record(**ends, time=3.0), record(**ends, time=1.0)])
    kept = store.records.of_flow(**ends)  # type: ignore[arg-type]  # as its columns
    assert kept is not None and kept.record.time == 3.0
    for key in ends:
        other = ends | {key: 6 if "port" in key else "udp" if key == "proto" else "::3"}
        assert store.records.of_flow(**other) is None, key  # type: ignore[arg-type]


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


def test_settings_that_cannot_be_read_are_said_and_nothing_is_claimed_of_them(
    arbiter: Run, store: Store, home: Path
) -> None:
    settings(home, "mod = 1")
    done = arbiter("explain", "--host", "192.0.2.7")
    assert done.code == 1 and "note: the settings cannot be read: " in done.err
    assert "arbiter.toml" in done.err and "did you mean" in done.err
    assert "you are asked, unless the mode says otherwise" in done.out
    (found,) = json.loads(arbiter("explain", "--host", "192.0.2.7", "--json").out)
    assert found["otherwise"] is None and found["decision"] is None


def test_what_packages_ship_decides_where_the_settings_say_so(
    arbiter: Run, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root may put such a file where it counts, so that it is given here."""
    text = '[application]\nname = "Curl"\napp = "/usr/bin/curl"\n[[connection]]\n'
    text += 'host = "192.0.2.7"\npurpose = "x"\nsuggest = "allow"\n'
    file = policyfiles.load(text, "/usr/share/arbiter/policy.d/curl.toml", shipped=True)
    monkeypatch.setattr(explainask, "read_policies", lambda folder: ((file,), ()))
    argv = ("explain", "--app", "/usr/bin/curl", "--host", "192.0.2.7")
    assert arbiter(*argv).code == 1
    settings(home, 'shipped_policies = "decide"')
    done = arbiter(*argv)
    assert done.code == 0 and "files shipped by packages" in done.out, done


# --- records --------------------------------------------------------------------------------


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "time": 1_700_000_000.0,  # Tuesday 2023-11-14 22:13:20 UTC
        "decision": "allow",
        "reason": "rule",
        "proto": "tcp",
        "saddr": "192.0.2.10",
        "sport": 40000,
        "daddr": "198.51.100.7",
        "dport": 443,
        "uid": 0,
        "user": "root",
        "app": "/usr/bin/curl",
        "app_kind": "path",
        "pid": 7,
        "start": 70,
        "parents": json_list(["/usr/bin/bash"]),
        "rule_id": 1,
        "layer": 2,
        "by": "alice",
        "frontend": "terminal",
        "names": json_list(["www.example.org"]),
        "link": "wifi",
    }
    return Record(**(fields | changes))


def remember(store: Store, line: str, **more: Any) -> int:
    at: dict[str, Any] = {"by": "alice", "frontend": "terminal", "created": 1_699_999_000.0}
    return store.remember(parse(line), **(at | more)).entry.id


def test_a_record_that_is_decided_as_it_was_says_so(arbiter: Run, store: Store) -> None:
    remember(store, "allow app=/usr/bin/curl host=*.example.org parent=/usr/bin/bash user=@root")
    store.record([record()])
    for which in ("1", "last"):
        done = arbiter("explain", "--record", which)
        assert done.code == 0, done
        first, then, now, rule, why = done.out.splitlines()
        assert re.match(r"record 1 of 2023-11-1\d \d\d:13: tcp 192.0.2.10:40000 > ", first)
        assert first.endswith(
            "> 198.51.100.7:443 (www.example.org), of /usr/bin/curl (pid 7), user root"
        )
        assert then == "then: allow over wifi, by rule 1, by alice"
        assert now == "now: the same, by the same rule"
        assert rule.startswith("allow app=/usr/bin/curl") and "the only rule" in why
    (found,) = json.loads(arbiter("explain", "--record", "1", "--json").out)
    assert found["record"] == {
        "id": 1,
        "time": 1_700_000_000.0,
        "decision": "allow",
        "reason": "rule",
        "rule": 1,
        "layer": 2,
        "by": "alice",
        "frontend": "terminal",
        "link": "wifi",
        "note": None,
        "differs": False,
        "change": "the same, by the same rule",
    }


def test_a_record_whose_rule_was_taken_out_names_when_and_by_whom(
    arbiter: Run, store: Store
) -> None:
    remember(store, "allow app=/usr/bin/curl")
    store.record([record()])
    store.remove(1, "bob", at=1_700_000_500.0)
    done = arbiter("explain", "--record", "1")
    assert done.code == 1
    assert re.search(
        r"now: no rule decides it: rule 1 was taken out of force 2023-11-1\d .* by bob \(removed\)",
        done.out,
    )
    (found,) = json.loads(arbiter("explain", "--record", "1", "--json").out)
    assert found["record"]["differs"] is True and found["decision"] is None


def test_a_record_whose_rule_was_replaced_names_the_rule_in_its_place(
    arbiter: Run, store: Store
) -> None:
    remember(store, "allow app=/usr/bin/curl")
    store.record([record()])
    remember(store, "deny app=/usr/bin/curl", created=1_700_000_500.0, by="bob")
    done = arbiter("explain", "--record", "1")
    assert done.code == 0
    assert "now: deny, not that, by rule 2: rule 1 was taken out of force" in done.out
    assert "by bob (replaced by rule 2)" in done.out


@pytest.mark.parametrize(
    ("lines", "changes", "now"),
    [
        (("allow app=/usr/bin/curl", "deny app=/usr/bin/curl port=443"), {},
         "deny, not that, by rule 2: rule 1 is in force, but another one comes before it"),
        (("allow app=/usr/bin/curl", "allow app=/usr/bin/curl port=443"), {},
         "the same, by rule 2: rule 1 is in force, but another one comes before it"),
        (("allow user=@no-such-group",), {},
         "no rule decides it: rule 1 is in force, but does not match: it is for group"),
        ((), {}, "no rule decides it: rule 1 is not in this database"),
        ((), {"reason": "answer", "rule_id": None}, "no rule decides it; then no rule did"),
        (("deny app=/usr/bin/curl",), {"reason": "answer", "rule_id": None},
         "deny, not that, by rule 1 of 2023-11-1"),
        (("allow app=/usr/bin/curl",), {"reason": "observe", "rule_id": None, "by": ""},
         "the same, by rule 1 of 2023-11-1"),
        ((), {"rule_id": -3, "layer": 1, "by": "file:/etc/arbiter/policy.d/a.toml:7"},
         "no rule decides it: the rule at /etc/arbiter/policy.d/a.toml:7 is not there any more"),
    ],
)  # fmt: skip
def test_a_record_says_why_it_would_be_otherwise_now(
    arbiter: Run, store: Store, lines: tuple[str, ...], changes: dict[str, Any], now: str
) -> None:
    for line in lines:
        remember(store, line)
    store.record([record(**changes)])
    done = arbiter("explain", "--record", "1")
    assert f"now: {now}" in done.out, done.out
    assert done.code == ("no rule decides" in now)


@pytest.mark.parametrize(
    ("changes", "then"),
    [
        ({"reason": "answer", "rule_id": None, "frontend": "tui"},
         "allow over wifi, because a person answered: alice, tui"),
        ({"reason": "deadline", "decision": "deny", "rule_id": None, "by": "", "link": ""},
         "deny, because nobody answered in time"),
        ({"reason": "unattended", "decision": "deny", "by": "", "link": "", "note": "x\x1b[2Jy"},
         "deny, because no prompt was there to ask (x�[2Jy)"),
        ({"reason": "older", "by": "", "link": ""}, "allow, because it was older than arbiter"),
        ({"reason": "of-tomorrow", "by": "", "link": ""}, "allow, because of-tomorrow"),
        ({"rule_id": -3, "layer": 1, "by": "file:/etc/a.toml:7", "link": ""},
         "allow, by the rule at /etc/a.toml:7"),
    ],
)  # fmt: skip
def test_what_was_decided_then_is_said_with_its_reason(
    arbiter: Run, store: Store, changes: dict[str, Any], then: str
) -> None:
    store.record([record(**changes)])
    out = arbiter("explain", "--record", "1").out
    assert re.sub("[^ -~\n]", "�", out).find(f"then: {re.sub('[^ -~]', '�', then)}") > 0, out
    assert "\x1b" not in out


def test_every_reason_has_words() -> None:
    assert {*THEN, Reason.RULE} == set(Reason)


def test_a_rule_whose_time_is_over_does_not_decide_a_record_of_its_time(
    arbiter: Run, store: Store
) -> None:
    remember(store, "allow app=/usr/bin/curl for=2h")
    store.record([record()])
    done = arbiter("explain", "--record", "1")
    assert done.code == 1
    assert re.search(r"now: no rule decides it: rule 1 ended 2023-11-1\d .*: allow app=", done.out)


def test_the_clock_of_a_record_is_that_of_its_time(arbiter: Run, store: Store) -> None:
    day = time.localtime(1_700_000_000).tm_wday
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    remember(store, f"allow time={names[day]}")
    remember(store, f"deny time={names[day - 1]}")
    store.record([record()])
    done = arbiter("explain", "--record", "1")
    assert done.code == 0 and "rule 1 " in done.out
    assert "rule 2 does not match" in done.out


def test_records_that_cannot_be_asked_again_say_why(arbiter: Run, store: Store) -> None:
    done = arbiter("explain", "--record", "last")
    assert done.code == 1 and "has no records yet: nothing was decided" in done.err
    store.record([record(proto="", daddr="", saddr="", reason="undecodable", note="no bytes")])
    done = arbiter("explain", "--record", "1")
    assert done.code == 1 and "was not held against rules, and cannot be" in done.err
    assert "no bytes" in done.err
    for number in ("2", "9" * 19, "9" * 40):
        done = arbiter("explain", "--record", number)
        assert done.code == 1 and f"has no record {number}: the newest is 1" in done.err


def test_a_rule_that_ended_with_its_boot_says_so(arbiter: Run, store: Store) -> None:
    rule = parse("allow app=/usr/bin/curl").replace(lifetime=Lifetime(LifetimeKind.BOOT))
    store.remember(rule, by="alice", created=1.0, boot="another", layer=Layer.REMEMBERED)
    store.record([record()])
    assert "rule 1 was for=boot, and that is over" in arbiter("explain", "--record", "1").out


def test_the_profile_of_a_record_is_that_of_its_time_and_else_the_active_one(
    arbiter: Run, store: Store
) -> None:
    assert arbiter("profiles", "add", "home").code == 0
    remember(store, "allow app=/usr/bin/curl profile=home")
    store.record([record(profile="home"), record()])
    assert arbiter("explain", "--record", "1").code == 0
    assert arbiter("explain", "--record", "2").code == 1
    for form in (("--host", "192.0.2.7", "--app"), ("--pcap", BROWSE, "--app")):
        argv = ("explain", *form, "/usr/bin/curl")
        assert arbiter(*argv).code == 1
        assert arbiter(*argv, "--profile", "home").code == 0
    assert arbiter("profiles", "use", "home").code == 0
    for form in (("--host", "192.0.2.7", "--app"), ("--pcap", BROWSE, "--app")):
        assert arbiter("explain", *form, "/usr/bin/curl").code == 0
        assert arbiter("explain", *form, "/usr/bin/curl", "--profile", "none").code == 1
    done = arbiter("explain", "--record", "1", "--profile", "home")
    assert done.code == 2 and "--profile does not go with --record" in done.err


# --- captures -------------------------------------------------------------------------------


def test_a_capture_is_a_table_with_totals(arbiter: Run, store: Store) -> None:
    remember(store, "allow app=/usr/bin/curl host=*.example.org port=443")
    remember(store, "deny proto=udp port=443")
    remember(store, "route via=lte,any proto=sctp")
    done = arbiter("explain", "--pcap", BROWSE, "--app", "/usr/bin/curl")
    assert done.code == 1
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["packet", "seconds", "connection", "names", "decision", "why"]
    assert lines[2][:6] == [
        "3", "0.200", "tcp", "192.0.2.10:40000", ">", "198.51.100.7:443",
    ]  # fmt: skip
    assert "rule 1 (remembered rules, by alice, terminal) wins over rule 2" in done.out
    assert "route via=lte,any" in done.out
    assert done.out.splitlines()[-1] == (
        "8 connections in 15 packets: 4 ask, 3 allow, 1 route via=lte,any"
    )


def test_a_capture_that_rules_decide_has_exit_code_0(arbiter: Run, store: Store) -> None:
    remember(store, "allow")
    done = arbiter("explain", "--pcap", BROWSE)
    assert done.code == 0
    assert "no rule for a single app was looked at: say whose it is with --app" in done.out


def test_the_user_parents_and_context_of_a_capture_are_those_of_the_options(
    arbiter: Run, store: Store
) -> None:
    remember(store, "allow app=/a parent=/p user=@root metered=yes network=ssid:Home")
    argv = ["--app", "/a", "--parent", "/p", "--user", "root"]
    argv += ["--metered", "yes", "--network", "ssid:Home"]
    for place in range(0, len(argv), 2):
        left = argv[:place] + argv[place + 2 :]
        assert arbiter("explain", "--pcap", BROWSE, *left).code == 1, left
    assert arbiter("explain", "--pcap", BROWSE, *argv).code == 0


def test_a_capture_in_json_is_an_array_with_each_connection(arbiter: Run, store: Store) -> None:
    done = arbiter("explain", "--pcap", str(CAPTURES / "odd.pcap"), "--json")
    found = json.loads(done.out)
    assert [one["capture"]["packet"] for one in found] == [2, 3, 12, 13, 14]
    assert [one["capture"]["midstream"] for one in found] == [True, True, False, False, False]
    assert found[0]["decision"] == "allow" and "open before arbiter" in found[0]["why"]
    assert found[3]["query"]["names"] == ["elsewhere.example"]
    assert "left out: 1 packet: a later fragment" in done.err
    assert json.loads(arbiter("explain", "--pcap", str(CAPTURES / "wifi.pcap"), "--json").out) == []


def test_only_what_a_host_opened(arbiter: Run, store: Store) -> None:
    path = str(CAPTURES / "odd.pcap")
    done = arbiter("explain", "--pcap", path, "--from", "192.0.2.10", "--from", "2001:db8::10")
    assert "3 connections in 15 packets: 2 allow, 1 ask" in done.out
    assert "left out: 5 connections: opened by another host (the first is packet 6)" in done.out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken-off.pcap", "broken-off.pcap, packet 15: the file breaks off in the middle of it"),
        ("empty.pcap", "empty.pcap is empty"),
        ("make.py", "make.py is neither pcap nor pcapng"),
        ("wifi.pcap", "1 packet, and none that could be read"),
        ("none.pcap", "none.pcap cannot be read: No such file or directory"),
    ],
)
def test_a_capture_that_cannot_be_read_says_where_and_why(
    arbiter: Run, store: Store, name: str, text: str
) -> None:
    remember(store, "allow")
    for more in ((), ("--json",)):
        done = arbiter("explain", "--pcap", str(CAPTURES / name), *more)
        assert done.code == 1 and text in done.err, done
        if more:
            found = json.loads(done.out)
            assert len(found) == (7 if name == "broken-off.pcap" else 0)
        elif name in ("empty.pcap", "make.py", "none.pcap"):
            assert done.out == ""


def test_a_table_has_an_end_and_json_has_all(
    arbiter: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaincapture, "MAX_ROWS", 3)
    done = arbiter("explain", "--pcap", BROWSE)
    assert "and 5 more, which --json lists" in done.out
    assert len(json.loads(arbiter("explain", "--pcap", BROWSE, "--json").out)) == 8


def test_the_clock_of_a_captured_connection_is_that_of_its_packet(
    arbiter: Run, store: Store
) -> None:
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    remember(store, f"allow time={names[time.localtime(1_700_000_000).tm_wday]}")
    assert arbiter("explain", "--pcap", BROWSE).code == 0


# --- the page -------------------------------------------------------------------------------


def test_the_pages_session_is_real(arbiter: Run, store: Store) -> None:
    steps = session(ROOT / "docs" / "explain.md", "captures")
    assert len(steps) >= 3
    for command, shown in steps:
        name, *argv = shlex.split(command)
        assert name == "arbiter"
        done = arbiter(*argv)
        assert like(shown, done.out), f"$ {command}\n{done.out}{done.err}"
