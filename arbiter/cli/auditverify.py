"""`arbiter audit verify`: whether the records and the changes of rules are as they were written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from arbiter.cli.auditprune import pruned_text
from arbiter.cli.common import db_option, fail, json_option, show_json
from arbiter.cli.ruleswords import instant
from arbiter.protocol import clean
from arbiter.store import Store, StoreError
from arbiter.store.checkpoints import Point, read_point
from arbiter.store.verify import Verified
from arbiter.store.walk import Broken, Checked

ERROR = 2000
"""Characters of an error that are shown."""
LONG = 100_000
"""Rows from which on a bar shows the progress: fewer take a second."""


def _points(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Point]:
    return [_point(text) for text in texts]


def _point(text: str) -> Point:
    try:
        return read_point(text)
    except ValueError as error:
        raise click.BadParameter(f"{clean(text, 100)!r}: {error}") from None


@click.command()
@click.option(
    "--checkpoint",
    "points",
    metavar="TABLE:ID:HASH",
    multiple=True,
    callback=_points,
    help="One that was kept elsewhere; `journalctl -u arbiter -g checkpoint` has them. Repeatable.",
)
@db_option
@json_option
def verify(points: list[Point], db: Path, as_json: bool) -> None:
    """Check that no record and no change of a rule was changed, removed or put in.

    Exit code 0: the evidence is intact; 1: it is not, and the first broken row is named, or it
    could not be read ("intact" is null in JSON then). What this proves, and what only a checkpoint
    kept elsewhere proves: docs/audit.md.
    """
    try:
        with Store.open(db, readonly=True) as store, _progress(store) as (tick, stage):
            found = store.evidence.verify(points, tick, stage)
    except StoreError as error:
        if as_json:
            show_json({"intact": None, "error": clean(str(error), ERROR)})
            sys.exit(1)
        fail(f"not verified: {clean(str(error), ERROR)}")
    if as_json:
        show_json(_object(found))
    else:
        for line in _lines(found, points):
            click.echo(line)
    if found.broken and not as_json:
        fail(f"the evidence in {clean(str(db))} is broken; keep a copy of the file as it is")
    if found.broken:
        sys.exit(1)


@contextmanager
def _progress(store: Store) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """A bar on stderr where it is a terminal and the work is long: it fills with the rows, and
    then goes to and fro while SQLite checks what nobody can count."""
    size = store.evidence.size()
    if size < LONG or sys.stderr is None or not sys.stderr.isatty():
        yield lambda rows: None, lambda what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", total=size)

        def stage(what: str) -> None:
            bar.reset(task, start=True, total=None, completed=0, description=f"checking {what}")

        yield lambda rows: bar.advance(task, rows), stage


# --- shown ----------------------------------------------------------------------------------


def _lines(found: Verified, points: list[Point]) -> Iterator[str]:
    for chain in found.chains:
        yield f"{chain.table}: {_words(chain)}"
        if chain.older:
            yield f"{chain.table}: {chain.older} rows are older than the chain, and not proven"
        if chain.cleared is not None:
            yield f"{chain.table}: rows up to {chain.cleared} were cleared away by retention"
        if chain.lost:
            yield f"{chain.table}: {chain.lost} ids have no record, as gaps tell"
    for gone in found.pruned:
        yield pruned_text(gone)
    if points and not found.broken:
        yield (
            f"they agree with the {len(points)} checkpoints given"
            if len(points) > 1
            else ("they agree with the checkpoint given")
        )
    for broken in found.broken:
        at = f" (of {instant(broken.time)})" if broken.time is not None else ""
        yield f"BROKEN, {broken.what}: {clean(broken.text)}{at}"


def _words(chain: Checked) -> str:
    if chain.last is None:
        return "no row is chained yet" if chain.broken is None else "no row holds"
    span = f"{chain.first} to {chain.last}"
    holds = "hold together" if chain.broken is None else "hold together before the first broken one"
    return f"{chain.records} rows, {span}, {holds}; now at {chain.table}:{chain.last}:{chain.hash}"


def _object(found: Verified) -> dict[str, Any]:
    return {
        "intact": not found.broken,
        "chains": [
            structs.asdict(chain) | {"broken": chain.broken and _broken(chain.broken)}
            for chain in found.chains
        ],
        "broken": [_broken(broken) for broken in found.broken],
        "pruned": [structs.asdict(gone) for gone in found.pruned],
    }


def _broken(broken: Broken) -> dict[str, Any]:
    return structs.asdict(broken) | {"text": clean(broken.text)}
