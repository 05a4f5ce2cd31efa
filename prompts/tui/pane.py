"""What every tab is: a part of the screen that draws what is known, when it is looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from textual.containers import Vertical

from arbiter.protocol import ClientMessage
from prompts.cards import Out, Style
from prompts.commands import Commands
from prompts.feed import Feed
from prompts.machine import Machine
from prompts.screen import Line


class Host(Protocol):
    """What a tab may ask of the whole."""

    feed: Feed
    machine: Machine
    commands: Commands
    away: bool

    def now(self) -> float:
        """Epoch seconds."""

    def say(self, text: str, style: Style = Style.PLAIN) -> None:
        """A line for the person, at the bottom."""

    async def tell(self, message: ClientMessage) -> bool:
        """Send to the daemon; where it cannot be sent, that is said."""

    async def perform(self, outs: Iterable[Out]) -> None:
        """Carry out what the machine gave out."""

    async def dialog(
        self,
        title: str,
        lines: Iterable[Line],
        keys: Iterable[tuple[str, str]] = (),
        *,
        line: str | None = None,
        problem: str = "",
    ) -> str | None:
        """Show a box and wait for its key or line; None for Esc."""

    def start(self, job: Callable[[], Awaitable[None]]) -> None:
        """Do something that takes a while, beside everything else."""


class Pane(Vertical):
    """`draw` when something has changed and the tab is seen, `opened` when it is chosen."""

    HINT = ""
    """Its keys, for the line at the bottom."""

    def __init__(self, host: Host, *, id: str) -> None:
        super().__init__(id=id)
        self.host = host

    @property
    def seen(self) -> bool:
        """The person sees it: its tab is chosen, and no box is over it."""
        stack = self.app.screen_stack if self.is_attached else []
        return bool(stack) and self.is_on_screen and self.screen is stack[-1]

    def draw(self, now: float) -> None:
        """Show what is known now."""

    def opened(self) -> None:
        """The tab was chosen: give the keys to the part that wants them."""

    def resized(self) -> None:
        """Nothing stays as it was: draw."""
        self.draw(self.host.now())

    def on_resize(self) -> None:
        """The terminal has another size."""
        self.resized()


def words_match(wanted: str, words: str) -> bool:
    """Whether all the words of a filter are in `words`, which are in lower case."""
    return all(word in words for word in wanted.lower().split())
