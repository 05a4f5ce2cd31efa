"""Changes of rules as steps: what was done at once, by whom, and how it is taken back. Pure.

A step is what one transaction did (a rule, and those it replaced; a whole import): neighbouring
changes of one author and one moment. Taking a step back is a step of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct, structs

from arbiter.store.errors import UnsuitableError
from arbiter.store.rows import Change

_UNDO = re.compile(r"undo of step ([0-9]+)(?:: rule ([0-9]+))?\Z", re.ASCII)
"""The reason of a change that takes a step back: the step, and the old id of a rule that is in
force again."""
_BY_HAND = frozenset({"remembered", "replaced", "removed", "imported"})
"""Reasons of what somebody did; rules also end by themselves, and that is not taken back."""


class Step(Struct, frozen=True):
    """One undoable change of the rules."""

    id: int
    """That of its first change."""
    time: float
    by: str
    by_uid: int | None
    frontend: str
    changes: tuple[Change, ...]
    undone: bool = False
    """A later step took it back."""
    whole: bool = True
    """All its changes are there: retention has deleted none of that time."""

    @property
    def undoes(self) -> int | None:
        """The step that this one took back."""
        return undone_step(self.changes[0].reason)

    @property
    def by_hand(self) -> bool:
        """Somebody did it: it can be taken back."""
        return any(c.reason in _BY_HAND or undone_step(c.reason) for c in self.changes)


class Undone(Struct, frozen=True):
    """A step was taken back."""

    step: Step
    removed: tuple[int, ...]
    """Rules that it had added, and that are out of force now."""
    restored: tuple[int, ...]
    """The new ids of rules that it had retired, and that are in force again."""
    ended: tuple[int, ...]
    """Rules that it had retired, and whose time is over."""


def undo_reason(step: int, rule: int | None = None) -> str:
    """The reason of a change that takes `step` back, and brings `rule` again under a new id."""
    return f"undo of step {step}" + (f": rule {rule}" if rule is not None else "")


def undone_step(reason: str) -> int | None:
    """The step that a change with this reason took back; None for another change."""
    found = _UNDO.match(reason)
    return int(found[1]) if found else None


def again(changes: Iterable[Change]) -> dict[int, int]:
    """Old id → new id of every rule that an undo brought again."""
    found = ((_UNDO.match(c.reason), c.rule_id) for c in changes if c.change == "added")
    return {int(match[2]): id for match, id in found if match and match[2]}


def steps(changes: Iterable[Change], whole_from: float = 0.0) -> list[Step]:
    """The steps that made these changes, in order; `undone` of those that a later one took back
    and that no later one brought again, `whole` from this epoch second on."""
    found: list[list[Change]] = []
    for change in changes:
        last = found[-1][-1] if found else None
        same = last is not None and (last.time, last.by, last.by_uid, last.frontend) == (
            change.time,
            change.by,
            change.by_uid,
            change.frontend,
        )
        if same and last is not None and undone_step(last.reason) == undone_step(change.reason):
            found[-1].append(change)
        else:
            found.append([change])
    made = [
        Step(
            *(c[0].id, c[0].time, c[0].by, c[0].by_uid, c[0].frontend, tuple(c)),
            whole=c[0].time >= whole_from,
        )
        for c in found
    ]
    undone: set[int] = set()
    for step in reversed(made):
        if step.undoes is not None and step.id not in undone:
            undone.add(step.undoes)
    return [structs.replace(step, undone=step.id in undone) for step in made]


def choose(made: Sequence[Step], id: int | None, what: str, path: Path) -> Step:
    """The step to take back: `id`, or the last that somebody did and nobody took back yet.

    Raises UnsuitableError, which says `what` cannot be done with the database at `path`, and why.
    """
    if id is None:
        over = {
            c.rule_id for s in made if not s.by_hand for c in s.changes if c.change == "retired"
        }
        able = (
            step
            for step in reversed(made)
            if step.by_hand
            and step.whole
            and step.undoes is None
            and not step.undone
            # What it added has ended by itself, all of it: there is nothing to take back.
            and any(c.change == "retired" or c.rule_id not in over for c in step.changes)
        )
        found, why = next(able, None), "there is nothing to undo"
    else:
        found, why = next((step for step in made if step.id == id), None), "there is no such step"
    next_step = "see `arbiter rules history`"
    if found is not None and not found.whole:
        found, why = None, "rules that ended then are deleted by now (audit.keep_rules_days)"
        next_step = "change the rules that are in force: `arbiter rules list`"
    if found is not None and found.undone:
        found, why = None, "it was undone already"
    if found is not None and not found.by_hand:
        found, why = None, "nobody did it: its rules ended by themselves"
    if found is None:
        raise UnsuitableError(what, path, why, next_step)
    return found


def adding(made: Sequence[Step], rule: int, uid: int | None, what: str, path: Path) -> Step:
    """The step that added a rule, made by `uid` if that is one. Raises as `choose`."""
    for step in made:
        if any(c.rule_id == rule and c.change == "added" for c in step.changes):
            if uid is not None and step.by_uid != uid:
                raise UnsuitableError(what, path, f"{step.by} made it", "ask an admin to undo it")
            return choose(made, step.id, what, path)
    raise UnsuitableError(what, path, "there is no such rule", "see `arbiter rules history`")
