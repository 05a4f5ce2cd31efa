"""`arbiter audit prune` and `vacuum` by hand, and what commands say of what is gone."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from auditscene import BEGAN, CURL, record
from click.testing import CliRunner
from commands import Done, ran

from arbiter import cli
from arbiter.rules import parse
from arbiter.store import Store, Writer
from arbiter.store.sums import DAY
from arbiter.usage import Account, Batch, Used

DAY0 = BEGAN - BEGAN % DAY


Run = Callable[..., Done]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    with Store.open(path) as store:
        store.record(
            record(DAY0 - BEGAN + day * DAY + 3600 * hour, "allow", "rule", rule_id=3, layer=2)
            for day in range(4)
            for hour in (1, 2)
        )
    return path


@pytest.fixture
def audit(db: Path) -> Run:
    def run(*argv: str) -> Done:
        return ran(["audit", *argv, "--db", str(db)])

    return run


def local(day: float) -> str:
    return datetime.fromtimestamp(DAY0 + day * DAY).isoformat()


def ids(done: Done) -> list[int]:
    assert done.code == 0, done.err
    return [one["id"] for one in json.loads(done.out)]


def test_pruning_says_what_it_would_do_and_does_it(audit: Run) -> None:
    dry = audit("prune", "--older-than", local(2.7), "--dry-run")
    assert dry == (
        0,
        "4 records of before 2026-11-20 would be deleted; their sums would stay\n",
        "",
    )
    assert ids(audit("--json")) == [1, 2, 3, 4, 5, 6, 7, 8]
    done = audit("prune", "--older-than", local(2.7))
    assert done == (0, "4 records of before 2026-11-20 are deleted; their sums stay\n", "")
    found = audit("--json")
    assert ids(found) == [5, 6, 7, 8]
    note = "records before 2026-11-20 are only in sums by day (UTC): arbiter audit summary\n"
    assert found.err == f"arbiter: {note}"
    assert audit("--all", "--json").err == f"arbiter: {note}"
    assert audit("--since", local(2), "--json").err == ""
    again = json.loads(audit("prune", "--older-than", local(2.7), "--json").out)
    assert again == {
        "before": DAY0 + 2 * DAY, "records": 0, "deleted": True, "usage_before": None, "tables": {},
    }  # fmt: skip


def test_sums_stay_and_say_that_days_are_whole(audit: Run) -> None:
    audit("prune", "--older-than", local(2.1))
    done = audit("summary", "--json", "--since", local(1 + 1.5 / 24))
    assert json.loads(done.out)["app"][0]["connections"] == 6, "of day 1 both, though one is older"
    assert done.err == (
        "arbiter: days (UTC) before 2026-11-20 count whole: only their sums are left\n"
    )
    assert audit("summary", "--json", "--since", local(1)).err == ""
    assert "count whole" in audit("app", CURL, "--until", local(1.5)).err
    whole = audit("rule", "3", "--json", "--since", local(0.1))
    assert "count whole" in whole.err
    assert json.loads(whole.out)["last"] == DAY0 + 3 * DAY + 7200
    assert json.loads(audit("rule", "3", "--json").out)["decision"][0]["connections"] == 8


def test_what_else_goes_is_asked_for_by_name(audit: Run, db: Path) -> None:
    with Store.open(db) as store:
        for port in (1, 2, 3):
            rule = store.remember(parse(f"allow port={port}"), by="a", created=DAY0 + port)
            store.remove(rule.entry.id, "a", at=DAY0 + port + 10)
        store.add_usage(Batch((Used(Account("/a"), "2001-02-03", 1),)))
        store.lives.gap(DAY0, DAY0 + 5, 1, "a test")
    argv = ("prune", "--what", "rules", "--what", "usage", "--older-than", local(2.7))
    assert audit(*argv, "--dry-run").out.splitlines() == [
        "2 rules that ended before 2026-11-20 would be deleted",  # records name the third
        "1 rows of usage of before 2026-10-01 would be deleted",
    ]
    told = json.loads(audit(*argv, "--json").out)
    assert (told["before"], told["records"], told["deleted"]) == (DAY0 + 2 * DAY, 0, True)
    assert told["usage_before"][8:] == "01"
    assert told["tables"] == {"rules": 2, "rule_changes": 4, "usage": 1}
    assert audit(*argv).out == "nothing of rules and usage is older than that\n"
    assert "1 rows of gaps of before 2026-11-20 are deleted" in (
        audit("prune", "--what", "sums", "--older-than", local(2.7)).out
    )
    assert ids(audit("--json")) == [1, 2, 3, 4, 5, 6, 7, 8]
    history = CliRunner().invoke(cli.cli, ["rules", "history", "--json", "--db", str(db)])
    assert [(s["step"], s["whole"]) for s in json.loads(history.stdout)] == [(5, False), (6, False)]
    assert "rules that had ended before 2026-11-2" in history.stderr
    history = CliRunner().invoke(cli.cli, ["rules", "history", "--last", "1", "--db", str(db)])
    assert history.stderr == ""
    undo = CliRunner().invoke(cli.cli, ["rules", "undo", "6", "--db", str(db)])
    assert undo.exit_code == 1
    assert "rules that ended then are deleted by now (audit.keep_rules_days)" in undo.stderr
    said = audit("verify").out
    assert "rules: 2 rows of before 2026-11-20" in said
    assert "usage: 1 rows of before " in said
    assert audit("verify").code == 0


def test_what_cannot_be_asked_is_usage(audit: Run) -> None:
    none = audit("prune", "--what", "rules")
    assert (none.code, "give --older-than TIME with it" in none.err) == (2, True)
    assert audit("prune", "--what", "all", "--older-than", "9d").code == 2
    assert audit("prune", "--older-than", "soon").code == 2
    assert audit("--limit", "3", "prune").code == 2


def test_a_database_that_is_not_there_is_not_made_to_count_it(tmp_path: Path) -> None:
    argv = ["audit", "prune", "--dry-run", "--db", str(tmp_path / "none.db")]
    done = CliRunner().invoke(cli.cli, argv)
    assert done.exit_code == 1
    assert "there is no such file" in done.stderr
    assert not (tmp_path / "none.db").exists()


def test_vacuum_gives_room_back_and_lets_pages_be_given_back_from_then_on(
    audit: Run, db: Path
) -> None:
    plain = sqlite3.connect(db, isolation_level=None)
    plain.execute("PRAGMA auto_vacuum = NONE")
    plain.execute("VACUUM")
    plain.execute("CREATE TABLE large (a)")
    plain.execute("INSERT INTO large VALUES (zeroblob(3000000))")
    plain.execute("DROP TABLE large")
    assert plain.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain.close()
    sizes = json.loads(audit("vacuum", "--json").out)
    assert sizes["before"] - sizes["after"] > 2_900_000
    assert db.stat().st_size == sizes["after"]
    with Store.open(db) as store:
        assert store._db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert " became " in audit("vacuum").out
    with Store.open(db) as store:  # what is in the log only counts, too
        store.record(record(DAY0 - BEGAN + n, "allow", "rule") for n in range(300))
        log = db.with_name(db.name + "-wal").stat().st_size
        assert log > 100_000
        sizes = json.loads(audit("vacuum", "--json").out)
        assert sizes["before"] >= log + 100_000
        store.retention.vacuum()
    assert len(ids(audit("--all", "--json"))) == 308


def test_pruning_and_a_daemon_that_writes_do_not_lose_each_others_work(db: Path) -> None:
    with Store.open(db) as store:
        store.record(record(DAY0 - BEGAN + n / 100, "allow", "rule") for n in range(5000))
    writer = Writer(db)
    argv = [sys.executable, "-m", "arbiter", "audit", "prune", "--older-than", local(3), "--json"]
    child = subprocess.Popen([*argv, "--db", str(db)], stdout=subprocess.PIPE, text=True)
    slowest, written = 0.0, 0
    try:
        while child.poll() is None:
            writer.record(record(DAY0 - BEGAN + 3 * DAY + written, "allow", "rule", dport=9))
            written += 1
            started = time.monotonic()
            writer.sweep(time.time(), "", "").result(timeout=10)
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.005)
    finally:
        writer.close()
    assert child.stdout is not None
    told = json.loads(child.stdout.read())
    child.stdout.close()
    assert written > 5
    assert told["records"] == 5006
    assert slowest < 2.0, "the machine may be busy; a step takes hundredths of a second"
    with Store.open(db) as store:
        count = store._db.execute("SELECT count(*) FROM decisions WHERE dport = 9").fetchone()
        assert count == (written,)
        total = store._db.execute("SELECT sum(connections) FROM totals").fetchone()
        assert total == (8 + 5000 + written,)
    assert threading.active_count() == 1
