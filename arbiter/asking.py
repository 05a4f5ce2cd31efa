"""The part of the pipeline that asks people, and takes their answers. Pure."""

from __future__ import annotations

from arbiter import answers, protocol
from arbiter.answers import Chosen
from arbiter.asks import Example, Key, OpenAsk, State, key_of
from arbiter.core import Core, holders_of
from arbiter.events import (
    Answered,
    Effect,
    Reason,
    Refuse,
    Remember,
    SnoozeWanted,
    TellSnoozes,
)
from arbiter.given import GivenOnce
from arbiter.held import Held
from arbiter.judge import Judgement
from arbiter.model import (
    ALLOW,
    DENIED,
    DENY,
    Decision,
    NoOwner,
    NoOwnerReason,
    Now,
    Owner,
    Packet,
    Peer,
)
from arbiter.protocol import RefusedReason, WithdrawReason
from arbiter.rules import Entry, Layer, LifetimeKind, conditions, format_rule
from arbiter.settings import LinkDown, Mode, Settings, WhenUnattended
from arbiter.ways import NEVER, Obstacle, Way

_TCP = 6
_TRIED = (1 << 63) - 1
"""The id of a rule that is only tried: the newest of all, as the real one will be."""


class Asking(Core):
    """Every packet that no rule decides comes here, and everything a person says."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._given = GivenOnce()

    def _snooze(self, event: SnoozeWanted) -> list[Effect]:
        """Nothing that waits is answered by it: it is about what is new."""
        why = self.snoozes.begin(event.now, event.peer, event.message)
        if why:
            reason = RefusedReason.INVALID if event.peer.admin else RefusedReason.RIGHT
            return [Refuse(event.client, protocol.Refused(reason, why))]
        return [TellSnoozes(None if event.message.everyone else event.peer.uid)]

    def _show_anew(self) -> None:
        """Asks show what has changed: they are sent again."""
        for ask in self.asks:
            ask.shown = None

    def _undecided(
        self, now: Now, held: Held, owner: Owner | NoOwner, obstacle: str = ""
    ) -> list[Effect]:
        """`obstacle`: why what the rules say cannot be done; then nobody's silence means allow."""
        packet, settings, give = held.packet, self.settings, self._verdicts.give
        fallback = DENY if obstacle else self._fallback
        if self._stopped is not None:
            return give(now, held, self._stopped, Reason.STOPPING)
        key = key_of(packet, owner)
        given = self._given.take(packet.flow, key, now.mono)
        if given is not None:
            return give(now, held, given[0], Reason.ANSWER, by=given[1])
        if settings.mode is Mode.OBSERVE:
            return give(now, held, ALLOW, Reason.OBSERVE)
        if settings.mode is Mode.ENFORCE:
            return give(now, held, self._fallback, Reason.ENFORCE)
        if _left_behind(packet, owner):
            note = "no answer could reach it: its socket was closed, or its program exited"
            return self._verdicts.drop(now, held, Reason.EXITED, note)
        snooze = None if obstacle else self.snoozes.of(key.uid, now)
        if snooze is not None:
            return give(now, held, snooze.decision, Reason.SNOOZE, by=snooze.peer)
        effects: list[Effect] = []
        ask = self.asks.find(key)
        if ask is None:
            effects += self.asks.make_room(key)
            full = self.asks.full(key)
            if full:
                note = f"not asked: {full}"
                return effects + give(now, held, fallback, Reason.OVERFLOW, note=note)
            ask = self._open(now, held, key, obstacle)
        ask.expires = now.mono + settings.ask_ttl
        effects += self._watch(holders_of(owner))
        unattended = not any(peer.may_answer(ask.uid) for peer in self.peers)
        if unattended and settings.when_unattended is not WhenUnattended.HOLD:
            # The ask stays open: whoever comes next can answer it for the next try.
            if settings.when_unattended is WhenUnattended.OBSERVE and not obstacle:
                fallback = ALLOW
            effects += give(now, held, fallback, Reason.UNATTENDED, note=obstacle)
            return [*effects, *self.asks.show(ask)]
        crowd = self.held.crowd(key.uid, settings.packets_held)
        if crowd:
            # As if lost: its sender tries again, and whatever a rule decides still goes.
            effects += self._verdicts.drop(now, held, Reason.OVERFLOW, crowd)
            return [*effects, *self.asks.show(ask)]
        self.held.wait(held, ask.id, key.uid)
        ask.note = ""
        if not ask.waiting:
            ask.example = self._example(now, held)
            if obstacle != ask.obstacle:
                self._word(now, ask, obstacle)
        ask.waiting[packet.id] = None
        return [*effects, *self._show(now, ask)]

    def _example(self, now: Now, held: Held) -> Example:
        assert held.owner is not None
        context = self._context(held.packet, held.owner, held.names)
        subject = self.rules.subject(held.packet, held.owner, now.wall, context)
        return Example(held.packet, held.owner, subject, held.names)

    def _open(self, now: Now, held: Held, key: Key, obstacle: str) -> OpenAsk:
        self.counters["asks"] += 1
        example = self._example(now, held)
        ask = self.asks.open(
            key, example, created=now.wall, expires=now.mono + self.settings.ask_ttl, why=""
        )
        self._word(now, ask, obstacle)
        return ask

    def _word(self, now: Now, ask: OpenAsk, obstacle: str) -> None:
        """Say what it is about, what silence means (nothing that a budget would stop), and what
        `allow` does: where a budget is in question the rule is not, and its links stay."""
        packet, owner, _, names = ask.example
        context = self._context(packet, owner, names)
        ask.obstacle, ask.via = obstacle, ()
        judgement = self.rules.judge(packet, owner, now.wall, context) if obstacle else None
        if judgement is not None:
            way = self._way_of(ask, judgement)
            ask.via = judgement.decision.via if way.obstacle is Obstacle.OVER else ()
        ask.why = obstacle or self.rules.why_asked(packet, owner, context)
        ask.fallback, ask.shown = self._silence(ask, obstacle), None

    def _silence(self, ask: OpenAsk, obstacle: str) -> Decision:
        packet, owner, _, _ = ask.example
        way = self.ways.way(self._fallback, packet, owner, 0.0)
        return DENY if obstacle or way.verdict == DENIED else self._fallback

    def _retry_asks(self, now: Now) -> list[Effect]:
        """Rules or links have changed: try again what waits, withdraw what is moot."""
        effects: list[Effect] = []
        for ask in self.asks:
            if ask.state is State.STORING:
                continue
            for held in self._waiting(ask):
                judgement = self._judge(now, held)
                if judgement is None:
                    continue
                way = self._verdicts.way_of(held, judgement)
                if way.obstacle is None or self._about(way.obstacle) is LinkDown.REFUSE:
                    del ask.waiting[held.packet.id]
                    effects += self._verdicts.judged(now, held, judgement, way)
            packet, owner, _, names = ask.example
            context = self._context(packet, owner, names)
            example = self.rules.judge(packet, owner, now.wall, context)
            obstacle = self._asked_about(example, ask) if example is not None else ""
            if obstacle != ask.obstacle or self._silence(ask, obstacle) != ask.fallback:
                self._word(now, ask, obstacle)
            if obstacle:
                effects += self._show(now, ask)
                continue
            if example is not None and example.entry is not None and not ask.waiting:
                text = f"{example.entry.called} decides it now"
                effects += self.asks.withdraw(ask, WithdrawReason.RULE, text)
                continue
            # Decided or not, what a question must be about may be another program now.
            if example is not None:
                self._other_example(now, ask)
            else:
                subject = self.rules.subject(packet, owner, now.wall, context)
                ask.example = Example(packet, owner, subject, names)
            effects += self._show(now, ask)
        return effects

    def _asked_about(self, judgement: Judgement, ask: OpenAsk) -> str:
        """Why what the rules say of an ask's example cannot be done, if that is to be asked."""
        way = self._way_of(ask, judgement)
        asked = way.obstacle is not None and self._about(way.obstacle) is LinkDown.ASK
        return way.note if asked else ""

    def _way_of(self, ask: OpenAsk, judgement: Judgement) -> Way:
        packet, owner, _, _ = ask.example
        decided = judgement.entry.created if judgement.entry is not None else NEVER
        return self.ways.way(judgement.decision, packet, owner, decided)

    def _waiting(self, ask: OpenAsk) -> list[Held]:
        """The packets that wait for an ask, in the order they came: a QUIC flight, or a flow's
        retransmits, must not be answered in another."""
        found = (self.held.get(packet_id) for packet_id in ask.waiting)
        return [held for held in found if held is not None]

    def _show(self, now: Now, ask: OpenAsk) -> list[Effect]:
        """Send the ask as it is, counting down to the deadline of the first that waits."""
        first = min((held.deadline for held in self._waiting(ask)), default=None)
        if first is not None:
            deadline = now.wall + first - now.mono
            if abs(deadline - ask.deadline) > 0.5:  # the clocks drift, and that is no news
                ask.deadline = deadline
        return self.asks.show(ask)

    def _other_example(self, now: Now, ask: OpenAsk) -> None:
        """Show the first packet that still waits."""
        for held in self._waiting(ask)[:1]:
            ask.example = self._example(now, held)

    # --- answers ----------------------------------------------------------------------------

    def _answered(self, event: Answered) -> list[Effect]:
        now, peer, answer = event.now, event.peer, event.answer
        try:
            ask = answers.check_open(self.asks, answer.ask, peer)
            chosen = answers.read(ask, answer, peer, self.links)
            self._check_effect(now, ask, chosen, peer)
        except answers.AnswerError as error:
            text = str(error)
            return [Refuse(event.client, protocol.Refused(error.reason, text, answer.ask))]
        ask.peer, ask.answer = peer, chosen.decision
        if chosen.rule is not None:
            ask.state = State.STORING
            return [Remember(ask.id, chosen.rule, peer, chosen.process)]
        effects = self._use_class(chosen.decision)
        given = (chosen.decision, peer)
        for held in self._waiting(ask):
            self._given.serve_flow(held.packet.flow, ask.key, given, now.mono)
        if not ask.waiting:
            self._given.serve_next(ask.key, given, now.mono + self.settings.ask_ttl)
        return [*effects, *self._settle(now, ask)]

    def _check_effect(self, now: Now, ask: OpenAsk, chosen: Chosen, peer: Peer) -> None:
        """Raises AnswerError for a rule that would change nothing: where a rule was in the way of
        itself, the next connection would be asked about like this one, for ever."""
        rule = chosen.rule
        if rule is None or not ask.obstacle:
            return
        span = rule.lifetime.kind is LifetimeKind.SPAN
        tried = Entry(
            id=_TRIED,
            rule=rule,
            layer=Layer.REMEMBERED,
            created=now.wall,
            by=peer.user,
            expires=now.wall + rule.lifetime.seconds if span else None,
            process=chosen.process,
        )
        packet, owner, _, names = ask.example
        self.rules.index.add(tried)
        found = self.rules.judge(packet, owner, now.wall, self._context(packet, owner, names))
        self.rules.index.remove(tried.id)
        obstacle = self._asked_about(found, ask) if found is not None else ""
        first = found.entry if found is not None else None
        if not obstacle or first is None:
            return
        if first.id != tried.id and conditions(first.rule) == conditions(rule):
            return  # it is replaced, or the store says why not
        if first.id != tried.id:
            obstacle = f"{first.called} ({format_rule(first.rule)}) decides before it"
        text = f"the same would be asked again: {obstacle}; answer for once, or choose otherwise"
        raise answers.AnswerError(RefusedReason.INVALID, protocol.clean(text))

    def _remember_failed(self, now: Now, ask_id: int, problem: str) -> list[Effect]:
        ask = self.asks.get(ask_id)
        if ask is None or ask.state is not State.STORING:
            return []
        return self._settle(now, ask, None, problem)

    def _settle(
        self, now: Now, ask: OpenAsk, entry: Entry | None = None, problem: str = ""
    ) -> list[Effect]:
        """Carry the answer out for all that waits, and close the ask."""
        assert ask.answer is not None
        note = f"not remembered: {problem}" if problem else ""
        released = self._waiting(ask)
        ask.waiting.clear()
        effects: list[Effect] = []
        for held in released:
            rule = self._judge(now, held)
            if rule is not None and rule.entry is not None and rule.entry != entry:
                way = self._verdicts.way_of(held, rule)
                if way.obstacle is None or self._about(way.obstacle) is not LinkDown.ASK:
                    # A rule that is more specific was made meanwhile, by somebody else.
                    effects += self._verdicts.judged(now, held, rule, way)
                    continue
            by_rule = entry if rule is not None and rule.entry == entry else None
            effects += self._verdicts.give(
                now, held, ask.answer, Reason.ANSWER, rule=by_rule, by=ask.peer, note=note
            )
        self.counters["answers"] += 1
        return [*effects, *self.asks.settle(ask, len(released), entry, problem)]


def _left_behind(packet: Packet, owner: Owner | NoOwner) -> bool:
    """Whether nobody waits for this connection, at its beginning or later. If a socket is left
    after all (its program was replaced while it was looked up), TCP sends it again."""
    gone = isinstance(owner, NoOwner) and owner.reason in (
        NoOwnerReason.CLOSED,
        NoOwnerReason.EXITED,
    )
    return gone and packet.flow.proto == _TCP
