"""The keyboard prompt as a pure state machine: keys and messages in, lines and messages out.

No clock and no I/O: `now` is passed in (epoch seconds, as the asks' deadlines are). `screen.py`
draws it, `terminal.py` connects it to a terminal and to the daemon.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from arbiter.protocol import (
    Answer,
    Ask,
    Choice,
    ClientMessage,
    Decided,
    Notice,
    Refused,
    RefusedReason,
    Welcome,
    Withdraw,
)
from prompts import render
from prompts.cards import Card, Gone, Out, Quit, Say, Send, Style
from prompts.choices import FIRST_LIFETIME, answer, default_lifetime, first_scope, subject
from prompts.client import Event, Lost, Unread
from prompts.linkwords import link_details

GUARD_SECONDS = 0.3
"""For so long after an ask appeared no key answers it: the key was meant for something else."""
HELD_SECONDS = 0.7
"""A key that comes again within this time may be held down (keyboards begin to repeat after up to
0.66 s): it answers no other ask than the one it was pressed for."""
GONE_SECONDS = 3.0
"""How long an ask that vanished under the reader's eyes stays, saying why, before the next one."""


HELP = (
    "a allow, d deny, r route over a link (digits choose links in order, r again sends)",
    "s or Right: wider scope; S or Left: narrower. l or Up: next lifetime; L or Down: previous",
    "n next ask, p previous; x or Space: decide later, without denying; u: brings those back",
    "i: all details of this ask; ?: this help; q: quit (asks stay open: see `arbiter pending`)",
    "Until you answer, the packets wait; after the countdown they get the fallback, unremembered.",
)
_SYNONYMS = {"right": "s", "left": "S", "up": "l", "down": "L", "t": "l", "T": "L", "space": "x",
             "ctrl-d": "q"}  # fmt: skip


@dataclass
class Machine:
    """What the person sees and has chosen. Feed it with `event`, `key`, `tick` and `drawn`."""

    lifetime: str = FIRST_LIFETIME
    cards: dict[int, Card] = field(default_factory=dict)
    current: int | None = None
    gone: Gone | None = None
    picking: bool = False
    notice: str = ""
    welcome: Welcome | None = None
    """None while there is no connection."""
    _drawn_at: float | None = None
    _rule_cut: bool = False
    _pressed: tuple[str, int, float] = ("", 0, 0.0)
    """The last answering key, the ask that it was pressed for, and when it came last."""

    # --- what is where ----------------------------------------------------------------------

    @property
    def card(self) -> Card | None:
        """The shown ask."""
        return None if self.current is None else self.cards[self.current]

    def queue(self) -> list[int]:
        """Ids of the asks to be decided now, oldest first."""
        return [id for id, card in self.cards.items() if not card.later]

    @property
    def waiting(self) -> list[int]:
        """Those of the queue for which a packet is held."""
        return [id for id in self.queue() if render.waits(self.cards[id].ask)]

    @property
    def put_off(self) -> int:
        """How many were put off with x."""
        return sum(card.later for card in self.cards.values())

    def _show(self, id: int | None) -> None:
        self.current, self.picking, self._drawn_at, self._rule_cut = id, False, None, False
        self.notice = ""
        card = self.card
        if card is not None and not card.touched:
            card.lifetime = default_lifetime(card.ask, self.lifetime)

    def choose(self, id: int) -> None:
        """Look at this ask, one that was put off too; it is not put off any more."""
        card = self.cards.get(id)
        if card is not None and (id != self.current or self.gone):
            card.later, self.gone = False, None
            self._show(id)

    def hidden(self) -> None:
        """The person does not see the ask now: no key answers it before it is drawn again."""
        self._drawn_at = None

    def _next_after(self, id: int) -> int | None:
        """The ask that follows `id` in the queue, from the start again at its end.

        One for which a packet is held comes before those for which none is.
        """
        others = [other for other in self.waiting or self.queue() if other != id]
        others = others or [other for other in self.queue() if other != id]
        order = list(self.cards)
        later = [o for o in others if order.index(o) > order.index(id)]
        return next(iter(later or others), None)

    def _make_way(self, id: int, now: float) -> None:
        """An ask begins to wait: what is shown makes way if nothing waits for it. It stays open."""
        card = self.card
        if self.gone or card is None or card.sent or render.waits(card.ask):
            return
        if id in self.waiting:
            if self._drawn_at is not None:
                text = "it stays open, but another packet waits now"
                self.gone = Gone(card, text, now + GONE_SECONDS)
            self._show(id)

    # --- time -------------------------------------------------------------------------------

    def drawn(self, now: float, rule_cut: bool = False) -> None:
        """The screen was written: from now on the person can know what is asked."""
        self._rule_cut = rule_cut
        if self._drawn_at is None or now < self._drawn_at:  # the clock was set back
            self._drawn_at = now

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.gone and now >= self.gone.until:
            self._leave_gone()

    def wake(self, now: float) -> float | None:
        """When the screen changes by itself; None if only an event can change it."""
        if self.gone:
            return self.gone.until
        card = self.card
        if card is None or not render.waits(card.ask):
            return None
        left = card.ask.deadline - now
        return now + max(0.05, left % 1 or 1.0) if left > 0 else None

    def _leave_gone(self) -> None:
        self.gone = None
        following = self.current
        if following is None or not render.waits(self.cards[following].ask):
            following = next(iter(self.waiting), following)
        self._show(next(iter(self.queue()), None) if following is None else following)

    # --- messages ---------------------------------------------------------------------------

    def event(self, event: Event, now: float) -> list[Out]:
        """Something came from the daemon."""
        match event:
            case Welcome():
                return self._welcome(event)
            case Ask():
                waited = event.id in self.waiting
                self._ask(event)
                if not waited:
                    self._make_way(event.id, now)
                return []
            case Decided():
                return self._decided(event, now)
            case Withdraw():
                return self._end(event.ask, render.withdrawn(event), now)
            case Refused():
                return self._refused(event)
            case Lost():
                return self._lost(event)
            case Unread():
                return [
                    Say(f"! a message could not be read: {render.tidy(event.text)}", Style.WARN)
                ]
            case Notice():
                return [Say(f"· {render.tidy(event.text)}", Style.WARN)]
            case _:
                return []  # replies to what this frontend never sends

    def _lost(self, lost: Lost) -> list[Out]:
        unsure = [card for card in self.cards.values() if card.sent]
        self.cards.clear()
        self.gone, self.welcome = None, None
        self._show(None)
        out: list[Out] = [Say(f"! {render.tidy(lost.text)}; trying again", Style.WARN)]
        for card in unsure:
            about = f"{render.app_name(card.ask)} → {render.endpoint(card.ask)}"
            text = f"! your answer on {about} may not have arrived: it is asked again if not"
            out.append(Say(text, Style.WARN))
        return out

    def _welcome(self, welcome: Welcome) -> list[Out]:
        self.welcome, self.notice = welcome, ""
        scope = "for all users" if welcome.admin else "for your own programs"
        text = f"connected as {render.tidy(welcome.user)}, deciding {scope}"
        facts = f"mode {render.tidy(welcome.mode)}, fallback {render.tidy(welcome.fallback)}"
        return [Say(f"· {text}; {facts}", Style.DIM)]

    def _ask(self, ask: Ask) -> None:
        card = self.cards.get(ask.id)
        if card is None:
            card = self.cards[ask.id] = Card(
                ask, default_lifetime(ask, self.lifetime), first_scope(ask)
            )
            if self.current is None and self.gone is None:
                self._show(ask.id)
            return
        if subject(ask) != subject(card.ask):
            ids = [scope.id for scope in render.scopes(ask)]
            card.scope = ids.index(card.chosen.id) if card.chosen.id in ids else 0
            card.picked, card.read = (), False
            card.lifetime = card.lifetime if card.lifetime in render.lifetimes(ask) else "once"
            if self.current == ask.id:
                card.ask = ask
                self._show(ask.id)  # not what was read: the guard starts again
                self.notice = "this ask has changed: read it again"
        card.ask = ask

    def _decided(self, decided: Decided, now: float) -> list[Out]:
        card = self.cards.get(decided.ask)
        if card is None:
            return []
        sent = card.sent
        mine = sent is not None and self.welcome is not None and self.welcome.user == decided.user
        if sent is None or not mine or decided.decision.split(" ")[0] != sent.decision:
            return self._end(decided.ask, render.answered_by(decided), now)
        denied = sent.decision is Choice.DENY
        out: list[Out] = [Say(f"{'✗' if denied else '✓'} {render.result(card.ask, decided)}",
                              Style.BAD if denied else Style.GOOD)]  # fmt: skip
        shown = render.rule_line(card.chosen, sent.lifetime, sent.decision, sent.via)
        if decided.rule and render.tidy(decided.rule) != shown:
            out.append(Say(f"  remembered as: {render.tidy(decided.rule)}", Style.WARN))
        self._remove(decided.ask)
        return out

    def _end(self, id: int, text: str, now: float) -> list[Out]:
        """An ask ended without us: say so, and let the reader see it if it was the shown one."""
        card = self.cards.get(id)
        if card is None:
            return []
        shown = id == self.current
        self._remove(id)
        if shown and self.queue():
            self.gone = Gone(card, text, now + GONE_SECONDS)
        line = f"· {render.app_name(card.ask)} → {render.endpoint(card.ask)}: {text}"
        return [Say(line, Style.DIM)]

    def _remove(self, id: int) -> None:
        following = self._next_after(id)
        del self.cards[id]
        if id == self.current:
            self._show(following)

    def _refused(self, refused: Refused) -> list[Out]:
        card = self.cards.get(refused.ask) if refused.ask is not None else None
        about = f"{render.app_name(card.ask)} → {render.endpoint(card.ask)}: " if card else ""
        if card:
            card.sent = None
            if refused.reason is RefusedReason.GONE:
                self._remove(card.ask.id)
        return [Say(f"! {about}refused: {render.tidy(refused.text)}", Style.WARN)]

    # --- keys -------------------------------------------------------------------------------

    def key(self, key: str, now: float) -> list[Out]:
        """A key was pressed."""
        key, self.notice = _SYNONYMS.get(key, key), ""
        if key == "q":
            return [Quit()]
        if key == "?":
            return [Say(line, Style.DIM) for line in HELP]
        if key == "u":
            return self._bring_back()
        if self.gone:
            self._leave_gone()
            return []
        card = self.card
        if key == "paste":
            self.notice = "what is pasted answers nothing: press the keys"
        elif card is None:
            self.notice = "" if key in ("enter", "ctrl-l") else "nothing waits for an answer now"
        elif self.picking and self._pick(card, key):
            pass
        elif key in _ANSWERS:
            return self._answer(card, key, now)
        elif key == "i":
            card.read = True
            details = [*render.details(card.ask), *link_details(card.ask)]
            width = max(len(label) for label, _ in details)
            return [Say(f"  {label:{width}}  {text}") for label, text in details]
        else:
            self._choose(card, key)
        return []

    def _choose(self, card: Card, key: str) -> None:
        queue = self.queue()
        if key in ("n", "p"):
            step = 1 if key == "n" else -1
            following = queue[(queue.index(card.ask.id) + step) % len(queue)]
            if following != card.ask.id:
                self._show(following)
            else:
                self.notice = "no other ask waits"
        elif key == "x":
            following_id = self._next_after(card.ask.id)
            card.later = True
            self._show(following_id)
            self.notice = "put off, not denied; u brings it back"
        elif card.sent:
            self.notice = "your answer is on its way"
        elif key == "s":
            card.scope = (card.scope + 1) % len(render.scopes(card.ask))
        elif key == "S":
            card.scope = max(0, card.scope - 1)
        elif key in ("l", "L"):
            known = render.lifetimes(card.ask)
            step = 1 if key == "l" else -1
            card.touched = True
            card.lifetime = known[(known.index(card.lifetime) + step) % len(known)]
        elif key == "esc":
            self.picking = False
        elif key != "ctrl-l":
            route = ", r routes" if card.ask.links else ""
            name = "Return" if key == "enter" else render.tidy(key)
            self.notice = f"{name} decides nothing: a allows, d denies{route}; ? lists the keys"

    def _pick(self, card: Card, key: str) -> bool:
        """Choose links for route. True if the key was for that."""
        if key == "backspace":
            card.picked = card.picked[:-1]
        elif key in "0123456789" and len(key) == 1:
            self.notice = "" if card.pick(int(key)) else f"there is no link {key}"
        elif key in _ANSWERS and _ANSWERS[key] is not Choice.ROUTE:
            self.notice = "choosing links: Esc first, then a or d"
        else:
            return False
        return True

    def _held(self, key: str, id: int, now: float) -> bool:
        """Whether this is the repetition of a key that was pressed for another ask."""
        last, meant, when = self._pressed
        again = key == last and 0 <= now - when < HELD_SECONDS
        self._pressed = (key, meant if again else id, now)
        return again and meant != id

    def _answer(self, card: Card, key: str, now: float) -> list[Out]:
        choice, held = _ANSWERS[key], self._held(key, card.ask.id, now)
        if choice is Choice.ROUTE and not card.ask.links:
            self.notice = "this ask has no links to route over"
        elif card.sent:
            self.notice = "your answer is on its way"
        elif choice is Choice.ROUTE and not self.picking:
            self.picking = True
        elif choice is Choice.ROUTE and not card.picked:
            self.notice = "choose a link first: press its digit"
        elif self._drawn_at is None or now - self._drawn_at < GUARD_SECONDS:
            self.notice = "that key came before you could read this; press it again"
        elif held:
            self.notice = "that key answered the ask before, and is held down: press it again"
        elif self._rule_cut and not card.read and card.lifetime != "once":
            self.notice = "this rule is longer than the screen: i shows all of it, then answer"
        else:
            card.sent = answer(card.ask, choice, card.scope, card.lifetime, card.picked)
            if not card.ask.obstacle:
                self.lifetime = card.lifetime
            return [Send(card.sent)]
        return []

    def _bring_back(self) -> list[Out]:
        if not self.put_off:
            self.notice = "nothing was put off"
        for card in self.cards.values():
            card.later = False
        if self.current is None and self.gone is None and self.cards:
            self._show(next(iter(self.waiting or self.queue()), None))
        return []

    def unsent(self, message: ClientMessage, text: str) -> list[Out]:
        """A message could not be sent: nothing was decided by it."""
        if not isinstance(message, Answer):
            return [Say(f"! not sent: {render.tidy(text)}", Style.WARN)]
        if card := self.cards.get(message.ask):
            card.sent = None
        return [Say(f"! not answered: {render.tidy(text)}", Style.WARN)]


_ANSWERS = {"a": Choice.ALLOW, "d": Choice.DENY, "r": Choice.ROUTE}
