"""`arbiter audit verify`: 0 where it is intact, 1 and the first broken row where it is not."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, record, store_day
from click.testing import CliRunner, Result

from arbiter import cli
from arbiter.rules import parse
from arbiter.store import Kept, Store, migrate


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = store_day(tmp_path / "a.db")
    with Store.open(path) as store:
        store.remember(parse("allow port=1"), by="alice", created=BEGAN)
        store.evidence.checkpoint("start", BEGAN + 400)
    return path


def run(db: Path, *argv: str) -> Result:
    return CliRunner().invoke(cli.cli, ["audit", "verify", "--db", str(db), *argv])


def change(db: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(db)) as other, other:
        other.execute(sql, values)


def point(db: Path) -> str:
    with Store.open(db) as store:
        return store.evidence.checkpoints()[0].text


def test_an_intact_database_says_where_its_chains_have_come_to(db: Path) -> None:
    done = run(db)
    assert (done.exit_code, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == f"decisions: 6 rows, 1 to 6, hold together; now at {point(db)}"
    assert second.startswith(
        "rule_changes: 1 rows, 1 to 1, hold together; now at rule_changes:1:02"
    )
    done = run(db, "--checkpoint", point(db), "--checkpoint", second.split()[-1])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "they agree with the 2 checkpoints given"


def test_the_first_broken_record_is_named_with_its_time(db: Path) -> None:
    change(db, "UPDATE decisions SET daddr = '198.51.100.1' WHERE id IN (2, 5)")
    done = run(db)
    assert done.exit_code == 1
    *_, last = done.stdout.splitlines()
    assert last.startswith("BROKEN, changed: decisions: row 2 was changed: its hash is that of")
    assert done.stdout.count("BROKEN") == 1
    assert "2026-11-1" in last
    assert f"the evidence in {db} is broken; keep a copy of the file as it is" in done.stderr


def test_programs_get_stable_keys(db: Path) -> None:
    found = json.loads(run(db, "--json").stdout)
    assert list(found) == ["intact", "chains", "broken", "pruned"]
    assert (found["intact"], found["broken"]) == (True, [])
    assert list(found["chains"][0]) == [
        "table", "records", "older", "first", "last", "hash", "cleared", "lost", "broken",
    ]  # fmt: skip
    change(db, "DELETE FROM decisions WHERE id = 3")
    done = run(db, "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, done.stderr, found["intact"]) == (1, "", False)
    (broken,) = found["broken"]
    assert found["chains"][0]["broken"] == broken
    assert list(broken) == ["what", "text", "table", "id", "time"]
    assert (broken["what"], broken["table"], broken["id"]) == ("missing", "decisions", 4)
    assert broken["time"] == BEGAN + 180


def test_a_checkpoint_from_elsewhere_that_differs_breaks_it(db: Path) -> None:
    kept = point(db)
    done = run(db, "--checkpoint", kept[:-2] + ("00" if kept[-2:] != "00" else "11"))
    assert done.exit_code == 1
    assert (
        "BROKEN, checkpoint: decisions: row 6 is not as the checkpoint that was given says"
        in done.stdout
    )


def test_what_is_missing_cleared_or_older_is_told(db: Path) -> None:
    with Store.open(db) as store:
        store.record([Kept(9, record(500))])
        store.lives.gap(BEGAN + 400, BEGAN + 450, 2, "a test")
    done = run(db)
    assert done.exit_code == 0
    assert "decisions: 2 ids have no record, as gaps tell" in done.stdout
    change(db, "UPDATE chains SET first = 10, hash = NULL, count = 0 WHERE name = 'decisions'")
    change(db, "UPDATE decisions SET hash = NULL")
    change(db, "DELETE FROM checkpoints")
    done = run(db)
    assert "decisions: no row is chained yet" in done.stdout
    assert "decisions: 7 rows are older than the chain, and not proven" in done.stdout


def test_hostile_words_of_the_database_are_cleaned(db: Path) -> None:
    change(db, "UPDATE chains SET last = 0 WHERE name = 'rule_changes'")
    change(db, "UPDATE checkpoints SET why = ?, count = 9 WHERE chain = 'decisions'", "\x1b[31m\n")
    done = run(db)
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert done.output.count("BROKEN") == 2


@pytest.mark.parametrize(
    ("given", "why"),
    [("decisions", "is not TABLE:ID:HASH"), (f"decisions:1:03{'0' * 32}", "has format 3"),
     ("\x1b[0m", "is not TABLE:ID:HASH")],
)  # fmt: skip
def test_what_is_no_checkpoint_is_a_usage_error(db: Path, given: str, why: str) -> None:
    done = run(db, "--checkpoint", given)
    assert done.exit_code == 2
    assert why in done.stderr
    assert "\x1b" not in done.stderr


def test_a_database_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path / "no.db").exit_code == 1
    (tmp_path / "x.db").write_text("no database" * 500)
    done = run(tmp_path / "x.db")
    assert done.exit_code == 1
    assert done.stderr.startswith("arbiter: not verified: cannot open the database: ")
    assert "damaged or not a database" in done.stderr
    done = run(tmp_path / "x.db", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, list(found), found["intact"]) == (1, ["intact", "error"], None)
    assert "damaged or not a database" in found["error"]


def test_a_database_of_an_older_schema_is_left_as_it_is_and_a_copy_can_be_upgraded(
    db: Path, tmp_path: Path
) -> None:
    """As the error says it."""
    change(db, "PRAGMA user_version = 9")
    for index in ("rules_retired", "rules_replaced", "profile_switches_undoes"):
        change(db, f"DROP INDEX {index}")
    for argv in ((), ("--json",)):
        done = run(db, *argv)
        assert done.exit_code == 1
        assert f"it has schema 9, older than {migrate.VERSION}" in done.output
    step = (
        f"start the daemon once: it upgrades it; or upgrade a copy: sqlite3 {db} '.backup copy.db'"
    )
    assert f"{step}, then arbiter audit vacuum --db copy.db" in run(db).stderr
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(db)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    done = CliRunner().invoke(cli.cli, ["audit", "vacuum", "--db", str(copy)])
    assert done.exit_code == 0, done.output
    assert run(copy).exit_code == 0
    assert run(db).exit_code == 1


SHOWN = """
from arbiter.cli import auditverify, cli
auditverify.LONG = 3
cli()
"""


def test_long_work_shows_its_progress_on_a_terminal_and_only_there(db: Path) -> None:
    argv = [sys.executable, "-c", SHOWN, "audit", "verify", "--db", str(db)]
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    mine, theirs = pty.openpty()
    with os.fdopen(mine, "rb", buffering=0) as terminal:
        program = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=theirs, env=env)
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = terminal.read(4096)
            except OSError:  # EIO: the program has ended
                break
            shown += data
        assert program.stdout is not None
        with program.stdout as out:
            said = out.read()
        assert program.wait(20) == 0
    assert b"verifying" in shown
    assert b"checking the sums" in shown
    assert b"hold together" in said
    quiet = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (quiet.returncode, quiet.stderr) == (0, "")
