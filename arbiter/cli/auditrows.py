"""Decision records as people and programs get them: a table, lines, JSON, CSV.

Objects have the columns of table `decisions` as keys, so that SQL and JSON speak of the same.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import click

from arbiter.budgets import size_text
from arbiter.cli.common import table
from arbiter.cli.ruleswords import instant
from arbiter.recordwords import KEYS, app, as_object, decided, sentence, to, why
from arbiter.store import Kept

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With what a spreadsheet begins to compute."""
Show = Callable[[Iterable[Kept]], None]


# --- for programs ---------------------------------------------------------------------------


def show_array(found: Iterable[Kept]) -> None:
    """A JSON array, row by row: a million of them need no memory."""
    mark = "["
    for kept in found:
        click.echo(
            f"{mark}\n{json.dumps(as_object(kept.id, kept.record), ensure_ascii=False)}", nl=False
        )
        mark = ","
    click.echo("[]" if mark == "[" else "\n]")


def show_lines(found: Iterable[Kept]) -> None:
    """JSON, one object a line."""
    for kept in found:
        click.echo(json.dumps(as_object(kept.id, kept.record), ensure_ascii=False))


def show_csv(found: Iterable[Kept], *, head: bool = True) -> None:
    """RFC 4180, but for line ends. A text that a spreadsheet would compute begins with a '."""
    if head:
        click.echo(_csv_line(KEYS))
    for kept in found:
        click.echo(_csv_line(_cell(value) for value in as_object(kept.id, kept.record).values()))


def _csv_line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return str(value)


# --- for people -----------------------------------------------------------------------------


def show_table(found: Iterable[Kept]) -> None:
    """A table, and a word where there is nothing."""
    rows = [_row(kept) for kept in found]
    if not rows:
        click.echo("no record is as asked")
        return
    table(("record", "when", "app", "to", "decision", "state", "sent", "received", "why"), rows)


def show_sentences(found: Iterable[Kept]) -> None:
    """A line each, for whoever follows."""
    for kept in found:
        click.echo(f"{instant(kept.record.time)} {sentence(kept.id, kept.record)}")


def _row(kept: Kept) -> tuple[str, ...]:
    record = kept.record
    sums = (_size(record.out_bytes), _size(record.in_bytes))
    words = (app(record), to(record), decided(record), record.state, *sums, why(record))
    return (str(kept.id), instant(record.time), *words)


def _size(count: int | None) -> str:
    return "" if count is None else size_text(count)
