"""The terminal prompt without a terminal: a playbook for its machine."""

from __future__ import annotations

from scripted_daemon import example_ask

from arbiter.protocol import Answer, Ask, Choice, Decided, Welcome
from prompts import screen
from prompts.cards import Quit, Say, Send
from prompts.client import Event
from prompts.machine import Machine

NOW = 1700000000.0
WELCOME = Welcome(1, "0.1.0", "alice", False, "ask", "deny", 0)


def answer(
    decision: Choice,
    scope: str = "connection",
    lifetime: str = "forever",
    via: tuple[str, ...] = (),
    ask: Ask | None = None,
) -> Answer:
    """What the prompt sends for an ask, with the conditions it showed."""
    asked = ask or example_ask()
    shown = next(offer.conditions for offer in asked.scopes if offer.id == scope)
    return Answer(asked.id, decision, scope, lifetime, via, shown)


class Scene:
    """A playbook: events and keys in, what was said and sent out; the clock moves by itself.

    Between two steps the screen is drawn and a second passes, as for an unhurried person;
    `quickly` leaves both out.
    """

    def __init__(self, *asks: Ask, width: int = 80, height: int = 24) -> None:
        self.machine, self.now = Machine(), NOW
        self.width, self.height = width, height
        self.said: list[str] = []
        self.sent: list[Answer] = []
        self.quit = False
        self << WELCOME
        for ask in asks:
            self << ask

    def __lshift__(self, step: Event | str) -> Scene:
        self.draw()
        self.now += 1.0
        return self.quickly(step)

    def quickly(self, step: Event | str) -> Scene:
        self.machine.tick(self.now)
        machine, now = self.machine, self.now
        outs = machine.key(step, now) if isinstance(step, str) else machine.event(step, now)
        for out in outs:
            if isinstance(out, Say):
                self.said.append(out.text)
            elif isinstance(out, Send):
                assert isinstance(out.message, Answer)
                self.sent.append(out.message)
            else:
                assert isinstance(out, Quit)
                self.quit = True
        return self

    def wait(self, seconds: float) -> Scene:
        self.draw()
        self.now += seconds
        self.machine.tick(self.now)
        return self

    def draw(self, ascii_only: bool = False) -> list[str]:
        page = screen.draw(self.machine, self.width, self.height, self.now, ascii_only)
        self.machine.drawn(self.now, page.rule_cut)
        return [screen.paint(line, False) for line in page.lines]

    @property
    def text(self) -> str:
        return "\n".join(self.draw())

    def decided(
        self, id: int, decision: str = "allow", user: str = "alice", rule: str = ""
    ) -> Scene:
        return self << Decided(id, decision, user, "tui", 1, rule, 12 if rule else None)
