"""Which rules in force should be looked at, the gravest first."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator

from arbiter.model import Action
from arbiter.protocol import clean
from arbiter.report.values import Risk
from arbiter.rules import Entry, Finding, FindingKind, ScopeName, format_rule


class Kind(enum.StrEnum):
    """What is risky, in the order of the report; others are FindingKind's."""

    ANY_PROGRAM = "any-program"
    CHANGED = "changed-executable"
    ANYWHERE = "anywhere"


_ORDER = (
    FindingKind.OVER_BROAD.value,
    Kind.CHANGED.value,
    Kind.ANY_PROGRAM.value,
    FindingKind.CONTRADICTING.value,
    Kind.ANYWHERE.value,
    FindingKind.SHADOWED.value,
    FindingKind.DEAD.value,
    FindingKind.OTHER_NAME.value,
    FindingKind.NO_PROFILE.value,
    FindingKind.NEVER_MATCHES.value,
    FindingKind.REDUNDANT.value,
    FindingKind.UNUSED.value,
)
_NEAR = (ScopeName.LAN, ScopeName.LOOPBACK, ScopeName.MULTICAST)


def risks(
    entries: Iterable[Entry], findings: Iterable[Finding], changed: Collection[str]
) -> tuple[Risk, ...]:
    """What `arbiter rules check` finds, and rules that let much through. `changed` are the apps
    that were more than one executable."""
    found = [_risk(one.entry, one.kind.value, one.text) for one in findings]
    broad = {one.entry.id for one in findings if one.kind is FindingKind.OVER_BROAD}
    for entry in entries:
        if entry.rule.decision.action is not Action.DENY and entry.id not in broad:
            found += (_risk(entry, kind.value, why) for kind, why in _wide(entry, changed))
    return tuple(sorted(found, key=lambda risk: _ORDER.index(risk.kind)))


def _wide(entry: Entry, changed: Collection[str]) -> Iterator[tuple[Kind, str]]:
    rule = entry.rule
    if rule.app and rule.app in changed:
        yield Kind.CHANGED, "its program was another executable before: see Changed executables"
    if not rule.app and not rule.parent and rule.host not in _NEAR:
        yield Kind.ANY_PROGRAM, "it lets every program through that meets its conditions"
    elif rule.host is None and not rule.ports and rule.proto is None:
        yield Kind.ANYWHERE, "it lets its program go anywhere"


def _risk(entry: Entry, kind: str, why: str) -> Risk:
    by = entry.by.removeprefix("file:")
    return Risk(clean(entry.called), format_rule(entry.rule), clean(by), kind, clean(why, 500))
