"""`arbiter rules check` without files: the rules in force, on this machine, with its records."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from arbiter.cli import cli, linklook
from arbiter.cli.rulesmachine import Machine
from arbiter.cli.rulestore import unknown_user
from arbiter.linknumbers import names_had
from arbiter.records import Record
from arbiter.rules import FindingKind, parse
from arbiter.store import Author, Store, Wanted
from arbiter.usage import Account, Batch, Used

DAY = 86400
ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def argv(place: Path, *more: str) -> list[str]:
    where = ("--db", place / "a.db", "--config", place, "--state", place)
    return ["rules", "check", *map(str, where), *more]


def check(place: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(cli, argv(place, "--json", *more))
    return done.exit_code, json.loads(done.stdout)


def kinds(place: Path, *more: str) -> list[tuple[str, int]]:
    return [(one["kind"], one["rule"]) for one in check(place, *more)[1]]


def remember(place: Path, *lines: str, days_ago: float = 0) -> None:
    with Store.open(place / "a.db") as store:
        for line in lines:
            store.remember(parse(line), by="alice", created=time.time() - days_ago * DAY, boot="b")


def decided(place: Path, days_ago: float, rule: int | None, layer: int = 2) -> None:
    with Store.open(place / "a.db") as store:
        when = time.time() - days_ago * DAY
        store.record([Record(when, "allow", "rule", rule_id=rule, layer=layer)])


# --- rules beside each other ----------------------------------------------------------------


def test_the_rules_in_force_are_checked(place: Path) -> None:
    remember(place, "allow app=/usr/bin/env", "allow app=/usr/bin/env host=192.0.2.1")
    remember(place, "deny app=/no/such/program")
    done = CliRunner().invoke(cli, argv(place))
    assert done.exit_code == 0, done.output
    assert "rule 2" in done.output and "[redundant]" in done.output
    assert "rule 3: there is no /no/such/program any more [dead]" in done.output
    assert done.output.endswith("3 rules, 2 findings\n")
    code, found = check(place)
    assert code == 0
    assert [(f["kind"], f["rule"], f["other"]) for f in found] == [
        ("redundant", 2, 1),
        ("dead", 3, None),
    ]
    assert [(f["level"], f["removable"]) for f in found] == [("warning", True), ("warning", False)]
    assert {tuple(one) for one in found} == {
        (
            *("kind", "level", "rule", "place", "other", "other_place"),
            *("removable", "last_used", "text"),
        )
    }
    assert check(place, "--strict")[0] == 1


def test_nothing_odd_is_an_empty_array_and_strict_does_not_mind(place: Path) -> None:
    remember(place, "allow app=/usr/bin/env host=192.0.2.1")
    assert check(place, "--strict") == (0, [])
    assert CliRunner().invoke(cli, argv(place)).output == "1 rule, 0 findings\n"


def test_a_rule_of_a_policy_file_is_named_by_its_place(place: Path) -> None:
    remember(place, "allow app=unit:x.service host=10.0.0.1")
    (place / "policy.d").mkdir()
    file = place / "policy.d" / "a.toml"
    file.write_text('rules = [\n"deny app=unit:x.service",\n"deny app=unit:x.service port=1",\n]')
    found = [one for one in check(place)[1] if one["kind"] != "dead"]
    assert [(f["kind"], f["rule"], f["place"], f["other"], f["other_place"]) for f in found] == [
        ("redundant", None, f"{file}:3", None, f"{file}:2"),
        ("shadowed", 1, None, None, f"{file}:2"),
    ]


def test_what_cannot_be_read_is_told_and_is_an_error(place: Path) -> None:
    remember(place, "allow app=/usr/bin/env", "deny app=/usr/bin/env port=1")
    with Store.open(place / "a.db") as store:
        store._db.execute("UPDATE rules SET line = 'alow x' WHERE id = 1")
    (place / "policy.d").mkdir()
    (place / "policy.d" / "a.toml").write_text("x = 1")
    done = CliRunner().invoke(cli, argv(place, "--json"))
    assert done.exit_code == 1
    assert json.loads(done.stdout) == []
    assert "cannot read rule 1" in done.stderr
    assert f"{place}/policy.d/a.toml:1: unknown key" in done.stderr


# --- not used -------------------------------------------------------------------------------


def test_a_rule_that_decides_nothing_for_long_is_found(place: Path) -> None:
    apps = ("env", "ls", "cp", "mv")
    remember(place, *(f"allow app=/usr/bin/{app} port=1" for app in apps), days_ago=50)
    remember(place, "allow app=/usr/bin/cat port=1", days_ago=20)
    decided(place, 60, None)
    decided(place, 40, 1)
    decided(place, 2, 2)
    decided(place, 2, 3, layer=1)  # a rule of a file has a number of its own
    decided(place, 45, 2)
    _, found = check(place)
    assert [(f["kind"], f["rule"]) for f in found] == [("unused", id) for id in (1, 3, 4)]
    assert found[0]["text"].endswith(
        "(allow app=/usr/bin/env port=1) decided a connection last 40 days ago"
    )
    assert found[0]["last_used"] == pytest.approx(time.time() - 40 * DAY, abs=60)
    assert found[1]["text"].endswith("decided none since it was made, 50 days ago")
    assert found[1]["last_used"] is None
    assert not found[0]["removable"], "it may be wanted again"
    assert kinds(place, "--unused-for", "45") == [("unused", 3), ("unused", 4)]
    assert kinds(place, "--unused-for", "19") == [("unused", id) for id in (1, 3, 4, 5)]
    assert kinds(place, "--unused-for", "55") == []
    assert check(place, "--strict")[0] == 1


def test_nothing_is_said_beyond_the_records(place: Path) -> None:
    remember(place, "allow app=/usr/bin/env port=1", days_ago=50)
    assert kinds(place) == []
    decided(place, 29, None)
    assert kinds(place) == []
    decided(place, 31, None)
    (found,) = check(place)[1]
    assert found["text"].endswith("decided none in the 31 days that records reach back")


def test_a_rule_that_undoing_brought_back_is_new_in_force(place: Path) -> None:
    remember(place, "allow app=/usr/bin/env port=1", days_ago=50)
    decided(place, 60, None)
    assert kinds(place) == [("unused", 1)]
    where = ("--db", str(place / "a.db"))
    assert CliRunner().invoke(cli, ["rules", "remove", "1", *where]).exit_code == 0
    assert CliRunner().invoke(cli, ["rules", "undo", *where]).exit_code == 0
    assert kinds(place) == []


# --- expired --------------------------------------------------------------------------------


def test_what_expired_is_listed_and_is_no_fault(place: Path) -> None:
    remember(place, "allow app=/usr/bin/env for=1h", "allow app=/usr/bin/ls for=9w", days_ago=1)
    remember(place, "allow app=/usr/bin/cp for=1h", "allow app=/usr/bin/mv for=1h", days_ago=40)
    with Store.open(place / "a.db") as store:
        store.retire([3], "expired", time.time() - 40 * DAY)
        store.retire([4], "expired", time.time() - 2 * DAY)
    remember(place, "allow app=/usr/bin/rm for=1h", days_ago=1)
    with Store.open(place / "a.db") as store:
        store.remove(5, "alice", at=time.time() - DAY)
    code, found = check(place, "--strict")
    assert code == 0
    assert [(f["kind"], f["rule"], f["level"]) for f in found] == [
        ("expired", 1, "note"),
        ("expired", 4, "note"),
    ]
    assert "rule 1 (allow app=/usr/bin/env for=1h) expired 20" in found[0]["text"]
    assert CliRunner().invoke(cli, argv(place)).output.endswith("1 rule, 0 findings, 2 expired\n")


# --- users and links ------------------------------------------------------------------------


def test_users_and_groups_that_are_gone_are_found(place: Path) -> None:
    remember(
        place,
        "allow port=1 user=no-such-one",
        "allow port=2 user=@no-such-group",
        "allow port=3 user=root",
        "allow port=4 user=@root",
        "allow port=5 user=4000000",
    )
    found = check(place)[1]
    assert [(f["kind"], f["rule"]) for f in found] == [("dead", 1), ("dead", 2)]
    assert found[0]["text"] == "rule 1: there is no user no-such-one on this machine now"
    assert "no group no-such-group" in found[1]["text"]


@pytest.mark.parametrize("user", ["\0a", "\ud800", "@\0", "a\nb"])
def test_a_name_that_no_user_can_have_is_unknown(user: str) -> None:
    assert "on this machine now" in unknown_user(user)
    assert unknown_user(user).isprintable()


def test_links_that_never_were_are_found(place: Path) -> None:
    (place / "links.d").mkdir()
    (place / "links.d" / "a.toml").write_text(
        '[link]\nname = "cable"\nmatch = { interface = "no-such0" }\n'
    )
    (place / "links.json").write_text(json.dumps({"wifi 02:00:00:00:00:01": 7, "file old": 8}))
    remember(
        place,
        "route via=cable,wifi,old,link7,unmetered,any app=/usr/bin/env",
        "route via=cabel port=1",
        "route via=metered port=2",
        "route via=sent port=3",
    )
    account = Account("/usr/bin/env", "root", "sent", "")
    with Store.open(place / "a.db") as store:
        store.add_usage(Batch((Used(account, "2026-01-01", 1, 1, 1, 1, 1),), (), ()))
    found = check(place)[1]
    assert [(f["kind"], f["rule"]) for f in found] == [("dead", 2)]
    assert "no link is or was called cabel: did you mean cable?" in found[0]["text"]


def test_links_that_are_there_are_known(place: Path) -> None:
    """The link of this machine, if it has any: by whatever name `arbiter links` lists it."""
    listed = CliRunner().invoke(cli, ["links", "--json", *argv(place)[4:]])
    machine = Machine(place, place, place / "no.db")
    assert [machine.no_link(link["name"]) for link in json.loads(listed.stdout)] == [
        "" for _ in json.loads(listed.stdout)
    ]
    assert machine.no_link("nolink") and not machine.problem


def test_where_links_are_not_known_nothing_is_said_of_them(place: Path) -> None:
    remember(place, "route via=nolink port=1")
    (place / "links.d").mkdir()
    (place / "links.d" / "a.toml").write_text("x")
    done = CliRunner().invoke(cli, argv(place, "--json"))
    assert json.loads(done.stdout) == []
    assert "note: links are not looked at" in done.stderr
    assert done.exit_code == 0


def test_every_name_that_a_link_surely_had_is_known() -> None:
    had = {"file home": 3, "cellular 02:00:00:00:00:01": 4, "interface ppp0": 5}
    assert names_had(had) == {"home", "lte", "ppp0", "link3", "link4", "link5"}


def test_links_are_looked_at_only_where_a_rule_names_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linklook, "Look", None)  # which would fail
    remember(place, "route via=metered,any port=1")
    assert check(place) == (0, [])


# --- the docs -------------------------------------------------------------------------------


def test_every_kind_and_key_is_documented(place: Path) -> None:
    text = (ROOT / "docs" / "rules.md").read_text("utf-8")
    remember(place, "deny app=/no/such/program")
    for word in (*FindingKind, *check(place)[1][0]):
        assert f"`{word}`" in text, word


# --- other names -----------------------------------------------------------------------------


def test_a_path_that_is_not_what_the_program_is_known_by_is_found(place: Path) -> None:
    (place / "wget").write_bytes(b"\x7fELF")
    (place / "get").symlink_to("wget")
    remember(place, f"deny app={place}/get", f"deny parent={place}/get port=1")
    remember(place, f"deny app={place}/wget", "deny app=/usr/bin/../bin/env")
    found = check(place)[1]
    assert [(f["kind"], f["rule"], f["level"]) for f in found] == [
        ("never-matches", 4, "warning"),
        ("other-name", 1, "warning"),
        ("other-name", 2, "warning"),
    ]
    assert found[1]["text"].startswith(f"rule 1: {place}/get is a link")
    assert f"write {place}/wget" in found[1]["text"]


def test_only_a_link_that_is_listed_is_suggested(place: Path) -> None:
    (place / "links.json").write_text(json.dumps({"wifi 02:00:00:00:00:01": 2, "file nolinks": 3}))
    remember(place, "route via=nolink port=1")
    (found,) = check(place)[1]
    assert "no link is or was called nolink" in found["text"]
    assert "did you mean" not in found["text"]


# --- many -----------------------------------------------------------------------------------


def test_many_rules_take_seconds_and_a_terminal_sees_how_far_it_is(place: Path) -> None:
    lines = [f"allow app=/usr/bin/env host=h{id}.example.org" for id in range(6000)]
    with Store.open(place / "a.db") as store:
        wanted = [Wanted(parse(line), None) for line in lines]
        store.import_rules(wanted, author=Author("alice"), created=time.time())
    begun = time.monotonic()
    assert check(place) == (0, [])
    assert time.monotonic() - begun < 15
    near, far = os.openpty()
    command = [sys.executable, "-m", "arbiter", *argv(place)]
    with subprocess.Popen(command, stderr=far, stdout=subprocess.PIPE, cwd=ROOT) as process:
        os.close(far)
        shown = ""
        with contextlib.suppress(OSError):  # EIO: the other end is closed, pty(7)
            while part := os.read(near, 65536):
                shown += part.decode()
        os.close(near)
        assert process.stdout is not None
        said = process.stdout.read()
    assert "checking rules" in shown and "100%" in shown
    assert said == b"6000 rules, 0 findings\n"
