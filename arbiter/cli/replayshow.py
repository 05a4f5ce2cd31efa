"""What `arbiter audit replay` found, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
from msgspec import structs

from arbiter.cases import Case
from arbiter.cli.auditsums import missing_text
from arbiter.cli.common import show_json, table
from arbiter.cli.explainask import note
from arbiter.cli.replayrules import Tried
from arbiter.cli.ruleswords import rule_object, when
from arbiter.protocol import clean
from arbiter.recordwords import THEN, said
from arbiter.replay import Difference, Kind, Outcome, Result
from arbiter.rules import Entry, FindingKind, Layer, check, format_rule, shown_name
from arbiter.store.rows import Missing

IDLE = 20
"""Rules that decided nothing, in a text; JSON has them all."""
SHOWN_RECORDS = 3
MANY = 20_000
"""Rules up to which they are held against each other, which takes seconds."""


class Shown(NamedTuple):
    """What was asked."""

    what: str
    """record or packet."""
    files: tuple[Path, ...]
    asked: Tried
    gaps: tuple[Missing, ...]


# --- for people -----------------------------------------------------------------------------


def show_result(result: Result, shown: Shown, top: int, *, lines: bool) -> None:
    """The differences, and the sums; with `lines` the differences were told, and the sums are
    notes."""
    if not lines and result.differences:
        head = ("count", "app", "to", "was", "would be", "last", f"{shown.what}s")
        table(head, (_row(one) for one in result.differences[:top]))
        if len(result.differences) > top:
            more = len(result.differences) - top
            click.echo(f"and {more} more differences: --top or --json shows them")
    for line in _lines(result, shown):
        if lines:
            note(line)
        else:
            click.echo(line)


def _row(one: Difference) -> tuple[str, ...]:
    records = ", ".join(map(str, one.examples[:SHOWN_RECORDS]))
    more = ", ..." if one.count > SHOWN_RECORDS else ""
    would = f"{one.would} ({one.rule.called if one.rule is not None else 'no rule'})"
    was = f"{one.was} ({THEN.get(one.was_by, one.was_by)})"
    app = said(one.app) or "(nobody)"
    return (str(one.count), app, _to(one), was, would, when(one.last), f"{records}{more}")


def _to(one: Difference) -> str:
    port = f" port {one.dport}" if one.dport else ""
    return f"{shown_name(one.host)}{port} {one.proto}"


def _lines(result: Result, shown: Shown) -> Iterator[str]:
    yield _asked_text(shown)
    counts = [f"{result.totals[k]} {k}" for k in Kind if k is Kind.SAME or result.totals[k]]
    unasked = f" ({result.unasked} of them without asking a person)" if result.unasked else ""
    counts[0] += unasked
    what = "connection" if shown.what == "packet" else "record"
    yield f"{_number(result.count, what)}: {', '.join(counts)}"
    for doubt in result.doubts:
        first = f"{'the first is ' * (doubt.count > 1)}{shown.what} {doubt.examples[0]}"
        yield f"not decidable: {_number(doubt.count, what)}: {clean(doubt.why, 500)} ({first})"
    if result.untold:
        yield f"{result.untold} more differ: narrow it down to see which"
    if result.nameless:
        yield (
            f"{_number(result.nameless, what)} without a name of its destination: no rule by"
            " name matched there; records of versions before names never have one"
        )
    if result.totals[Kind.LINK]:
        yield "whether that link was up then, or over its budget, is not known to a replay"
    idle = [entry for entry in result.idle if entry.id in shown.asked.given]
    odd = _odd(shown.asked) if idle and result.count else {}
    for entry in idle[:IDLE] if result.count else ():
        why = odd.get(entry.id)
        yield f"decided nothing: {clean(why, 500) if why else _named(entry)}"
    if len(idle) > IDLE and result.count:
        yield f"{len(idle) - IDLE} more rules decided nothing; --json lists all"
    for gap in shown.gaps:
        yield f"missing: {missing_text(gap)}"


def _odd(asked: Tried) -> dict[int, str]:
    """Why rules never decide, as `arbiter rules check` says it; by id."""
    if len(asked.entries) > MANY:
        return {}
    return {
        one.entry.id: one.text
        for one in check(asked.entries)
        if one.kind in (FindingKind.SHADOWED, FindingKind.REDUNDANT, FindingKind.NEVER_MATCHES)
    }


def _asked_text(shown: Shown) -> str:
    asked = shown.asked
    given = len(asked.given)
    others = len(asked.entries) - given
    if not shown.files:
        return f"asked: the {_number(given, 'rule')} in force"
    files = ", ".join(clean(str(path), 200) for path in shown.files)
    same = sum(e.layer is asked.layer and e.id not in asked.given for e in asked.entries)
    layer = "remembered rules" if asked.layer is Layer.REMEMBERED else "administrator's files"
    place = f"beside {same} of the {layer}" if same else f"in the place of the {layer}"
    rest = f", and {_number(others - same, 'rule')} of other layers" if others - same else ""
    return f"asked: {_number(given, 'rule')} of {files} {place}{rest}"


def _named(entry: Entry) -> str:
    return clean(f"{entry.called}: {format_rule(entry.rule)}")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


# --- for programs ---------------------------------------------------------------------------


def show_change(id: int, at: float, case: Case, outcome: Outcome) -> None:
    """One case that differs, as one line of JSON."""
    rule = outcome.rule
    told = {
        "id": id,
        "time": at,
        "kind": outcome.kind.value,
        **_place(case),
        "was": clean(case.was),
        "was_by": clean(case.by),
        "would": outcome.would,
        "rule": rule_object(rule) if rule is not None else None,
    }
    click.echo(json.dumps(told, ensure_ascii=False))


def show_json_result(result: Result, shown: Shown) -> None:
    """All of it as one object."""
    asked = shown.asked
    odd = _odd(asked) if result.idle else {}
    show_json(
        {
            "files": [clean(str(path)) for path in shown.files],
            "layer": int(asked.layer),
            "rules": len(asked.given),
            "other_rules": len(asked.entries) - len(asked.given),
            "of": f"{shown.what}s",
            "count": result.count,
            "totals": {_key(kind): result.totals[kind] for kind in Kind},
            "unasked": result.unasked,
            "differences": [_object(one) for one in result.differences],
            "untold": result.untold,
            "not_decidable": [
                {"why": clean(d.why), "count": d.count, "examples": list(d.examples)}
                for d in result.doubts
            ],
            "without_name": result.nameless,
            "decided_nothing": [
                rule_object(entry) | {"why": odd.get(entry.id) and clean(odd[entry.id])}
                for entry in result.idle
                if entry.id in asked.given
            ],
            "gaps": [structs.asdict(gap) | {"why": clean(gap.why)} for gap in shown.gaps],
        }
    )


def _key(kind: Kind) -> str:
    return kind.value.replace(" ", "_")


def _place(one: Case | Difference) -> dict[str, Any]:
    return {
        "app": said(one.app),
        "user": said(one.user),
        "host": clean(shown_name(one.host)),
        "port": one.dport,
        "proto": clean(one.proto),
    }


def _object(one: Difference) -> dict[str, Any]:
    return {
        "kind": one.kind.value,
        **_place(one),
        "was": clean(one.was),
        "was_by": clean(one.was_by),
        "would": one.would,
        "rule": rule_object(one.rule) if one.rule is not None else None,
        "count": one.count,
        "first": one.first,
        "last": one.last,
        "examples": list(one.examples),
    }
