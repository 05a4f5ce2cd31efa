"""What reading rules gives: the rules, each with its place, and what is to be said about others."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from msgspec import Struct

from arbiter.rules import LifetimeKind, Rule, never_matches
from arbiter.tomlfile import printable

MAX_FILE = 16 << 20
"""Bytes of one file: 100,000 rules have about 6 MB."""
MAX_RULES = 200_000
"""Rules of one import."""
_SHOWN = 200


class RemarkKind(enum.StrEnum):
    """What a remark is about."""

    CANNOT = "cannot"
    """Not readable, or not expressible as a rule: nothing is imported unless it is skipped."""
    LEFT_OUT = "left out"
    """Without effect in its source, or nothing that lasts; leaving it out changes no decision."""
    WARNING = "warning"
    """Imported, and something is to be known about it."""


class Remark(Struct, frozen=True):
    """One thing to say: where, and why."""

    kind: RemarkKind
    place: str
    text: str


class Item(Struct, frozen=True):
    """A rule that was read, and where. `expires` (epoch seconds): its time span has begun."""

    rule: Rule
    place: str
    expires: float | None = None


class Batch(Struct, frozen=True):
    """What was read of one or more files."""

    items: tuple[Item, ...] = ()
    remarks: tuple[Remark, ...] = ()
    policies: tuple[tuple[str, str], ...] = ()
    """(file name, TOML text) of policy files: advice, which is no rule."""

    def cannot(self) -> tuple[Remark, ...]:
        """What keeps the import from being done."""
        return tuple(one for one in self.remarks if one.kind is RemarkKind.CANNOT)


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one, in their order."""
    return Batch(
        tuple(item for batch in batches for item in batch.items),
        tuple(remark for batch in batches for remark in batch.remarks),
        tuple(policy for batch in batches for policy in batch.policies),
    )


def cannot(place: str, text: str) -> Remark:
    """A remark that says why something cannot be imported."""
    return Remark(RemarkKind.CANNOT, place, text)


def refused(place: str, text: str) -> Batch:
    """A whole file that cannot be read."""
    return Batch(remarks=(cannot(place, text),))


def clipped(text: str) -> str:
    """What a file holds, as a message repeats it: printable, and not too long."""
    text = printable(text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def unkept(rule: Rule) -> str:
    """Why a rule is none to be remembered for the future; "" if it is one."""
    kind = rule.lifetime.kind
    if kind in (LifetimeKind.ONCE, LifetimeKind.PROCESS, LifetimeKind.SESSION):
        return (
            f"for={kind.value} belongs to an answer, which knows the connection, the program and "
            "the run it is about; give a time span, boot or forever"
        )
    useless = never_matches(rule)
    return f"this rule would never match: {useless}" if useless else ""
