"""The box of snoozes: which there are, and which a person may begin. Pure."""

from __future__ import annotations

from arbiter.protocol import Choice, Snooze, SnoozeView
from prompts import livewords, render
from prompts.cards import Style
from prompts.screen import Line

_KINDS = {
    "1": (Choice.DENY, 300.0),
    "2": (Choice.DENY, 900.0),
    "3": (Choice.DENY, 3600.0),
    "4": (Choice.ALLOW, 300.0),
    "5": (Choice.ALLOW, 900.0),
    "6": (Choice.ALLOW, 3600.0),
}
"""Decision and seconds by key."""
_EVERYONE = {"7": (Choice.DENY, 900.0), "8": (Choice.ALLOW, 900.0)}
"""For all users: admins only."""


def lines(on: list[SnoozeView], now: float) -> list[Line]:
    """What it means, and what is on."""
    out: list[Line] = [
        (("What no rule decides is denied, or allowed, without a question.", Style.PLAIN),),
        (("It ends by itself; no rule is made. What waits already still waits.", Style.PLAIN),),
    ]
    for snooze in on:
        by = render.tidy(snooze.by)
        out.append(((f"now: {livewords.snooze_words(snooze, now)} (by {by})", Style.WARN),))
    return out


def keys(admin: bool) -> list[tuple[str, str]]:
    """(key, what it begins)."""
    out = [(key, _words(*kind)) for key, kind in _KINDS.items()]
    if admin:
        out += [(key, f"{_words(*kind)} for all users") for key, kind in _EVERYONE.items()]
    return [*out, ("0", "end it")]


def message(key: str | None, on: list[SnoozeView]) -> Snooze | None:
    """What the key sends. 0 ends one's own, or where there is none of those that of all users."""
    if key in _KINDS:
        return Snooze(*_KINDS[key])
    if key in _EVERYONE:
        return Snooze(*_EVERYONE[key], everyone=True)
    if key != "0":
        return None
    everyone = bool(on) and all(snooze.uid is None for snooze in on)
    return Snooze(Choice.DENY, 0.0, everyone)


def _words(decision: Choice, seconds: float) -> str:
    return f"{decision} {render.seconds_words(seconds)}"
