"""Records added up, views, and the questions of docs/audit.md: each is asked here."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, CURL, FIREFOX, SYNC, record, store_day
from commands import Done, ran

from arbiter.auditsettings import Audit
from arbiter.records import json_list
from arbiter.rules import parse
from arbiter.store import Store, migrate
from arbiter.usage import Account, Batch, Used

PAGE = (Path(__file__).parents[1] / "docs" / "audit.md").read_text()
QUESTIONS = re.findall(r"^(\w[^\n]*\?)\n\n```sql\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)


Run = Callable[..., Done]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = store_day(
        tmp_path / "a.db",
        record(3600, daddr="198.51.100.77", names=json_list(["new.example"]), out_bytes=50),
        record(3700, app="/new", exe="/new", link="lte", sims="[]"),
        record(3800, exe="/usr/local/bin/curl", state="open"),
    )
    with Store.open(path) as store:
        for line in ("allow port=1", "allow port=2", "deny app=/x"):
            store.remember(parse(line), by="alice", created=BEGAN)
        account = Account(CURL, "alice", "lte", "8943000000000000001")
        store.add_usage(Batch((Used(account, "2026-11-18", 2_000_000, 500_000, 9, 9, 3),)))
        store.lives.begin(BEGAN)
        store.lives.end(BEGAN + 50)
        store.lives.begin(BEGAN + 60)
        store.lives.gap(BEGAN, BEGAN + 10, 7, "it was full")
    return path


@pytest.fixture
def audit(db: Path) -> Run:
    def run(*argv: str) -> Done:
        env = {"ARBITER_DB": str(db)}
        return ran(["audit", *argv], env)

    return run


def ask(audit: Run, *argv: str) -> Any:
    done = audit(*argv, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def counts(groups: list[dict[str, Any]], *keys: str) -> dict[Any, int]:
    return {
        tuple(group[key] for key in keys) if len(keys) > 1 else group[keys[0]]: group["connections"]
        for group in groups
    }


def local(at: float) -> str:
    return datetime.fromtimestamp(BEGAN + at).isoformat()


def test_a_summary_adds_up_by_everything(audit: Run) -> None:
    found = ask(audit, "summary")
    assert counts(found["decision"], "decision") == {"allow": 4, "deny": 4, "route via=lte": 1}
    assert counts(found["app"], "app") == {CURL: 3, "": 2, FIREFOX: 2, "/new": 1, SYNC: 1}
    assert found["app"][0] == {
        "app": CURL, "connections": 3, "denied": 0, "sent": 662, "received": 4200,
        "first": BEGAN, "last": BEGAN + 3800,
    }  # fmt: skip
    assert counts(found["destination"], "daddr", "dport", "proto")[("203.0.113.1", 443, "tcp")] == 3
    assert counts(found["by_user"], "by_user")["bob"] == 1
    assert [(gap["count"], gap["why"]) for gap in found["gaps"]] == [(7, "it was full")]


def test_a_summary_takes_filters_and_a_length(audit: Run) -> None:
    found = ask(audit, "summary", "--decision", "deny", "--since", local(100), "--top", "1")
    assert counts(found["reason"], "reason") == {"deadline": 1}
    assert found["gaps"] == []
    assert counts(ask(audit, "summary", "--app", "curl")["app"], "app") == {CURL: 3}
    said = audit("summary", "--app", "/none").out
    assert said.startswith("no record is as asked\nmissing: 7 records, ")
    times = re.findall(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:([0-9]{2})", said)
    assert times == ["40", "50"], "a gap of ten seconds has two ends"


def test_an_app_shows_where_it_went_and_as_what(audit: Run) -> None:
    found = ask(audit, "app", "curl")
    assert counts(found["exe"], "exe") == {CURL: 2, "/usr/local/bin/curl": 1}
    assert counts(found["destination"], "daddr") == {"203.0.113.1": 2, "198.51.100.77": 1}
    assert counts(ask(audit, "app", "/usr/*")["rule"], "rule_id") == {None: 1, 3: 1}
    done = audit("app", "/none")
    assert (done.code, done.out) == (1, "")
    assert "no record of '/none'" in done.err


def test_a_rule_shows_what_it_ever_decided(audit: Run) -> None:
    found = ask(audit, "rule", "3")
    assert (found["line"], found["last"]) == ("deny app=/x", BEGAN + 60)
    assert counts(found["destination"], "app", "daddr") == {(FIREFOX, "2001:db8::7"): 1}
    assert "rule 3: deny app=/x; last used" in audit("rule", "3").out
    assert audit("rule", "2").out.startswith("rule 2: allow port=2; never used\n")
    assert ask(audit, "rule", "/etc/arbiter/policy.d/x.toml:12")["line"] is None
    assert "of a policy file; last used" in audit("rule", "/etc/arbiter/policy.d/x.toml:12").out
    assert audit("rule", "77").code == 1
    assert audit("rule", "x").code == 2


def test_what_is_new_is_told_and_nothing_else(audit: Run) -> None:
    found = ask(audit, "diff", "--since", local(1000))
    assert counts(found["app"], "app") == {"/new": 1}
    assert counts(found["destination"], "app", "daddr") == {
        (CURL, "198.51.100.77"): 1, ("/new", "203.0.113.1"): 1,
    }  # fmt: skip
    assert counts(ask(audit, "diff", "--since", local(3700))["app"], "app") == {"/new": 1}
    assert audit("diff", "--since", local(3701)).out.startswith("nothing is new since")
    assert audit("diff", "--since", local(9000)).out.startswith("nothing is new since")
    assert audit("diff").code == 2


def test_options_before_a_command_are_not_lost_silently(audit: Run) -> None:
    done = audit("--decision", "deny", "summary")
    assert done.code == 2
    assert "options belong behind the command: arbiter audit summary --..." in done.err


def test_what_a_process_chose_is_shown_clean(audit: Run, db: Path) -> None:
    with Store.open(db) as store:
        store.record([record(9000, app="/\x1b[31m\u202e\udcff", link="\n")])
    for argv in (
        ["summary"],
        ["diff", "--since", local(8000)],
        ["app", "/*"],
        ["summary", "--json"],
    ):
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", audit(*argv).out)


# --- views and questions --------------------------------------------------------------------


@pytest.fixture
def reader(db: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    yield connection
    connection.close()


ELSEWHEN = ("this month", "last week", "never answered", "again and again")
"""Questions about what the scene has nothing of; that they can be asked is tested."""


def test_there_are_fifteen_questions_and_each_finds_something(reader: sqlite3.Connection) -> None:
    assert len(QUESTIONS) == 15
    for question, sql in QUESTIONS:
        found = reader.execute(sql).fetchall()
        assert found or any(word in question for word in ELSEWHEN), question


def test_views_tell_what_they_say(reader: sqlite3.Connection) -> None:
    def rows(sql: str) -> list[tuple[Any, ...]]:
        return reader.execute(sql).fetchall()

    assert rows("SELECT app, connections, sent FROM top_apps")[0] == (CURL, 3, 2_000_000)
    assert rows("SELECT daddr, names FROM top_destinations WHERE daddr LIKE '198%77'") == [
        ("198.51.100.77", '["new.example"]')
    ]
    assert len(rows("SELECT * FROM denied")) == 4
    assert rows("SELECT id FROM unused_rules") == [(1,), (2,)]
    assert rows("SELECT month, sim, sent FROM usage_by_month") == [
        ("2026-11", "8943000000000000001", 2_000_000)
    ]
    assert rows("SELECT app, daddr FROM new_destinations") == [
        (CURL, "198.51.100.77"), (FIREFOX, "198.51.100.9"),
    ]  # fmt: skip
    assert rows("SELECT app, exe, connections FROM changed_executables") == [
        (CURL, CURL, 2), (CURL, "/usr/local/bin/curl", 1),
    ]  # fmt: skip
    assert rows("SELECT by_user, frontend, answers, waited FROM answers") == [
        ("bob", "terminal", 1, 7.4)
    ]


def test_every_view_and_table_is_documented(reader: sqlite3.Connection) -> None:
    found = reader.execute("SELECT name FROM sqlite_master WHERE type IN ('view', 'table')")
    for (name,) in found:
        assert name.startswith("sqlite_") or name in PAGE, f"docs/audit.md does not have {name}"
    for (column,) in reader.execute("SELECT name FROM pragma_table_info('decisions')"):
        assert column in PAGE, f"docs/audit.md does not have {column}"


def test_the_page_says_of_each_table_how_long_it_is_kept() -> None:
    """And names for it only settings that there are, with their defaults."""
    begin = PAGE.index("## How long records are kept")
    part = PAGE[begin : PAGE.index("## Replay")]
    lines = [line.split("|")[1:-1] for line in part.splitlines() if line.startswith("| `")]
    told = {name: kept for names, _, kept in lines for name in re.findall(r"`(\w+)`", names)}
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(migrate.schema())
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        tables = {name for (name,) in db.execute(sql)}
    assert told.keys() == tables
    settings = {name for name in Audit.__struct_fields__ if name.startswith("keep_")}
    assert settings == set(re.findall(r"`(keep_\w+)`", " ".join(told.values())))
    for name in ("keep_days", "keep_usage_months"):
        where = re.search(rf"`{name}` \((\d+)\)", part)
        assert where is not None and int(where[1]) == getattr(Audit(), name)
    assert Audit().keep_sums_days == Audit().keep_rules_days == 3 * 365, "three years"
