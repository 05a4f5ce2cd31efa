"""`arbiter audit`: what was decided, by whom and why, with the daemon down, too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from arbiter.cli.auditfilters import filter_options, wanted_by
from arbiter.cli.auditprune import pruned_note
from arbiter.cli.auditrows import (
    Show,
    show_array,
    show_csv,
    show_lines,
    show_sentences,
    show_table,
)
from arbiter.cli.common import COUNT, db_option, fail, json_option
from arbiter.cli.lazy import Lazy
from arbiter.cli.rulestore import open_store
from arbiter.protocol import clean
from arbiter.store import Kept, MissingError, Store
from arbiter.store.database import OpenFile
from arbiter.store.filters import Wanted

LOOK = 0.5
"""Seconds between looks at the database while it is followed: the daemon writes as often."""


ELSEWHERE = {
    "app": (
        "arbiter.cli.auditsums:app_",
        "Show what a program did: APP is its id, the last part of it, or a pattern with *.",
    ),
    "diff": (
        "arbiter.cli.auditsums:diff",
        "Show what is new: programs, and destinations of programs, that were not there before.",
    ),
    "prune": (
        "arbiter.cli.auditprune:prune",
        "Delete old records; what they add up to stays in the sums.",
    ),
    "replay": (
        "arbiter.cli.auditreplay:replay",
        "Say what other rules would have decided of the recorded connections.",
    ),
    "report": (
        "arbiter.cli.auditreport:report",
        "Write a report: connections, programs, destinations, cost, what was denied.",
    ),
    "rule": (
        "arbiter.cli.auditsums:rule_",
        "Show what a rule ever decided, and when last: RULE is its number, or FILE:LINE.",
    ),
    "summary": (
        "arbiter.cli.auditsums:summary",
        "Add records up: by decision, reason, program, destination, person and link.",
    ),
    "vacuum": (
        "arbiter.cli.auditprune:vacuum",
        "Write the database anew, as small as can be.",
    ),
    "verify": (
        "arbiter.cli.auditverify:verify",
        "Check that no record and no change of a rule was changed, removed or put in.",
    ),
}


@click.group(cls=Lazy, elsewhere=ELSEWHERE, invoke_without_command=True)
@filter_options()
@click.option("--limit", type=COUNT, default=100, show_default=True, help="The newest so many.")
@click.option("--all", "everything", is_flag=True, help="All there are.")
@click.option("--follow", is_flag=True, help="Then those to come, until Ctrl-C.")
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets: CSV with a head.")
@click.option("--nl", "as_lines", is_flag=True, help="For programs: a JSON object a line.")
@db_option
@json_option
def audit(
    limit: int,
    everything: bool,
    follow: bool,
    as_csv: bool,
    as_lines: bool,
    db: Path,
    as_json: bool,
    **filters: Any,
) -> None:
    """Show the records of decided connections, the newest last.

    Filters narrow it down, all that are given together. Keys of --json, --nl and --csv are the
    columns of table `decisions`, which docs/audit.md explains.
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        if any(map(_given, context.params)):
            word = context.invoked_subcommand
            fail(f"options belong behind the command: arbiter audit {word} --...", 2)
        return
    if sum((as_json, as_csv, as_lines)) > 1:
        fail("give one of --json, --csv and --nl", 2)
    if follow and as_json:
        fail("--follow has no end, and a JSON array has one: give --nl", 2)
    if follow and filters["until"] is not None:
        fail("--follow is about what comes: leave out --until", 2)
    wanted = wanted_by(**filters)
    show: Show = show_sentences if follow else show_table
    show = show_array if as_json else show_lines if as_lines else show_csv if as_csv else show
    with open_store(db, readonly=True) as store, contextlib.suppress(KeyboardInterrupt):
        file, last = OpenFile(db), store.records.last()
        seen = _list(store, wanted, None if everything else limit, show)
        if follow:
            seen = max(seen, last.id if last is not None else 0)
            show = partial(show_csv, head=False) if as_csv else show
            _follow(store, wanted, seen, show, file)


def _given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def _list(store: Store, wanted: Wanted, limit: int | None, show: Show) -> int:
    """Show the records there are; the largest id that was shown, 0 for none."""
    highest = 0

    def noted(found: Iterable[Kept]) -> Iterator[Kept]:
        nonlocal highest
        for kept in found:
            highest = max(highest, kept.id)
            yield kept

    if limit is None:
        show(noted(store.records.passing(wanted)))
        pruned_note(store, wanted.since)
        return highest
    found = store.records.latest(wanted, limit + 1)
    show(noted(found[-limit:]))
    if len(found) > limit:
        click.echo(f"arbiter: these are the newest {limit}: --limit or --all shows more", err=True)
    else:
        pruned_note(store, wanted.since)
    return highest


def _follow(store: Store, wanted: Wanted, seen: int, show: Show, file: OpenFile) -> None:
    """Until Ctrl-C, or until another file is in the place: nothing more comes to this one."""
    while True:
        time.sleep(LOOK)
        found = store.records.after(wanted, seen)
        show(found)
        seen = max((kept.id for kept in found), default=seen)
        try:
            file.check()
        except MissingError:
            fail(
                f"{clean(str(store.path))} was removed, or is another file now: what was followed"
                " ends here; start the command again"
            )
