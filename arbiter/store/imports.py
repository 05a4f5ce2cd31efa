"""Many rules in one transaction: what an import would change, and the change itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msgspec import Struct

from arbiter.rules.line import conditions, format_rule
from arbiter.rules.rule import Layer, LifetimeKind, Rule
from arbiter.store import rows

_SAME_CONDITIONS = (
    f"SELECT {rows.ENTRY_COLUMNS} FROM rules"
    " WHERE retired IS NULL AND layer = ? AND conditions = ? ORDER BY id"
)


class Wanted(Struct, frozen=True):
    """A rule to be in force. `expires` (epoch seconds) for a time span that has begun already."""

    rule: Rule
    expires: float | None = None


class Planned(Struct, frozen=True):
    """What becomes of one wanted rule: it is there already (`same`), or is added."""

    wanted: Wanted
    same: int = 0
    """The id of the rule that says it already; 0 if it is to be added."""
    replaces: tuple[int, ...] = ()
    """Ids of the rules with the same conditions that it takes the place of."""
    id: int = 0
    """Its own id, once it is added."""


def plan(
    db: sqlite3.Connection, wanted: Sequence[Wanted], layer: Layer, now: float, boot: str
) -> list[Planned]:
    """What importing would do at `now` (epoch seconds). Reads only; raises sqlite3.Error.

    A rule that is in force with the same line is left alone: a time span does not begin anew,
    unless `expires` says another end. Raises ValueError if two are wanted for the same conditions.
    """
    seen: dict[str, Rule] = {}
    planned: list[Planned] = []
    for one in wanted:
        key = conditions(one.rule)
        if key in seen:
            raise ValueError(f"two rules for the same conditions: {format_rule(one.rule)}")
        seen[key] = one.rule
        found = db.execute(_SAME_CONDITIONS, (int(layer), key)).fetchall()
        same = next((row[0] for row in found if _says(row, one, now, boot)), 0)
        # Rules for one process each go too, as when a rule is remembered.
        replaces = () if same else tuple(row[0] for row in found)
        planned.append(Planned(one, same, replaces))
    return planned


def _says(row: tuple[object, ...], wanted: Wanted, now: float, boot: str) -> bool:
    """Whether the rule in ENTRY_COLUMNS is in force and is the one that is wanted."""
    if row[1] != format_rule(wanted.rule) or rows.ended(row, now, boot, None):
        return False
    if wanted.rule.lifetime.kind in (LifetimeKind.PROCESS, LifetimeKind.SESSION):
        return False
    return wanted.expires is None or row[6] == wanted.expires
