"""The full-screen prompt: tabs over one feed, one machine and one connection to the daemon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, TabbedContent, TabPane, Tabs

from arbiter.protocol import (
    Ask,
    Away,
    ClientMessage,
    Decided,
    Follow,
    Query,
    Refused,
    Snoozed,
    Undone,
    Welcome,
    Withdraw,
)
from prompts import livewords, render, snoozing
from prompts.cards import Out, Quit, Say, Send, Style
from prompts.client import Client, ClientError, Event, Lost
from prompts.commands import Commands
from prompts.feed import Feed
from prompts.lifeline import NOT_STOPPED
from prompts.machine import Machine
from prompts.screen import Line, Span
from prompts.tui import helptext
from prompts.tui.apps import AppsPane
from prompts.tui.asks import AsksPane
from prompts.tui.connections import ConnectionsPane
from prompts.tui.links import LinksPane
from prompts.tui.log import LogPane
from prompts.tui.pane import Pane
from prompts.tui.parts import Dialog, Words
from prompts.tui.rules import RulesPane

DRAW_SECONDS = 0.5
"""How often what follows is drawn: a busy machine must not keep this prompt busy."""
TICK_SECONDS = 0.25
"""How often the asks' clock is looked at."""
QUERY_SECONDS = 10.0
"""How often the daemon is asked how it is."""
DONE, REFUSED = 0, 1
TABS = (("Connections", ConnectionsPane), ("Apps", AppsPane),
        ("Rules", RulesPane), ("Links", LinksPane), ("Log", LogPane))  # fmt: skip
_PROMPT_NEWS = (Ask, Decided, Withdraw, Refused, Welcome, Lost, Snoozed, Undone)


class Tui(App[int]):
    """Runs until q; the value is the exit code."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "arbiter"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"tab({n})", show=False) for n in range(1, len(TABS) + 2)),
        Binding("z", "snooze", show=False),
        Binding("w", "away", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q", "leave", show=False),
        Binding("ctrl+c", "leave", show=False, priority=True),  # in every box, too
        Binding("ctrl+z", "stop", show=False, priority=True),
        *(Binding(key, f"pane('{name}')", show=False) for key, name in (
            ("slash", "filter"), ("o", "order"), ("r", "read"), ("a", "add"),
            ("e", "edit"), ("x", "remove"), ("u", "undo"))),
        Binding("escape", "leave_filter", show=False),
    ]  # fmt: skip
    CSS = """
    TabbedContent { height: 1fr; }
    ContentSwitcher { height: 1fr; }
    TabPane { padding: 0; height: 1fr; }
    Pane { height: 1fr; }
    Sheet { border-title-color: $text-muted; }
    #connections, #rules, #log { border-top: solid $panel; }
    #said { height: auto; max-height: 3; }
    #status { height: 1; background: $panel; }
    #hint { height: 1; }
    """

    def __init__(
        self,
        client: Client,
        commands: Commands,
        clock: Callable[[], float] = time.time,
        *,
        owned: bool = False,
    ) -> None:
        super().__init__()
        self.animation_level = "none"  # for slow lines, and for who needs the CPU
        self.client, self.commands, self.now = client, commands, clock
        self.feed, self.machine = Feed(), Machine()
        self.away, self._owned = False, owned
        self.asks = AsksPane(self)
        self.panes: dict[str, Pane] = {"Asks": self.asks} | {n: kind(self) for n, kind in TABS}
        self._chosen, self._label = "Asks", ""
        self.tabs = TabbedContent()
        self.said, self.status_line, self.hint = (
            Words(id=name) for name in ("said", "status", "hint")
        )
        self.end = ""
        """Why it ended by itself, for stderr."""

    # --- the parts --------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Tabs, what was said last, status, keys."""
        with self.tabs:
            for number, (name, pane) in enumerate(self.panes.items(), 1):
                with TabPane(f"{number} {name}", id=f"tab-{name.lower()}"):
                    yield pane
        yield from (self.said, self.status_line, self.hint)

    def on_mount(self) -> None:
        """Begin to hear the daemon, and to draw."""
        self.query_one(Tabs).can_focus = False
        self.receive()
        self.set_interval(TICK_SECONDS, self._tick)
        self.set_interval(DRAW_SECONDS, self._draw)
        self.set_interval(QUERY_SECONDS, self._query)
        self.pane.opened()

    @property
    def pane(self) -> Pane:
        """The tab that is chosen."""
        return self.panes[self._chosen]

    # --- the daemon -------------------------------------------------------------------------

    @work(exit_on_error=True)
    async def receive(self) -> None:
        """Every event into feed and machine, until the client gives up."""
        try:
            count = 0
            async for event in self.client:
                await self.heard(event)
                count += 1
                if count % 20 == 0:  # what is there already comes without a pause: let keys in
                    await asyncio.sleep(0)
        except ClientError as error:
            self.end = error.text
            self.exit(REFUSED)

    async def heard(self, event: Event) -> None:
        """One event."""
        now = self.now()
        waited = len(self.machine.waiting)
        self.feed.event(event, now)
        outs = self.machine.event(event, now)
        if isinstance(event, Decided):
            self.asks.ended(event.ask, render.tidy(event.decision))
        elif isinstance(event, Withdraw):
            self.asks.ended(event.ask, "withdrawn")
        elif isinstance(event, Lost):
            self.asks.forget()
        elif isinstance(event, Undone):
            self.say(livewords.undone(event), Style.GOOD)
        await self.perform(outs)
        if isinstance(event, Welcome):
            await self._greet()
        if isinstance(event, Ask) and not waited and self.machine.waiting and not self.away:
            self.bell()
        if isinstance(event, _PROMPT_NEWS):
            self.asks.draw(now)
            self._status(now)

    async def _greet(self) -> None:
        await self.tell(Follow())
        await self.tell(Query())
        if self.away:
            await self.tell(Away(True))

    async def tell(self, message: ClientMessage) -> bool:
        """Send to the daemon; where it cannot be sent, that is said."""
        try:
            await self.client.send(message)
        except ClientError as error:
            self.say(error.text, Style.WARN)
            return False
        return True

    async def perform(self, outs: Iterable[Out]) -> None:
        """Carry out what the machine gave out."""
        for out in outs:
            if isinstance(out, Say):
                self.say(out.text, out.style)
            elif isinstance(out, Quit):
                self.exit(DONE)
            elif isinstance(out, Send):
                try:
                    await self.client.send(out.message)
                except ClientError as error:
                    await self.perform(self.machine.unsent(out.message, error.text))

    async def _query(self) -> None:
        if self.feed.connected:
            await self.tell(Query())

    # --- drawing ----------------------------------------------------------------------------

    def say(self, text: str, style: Style = Style.PLAIN) -> None:
        """A line for the person; the next one takes its place."""
        self.said.show([((text, style),)])

    def _tick(self) -> None:
        now = self.now()
        self.machine.tick(now)
        self.asks.draw(now)
        self._status(now)

    def _draw(self) -> None:
        pane = self.pane
        if pane is not self.asks and pane.seen:
            pane.draw(self.now())

    def _status(self, now: float) -> None:
        self.status_line.show([status(self.feed, self, now)])
        # On a narrow terminal the end is cut: what leads to all the rest comes first.
        keys = f"? help  q quit  {self.pane.HINT}  1-6 tabs  z snooze  w away"
        self.hint.show([((keys, Style.DIM),)])
        waiting = len(self.machine.queue())
        label = f"1 Asks ({waiting})" if waiting else "1 Asks"
        if label != self._label:
            self._label = label
            self.tabs.get_tab("tab-asks").label = label

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Another tab: what was read there is old, and its keys come first."""
        self._chosen = next(name for name in self.panes if event.pane.id == f"tab-{name.lower()}")
        now = self.now()
        self.pane.opened()
        self.pane.draw(now)
        self._status(now)

    # --- boxes ------------------------------------------------------------------------------

    def start(self, job: Callable[[], Awaitable[None]]) -> None:
        """Do something that takes a while, beside everything else."""
        self._job(job)

    @work(exit_on_error=True)
    async def _job(self, job: Callable[[], Awaitable[None]]) -> None:
        await job()

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
        box = Dialog(title, lines, keys, line=line, problem=problem)
        try:
            return await self.push_screen_wait(box)
        finally:
            self._tick()  # what is below is seen again from now on

    # --- keys -------------------------------------------------------------------------------

    def action_tab(self, number: int) -> None:
        """Choose a tab by its digit."""
        self.tabs.active = f"tab-{list(self.panes)[number - 1].lower()}"

    def action_pane(self, name: str) -> None:
        """A key that means something in some tabs only."""
        handler = getattr(self.pane, f"do_{name}", None)
        if handler is not None:
            handler()

    def action_leave_filter(self) -> None:
        """Esc in a filter: without it."""
        leave = getattr(self.pane, "leave_filter", None)
        if leave is not None and isinstance(self.focused, Input):
            leave()

    def action_help(self) -> None:
        """All keys."""
        self.start(lambda: self._box("keys", helptext.lines()))

    async def _box(self, title: str, lines: list[Line]) -> None:
        await self.dialog(title, lines)

    async def action_away(self) -> None:
        """Do not disturb, or do again."""
        if await self.tell(Away(not self.away)):
            self.away = not self.away
            self.say(
                "do not disturb: you are not asked; w ends it"
                if self.away
                else "you are asked again"
            )
            self._tick()

    def action_snooze(self) -> None:
        """No questions for a while."""
        self.start(self._snooze)

    async def _snooze(self) -> None:
        now, admin = self.now(), self.feed.welcome is not None and self.feed.welcome.admin
        on = self.feed.snoozed(now)
        key = await self.dialog(
            "no questions for a while", snoozing.lines(on, now), snoozing.keys(admin)
        )
        message = snoozing.message(key, on)
        if message is not None:
            await self.tell(message)

    async def action_stop(self) -> None:
        """Ctrl-Z: as long as it is stopped nobody is there to ask."""
        if self._owned:
            self.say(NOT_STOPPED, Style.WARN)
            return
        if not self.away:
            await self.tell(Away(True))
        self.action_suspend_process()  # comes back when it goes on
        self.machine.hidden()
        self.screen.refresh(layout=True)  # the terminal's other screen is empty
        if not self.away:
            await self.tell(Away(False))

    async def action_leave(self) -> None:
        """The asks stay open."""
        self.exit(DONE)


def status(feed: Feed, app: Tui, now: float) -> Line:
    """Who, which mode, how many asks; and whatever is out of the ordinary."""
    if not feed.connected:
        return ((f" NOT CONNECTED, trying again: {feed.problem}", Style.BAD),)
    assert feed.welcome is not None
    waiting = len(app.machine.queue())
    whose = "for all users" if feed.welcome.admin else "for your programs"
    spans: list[Span] = [(f" {render.tidy(feed.welcome.user)}, {whose}", Style.BOLD)]
    spans.append(
        (
            f"  {waiting} waiting" if waiting else "  nothing waits",
            Style.WARN if waiting else Style.DIM,
        )
    )
    if app.machine.put_off:
        spans.append((f"  {app.machine.put_off} put off", Style.DIM))
    if app.away:
        spans.append(("  DO NOT DISTURB", Style.WARN))
    spans += [(f"  {livewords.snooze_words(s, now)}", Style.WARN) for s in feed.snoozed(now)]
    if feed.mode == "observe":
        spans.append(("  LEARNING: what is new passes and is recorded", Style.WARN))
    if feed.status is not None and feed.status.problems:
        count = len(feed.status.problems)
        text = "a problem" if count == 1 else f"{count} problems"
        spans.append((f"  {text}: see 6 Log", Style.BAD))
    # What is as it always is comes last: it is cut first where the line is too long.
    if feed.mode != "observe":
        spans.append((f"  mode {render.tidy(feed.mode)}", Style.DIM))
    if feed.profile:
        spans.append((f"  profile {render.tidy(feed.profile, render.NAME_LIMIT)}", Style.DIM))
    return tuple(spans)
