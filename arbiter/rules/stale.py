"""What is odd about rules on one machine: what they name is gone, or nothing uses them. Pure.

What is there is asked of `Here`, and what was used comes from the decision records: whoever asks
looks. What cannot be known is not said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from arbiter.model import RESERVED_LINKS
from arbiter.rules.findings import Finding, FindingKind
from arbiter.rules.line import format_rule
from arbiter.rules.rule import Entry, Layer, Rule

DAY = 86400.0


class Here(Struct, frozen=True):
    """What is known of this machine: each tells why there is no such thing, or ""."""

    app: Callable[[str], str]
    """The id of an app."""
    user: Callable[[str], str]
    """A user, or `@` and a group, as a rule says it."""
    link: Callable[[str], str]
    """A link's name."""
    profile: Callable[[str], str] = lambda name: ""
    """A profile's name."""
    other: Callable[[str], str] = lambda app: ""
    """The id of an app: why it is not what its processes are known by, or ""."""


class Uses(Struct, frozen=True):
    """When rules were in force and decided, in epoch seconds; the rules by their ids."""

    recorded: float | None
    """From when on there are records; None for none."""
    since: Mapping[int, float]
    """From when on a rule has been in force."""
    last: Mapping[int, float]
    """When a rule decided last, as far as records know."""
    expired: tuple[tuple[int, str, float], ...] = ()
    """Id, line and end of rules whose time was over not long ago."""


def dead(entries: Iterable[Entry], here: Here) -> list[Finding]:
    """Rules that name an app, user, group, link or profile that this machine does not have,
    or has under another name."""
    return [
        Finding(kind, entry, None, f"{entry.called}: {why}")
        for entry in entries
        for kind, why in _missing(entry.rule, here)
        if why
    ]


def _missing(rule: Rule, here: Here) -> Iterator[tuple[FindingKind, str]]:
    for app in dict.fromkeys((rule.app, rule.parent)):
        yield FindingKind.DEAD, here.app(app) if app else ""
        yield FindingKind.OTHER_NAME, here.other(app) if app else ""
    yield FindingKind.DEAD, here.user(rule.user) if rule.user else ""
    for name in rule.decision.via:
        yield FindingKind.DEAD, "" if name in RESERVED_LINKS else here.link(name)
    yield FindingKind.NO_PROFILE, here.profile(rule.profile) if rule.profile else ""


def unused(entries: Iterable[Entry], uses: Uses, days: int, now: float) -> list[Finding]:
    """Remembered rules in force for `days` days that decided nothing in them.

    Nothing is said where the records do not reach back so far.
    """
    start = now - days * DAY
    if uses.recorded is None or uses.recorded > start:
        return []
    return [
        Finding(FindingKind.UNUSED, entry, None, _unused(entry, uses, now))
        for entry in entries
        if entry.layer is Layer.REMEMBERED
        and uses.since.get(entry.id, now) <= start
        and uses.last.get(entry.id, start) <= start
    ]


def _unused(entry: Entry, uses: Uses, now: float) -> str:
    name = f"{entry.called} ({format_rule(entry.rule)})"
    last, since = uses.last.get(entry.id), uses.since[entry.id]
    if last is not None:
        return f"{name} decided a connection last {_days(now - last)} ago"
    if uses.recorded is not None and since < uses.recorded:
        return f"{name} decided none in the {_days(now - uses.recorded)} that records reach back"
    return f"{name} decided none since it was made, {_days(now - since)} ago"


def _days(seconds: float) -> str:
    count = int(seconds // DAY)
    return f"{count} day" if count == 1 else f"{count} days"
