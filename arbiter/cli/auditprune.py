"""`arbiter audit prune` and `vacuum`: old records deleted and the file made smaller, by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from arbiter.budgets import size_text
from arbiter.cli.common import db_option, fail, json_option, show_json
from arbiter.cli.rulestore import open_store
from arbiter.cli.ruleswords import when
from arbiter.cli.times import moment
from arbiter.protocol import clean
from arbiter.store import Store
from arbiter.store.pruned import Gone
from arbiter.store.retention import Keeping, Plan, asked
from arbiter.store.sums import DAY

SHARE = 2.0
"""After a step the database is left to others for so many times as long."""
WHAT = ("records", "sums", "rules", "usage", "destinations")


@click.command()
@click.option(
    "--what",
    "what",
    type=click.Choice(WHAT),
    multiple=True,
    default=("records",),
    show_default=True,
    help="What is deleted. Repeatable.",
)
@click.option(
    "--older-than",
    "before",
    callback=moment,
    metavar="TIME",
    help=f"What is of before then: 90d, 2026-11-19, ... Of records {Keeping().days}d unless given.",
)
@click.option("--dry-run", is_flag=True, help="Only say how many.")
@db_option
@json_option
def prune(
    what: tuple[str, ...], before: float | None, dry_run: bool, db: Path, as_json: bool
) -> None:
    """Delete old records; what they add up to stays in the sums.

    Whole days (UTC) are deleted. Records of open connections stay, and of what nobody decided the
    last of each kind, for `arbiter rules review`. The daemon may run: it does the same by itself,
    as `audit.keep_days` and the settings beside it say.

    Of `sums` those by day are deleted, with the daemon's runs, gaps and switches of profiles; of
    `rules` those that ended before, with their changes, but none that a record names; of `usage`
    whole months, but never this one nor the one before. Sums for all time forget the `destinations`
    of what was not seen since, where no record and no sum by day is left of that.
    """
    if before is None and set(what) != {"records"}:
        fail("--what: give --older-than TIME with it, as --older-than 365d", 2)
    now = time.time()
    plan = asked(now - Keeping().days * DAY if before is None else before, now, what)
    with open_store(db, readonly=dry_run) as store:
        gone = store.retention.count(plan) if dry_run else _carry_out(store, plan)
    gone = {table: count for table, count in gone.items() if count}
    before_day = max(plan.records, plan.sums, plan.rules, plan.destinations)
    if as_json:
        records = gone.get("decisions", 0)
        told = {"before": before_day or None, "records": records, "deleted": not dry_run}
        show_json(told | {"usage_before": plan.usage or None, "tables": gone})
        return
    done = "would be deleted" if dry_run else "are deleted"
    if "records" in what:
        stay = "; their sums would stay" if dry_run else "; their sums stay"
        count = gone.pop("decisions", 0)
        click.echo(f"{count} records of before {_day(plan.records)} {done}{stay}")
    for table, count in gone.items():
        rows = "rules that ended" if table == "rules" else f"rows of {table} of"
        of = plan.usage if table == "usage" else _day(before_day)
        ended_as = done.replace("deleted", "added up") if table == "totals" else done
        click.echo(f"{count} {rows} before {of} {ended_as}")
    if not gone and "records" not in what:
        click.echo(f"nothing of {' and '.join(what)} is older than that")


def _carry_out(store: Store, plan: Plan) -> dict[str, int]:
    """Step by step, so that the daemon's writing gets its turns."""
    store.retention.begin()
    more = True
    while more:
        started = time.monotonic()
        more = store.retention.step(plan, time.time())
        if more:
            time.sleep(SHARE * (time.monotonic() - started))
    return dict(store.retention.gone)


def pruned_text(gone: Gone) -> str:
    """What retention did to a table, in a line."""
    rows = f"{gone.count} rows of before {when(gone.before)}"
    if gone.what == "usage_days":
        return f"usage: {rows} are added up into months"
    if gone.what == "totals":
        return f"totals: {rows} are added up without their destinations"
    return f"{clean(gone.what)}: {rows} are deleted"


def _file_size(path: Path) -> int:
    """Bytes of the database, with those in its log that are not in it yet."""
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


@click.command()
@db_option
@json_option
def vacuum(db: Path, as_json: bool) -> None:
    """Write the database anew, as small as can be.

    The daemon may run, but while this runs nothing else can be written: records wait in its
    memory, answers hold for once, and rules must wait. Needs as much room again on the disk.
    """
    with open_store(db) as store:
        before = _file_size(store.path)
        started = time.monotonic()
        store.retention.vacuum()
        after = _file_size(store.path)
    took = time.monotonic() - started
    if as_json:
        show_json({"before": before, "after": after, "seconds": round(took, 1)})
        return
    click.echo(f"{size_text(before)} became {size_text(after)} in {took:.1f} s")


def pruned_note(store: Store, since: float | None) -> None:
    """Say on stderr where single records begin, if what was asked for begins before."""
    before = store.records.pruned_before()
    if before and (since is None or since < before):
        click.echo(
            f"arbiter: records before {_day(before)} are only in sums by day (UTC):"
            " arbiter audit summary",
            err=True,
        )


def whole_days_note(store: Store, *moments: float | None) -> None:
    """Say on stderr where a span begins or ends within a day of which only the sums are left."""
    before = store.records.pruned_before()
    if any(at is not None and at < before and at % DAY for at in moments):
        click.echo(
            f"arbiter: days (UTC) before {_day(before)} count whole: only their sums are left",
            err=True,
        )


def _day(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        fail(f"{at} is no time", 2)
