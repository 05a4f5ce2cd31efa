"""What nobody decided, as the store tells it: grouped, counted, and never a guess."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbiter.events import UNDECIDED, Reason
from arbiter.judge import SEVERAL_USERS
from arbiter.model import Hook
from arbiter.records import Record, json_list
from arbiter.rules import Query
from arbiter.rules.seen import Sighting
from arbiter.store import Store
from arbiter.store.sightings import Unreadable


def record(
    time: float = 5.0, decision: str = "allow", reason: str = "observe", count: int = 1, **more: Any
) -> Record:
    fields: dict[str, Any] = {
        "proto": "tcp", "daddr": "203.0.113.1", "dport": 443, "uid": 1000, "user": "alice",
        "app": "/usr/bin/curl", "parents": json_list(["/usr/bin/bash"]),
        "names": json_list(["a.example"]), "networks": json_list(["ssid:Home"]), "metered": False,
    } | more  # fmt: skip
    return Record(time, decision, reason, count=count, **fields)


QUERY = Query(
    app="/usr/bin/curl",
    parents=("/usr/bin/bash",),
    uid=1000,
    user="alice",
    daddr=socket.inet_aton("203.0.113.1"),
    dport=443,
    proto=6,
    hook=Hook.OUT,
    networks=("ssid:Home",),
    metered=False,
    names=("a.example",),
)


def told(
    path: Path, *records: Record, since: float = 0.0, app: str | None = None
) -> list[Sighting | Unreadable]:
    with Store.open(path / "a.db") as store:
        store.record(records)
        return list(store.undecided(since=since, app=app))


def test_alike_connections_are_one_sighting_with_its_counts(tmp_path: Path) -> None:
    records = [record(7.0), record(5.0, "deny", "deadline", count=3), record(6.0)]
    assert told(tmp_path, *records) == [Sighting(QUERY, 3, 1, 5.0, 7.0)], "not their packets"


def test_what_a_rule_may_tell_apart_stays_apart(tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"app": "/b"}, {"uid": 1}, {"user": "bob"}, {"parents": "[]"}, {"hook": "in"},
        {"proto": "udp"}, {"daddr": "2001:db8::1"}, {"dport": 80}, {"names": "[]"},
        {"sims": json_list(["8943000000000000001"])}, {"networks": "[]"}, {"metered": None},
        {"metered": True}, {"roaming": False}, {"profile": "work"},
    ]  # fmt: skip
    found = told(tmp_path, record(), *(record(**other) for other in others))
    assert len(found) == 1 + len(others)
    assert all(isinstance(one, Sighting) and one.count == 1 for one in found)
    assert len({one.query for one in found if isinstance(one, Sighting)}) == len(found)


def test_only_what_nobody_decided_is_told(tmp_path: Path) -> None:
    found = told(
        tmp_path, *(record(reason=reason.value, dport=n) for n, reason in enumerate(Reason))
    )
    ports = {one.query.dport for one in found if isinstance(one, Sighting)}
    assert {reason for n, reason in enumerate(Reason) if n in ports} == set(UNDECIDED)
    assert set(Reason) - set(UNDECIDED) == {
        Reason.RULE,
        Reason.ANSWER,
        Reason.OLDER,
        Reason.UNDECODABLE,
        Reason.UNRECORDED,
    }


def test_a_time_and_an_app_narrow_it(tmp_path: Path) -> None:
    records = (record(5.0), record(9.0, dport=80), record(9.0, app=""))

    def ports(since: float, app: str | None) -> list[tuple[str, int]]:
        with Store.open(tmp_path / "a.db") as store:
            found = list(store.undecided(since=since, app=app))
        return [(f.query.app, f.query.dport) for f in found if isinstance(f, Sighting)]

    told(tmp_path, *records)
    assert ports(0.0, None) == [("", 443), ("/usr/bin/curl", 80), ("/usr/bin/curl", 443)]
    assert ports(9.0, None) == [("", 443), ("/usr/bin/curl", 80)]
    assert ports(0.0, "/usr/bin/curl") == [("/usr/bin/curl", 80), ("/usr/bin/curl", 443)]
    assert ports(9.0, "") == [("", 443)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("names", "{}"), ("names", "[1]"), ("names", "x"), ("parents", "[" * 100_000),
        ("daddr", ""), ("daddr", "x\0y"), ("daddr", "300.1.1.1"), ("proto", "256"), ("proto", ""),
        ("proto", "tcpp"), ("hook", "up"), ("dport", 70000), ("dport", -1),
    ],
)  # fmt: skip
def test_a_record_that_makes_no_rule_is_counted_and_said(
    tmp_path: Path, field: str, value: Any
) -> None:
    found = told(tmp_path, record(), *[record(count=4, **{field: value})] * 2)
    (bad,) = [one for one in found if isinstance(one, Unreadable)]
    assert bad.count == 2
    assert len(found) == 2


def test_a_path_that_is_not_utf8_is_what_it_was(tmp_path: Path) -> None:
    (one,) = told(tmp_path, record(app="/opt/\udcff/x"))
    assert isinstance(one, Sighting)
    assert one.query.app == "/opt/\udcff/x"


def test_the_apps_of_all_records_are_known_each_once(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.db") as store:
        assert store.records.apps() == set()
        apps = ("/b", "", "/a", "/b", "/opt/\udcff")
        store.record([Record(1.0, "allow", "rule", app=app) for app in apps])
        assert store.records.apps() == {"/a", "/b", "/opt/\\udcff"}


def test_no_rule_for_a_user_is_made_where_a_socket_was_of_several(tmp_path: Path) -> None:
    """Such a rule would not match: see judge.answerer."""
    found = told(tmp_path, record(), record(note=f"x; {SEVERAL_USERS}"))
    assert [(f.query.uid, f.query.user) for f in found if isinstance(f, Sighting)] == [
        (1000, "alice"),
        (None, ""),
    ]


def test_counts_that_no_connection_ever_had_do_not_end_the_reading(tmp_path: Path) -> None:
    (one,) = told(tmp_path, *(record(count=(1 << 63) - 1) for _ in range(3)))
    assert one.count == 3


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_content_of_a_database_ends_the_reading(tmp_path: Path, data: st.DataObject) -> None:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    path = tmp_path / "a.db"
    Store.open(path).close()
    names = ("app", "user", "parents", "hook", "proto", "daddr", "names", "sims", "networks")
    values = [data.draw(texts | st.just("[]"), label=name) for name in names]
    numbers = [data.draw(st.integers(-(1 << 63), (1 << 63) - 1)) for _ in range(4)]
    columns = ", ".join(names)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            f"INSERT INTO decisions ({columns}, uid, dport, metered, count, reason, time, saddr,"
            " sport, outdev, length, app_kind, exe, argv, no_owner, decision, by_user, frontend,"
            " waited, note) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,'observe',1.0,'',0,0,0,'','','[]','',"
            "'allow','','',0.0,'')",
            (*values, *numbers),
        )
        (rows,) = db.execute("SELECT count(*) FROM decisions").fetchone()
    with Store.open(path, readonly=True) as store:
        found = list(store.undecided())
    assert 0 < len(found) <= rows
