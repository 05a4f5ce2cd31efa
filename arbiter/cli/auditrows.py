"""Decision records as people and programs get them: a table, lines, JSON, CSV.

Objects have the columns of table `decisions` as keys, so that SQL and JSON speak of the same.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from arbiter.budgets import size_text
from arbiter.cli.common import table
from arbiter.cli.explainrecord import THEN
from arbiter.cli.ruleswords import when
from arbiter.events import Reason
from arbiter.protocol import clean
from arbiter.records import from_utf8
from arbiter.store import Kept
from arbiter.store.plain import KEYS, as_object, text_list

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With what a spreadsheet begins to compute."""
Show = Callable[[Iterable[Kept]], None]


# --- for programs ---------------------------------------------------------------------------


def show_array(found: Iterable[Kept]) -> None:
    """A JSON array, row by row: a million of them need no memory."""
    mark = "["
    for kept in found:
        click.echo(f"{mark}\n{json.dumps(as_object(kept), ensure_ascii=False)}", nl=False)
        mark = ","
    click.echo("[]" if mark == "[" else "\n]")


def show_lines(found: Iterable[Kept]) -> None:
    """JSON, one object a line."""
    for kept in found:
        click.echo(json.dumps(as_object(kept), ensure_ascii=False))


def show_csv(found: Iterable[Kept], *, head: bool = True) -> None:
    """RFC 4180, but for line ends. A text that a spreadsheet would compute begins with a '."""
    if head:
        click.echo(_csv_line(KEYS))
    for kept in found:
        click.echo(_csv_line(_cell(value) for value in as_object(kept).values()))


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
        id, at, app, to, decision, *_, why = _row(kept)
        click.echo(clean(f"{at} {id}: {app} → {to}: {decision}, {why}"))


def _row(kept: Kept) -> tuple[str, ...]:
    record = kept.record
    app = from_utf8(record.app) or f"({record.no_owner or 'nobody'})"
    over = f" over {record.link}" if record.link else ""
    decided = f"{record.decision}{over}"
    sums = (_size(record.out_bytes), _size(record.in_bytes))
    return (str(kept.id), when(record.time), app, to(kept), decided, record.state, *sums, why(kept))


def _size(count: int | None) -> str:
    return "" if count is None else size_text(count)


def to(kept: Kept) -> str:
    """Where a connection went: `deb.debian.org (192.0.2.7) port 443 tcp`."""
    record = kept.record
    if not record.proto:
        return "a packet that cannot be read"
    names = text_list(record.names)
    place = f"{names[0]} ({record.daddr})" if names else record.daddr
    port = f" port {record.dport}" if record.dport else ""
    return f"{place}{port} {record.proto}"


def why(kept: Kept) -> str:
    """Who or what decided it, and how long that took where it took long."""
    return "; ".join(_reasons(kept))


def _reasons(kept: Kept) -> Iterator[str]:
    record = kept.record
    by = from_utf8(record.by)
    if record.reason == Reason.RULE and record.rule_id is not None and record.rule_id > 0:
        yield f"rule {record.rule_id}" + (f" by {by}" if by else "")
    elif record.reason == Reason.RULE:
        yield f"rule at {by.removeprefix('file:')}"
    elif record.reason == Reason.ANSWER and by:
        yield f"answered by {by}" + (f" ({record.frontend})" if record.frontend else "")
    else:
        yield THEN.get(record.reason, record.reason)
    if record.waited >= 1:
        yield f"it waited {record.waited:.0f} s"
    if record.note:
        yield record.note
