"""`arbiter audit` as people and programs meet it: with the daemon down, on any database."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from auditscene import BEGAN, record, store_day
from click.testing import CliRunner
from commands import Done, ran

from arbiter import cli
from arbiter.moments import read_moment
from arbiter.records import json_list
from arbiter.recordwords import KEYS
from arbiter.store import Store

Run = Callable[..., Done]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return store_day(tmp_path / "a.db")


@pytest.fixture
def audit(db: Path) -> Run:
    def run(*argv: str) -> Done:
        return ran(["audit", *argv, "--db", str(db)])

    return run


def ids(done: Done) -> list[int]:
    assert done.code == 0, done.err
    return [one["id"] for one in json.loads(done.out)]


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ("", [1, 2, 3, 4, 5, 6]),
        ("--app /usr/bin/curl", [1]),
        ("--app curl", [1]),
        ("--app timesync.service", [4]),
        ("--app /usr/bin", []),
        ("--app /usr/*", [1, 2, 3]),
        ("--app [a-z]*", []),
        ("--app=", [5, 6]),
        ("--user bob", [3]),
        ("--user *b", [3]),
        ("--host deb.debian.org", [1]),
        ("--host DEB.debian.org.", [1]),
        ("--host *.debian.org", [1]),
        ("--host debian.org", []),
        ("--host *.example", [2]),
        ("--host 203.0.113.1", [1, 6]),
        ("--host ::ffff:203.0.113.1", [1, 6]),
        ("--host 2001:db8::/32", [2]),
        ("--host 192.168.0.0/16", [4]),
        ("--host lan", [4]),
        ("--host internet", [1, 2, 3, 6]),
        ("--port 443", [1, 2]),
        ("--port 1-1023,8080", [1, 2, 3, 4]),
        ("--proto udp", [4]),
        ("--proto 1", [6]),
        ("--link lte", [3]),
        ("--link=", [2, 4, 5, 6]),
        ("--decision deny", [2, 4, 5, 6]),
        ("--decision route", [3]),
        ("--rule 3", [2]),
        ("--rule /etc/arbiter/policy.d/x.toml:12", [4]),
        ("--by bob", [3]),
        ("--by *o*", [2, 3, 4]),
        ("--reason undecodable", [5]),
        ("--app firefox --decision deny", [2]),
        ("--limit 2", [5, 6]),
        ("--limit 2 --decision deny --proto udp", [4]),
        ("--limit 2 --all", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_filters_find(audit: Run, argv: str, found: list[int]) -> None:
    assert ids(audit(*argv.split(), "--json")) == found


def test_a_decision_of_several_words_is_one_option(audit: Run) -> None:
    assert ids(audit("--decision", "route via=lte", "--json")) == [3]


def test_a_span_that_has_no_moment_is_no_answer(audit: Run) -> None:
    for argv in (("--since", "1h", "--until", "2h"), ("summary", "--since", "1h", "--until", "2h")):
        done = audit(*argv)
        assert (done.code, done.out) == (2, "")
        assert "is not before --until" in done.err


def test_times_narrow_it_down(audit: Run) -> None:
    def local(at: float) -> str:
        return datetime.fromtimestamp(BEGAN + at).isoformat()

    assert ids(audit("--since", local(60), "--until", local(180), "--json")) == [2, 3]
    now = time.time()
    hour = f"{int((now - BEGAN) // 3600) + 1}h" if now > BEGAN else "1h"
    assert ids(audit("--since", hour, "--json")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2026-07-15T12:28:30"),
        ("2h", "2026-07-15T10:30:00"),
        ("1w", "2026-07-08T12:30:00"),
        ("today", "2026-07-15T00:00:00"),
        ("yesterday", "2026-07-14T00:00:00"),
        ("2026-07-03", "2026-07-03T00:00:00"),
        ("2026-07-03T04:05", "2026-07-03T04:05:00"),
    ],
)
def test_a_moment_is_read(text: str, expected: str) -> None:
    now = datetime.fromisoformat("2026-07-15T12:30:00").timestamp()
    assert read_moment(text, now) == datetime.fromisoformat(expected).timestamp()


@pytest.mark.parametrize("text", ["", "2x", "0h", "-2h", "tomorrow", "2026-13-01", "0001-01-01"])
def test_what_is_no_moment_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: give a span"):
        read_moment(text, 0.0)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--since=soon", "is no time"),
        ("--host=debian", "is no scope"),
        ("--host=1.2.3.4/33", "prefix length"),
        ("--port=99999", "is no port"),
        ("--port=1 app=/x", "is no port"),
        ("--proto=tpc", "did you mean"),
        ("--decision=drop", "is no decision: give allow, deny, route"),
        ("--rule=x", "is no rule: give its number"),
        ("--reason=because", "is not one of"),
        ("--limit=0", "--limit"),
        ("--limit=9223372036854775807", "--limit"),
        ("--json --nl", "give one of"),
        ("--follow --json", "give --nl"),
        ("--follow --until=1h", "leave out --until"),
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(audit: Run, argv: str, said: str) -> None:
    done = audit(*re.split(r" (?=--)", argv))
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_the_table_says_who_what_where_and_why(audit: Run) -> None:
    done = audit()
    assert done.err == ""
    head, *rows = [re.split(r"  +", line) for line in done.out.splitlines()]
    assert head == (["record", "when", "app", "to", "decision", "state", "sent", "received", "why"])
    assert [[row[0], *row[2:]] for row in rows] == [
        ["1", "/usr/bin/curl", "deb.debian.org (203.0.113.1) port 443 tcp", "allow over wifi",
         "closed", "612 bytes", "4.2 kB", "no rule decided it, and the mode was observe"],
        ["2", "/usr/lib/firefox/firefox", "a.tracker.example (2001:db8::7) port 443 tcp", "deny",
         "rule 3 by root"],
        ["3", "/usr/lib/firefox/firefox", "198.51.100.9 port 8080 tcp", "route via=lte over lte",
         "unknown", "answered by bob (terminal); it waited 7 s"],
        ["4", "unit:timesync.service", "192.168.1.1 port 123 udp", "deny",
         "rule at /etc/arbiter/policy.d/x.toml:12"],
        ["5", "(nobody)", "a packet that cannot be read", "deny",
         "its packet could not be read; IPv4 header cut short"],
        ["6", "(exited)", "203.0.113.1 icmp", "deny", "nobody answered in time; it waited 30 s"],
    ]  # fmt: skip


def test_that_there_are_more_is_said(audit: Run) -> None:
    done = audit("--limit", "5")
    assert "these are the newest 5: --limit or --all shows more" in done.err
    assert audit("--limit", "6").err == ""


def test_nothing_found_is_said(audit: Run) -> None:
    assert audit("--app", "/none").out == "no record is as asked\n"
    assert json.loads(audit("--app", "/none", "--json").out) == []
    assert audit("--app", "/none", "--nl").out == ""


def test_an_object_has_the_columns_of_the_table_as_its_keys(audit: Run, db: Path) -> None:
    (one,) = json.loads(audit("--app", "curl", "--json").out)
    with Store.open(db, readonly=True) as store:
        cursor = store._db.execute("SELECT * FROM decisions WHERE id = 1")
        columns, values = [name for name, *_ in cursor.description], cursor.fetchone()
    plain = dict(zip(columns, values, strict=True))
    assert len(plain.pop("hash")) == 17, "it proves the record, and is not a part of it"
    assert set(one) == set(plain) == set(KEYS)
    for name in ("argv", "parents", "names", "sims", "networks"):
        plain[name] = json.loads(plain[name])
    assert one == plain
    (last,) = json.loads(audit("--proto", "icmp", "--json").out)
    assert (last["metered"], last["roaming"], last["profile"]) == (True, False, "home")


def test_lines_are_the_same_objects(audit: Run) -> None:
    lines = audit("--nl").out.splitlines()
    assert [json.loads(line) for line in lines] == json.loads(audit("--json").out)


def test_csv_has_a_head_and_a_row_each(audit: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(audit("--csv").out)))
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert list(rows[0]) == list(KEYS)
    assert rows[0]["argv"] == '["curl", "x"]'
    assert (rows[0]["rule_id"], rows[1]["rule_id"]) == ("", "3")
    assert (rows[5]["metered"], rows[5]["roaming"], rows[0]["metered"]) == ("1", "0", "")


HOSTILE = "=cmd|'/c calc'!A1\n\x1b[31m\u202e,\"\udcff"


@pytest.mark.parametrize("how", ["--csv", "--nl", "--json", "--all"])
def test_what_a_process_chose_cannot_play_tricks(audit: Run, db: Path, how: str) -> None:
    hostile = record(400, app=HOSTILE, note=HOSTILE, argv=json_list([HOSTILE]), link=HOSTILE)
    torn = record(401, names="[[[", argv="{}", daddr="not an address", decision=HOSTILE)
    with Store.open(db) as store:
        store.record([hostile, torn])
    done = audit(how)
    assert done.code == 0
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", done.out)
    if how == "--csv":
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert rows[6]["note"].startswith("'=cmd")
        assert len(rows) == 8
    if how == "--json":
        assert json.loads(done.out)[7]["names"] is None
    for argv in (["--host", "lan"], ["--host", "*.example"], ["--host", "10.0.0.0/8"]):
        assert 8 not in ids(audit(*argv, "--json"))


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.cli, ["audit", "--db", str(tmp_path / "none.db")])
    assert done.exit_code == 1
    assert "there is no such file" in done.stderr


@pytest.fixture
def following(db: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def follow(*argv: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "arbiter", "audit", "--follow", *argv, "--db", str(db)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield follow
    for process in started:
        process.kill()
        process.communicate()


def test_following_shows_what_is_there_and_then_what_comes_once(
    db: Path, following: Callable[..., subprocess.Popen[str]]
) -> None:
    process = following("--nl", "--limit", "2", "--decision", "deny")
    assert process.stdout is not None
    assert [json.loads(process.stdout.readline())["id"] for _ in range(2)] == [5, 6]
    with Store.open(db) as store:
        store.record([record(500), record(501, "deny"), record(90, "deny")])
    assert [json.loads(process.stdout.readline())["id"] for _ in range(2)] == [8, 9]
    process.send_signal(2)
    assert process.stdout.read() == ""
    assert process.wait(20) == 0


@pytest.mark.parametrize("how", ["--csv", "--all"])
def test_following_goes_on_in_the_same_form(
    db: Path, following: Callable[..., subprocess.Popen[str]], how: str
) -> None:
    process = following(how, "--app", "/new")
    assert process.stdout is not None
    if how == "--csv":
        assert process.stdout.readline().startswith("id,time,")
    time.sleep(2)  # nothing is as asked: it looks, and goes on
    with Store.open(db) as store:
        store.record([record(500, app="/new")])
    line = process.stdout.readline()
    if how == "--csv":
        assert line.startswith("7,")
    else:
        assert line.split(": ")[1:] == [
            "/new → 203.0.113.1 port 443 tcp",
            "allow over wifi, no rule decided it, and the mode was observe\n",
        ]


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_following_ends_aloud_where_its_file_is_another_one(
    db: Path, following: Callable[..., subprocess.Popen[str]], how: str
) -> None:
    process = following("--limit", "1")
    assert process.stdout is not None
    assert process.stdout.readline()
    db.rename(db.with_name("old.db"))
    if how == "replaced":
        Store.open(db).close()
    assert process.wait(20) == 1
    assert process.stderr is not None
    said = process.stderr.read()
    assert "was removed, or is another file now" in said
    assert said.endswith("start the command again\n")
