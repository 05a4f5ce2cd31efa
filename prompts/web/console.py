"""The state of the console: the daemon's messages and pages' requests in, what to send and to show
out. Pure: no clock, no I/O; `now` is epoch seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from arbiter.protocol import (
    Answer,
    Ask,
    Away,
    ClientMessage,
    Decided,
    Follow,
    Query,
    Refused,
    Snooze,
    Undo,
    Welcome,
    Withdraw,
)
from prompts import choices, render, snoozing
from prompts.client import Event, Lost
from prompts.feed import Feed
from prompts.web import views
from prompts.web.board import Board, encoded
from prompts.web.requests import Answered, Filter, Preview, RequestError, Snoozing

MAX_LOG_SHOWN = 60
"""Lines of what happened on a page."""
STATUS_SECONDS = 10.0
"""How often the daemon is asked how it is, while a page is open."""


@dataclass
class Console:
    """Feed it with `event`, `tick` and the requests; `board` is what all pages see."""

    feed: Feed = field(default_factory=Feed)
    board: Board = field(default_factory=Board)
    lifetime: str = choices.FIRST_LIFETIME
    """The last one that was answered with."""
    sent: dict[int, Answer] = field(default_factory=dict)
    """Answers on their way; nothing else is sent for their asks before the daemon replied."""
    quiet: bool = False
    """Do not disturb."""
    pages: int = 0
    """How many are open: without one nobody is there to ask."""
    _away: bool = False
    """What the daemon was told last."""
    _queried: float = 0.0
    _asks: dict[int, tuple[Ask, Answer | None, str, bytes]] = field(default_factory=dict)

    # --- from the daemon --------------------------------------------------------------------

    def event(self, event: Event, now: float) -> list[ClientMessage]:
        """Something came from the client; what to send for it."""
        if isinstance(event, Lost):
            event = Lost(event.text + self._unknown())
            self.sent.clear()
        elif isinstance(event, Decided | Withdraw | Refused) and event.ask is not None:
            self.sent.pop(event.ask, None)
        self.feed.event(event, now)
        if isinstance(event, Welcome):
            self._away, self._queried = False, now
            return [Follow(), Query(), *self._presence()]
        return []

    def _unknown(self) -> str:
        """Which answers may not have arrived, for the log."""
        about = [
            f"{render.app_name(ask)} → {render.endpoint(ask)}"
            for id in self.sent
            if (ask := self.feed.asks.get(id)) is not None
        ]
        if not about:
            return ""
        return f" before it took the answer about {', '.join(about)}: look whether it asks again"

    # --- pages ------------------------------------------------------------------------------

    def opened(self) -> list[ClientMessage]:
        """A page looks from now on."""
        self.pages += 1
        return self._presence()

    def closed(self) -> list[ClientMessage]:
        """It looks no more."""
        self.pages -= 1
        return self._presence()

    def disturb(self, away: bool) -> list[ClientMessage]:
        """The person wants to be left alone, or does not any more."""
        self.quiet = away
        return self._presence()

    def _presence(self) -> list[ClientMessage]:
        away = self.quiet or self.pages == 0
        if away == self._away or not self.feed.connected:
            return []
        self._away = away
        return [Away(away)]

    def tick(self, now: float) -> list[ClientMessage]:
        """A second has passed."""
        due = not self._queried <= now < self._queried + STATUS_SECONDS
        if self.pages and due and self.feed.connected:
            self._queried = now
            return [Query()]
        return []

    # --- requests: RequestError says why not --------------------------------------------------

    def preview(self, request: Preview) -> views.View:
        """What these choices would remember. Raises RequestError."""
        ask, place, via = self._chosen(
            request.ask, request.scope, request.lifetime, tuple(request.via)
        )
        return views.preview(ask, place, request.lifetime, via)

    def answer(self, request: Answered) -> Answer:
        """The answer to send. Raises RequestError: then nothing is to be sent."""
        via = tuple(request.via)
        ask, place, via = self._chosen(request.ask, request.scope, request.lifetime, via)
        if ask.id in self.sent:
            raise RequestError("your answer is on its way")
        shown = views.preview(ask, place, request.lifetime, via).get(request.decision.value)
        if shown is None:
            raise RequestError("choose a link first")
        if shown["rule"] != request.rule:
            raise RequestError("this ask has changed: read it again; nothing was decided")
        made = choices.answer(ask, request.decision, place, request.lifetime, via)
        self.sent[ask.id] = made
        if not ask.obstacle:
            self.lifetime = request.lifetime
        return made

    def unsent(self, answer: Answer) -> None:
        """It could not be sent: nothing was decided by it."""
        self.sent.pop(answer.ask, None)

    def _chosen(
        self, id: int, scope: str, lifetime: str, via: tuple[str, ...]
    ) -> tuple[Ask, int, tuple[str, ...]]:
        ask = self.feed.asks.get(id)
        if ask is None:
            raise RequestError(f"ask {id} is not open any more")
        ids = [each.id for each in render.scopes(ask)]
        if scope not in ids:
            raise RequestError(f"ask {id} does not offer the scope {scope!r}")
        if lifetime not in render.lifetimes(ask):
            raise RequestError(f"ask {id} does not offer the lifetime {lifetime!r}")
        unknown = set(via) - {link["id"] for link in views.link_choices(ask)}
        if unknown:
            raise RequestError(f"ask {id} does not offer the link {sorted(unknown)[0]!r}")
        return ask, ids.index(scope), views.ordered(via)

    def snooze(self, request: Snoozing, now: float) -> Snooze:
        """The message. Everybody concerned is told what came of it. Raises RequestError."""
        found = snoozing.message(request.key, self.feed.snoozed(now))
        if found is None:
            raise RequestError(f"there is no snooze {request.key!r}")
        return found

    def undo(self, rule_id: int) -> Undo:
        """The message to take back an answer of the log. Raises RequestError."""
        for entry in self.feed.log:
            if entry.rule_id == rule_id and self.feed.may_undo(entry):
                return Undo(rule_id)
        raise RequestError(f"rule {rule_id} is of no answer that you may take back here")

    def connections(self, request: Filter, now: float) -> views.View:
        """The newest connections with some words, of an app or of all."""
        app = None if request.any_app else request.app
        return views.connections_view(self.feed, now, request.words, app)

    def apps(self) -> list[views.View]:
        """All apps, the last that connected first."""
        return [views.app_row(use) for use in reversed(self.feed.apps.known.values())]

    def app(self, id: str) -> views.View | None:
        """One app; None for one that has not connected since we follow."""
        use = self.feed.apps.known.get(id)
        return None if use is None else views.app_view(use)

    # --- what is shown ----------------------------------------------------------------------

    def refresh(self, now: float) -> bool:
        """Put on the board how things are. Whether that is news."""
        feed = self.feed
        shown: dict[str, object] = {"me": views.me_view(feed, now, self.quiet)}
        for id, ask in feed.asks.items():
            shown[f"ask:{id}"] = self._ask(ask)
            shown[f"clock:{id}"] = render.countdown(ask, now)
        self._asks = {id: kept for id, kept in self._asks.items() if id in feed.asks}
        for name, link in feed.links.items():
            shown[f"link:{name}"] = views.link_view(link)
        for name, flow in feed.flows.items():
            shown[f"flow:{name}"] = views.flow_view(name, flow, now)
        for entry in list(feed.log)[-MAX_LOG_SHOWN:]:
            shown[f"log:{entry.id}"] = views.entry_view(feed, entry)
        return self.board.show(shown)

    def _ask(self, ask: Ask) -> bytes:
        """As JSON, worded once for each change: there may be hundreds."""
        sent, kept = self.sent.get(ask.id), self._asks.get(ask.id)
        if kept is not None and kept[0] is ask and kept[1] is sent and kept[2] == self.lifetime:
            return kept[3]
        view = encoded(views.ask_view(ask, self.lifetime, sent))
        self._asks[ask.id] = ask, sent, self.lifetime, view
        return view
