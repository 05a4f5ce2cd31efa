"""Events in, effects out: the one place where it is decided. Pure: no clock, socket or file.

The promise, kept by tests/test_pipeline_property.py: every queued packet gets exactly one
verdict, by its deadline, whatever frontends, processes, links and the disk do.

    PacketQueued ─▶ FindOwner ─▶ OwnerFound ─▶ a rule? ─yes─▶ SetVerdict, Report
                                                  │no
                      ShowAsk, and the packet is held: that is state, never a blocked call
                                                  │
            Answered ─▶ Remember ─▶ Remembered ───┴─▶ SetVerdict, Report, Announce
                 Tick past the deadline ─▶ SetVerdict by the fallback; the ask lives on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from arbiter import answers, protocol
from arbiter.asks import AskBook, Example, Key, OpenAsk, State, key_of
from arbiter.events import (
    Answered,
    Effect,
    Event,
    FindOwner,
    LinksChanged,
    Notify,
    OwnerFound,
    PacketQueued,
    ProcessExited,
    PromptsChanged,
    Reason,
    Refuse,
    Remember,
    Remembered,
    RememberFailed,
    Reply,
    Retire,
    RulesChanged,
    RunVia,
    Stopping,
    Tick,
    UseClasses,
    WatchProcess,
)
from arbiter.given import GivenOnce
from arbiter.held import Held, HeldPackets
from arbiter.judge import Judgement
from arbiter.linknews import news
from arbiter.model import (
    ALLOW,
    DENY,
    Decision,
    Link,
    NoOwner,
    NoOwnerReason,
    Now,
    Owner,
    Packet,
    Peer,
    Undecodable,
)
from arbiter.protocol import RefusedReason, WithdrawReason
from arbiter.rulebook import ProcessId, RuleBook
from arbiter.rules import Entry
from arbiter.settings import Fallback, LinkDown, Mode, Settings, WhenAbsent, WhenUnattended
from arbiter.verdicts import Verdicts
from arbiter.ways import NEVER, Obstacle, Run, Way, Ways


class Pipeline:
    """All state of deciding. `handle` is the only way to change it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules = RuleBook()
        self.asks = AskBook(settings.asks_per_app, settings.asks_per_user, settings.asks_total)
        self.held = HeldPackets()
        self.peers: tuple[Peer, ...] = ()
        self.counters: Counter[str] = Counter()
        self.ways = Ways()
        self._verdicts = Verdicts(self.held, self.ways, self.counters)
        self._given = GivenOnce()
        self._alive: set[ProcessId] = set()
        """Processes that are watched and have not exited."""
        observing = settings.mode is Mode.OBSERVE
        passes = observing or settings.fallback is Fallback.ALLOW
        self._fallback = ALLOW if passes else DENY
        self._stopped: Decision | None = None
        self._for_link: dict[int, Key] = {}
        """Ids of held packets that wait for a link, in the order they came."""
        self._classes = False
        """Whether a rule with a traffic class has been in force."""
        self._linked = False
        """Whether the first `LinksChanged` has come: it is no news."""

    @property
    def links(self) -> dict[str, Link]:
        """The links there are, by name."""
        return self.ways.links

    def handle(self, event: Event) -> list[Effect]:
        """What is to be done about `event`, in this order."""
        match event:
            case PacketQueued(now, packet):
                return self._queued(now, packet)
            case OwnerFound(now, packet_id, owner):
                return self._owner_found(now, packet_id, owner)
            case Tick(now):
                return self._tick(now)
            case Answered():
                return self._answered(event)
            case Remembered(now, ask_id, entry, replaced):
                return self._remembered(now, ask_id, entry, replaced)
            case RememberFailed(now, ask_id, problem):
                return self._remember_failed(now, ask_id, problem)
            case RulesChanged(now, added, removed):
                return [*self._change_rules(added, removed), *self._retry(now)]
            case ProcessExited(now, pid, start):
                return self._process_exited(now, (pid, start))
            case PromptsChanged(_, peers):
                self.peers = peers
                return []
            case LinksChanged(now, links):
                return self._links_changed(now, links)
            case RunVia():
                return self._run_via(event)
            case Stopping(now):
                return self._stopping(now)

    # --- the hot path -----------------------------------------------------------------------

    def _queued(self, now: Now, packet: Packet | Undecodable) -> list[Effect]:
        self.counters["packets"] += 1
        if isinstance(packet, Undecodable):
            return self._verdicts.at_once(
                now, packet, self._fallback, Reason.UNDECODABLE, packet.reason
            )
        if self.held.of_flow(packet.flow) >= self.settings.packets_per_flow:
            return self._verdicts.lose(now, packet, "too many packets of this flow wait already")
        if len(self.held) - self.held.waiting_in_all >= self.settings.packets_held:
            return self._verdicts.lose(now, packet, "too many owners are being looked for")
        self.held.add(packet, now.mono, now.mono + self.settings.deadline)
        return [FindOwner(packet)]

    def _owner_found(self, now: Now, packet_id: int, owner: Owner | NoOwner) -> list[Effect]:
        held = self.held.get(packet_id)
        if held is None or held.owner is not None:
            return []  # its deadline came before its owner did
        held.owner = owner
        return self._decide(now, held, owner)

    def _decide(self, now: Now, held: Held, owner: Owner | NoOwner) -> list[Effect]:
        """By the rules, if they do and nothing is in the way of what they say."""
        packet = held.packet
        judgement = self.rules.judge(packet, owner, now.wall, self.ways.context(packet))
        if judgement is None:
            return self._undecided(now, held, owner)
        way = self._verdicts.way_of(held, judgement)
        if way.obstacle is None:
            return self._verdicts.judged(now, held, judgement, way)
        match self._about(way.obstacle):
            case LinkDown.ASK:
                return self._undecided(now, held, owner, way.note)
            case LinkDown.WAIT:
                return self._wait_for_link(now, held, owner, judgement, way)
            case LinkDown.REFUSE:
                return self._verdicts.judged(now, held, judgement, way)

    def _about(self, obstacle: Obstacle) -> LinkDown:
        """What is done about it now. Without people to ask it stays in the way."""
        about = self.settings.link_down if obstacle is Obstacle.DOWN else LinkDown.ASK
        if self._stopped is not None:
            return LinkDown.REFUSE
        if about is LinkDown.ASK and self.settings.mode is not Mode.ASK:
            return LinkDown.REFUSE
        return about

    def _wait_for_link(
        self, now: Now, held: Held, owner: Owner | NoOwner, judgement: Judgement, way: Way
    ) -> list[Effect]:
        """Hold it for a link that may come back before its deadline, and say so."""
        key = key_of(held.packet, owner)
        crowd = self.held.crowd(key.uid, self.settings.packets_held)
        if crowd:
            return self._verdicts.drop(now, held, Reason.OVERFLOW, crowd)
        told = key in self._for_link.values()
        self.held.wait(held, None, key.uid)
        self._for_link[held.packet.id] = key
        if told:
            return []
        who = owner.processes[0].app.name if isinstance(owner, Owner) else "a connection"
        left = f"{held.deadline - now.mono:.0f} s"
        return [Notify(key.uid, f"{who} waits: {way.note}; it is refused in {left}")]

    # --- no rule decides --------------------------------------------------------------------

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
        effects += self._watch(_holders(owner))
        unattended = not any(peer.may_answer(ask.uid) for peer in self.peers)
        if unattended and settings.when_unattended is WhenUnattended.FALLBACK:
            # The ask stays open: whoever comes next can answer it for the next try.
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
        ask.waiting[packet.id] = None
        return [*effects, *self._show(now, ask)]

    def _example(self, now: Now, held: Held) -> Example:
        assert held.owner is not None
        context = self.ways.context(held.packet)
        subject = self.rules.subject(held.packet, held.owner, now.wall, context)
        return Example(held.packet, held.owner, subject)

    def _open(self, now: Now, held: Held, key: Key, obstacle: str) -> OpenAsk:
        self.counters["asks"] += 1
        example = self._example(now, held)
        context = self.ways.context(held.packet)
        return self.asks.open(
            key,
            example,
            created=now.wall,
            expires=now.mono + self.settings.ask_ttl,
            why=obstacle or self.rules.why_asked(example.packet, example.owner, context),
            fallback=DENY if obstacle else self._fallback,
        )

    def _retry(self, now: Now) -> list[Effect]:
        """Rules or links have changed: try everything that waits again, withdraw what is moot."""
        effects: list[Effect] = []
        for held in self._take_for_link():
            assert held.owner is not None
            effects += self._decide(now, held, held.owner)
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
            packet, owner, _ = ask.example
            context = self.ways.context(packet)
            example = self.rules.judge(packet, owner, now.wall, context)
            if example is not None and self._asked_about(example, ask):
                effects += self._show(now, ask)
                continue
            if example is not None and example.entry is not None and not ask.waiting:
                text = f"rule {example.entry.id} decides it now"
                effects += self.asks.withdraw(ask, WithdrawReason.RULE, text)
                continue
            # Decided or not, what a question must be about may be another program now.
            if example is not None:
                self._other_example(now, ask)
            else:
                subject = self.rules.subject(packet, owner, now.wall, context)
                ask.example = Example(packet, owner, subject)
            effects += self._show(now, ask)
        return effects

    def _judge(self, now: Now, held: Held) -> Judgement | None:
        assert held.owner is not None
        context = self.ways.context(held.packet)
        return self.rules.judge(held.packet, held.owner, now.wall, context)

    def _asked_about(self, judgement: Judgement, ask: OpenAsk) -> bool:
        """Whether what the rules say of an ask's example is what the question is about: it still
        cannot be done."""
        packet, owner, _ = ask.example
        decided = judgement.entry.created if judgement.entry is not None else NEVER
        run = self.ways.run_of(owner)
        way = self.ways.take(judgement.decision, packet, decided, run)
        return way.obstacle is not None and self._about(way.obstacle) is LinkDown.ASK

    def _take_for_link(self) -> list[Held]:
        """The packets that wait for a link, which no longer do."""
        found = [held for id in self._for_link if (held := self.held.get(id)) is not None]
        self._for_link.clear()
        for held in found:
            self.held.wait_no_more(held)
        return found

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
        except answers.AnswerError as error:
            text = str(error)
            return [Refuse(event.client, protocol.Refused(error.reason, text, answer.ask))]
        ask.peer, ask.answer = peer, chosen.decision
        if chosen.rule is not None:
            ask.state = State.STORING
            return [Remember(ask.id, chosen.rule, peer, chosen.process)]
        given = (chosen.decision, peer)
        for held in self._waiting(ask):
            self._given.serve_flow(held.packet.flow, ask.key, given, now.mono)
        if not ask.waiting:
            self._given.serve_next(ask.key, given, now.mono + self.settings.ask_ttl)
        return self._settle(now, ask)

    def _remembered(
        self, now: Now, ask_id: int, entry: Entry, replaced: tuple[int, ...]
    ) -> list[Effect]:
        effects = self._change_rules((entry,), replaced)
        ask = self.asks.get(ask_id)
        if ask is not None and ask.state is State.STORING:
            effects += self._settle(now, ask, entry)
        return [*effects, *self._retry(now)]

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

    # --- time, processes, rules -------------------------------------------------------------

    def next_wake(self, now: Now) -> float | None:
        """Monotonic seconds when a `Tick` is due; None while nothing waits for time to pass."""
        times = [ask.expires for ask in self.asks if ask.stale and ask.state is State.OPEN]
        deadline = self.held.next_deadline()
        if deadline is not None:
            times.append(deadline)
        expiry = self.rules.index.next_expiry()
        if expiry is not None:
            times.append(now.mono + max(0.0, expiry - now.wall))
        return min(times, default=None)

    def _tick(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        changed: dict[int, OpenAsk] = {}
        for held in self.held.due(now.mono):
            ask = self.asks.get(held.ask) if held.ask is not None else None
            if ask is not None:
                ask.waiting.pop(held.packet.id, None)
                changed[ask.id] = ask
            self._for_link.pop(held.packet.id, None)
            effects += self._overdue(now, held)
        for ask in changed.values():
            effects += self._show(now, ask)
        effects += _retire(self.rules.end_due(now.wall), "its time is over")
        for ask in self.asks:
            if ask.stale and ask.state is State.OPEN and ask.expires <= now.mono:
                text = "nobody has answered and nothing has asked again"
                effects += self.asks.withdraw(ask, WithdrawReason.EXPIRED, text)
        return effects

    def _overdue(self, now: Now, held: Held) -> list[Effect]:
        """The fallback, if no rule says otherwise: one that needs no owner where none was found in
        time, or one that was made while the answer was on its way to the disk."""
        if held.owner is None:
            held.owner = NoOwner(NoOwnerReason.NO_SOCKET, detail="not found in time")
        judgement = self._judge(now, held)
        if judgement is not None:
            return self._verdicts.judged(now, held, judgement)
        return self._verdicts.give(now, held, self._fallback, Reason.DEADLINE)

    # --- links ------------------------------------------------------------------------------

    def _links_changed(self, now: Now, links: tuple[Link, ...]) -> list[Effect]:
        before = self.ways.links
        self.ways.change(links)
        told = news(before, self.ways.links) if self._linked else ()
        self._linked = True
        for ask in self.asks:
            ask.shown = None  # it shows the links: send it again
        return [*(Notify(None, text) for text in told), *self._retry(now)]

    def _run_via(self, event: RunVia) -> list[Effect]:
        link = self.links.get(event.via)
        if link is None:
            known = ", ".join(self.links) or "none"
            text = f"there is no link {protocol.clean(event.via, 40)!r} (known: {known})"
            return [Refuse(event.client, protocol.Refused(RefusedReason.INVALID, text))]
        self.ways.start_run(Run(event.process, event.peer.uid, event.via))
        watch = self._watch((event.process,))
        return [*watch, Reply(event.client, protocol.Running(link.name, link.up))]

    def _process_exited(self, now: Now, process: ProcessId) -> list[Effect]:
        """Its rules end. Its TCP handshakes go: no socket is left for an answer to reach; a
        datagram it sent before it ended still may go its way, and waits on."""
        self._alive.discard(process)
        self.ways.end_run(process)
        effects = _retire(self.rules.end_with(process), "its program has exited")
        for ask in self.asks:
            for held in self._waiting(ask):
                tcp = held.packet.flow.proto == 6
                if tcp and ask.state is State.OPEN and self._exited(held.owner):
                    del ask.waiting[held.packet.id]
                    note = "its program has exited"
                    effects += self._verdicts.drop(now, held, Reason.EXITED, note)
            if self._exited(ask.example.owner):
                self._other_example(now, ask)
            subject = ask.example.subject
            if subject is not None and self._exited(ask.example.owner):
                ask.note = f"{subject.app.name} has exited"
            effects += self._show(now, ask)
        return effects

    def _exited(self, owner: Owner | NoOwner | None) -> bool:
        holders = _holders(owner)
        return bool(holders) and self._alive.isdisjoint(holders)

    def _watch(self, processes: Iterable[ProcessId]) -> list[Effect]:
        new = [process for process in processes if process not in self._alive]
        self._alive.update(new)
        return [WatchProcess(pid, start) for pid, start in new]

    def _change_rules(self, added: Iterable[Entry], removed: Iterable[int]) -> list[Effect]:
        entries = tuple(added)
        effects: list[Effect] = []
        if not self._classes and any(entry.rule.decision.traffic for entry in entries):
            self._classes = True
            effects.append(UseClasses())
        return [*effects, *self._watch(self.rules.change(entries, removed))]

    def _stopping(self, now: Now) -> list[Effect]:
        """Nothing stays held; what still comes and no rule decides goes the same way."""
        self._stopped = ALLOW if self.settings.when_absent is WhenAbsent.PASS else DENY
        effects: list[Effect] = []
        self._for_link.clear()
        for held in self.held:
            effects += self._verdicts.give(now, held, self._stopped, Reason.STOPPING)
        for ask in self.asks:
            ask.waiting.clear()
            effects += self.asks.withdraw(ask, WithdrawReason.STOPPING, "arbiter stops")
        return effects


def _holders(owner: Owner | NoOwner | None) -> list[ProcessId]:
    if not isinstance(owner, Owner):
        return []
    return [(process.pid, process.start) for process in owner.processes]


def _retire(ids: tuple[int, ...], why: str) -> list[Effect]:
    return [Retire(ids, why)] if ids else []
