"""`arbiter rules history` and `undo`: every change of the rules, and the way back."""

from __future__ import annotations

import time
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


@click.command()
@click.option(
    "--last", "count", type=click.IntRange(1), default=20, show_default=True, help="Steps."
)
@click.option("--all", "everything", is_flag=True, help="All steps there are.")
@db_option
@json_option
def history(count: int, everything: bool, db: Path, as_json: bool) -> None:
    """Show how the rules changed: step by step, who did it and when, the newest last."""
    with open_store(db, readonly=True) as store:
        steps = store.history()
    shown = steps if everything else steps[-count:]
    if as_json:
        show_json([_object(step) for step in shown])
    elif not shown:
        click.echo("the rules were never changed")
    else:
        rows = (row for step in shown for row in _rows(step))
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
    in_force(socket_path)
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
    out = [f"removed rule {id}: {texts[id]}" for id in done.removed]
    pairs = zip(back, done.restored, strict=True)
    out += [f"rule {new}, as rule {old} was: {texts[old]}" for old, new in pairs]
    return out + [f"its time is over, rule {id}: {texts[id]}" for id in done.ended]


def _rows(step: Step) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number, change in enumerate(step.changes):
        head = ("", "", "", "")
        if number == 0:
            head = (str(step.id), when(step.time), step.by, step.frontend)
        what = {"added": "added", "retired": change.reason}[change.change]
        what += " (undone)" if step.undone else ""
        rows.append((*head, what, f"{change.rule_id}: {change.line}"))
    return rows


def _object(step: Step) -> dict[str, object]:
    return {
        "step": step.id,
        "time": step.time,
        "by": step.by,
        "uid": step.by_uid,
        "frontend": step.frontend,
        "undone": step.undone,
        "undoes": step.undoes,
        "changes": [
            {"change": c.change, "reason": c.reason, "rule_id": c.rule_id, "rule": c.line}
            for c in step.changes
        ],
    }
