"""`arbiter audit report`: the whole of both forms, its files, and what it says of odd databases."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from auditscene import record
from click.testing import CliRunner
from commands import Done, ran
from reportscene import CURL, FIREFOX, SINCE, UNTIL, links, store_fortnight

from arbiter import cli
from arbiter.cli.rulesmachine import Machine
from arbiter.records import json_list
from arbiter.rules import Here
from arbiter.store import Store
from arbiter.store.retention import Plan

GOLDEN = Path(__file__).parents[1] / "fixtures" / "report"
SPAN = ("--since", "2026-11-01", "--until", "2026-11-15")
REGEN = "run: ARBITER_REGEN=1 make test ARGS=tests/test_cli_report.py"


Run = Callable[..., Done]


def here(*_: object, **__: object) -> Here:
    """A machine that has everything that rules name."""
    return Here(app=lambda _: "", user=lambda _: "", link=lambda _: "")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """UTC, on 2026-11-15."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: UNTIL + 3600)
    monkeypatch.setattr(Machine, "here", here)
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    store_fortnight(tmp_path / "a.db")
    links(tmp_path / "etc")

    def run(*argv: str, db: str = "a.db") -> Done:
        places = ["--db", db, "--config", "etc", "--state", "state"]
        return ran(["audit", "report", *argv, *places])

    return run


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_the_report_is_as_kept(report: Run, form: str) -> None:
    done = report(*SPAN, f"--{form}", "-")
    assert (done.code, done.err) == (0, "")
    kept = GOLDEN / {"html": "report.html", "markdown": "report.md"}[form]
    if os.environ.get("ARBITER_REGEN"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(done.out)
    assert kept.read_text() == done.out, REGEN


def test_the_figures_are_those_of_the_records(report: Run) -> None:
    found = json.loads(report(*SPAN, "--json").out)
    with Store.open("a.db", readonly=True) as store:
        records = [r for r in store.decisions(limit=9999) if SINCE <= r.time < UNTIL]
    totals = found["totals"]
    assert totals["connections"] == len(records) == sum(d["connections"] for d in found["days"])
    denied = [r for r in records if r.decision == "deny"]
    assert totals["denied"] == len(denied) == sum(d["denied"] for d in found["days"])
    assert sum(d["connections"] for d in found["denied"]) == len(denied)
    assert totals["by_rule"] == sum(r.reason == "rule" for r in records)
    assert totals["answered"] == sum(r.reason == "answer" for r in records)
    assert totals["asked"] == totals["answered"] + totals["unanswered"]
    assert totals["routed"] == sum(r.decision.startswith("route") for r in records)
    assert {a["name"]: a["connections"] for a in found["apps"]}[FIREFOX] == sum(
        r.app == FIREFOX for r in records
    )
    lte = next(one for one in found["costs"] if one["link"] == "lte")
    assert (lte["price"], lte["cost"]) == (
        "0.02 EUR/MB",
        f"{0.02 * (lte['sent'] + lte['received']) / 1e6:.2f} EUR",
    )
    assert [d["day"] for d in found["days"]] == [f"2026-11-{n:02}" for n in range(1, 15)]
    assert [(n["app"], n["host"], n["new_app"]) for n in found["new"]] == [
        ("/opt/backup", "203.0.113.200", True)
    ]
    assert [(e["app"], e["connections"]) for e in found["executables"]] == [(CURL, 36), (CURL, 1)]
    assert [(c["by"], c["change"], c["rule"]) for c in found["changes"]] == [
        ("root", "retired", 6), ("bob", "added", 8),
    ]  # fmt: skip
    assert [(gap["count"], gap["why"]) for gap in found["gaps"]] == [(12, "the disk was full")]
    assert found["off"] == [[SINCE + 7.1 * 86400, SINCE + 7.3 * 86400]]


def test_a_span_ends_before_its_end(report: Run) -> None:
    parts = [("2026-11-01", "2026-11-08"), ("2026-11-08", "2026-11-15")]
    found = [json.loads(report("--since", a, "--until", b, "--json").out) for a, b in parts]
    whole = json.loads(report(*SPAN, "--json").out)
    for key in ("connections", "denied", "answered"):
        assert sum(one["totals"][key] for one in found) == whole["totals"][key]
    assert [len(one["days"]) for one in found] == [7, 7]
    assert sum(c["size"] for one in found for c in one["carried"]) == sum(
        c["size"] for c in whole["carried"]
    )


def test_without_a_form_it_is_markdown_of_thirty_days(report: Run) -> None:
    done = report()
    assert done.out.startswith("# What this machine connected to\n\n2026-10-16 01:00 to 2026-11-15")
    assert "Records begin only on 2026-10-29" in done.out
    assert "do not reach back" in done.out
    assert report("--markdown").out == done.out


def test_what_is_left_as_sums_is_told_with_them(report: Run, tmp_path: Path) -> None:
    whole = json.loads(report(*SPAN, "--json").out)
    with Store.open(tmp_path / "a.db") as store:
        store.retention.begin()
        while store.retention.step(Plan(SINCE + 5 * 86400), UNTIL):
            pass
    left = json.loads(report(*SPAN, "--json").out)
    assert left["summed"] == SINCE + 5 * 86400
    assert left | {"summed": None} == whole
    assert "Before 2026-11-06 00:00 only daily sums are kept" in report(*SPAN).out
    done = CliRunner().invoke(
        cli.cli, ["audit", "summary", "--json", *SPAN, "--db", str(tmp_path / "a.db")]
    )
    sums = json.loads(done.stdout)["decision"]
    assert sum(one["connections"] for one in sums) == left["totals"]["connections"]
    assert sum(one["denied"] for one in sums) == left["totals"]["denied"]


def test_lists_are_cut_and_say_so(report: Run) -> None:
    done = report(*SPAN, "--top", "2")
    assert "\nand 4 more\n" in done.out
    found = json.loads(report(*SPAN, "--top", "2", "--json").out)
    assert len(found["apps"]) == len(found["risks"]) == 2
    assert found["beyond"]["apps"] == 4
    assert found["beyond"]["risks"] > 0


def test_files_are_for_who_made_them_and_replaced_whole(report: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "r.html").symlink_to(elsewhere)
    done = report(*SPAN, "--html", "r.html", "--markdown", "r.md")
    assert (done.code, done.out) == (0, "")
    assert elsewhere.read_text() == "mine", "a link is replaced, not followed"
    for name in ("r.html", "r.md"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert f"wrote {name}" in done.err
    assert not list(tmp_path.glob(".arbiter-*"))
    failed = report(*SPAN, "--html", "none/r.html")
    assert failed.code == 1
    assert "none/r.html cannot be written: No such file or directory; check: ls -ld" in failed.err


def test_what_is_no_plain_file_is_never_replaced(
    report: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may: a report on /dev/null would leave the machine without one."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        done = report("--html", str(path))
        assert done.code == 1 and "is no plain file; - is stdout" in done.err
    assert pipe.is_fifo() and link.is_symlink()
    # A link to a file, in /dev: never tried out on that of this machine.
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("it would be replaced"))
    for name in ("/dev/null", "/dev/stdout", "/dev/full"):
        assert report("--markdown", name).code == 1


def test_what_cannot_be_is_refused(report: Run) -> None:
    assert report("--since", "2026-11-15", "--until", "2026-11-01").code == 2
    assert report("--json", "--html", "-").code == 2
    assert report("--markdown", "--html", "-").code == 2
    assert report(db="none.db").code == 1
    assert "Traceback" not in report(db="none.db").err


def test_a_database_without_records_has_a_report(report: Run, tmp_path: Path) -> None:
    Store.open(tmp_path / "empty.db").close()
    done = report(db="empty.db")
    assert done.code == 0
    assert "There are no records in this database." in done.out
    assert "connections: **0**" in done.out
    assert report("--html", "-", db="empty.db").code == 0


def test_what_others_wrote_into_a_database_breaks_nothing(report: Run, tmp_path: Path) -> None:
    odd = [
        record(0, names="{", app="/\x1b[2J\u202e|<b>"),
        record(1, names="[]]", daddr=""),
        record(2, names='{"a": 1}'),
        record(3, names=json_list(["<script>alert(1)</script>"]), proto="\n# x"),
        record(4, names="[[1]]", decision="route <i>", user="\udcff"),
    ]
    with Store.open(tmp_path / "odd.db") as store:
        store.record(odd)
    time_then = ("--since", "2026-11-01", "--until", "2026-12-01")
    for form in ("--json", "--html=-", "--markdown"):
        done = report(*time_then, form, db="odd.db")
        assert done.code == 0
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", done.out)
        assert "connections" in done.out
    assert "<script>" not in report(*time_then, "--html", "-", db="odd.db").out


def test_a_name_is_new_only_where_none_of_its_addresses_is_known(tmp_path: Path) -> None:
    known, moved = json_list(["known.example"]), json_list(["new.example"])
    with Store.open(tmp_path / "n.db") as store:
        store.record(
            [
                record(0, names=known, daddr="192.0.2.1"),
                record(10, names=known, daddr="192.0.2.1"),
                record(11, names=known, daddr="192.0.2.2"),
                record(12, names=moved, daddr="192.0.2.3"),
                record(13, names=moved, daddr="192.0.2.4"),
                record(14, names=known, daddr="192.0.2.1", app="/new"),
            ]
        )
        since = 1795000005.0
        found = store.records.figures(since, since + 100, 20, lambda *_: "")
    assert [(one.app, one.host, one.connections, one.new_app) for one in found.new] == [
        ("/new", "known.example", 1, True), (CURL, "new.example", 2, False),
    ]  # fmt: skip


def test_the_temporary_table_is_gone_also_after_a_fault(tmp_path: Path) -> None:
    with Store.open(tmp_path / "n.db") as store:
        store.record([record(0, "deny")])

        def stop(*_: object) -> str:
            raise KeyboardInterrupt

        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                store.records.figures(0, 2e9, 20, stop)
        assert store.records.figures(0, 2e9, 20, lambda *_: "w").denied[0].why == "w"
