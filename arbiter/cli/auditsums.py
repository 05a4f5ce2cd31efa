"""`arbiter audit summary`, `app`, `rule` and `diff`: records added up."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from arbiter.budgets import size_text
from arbiter.cli.auditfilters import filter_options, wanted_by
from arbiter.cli.auditprune import whole_days_note
from arbiter.cli.common import COUNT, db_option, fail, json_option, show_json, table
from arbiter.cli.rulestore import open_store
from arbiter.cli.ruleswords import instant, when
from arbiter.cli.times import moment
from arbiter.protocol import clean
from arbiter.rules import RuleError, format_rule
from arbiter.store import Store
from arbiter.store.groupwords import DESTINATION, GROUPS, group_object
from arbiter.store.rows import Missing
from arbiter.store.sums import Group

TOP = 10
_HEAD = ("connections", "denied", "sent", "received", "last")
top_option = click.option(
    "--top", type=COUNT, default=TOP, show_default=True, help="Lines of each list."
)


@click.command()
@filter_options()
@top_option
@db_option
@json_option
def summary(top: int, db: Path, as_json: bool, **filters: Any) -> None:
    """Add records up: by decision, reason, program, destination, person and link.

    Filters are those of `arbiter audit`. What is known to be missing is told, too.
    """
    wanted = wanted_by(**filters)
    by = _by("decision", "reason", "app", "destination", "user", "by_user", "link")
    with open_store(db, readonly=True) as store:
        found = store.records.grouped(wanted, by, top)
        gaps = store.records.gaps(wanted.since or 0.0, wanted.until)
        whole_days_note(store, wanted.since, wanted.until)
    if as_json:
        show_json({**_objects(found, by), "gaps": [structs.asdict(gap) for gap in gaps]})
        return
    _show(found)
    for gap in gaps:
        click.echo(f"missing: {missing_text(gap)}")


def missing_text(gap: Missing) -> str:
    """How many records are missing, of when, and why."""
    count = "an unknown number of" if gap.count is None else str(gap.count)
    return f"{count} records, {instant(gap.since)} to {instant(gap.until)}: {clean(gap.why)}"


@click.command("app")
@click.argument("app")
@filter_options("app")
@top_option
@db_option
@json_option
def app_(app: str, top: int, db: Path, as_json: bool, **filters: Any) -> None:
    """Show what a program did: APP is its id, the last part of it, or a pattern with *."""
    wanted = wanted_by(app=app, **filters)
    by = _by("app", "destination", "decision", "rule", "user", "exe", "link")
    with open_store(db, readonly=True) as store:
        found = store.records.grouped(wanted, by, top)
        whole_days_note(store, wanted.since, wanted.until)
    if not found["app"]:
        fail(f"no record of {clean(app, 300)!r} is as asked")
    if as_json:
        show_json(_objects(found, by))
    else:
        _show(found)


@click.command("rule")
@click.argument("rule")
@filter_options("rule")
@top_option
@db_option
@json_option
def rule_(rule: str, top: int, db: Path, as_json: bool, **filters: Any) -> None:
    """Show what a rule ever decided, and when last: RULE is its number, or FILE:LINE."""
    wanted = wanted_by(rule=rule, **filters)
    by = {"decision": ("decision",), "app": ("app",), "destination": ("app", *DESTINATION)}
    with open_store(db, readonly=True) as store:
        found = store.records.grouped(wanted, by, top)
        whole_days_note(store, wanted.since, wanted.until)
        line = _line(store, rule)
        if line is None and not found["decision"]:
            fail(f"{db} has no rule {clean(rule, 300)}, and no record of one")
    last = max((group.last for group in found["decision"]), default=None)
    if as_json:
        show_json({"rule": rule, "line": line, "last": last, **_objects(found, by)})
        return
    used = f"last used {when(last)}" if last is not None else "never used"
    what = line or ("of a policy file" if ":" in rule else "not in this database any more")
    click.echo(f"rule {clean(rule, 300)}: {what}; {used}")
    _show(found)


@click.command()
@click.option(
    "--since", callback=moment, metavar="TIME", required=True, help="New since then: 7d, today, ..."
)
@click.option("--top", type=COUNT, default=100, show_default=True, help="Lines of each list.")
@db_option
@json_option
def diff(since: float, top: int, db: Path, as_json: bool) -> None:
    """Show what is new: programs, and destinations of programs, that were not there before."""
    by = {"app": ("app",), "destination": ("app", *DESTINATION)}
    with open_store(db, readonly=True) as store:
        found = {name: store.records.new(since, columns, top) for name, columns in by.items()}
    if as_json:
        show_json(_objects(found, by))
    elif not any(found.values()):
        click.echo(f"nothing is new since {when(since)}")
    else:
        _show(found)


def _by(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: GROUPS[name] for name in names}


def _line(store: Store, rule: str) -> str | None:
    if not (rule.isascii() and rule.isdigit() and len(rule) < 19):
        return None
    try:
        entry = store.get(int(rule))
    except (RuleError, ValueError, sqlite3.Error) as error:
        return f"it cannot be read any more: {clean(str(error), 200)}"
    return format_rule(entry.rule) if entry is not None else None


# --- shown ----------------------------------------------------------------------------------


def _show(found: dict[str, list[Group]]) -> None:
    shown = False
    for name, groups in found.items():
        if not groups:
            continue
        if shown:
            click.echo()
        shown = True
        table((name, *_HEAD), (_row(group) for group in groups))
    if not shown:
        click.echo("no record is as asked")


def _row(group: Group) -> tuple[str, ...]:
    texts = (str(value) for value in group.values if value not in (None, "", 0))
    sums = (str(group.connections), str(group.denied))
    sizes = (size_text(group.sent), size_text(group.received))
    return (" ".join(texts) or "(none)", *sums, *sizes, when(group.last))


def _objects(
    found: dict[str, list[Group]], by: dict[str, tuple[str, ...]]
) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [group_object(group, by[name]) for group in groups] for name, groups in found.items()
    }
