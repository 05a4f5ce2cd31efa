"""One spelling of bytes that are no text: told apart, read back, and valid for every program."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from auditscene import record
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from playbook import START, owner, packet, process

from arbiter import views
from arbiter.cli import cli
from arbiter.events import Reason, Report
from arbiter.lives import Lives
from arbiter.model import ACCEPTED, ALLOW, App, AppKind
from arbiter.records import Record, from_utf8, json_list, read_list, spelt, utf8
from arbiter.recordwords import as_object
from arbiter.sinks import Decided, journald, jsonlines, syslogtext
from arbiter.store import Store
from arbiter.usage import Account, Batch, Counted, OpenFlow, Used

PIECES = [
    b"\xff",
    b"\xfe",
    b"\x80",
    b"\\",
    b"udc5c",
    b"udcff",
    b"\\udc80",
    b"a",
    b"/",
    "é".encode(),
]
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map(
    lambda parts: os.fsdecode(b"/" + b"".join(parts))
)
ANY_BYTES = st.binary(max_size=60).map(lambda name: os.fsdecode(name.replace(b"\0", b"")))


@given(ANY_BYTES | NAMES, ANY_BYTES | NAMES)
def test_every_name_has_a_spelling_of_its_own_that_is_read_back(name: str, other: str) -> None:
    told = utf8(name)
    assert told.encode().decode() == told
    assert from_utf8(told) == name
    assert spelt(name) == told or "\\udc" in name, "or it stands for bytes where it is typed"
    assert spelt(told) == told
    assert (utf8(other) == told) == (other == name)


@given(st.lists(ANY_BYTES | NAMES, max_size=4))
def test_a_list_of_names_is_json_for_every_program(names: list[str]) -> None:
    array = json_list(names)
    assert read_list(array) == tuple(names)
    with closing(sqlite3.connect(":memory:")) as db:
        found = [row[0] for row in db.execute("SELECT value FROM json_each(?)", (array,))]
    assert found == [utf8(name) for name in names]


def decided(name: str) -> Report:
    one = structs.replace(process(), app=App(name, AppKind.PATH, "x"), exe=name, argv=(name, "-v"))
    return Report(
        START.wall, packet(1), owner(one), ALLOW, Reason.OBSERVE, note=name, verdict=ACCEPTED
    )


@given(NAMES)
def test_the_daemon_tells_everybody_the_same(name: str) -> None:
    report, told = decided(name), utf8(name)
    made = views.record_of(report)
    assert (made.app, made.exe, made.note) == (told, told, told)
    values: dict[str, Any] = as_object(1, made)
    assert (values["app"], values["argv"], values["note"]) == (told, [told, "-v"], told)
    item = Decided(1, made)
    assert json.loads(jsonlines.line(item))["app"] == told
    assert f"ARBITER_APP={told}\n".encode() in journald.datagram(item)
    sent = syslogtext.message(item, 6, "h", 1, 8192).decode()
    [app] = re.findall(r' app="((?:[^"\\]|\\.)*)"', sent)
    assert re.sub(r'\\([]"\\])', r"\1", app) == told
    life, _ = Lives().decided(1, report, "")
    shown = views.connection_message(life).app
    assert shown is not None
    assert shown.id == told


def run(db: Path, *argv: str) -> str:
    done = CliRunner().invoke(cli, ["audit", *argv, "--db", str(db)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", [os.fsdecode(b"/tmp/\xff"), r"/tmp/\udcff", r"/tmp/\udc5c"])
def test_commands_tell_the_same_and_find_it_by_what_they_tell(tmp_path: Path, name: str) -> None:
    told, db = utf8(name), tmp_path / "a.db"
    made: Record = record(0, app=told, argv=json_list([name]), parents=json_list([name]), user=told)
    other = record(1, app="/tmp/x", user="y")
    with Store.open(db) as store:
        store.record([made, other])
    for filters in (("--app", told), ("--app", told.rpartition("/")[2]), ("--user", f"{told}*")):
        (one,) = json.loads(run(db, "--json", *filters))
        assert (one["app"], one["argv"], one["parents"], one["user"]) == (
            told,
            [told],
            [told],
            told,
        )
        (one,) = csv.DictReader(io.StringIO(run(db, "--csv", *filters)))
        assert (one["app"], json.loads(one["argv"])) == (told, [told])
        (line,) = run(db, "--nl", *filters).splitlines()
        assert json.loads(line)["app"] == told
        assert f"  {told}  " in run(db, *filters)
    if "\\" not in name:
        (one,) = json.loads(run(db, "--json", "--app", name))
    assert f"{told}  " in run(db, "summary")
    assert told in {one["app"] for one in json.loads(run(db, "summary", "--json"))["app"]}


def test_what_explains_a_record_spells_it_alike(tmp_path: Path) -> None:
    told, db = utf8(r"/tmp/\udcff"), tmp_path / "a.db"
    with Store.open(db) as store:
        store.record([record(0, app=told, exe=told, argv=json_list([r"/tmp/\udcff"]))])
    argv = ["explain", "--record", "last", "--db", str(db), "--config", str(tmp_path)]
    assert f"of {told} (pid 42)" in CliRunner().invoke(cli, argv).stdout
    (found,) = json.loads(CliRunner().invoke(cli, [*argv, "--json"]).stdout)
    assert (found["query"]["app"], found["apps"]) == (told, [told])


@pytest.mark.parametrize("name", [os.fsdecode(b"/tmp/\xff"), r"/tmp/\udcff"])
def test_what_a_program_used_is_told_and_kept_under_the_same_name(
    tmp_path: Path, name: str
) -> None:
    told, db = utf8(name), tmp_path / "a.db"
    flow = OpenFlow(Account(name), Counted(packet(1).flow, 7, 0, 1, 1, 1, 1))
    with Store.open(db) as store:
        store.add_usage(Batch((Used(Account(name), "2026-11-02", 5, 6, 1, 1, 1),), (flow,)))
        assert [one.account.app for one in store.usage("2026-11-01", "2026-12-01")] == [name]
        (kept,) = store.open_flows()
        assert kept.account.app == name, "or a restart would count for another"
    argv = ["links", "usage", "--db", str(db), "--month", "2026-11", "--config", str(tmp_path)]
    done = CliRunner().invoke(cli, [*argv, "--by", "app", "--app", told])
    assert f"{told}  " in done.stdout
    (found,) = json.loads(CliRunner().invoke(cli, [*argv, "--by", "app", "--json"]).stdout)
    assert found["app"] == told
