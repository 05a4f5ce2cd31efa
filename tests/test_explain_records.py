"""`arbiter explain` of records: what was decided then, and what would be now, and why."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from explainscene import BROWSE, Run, explaining, record, remember

from arbiter.events import Reason
from arbiter.records import json_list
from arbiter.recordwords import THEN
from arbiter.rules import Layer, Lifetime, LifetimeKind, parse
from arbiter.store import Store


@pytest.fixture
def arbiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return explaining(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "a.db")


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


def test_the_newest_record_of_a_connection_is_found_by_all_its_ends(store: Store) -> None:
    ends = {"proto": "tcp", "saddr": "::1", "sport": 4, "daddr": "::2", "dport": 5}
    store.record([record(**ends, time=2.0), record(**ends, time=3.0), record(**ends, time=1.0)])
    kept = store.records.of_flow(**ends)  # type: ignore[arg-type]  # as its columns
    assert kept is not None and kept.record.time == 3.0
    for key in ends:
        other = ends | {key: 6 if "port" in key else "udp" if key == "proto" else "::3"}
        assert store.records.of_flow(**other) is None, key  # type: ignore[arg-type]


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
