"""What a person chooses of an ask where they choose nothing else; the same in all prompts. Pure."""

from __future__ import annotations

from arbiter.protocol import Answer, Ask, Choice
from prompts import render

FIRST_LIFETIME = "forever"
"""Together with the narrowest scope: asked once, remembered exactly, shown in full, and undone
by `arbiter rules undo`. A short lifetime would ask the same again tomorrow, and teach people to
allow without reading."""


def first_scope(ask: Ask) -> int:
    """The place of the scope to begin with: the narrowest that means what a person means."""
    ids = [scope.id for scope in render.scopes(ask)]
    # Addresses of a name change: whoever allows one means the name, and is asked once.
    return ids.index("name") if "name" in ids else 0


def default_lifetime(ask: Ask, last: str) -> str:
    """`last`, the lifetime that was answered with last, where this ask can have it.

    Where a rule stands and only its link is in question, not for long: `forever` would undo that
    rule.
    """
    if ask.obstacle:
        return "1h" if ask.via and "1h" in render.lifetimes(ask) else "once"
    return last if last in render.lifetimes(ask) else "once"


def meant(ask: Ask, choice: Choice, via: tuple[str, ...] = ()) -> tuple[Choice, tuple[str, ...]]:
    """What a decision on this ask is: where allow means a route, that route."""
    if choice is Choice.ALLOW and ask.via:
        return Choice.ROUTE, ask.via
    return choice, via if choice is Choice.ROUTE else ()


def answer(
    ask: Ask, choice: Choice, scope: int, lifetime: str, via: tuple[str, ...] = ()
) -> Answer:
    """The answer with a scope, by its place, and a lifetime; it tells what was shown."""
    choice, via = meant(ask, choice, via)
    chosen = render.scopes(ask)[scope]
    return Answer(ask.id, choice, chosen.id, lifetime, via, chosen.conditions)


def subject(ask: Ask) -> tuple[object, ...]:
    """What a person has read of an ask: with another of these it is another question. What grows
    by itself, as what was used, is no part of it."""
    links = tuple((x.name, x.default, x.metered, x.roaming, x.price) for x in ask.links)
    return ask.processes, ask.destination, ask.scopes, links
