"""`arbiter audit prune` and `vacuum`: old records deleted and the file made smaller, by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from arbiter.budgets import size_text
from arbiter.cli.common import db_option, fail, json_option, show_json
from arbiter.cli.rulestore import open_store
from arbiter.cli.times import moment
from arbiter.store import Store
from arbiter.store.retention import Keeping, Plan, asked
from arbiter.store.sums import DAY

SHARE = 2.0
"""After a step the database is left to others for so many times as long."""


@click.command()
@click.option(
    "--older-than",
    "before",
    callback=moment,
    metavar="TIME",
    default=f"{Keeping().days}d",
    show_default=True,
    help="Records before then: 90d, 2026-11-19, ...",
)
@click.option("--dry-run", is_flag=True, help="Only say how many.")
@db_option
@json_option
def prune(before: float, dry_run: bool, db: Path, as_json: bool) -> None:
    """Delete old records; what they add up to stays in the sums.

    Whole days (UTC) are deleted. Records of open connections stay, and of what nobody decided the
    last of each kind, for `arbiter rules review`. The daemon may run: it does the same by itself,
    as `audit.keep_days` says.
    """
    plan = asked(before, Plan())
    with open_store(db, readonly=dry_run) as store:
        gone = store.retention.count(plan)["decisions"] if dry_run else _carry_out(store, plan)
    day = _day(plan.records)
    if as_json:
        show_json({"before": plan.records, "records": gone, "deleted": not dry_run})
    elif dry_run:
        click.echo(f"{gone} records of before {day} would be deleted; their sums would stay")
    else:
        click.echo(f"{gone} records of before {day} are deleted; their sums stay")


def _carry_out(store: Store, plan: Plan) -> int:
    """Step by step, so that the daemon's writing gets its turns."""
    store.retention.begin()
    more = True
    while more:
        started = time.monotonic()
        more = store.retention.step(plan, time.time())
        if more:
            time.sleep(SHARE * (time.monotonic() - started))
    return store.retention.gone


@click.command()
@db_option
@json_option
def vacuum(db: Path, as_json: bool) -> None:
    """Write the database anew, as small as can be.

    The daemon may run, but while this runs nothing else can be written: records wait in its
    memory, answers hold for once, and rules must wait. Needs as much room again on the disk.
    """
    with open_store(db) as store:
        before = store.path.stat().st_size
        started = time.monotonic()
        store.retention.vacuum()
        after = store.path.stat().st_size
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
