"""What the terminal prompt holds and gives out: an ask with a person's choices, lines, messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from arbiter.model import ANY_LINK, UNMETERED
from arbiter.protocol import Answer, Ask, ClientMessage, Scope
from prompts import render


class Style(enum.Enum):
    """How a piece of text looks; what that is on a terminal, only `screen.paint` knows."""

    PLAIN = enum.auto()
    DIM = enum.auto()
    BOLD = enum.auto()
    GOOD = enum.auto()
    BAD = enum.auto()
    WARN = enum.auto()


@dataclass(frozen=True)
class Say:
    """A line that stays in the scroll-back."""

    text: str
    style: Style = Style.PLAIN


@dataclass(frozen=True)
class Send:
    """A message to the daemon."""

    message: ClientMessage


@dataclass(frozen=True)
class Quit:
    """The person is done."""


Out = Say | Send | Quit


@dataclass
class Card:
    """An ask, and what the person chose for it so far."""

    ask: Ask
    lifetime: str
    scope: int = 0
    touched: bool = False
    """The person chose a lifetime for this ask: the default no longer sets it."""
    sent: Answer | None = None
    """The answer on its way; nothing else is sent before the daemon replied."""
    later: bool = False
    read: bool = False
    """All details were printed: a rule too long for the screen has been seen."""
    picked: tuple[str, ...] = ()
    """Links chosen for route, in order of preference."""

    @property
    def chosen(self) -> Scope:
        """The scope as chosen now."""
        return render.scopes(self.ask)[self.scope]

    @property
    def links(self) -> tuple[str, ...]:
        """What route may name: the daemon's links, those that cost nothing, the default route."""
        names = [link.name for link in self.ask.links[:9]]
        if any(link.metered for link in self.ask.links) and len(names) < 9:
            names.append(UNMETERED)
        return (*names, ANY_LINK)

    def pick(self, digit: int) -> bool:
        """Take a link into the route, or out of it; 0 is the default route, always last.

        False if there is none of that number.
        """
        if digit > len(self.links) - 1:
            return False
        name = self.links[digit - 1]  # 0 is -1: the default route
        others = [x for x in self.picked if x not in (name, ANY_LINK)]
        last = [x for x in self.picked if x == ANY_LINK != name]
        self.picked = (*others, *([] if name in self.picked else [name]), *last)
        return True


@dataclass
class Gone:
    """The shown ask ended by something else than our answer."""

    card: Card
    text: str
    until: float
