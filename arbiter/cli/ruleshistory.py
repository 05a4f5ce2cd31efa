"""`arbiter rules history` and `undo`: every change of the rules, and the way back."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import click

from arbiter.cli.common import (
    db_option,
    in_force,
    json_option,
    person,
    show_json,
    socket_option,
    table,
)
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.cli.ruleswords import when
from arbiter.store.history import Step, Undone
from arbiter.store.rows import Change

MANY, SHOWN = 5, 3
"""Of more changes alike in one step than MANY, the first SHOWN are shown."""


@click.command()
@click.option(
    "--last", "count", type=click.IntRange(1), default=20, show_default=True, help="Steps."
)
@click.option("--all", "everything", is_flag=True, help="All steps there are.")
@click.option("--full", is_flag=True, help="Every rule of each step, however many.")
@db_option
@json_option
def history(count: int, everything: bool, full: bool, db: Path, as_json: bool) -> None:
    """Show how the rules changed: step by step, who did it and when, the newest last.

    Of a step that changed many rules alike the first few are shown, and how many they are.
    """
    with open_store(db, readonly=True) as store:
        steps, before = store.history(), store.records.pruned_before("rules")
    shown = steps if everything else steps[-count:]
    if before and len(shown) == len(steps):
        click.echo(
            f"arbiter: rules that had ended before {when(before)} are deleted, with their changes"
            " (audit.keep_rules_days)",
            err=True,
        )
    if as_json:
        show_json([_object(step) for step in shown])
    elif not shown:
        click.echo("the rules were never changed")
    else:
        rows = (row for step in shown for row in _rows(step, full=full))
        table(("step", "when", "by", "from", "what", "rule"), rows)


@click.command()
@click.argument("step", type=click.IntRange(1), required=False)
@db_option
@socket_option
@json_option
def undo(step: int | None, db: Path, socket_path: Path, as_json: bool) -> None:
    """Take the last change of the rules back, or STEP of `arbiter rules history`.

    A step is undone as a whole or not at all; that is a step of its own, and can be undone.
    """
    by, uid = person()
    with open_store(db) as store:
        done = store.undo(step, time.time(), boot_id(), by=by, by_uid=uid, frontend="cli")
    in_force(socket_path, db)
    if as_json:
        show_json(
            {
                "step": done.step.id,
                "removed": list(done.removed),
                "restored": list(done.restored),
                "ended": list(done.ended),
            }
        )
        return
    click.echo(f"undone: step {done.step.id}, by {done.step.by}, {when(done.step.time)}")
    for line in _lines(done):
        click.echo(f"  {line}")


def _lines(done: Undone) -> list[str]:
    texts = {change.rule_id: change.line for change in done.step.changes}
    retired = [c.rule_id for c in done.step.changes if c.change == "retired"]
    back = [id for id in retired if id not in done.ended]
    added = [c.line for c in done.step.changes if c.change == "added"]
    # Under the id of now: an undo may have brought it again since.
    out = [f"removed rule {id}: {line}" for id, line in zip(done.removed, added, strict=True)]
    pairs = zip(back, done.restored, strict=True)
    out += [f"rule {new}, as rule {old} was: {texts[old]}" for old, new in pairs]
    return out + [f"its time is over, rule {id}: {texts[id]}" for id in done.ended]


def _rows(step: Step, *, full: bool) -> list[tuple[str, ...]]:
    alike = Counter(map(_what, step.changes))
    shown = Counter[str]()
    cells: list[tuple[str, str]] = []
    for change in step.changes:
        what, many = _what(change), alike[_what(change)]
        shown[what] += 1
        clipped = not full and many > MANY
        if clipped and shown[what] > SHOWN:
            continue
        words = f"{what}{':' if step.undoes else ''} {many} rules" if clipped else what
        words += " (undone)" if step.undone else ""
        first = not clipped or shown[what] == 1
        cells.append((words if first else "", f"{change.rule_id}: {change.line}"))
        if clipped and shown[what] == SHOWN:
            cells.append(("", f"… and {many - SHOWN} more; --full shows them"))
    head = (str(step.id), when(step.time), step.by, step.frontend)
    return [(*(("",) * 4 if place else head), *cell) for place, cell in enumerate(cells)]


def _what(change: Change) -> str:
    return "added" if change.change == "added" else change.reason


def _object(step: Step) -> dict[str, object]:
    return {
        "step": step.id,
        "time": step.time,
        "by": step.by,
        "uid": step.by_uid,
        "frontend": step.frontend,
        "undone": step.undone,
        "undoes": step.undoes,
        "whole": step.whole,
        "changes": [
            {"change": c.change, "reason": c.reason, "rule_id": c.rule_id, "rule": c.line}
            for c in step.changes
        ],
    }
