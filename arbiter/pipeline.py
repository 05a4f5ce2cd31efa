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

from collections import Counter, OrderedDict
from collections.abc import Iterable

from arbiter import answers, protocol
from arbiter.asks import AskBook, Key, OpenAsk, State, key_of
from arbiter.events import (
    Announce,
    Answered,
    Effect,
    Event,
    FindOwner,
    LinksChanged,
    OwnerFound,
    PacketQueued,
    ProcessExited,
    PromptsChanged,
    Reason,
    Refuse,
    Remember,
    Remembered,
    RememberFailed,
    Report,
    Retire,
    RulesChanged,
    SetVerdict,
    ShowAsk,
    Stopping,
    Tick,
    WatchProcess,
    WithdrawAsk,
)
from arbiter.held import Held, HeldPackets
from arbiter.judge import Judgement, carry_out, judge
from arbiter.model import (
    ALLOW,
    DENY,
    DROPPED,
    Decision,
    Flow,
    Link,
    NoOwner,
    NoOwnerReason,
    Now,
    Owner,
    Packet,
    Peer,
    Undecodable,
)
from arbiter.rules import Entry, Index
from arbiter.settings import Fallback, Mode, Settings, WhenAbsent, WhenUnattended

GRACE = 5.0
"""Seconds for which a `once` answer also serves packets of the same flow that were on their
way when it was given: until conntrack has confirmed the first, the kernel queues the next."""
REMEMBERED_ENDS = 256
"""How many ended asks and rules are kept to say why."""


class Pipeline:
    """All state of deciding. `handle` is the only way to change it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.index = Index()
        self.asks = AskBook(settings.asks_per_app, settings.asks_per_user, settings.asks_total)
        self.held = HeldPackets()
        self.links: dict[str, Link] = {}
        self.peers: tuple[Peer, ...] = ()
        self.counters: Counter[str] = Counter()
        self._next_ask = 1
        self._grace: OrderedDict[Flow, tuple[float, Decision, Peer]] = OrderedDict()
        self._credits: dict[Key, tuple[float, Decision, Peer]] = {}
        self._closed: OrderedDict[int, answers.Closed] = OrderedDict()
        self._ended: OrderedDict[int, tuple[Entry, str]] = OrderedDict()
        self._watched: dict[tuple[int, int], None] = {}
        self._process_rules: dict[tuple[int, int], dict[int, Entry]] = {}
        self._stopped: Decision | None = None
        self._fallback = ALLOW if settings.fallback is Fallback.ALLOW else DENY

    # --- the hot path -----------------------------------------------------------------------

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
                return self._rules_changed(now, added, removed)
            case ProcessExited(now, pid, start):
                return self._process_exited(now, (pid, start))
            case PromptsChanged(_, peers):
                self.peers = peers
                return []
            case LinksChanged(now, links):
                self.links = {link.name: link for link in links}
                return self._retry(now)
            case Stopping(now):
                return self._stopping(now)

    def _queued(self, now: Now, packet: Packet | Undecodable) -> list[Effect]:
        self.counters["packets"] += 1
        if self._stopped is not None:
            return self._at_once(now, packet, self._stopped, Reason.STOPPING, "")
        if isinstance(packet, Undecodable):
            return self._at_once(now, packet, self._fallback, Reason.UNDECODABLE, packet.reason)
        if self.held.of_flow(packet.flow) >= self.settings.packets_per_flow:
            # As if lost on the way: whoever sent it sends it again.
            return self._overflow(now, packet, "too many packets of this flow wait already")
        if len(self.held) >= self.settings.packets_held:
            return self._overflow(now, packet, f"{len(self.held)} packets wait already")
        self.held.add(packet, now.mono, now.mono + self.settings.deadline)
        return [FindOwner(packet)]

    def _owner_found(self, now: Now, packet_id: int, owner: Owner | NoOwner) -> list[Effect]:
        held = self.held.get(packet_id)
        if held is None or held.owner is not None:
            return []  # its deadline came before its owner did
        held.owner = owner
        judgement = judge(self.index, held.packet, owner, now.wall)
        if judgement is not None:
            return self._release_judged(now, held, judgement)
        return self._undecided(now, held, owner)

    # --- no rule decides --------------------------------------------------------------------

    def _undecided(self, now: Now, held: Held, owner: Owner | NoOwner) -> list[Effect]:
        packet, settings = held.packet, self.settings
        key = key_of(packet, owner)
        given = self._given(now, packet, key)
        if given is not None:
            return self._release(now, held, given[0], Reason.ANSWER, by=given[1])
        if settings.mode is Mode.OBSERVE:
            return self._release(now, held, ALLOW, Reason.OBSERVE)
        if settings.mode is Mode.ENFORCE:
            return self._release(now, held, self._fallback, Reason.ENFORCE)
        ask = self.asks.find(key)
        effects: list[Effect] = []
        if ask is None:
            full = self.asks.full(key)
            if full and (old := self._oldest_stale(key)) is not None:
                effects += self._withdraw(old, protocol.WithdrawReason.EXPIRED, "newer asks wait")
                full = self.asks.full(key)
            if full:
                note = f"not asked: {full}"
                return effects + self._release(
                    now, held, self._fallback, Reason.OVERFLOW, note=note
                )
            ask = self._open(now, packet, owner)
        ask.expires = now.mono + settings.ask_ttl
        unattended = not any(peer.may_answer(ask.uid) for peer in self.peers)
        if unattended and settings.when_unattended is WhenUnattended.FALLBACK:
            # The ask stays open: whoever comes next can answer it for the next try.
            effects += self._release(now, held, self._fallback, Reason.UNATTENDED)
            return [*effects, *self._show(now, ask)]
        held.ask = ask.id
        ask.note = ""
        if not ask.waiting:
            ask.packet, ask.owner = packet, owner
            ask.deadline = now.wall + held.deadline - now.mono
        ask.waiting[packet.id] = None
        return [*effects, *self._watch(_holders(owner)), *self._show(now, ask)]

    def _given(self, now: Now, packet: Packet, key: Key) -> tuple[Decision, Peer] | None:
        """A `once` answer that serves this packet: of its flow just now, or given late."""
        while self._grace and next(iter(self._grace.values()))[0] <= now.mono:
            self._grace.popitem(last=False)
        recent = self._grace.get(packet.flow)
        if recent is not None:
            return recent[1:]
        credit = self._credits.pop(key, None)
        if credit is None or credit[0] <= now.mono:
            return None
        self._grace[packet.flow] = (now.mono + GRACE, *credit[1:])
        return credit[1:]

    def _open(self, now: Now, packet: Packet, owner: Owner | NoOwner) -> OpenAsk:
        expires = now.mono + self.settings.ask_ttl
        why = answers.why_asked(packet, owner, self._ended.values(), now.wall)
        ask = OpenAsk(self._next_ask, packet, owner, created=now.wall, expires=expires, why=why)
        self._next_ask += 1
        self.asks.add(ask)
        self.counters["asks"] += 1
        return ask

    def _oldest_stale(self, key: Key) -> OpenAsk | None:
        """The ask to give up for a new one: of the same program, else of the same user."""
        stale = [ask for ask in self.asks if ask.stale and ask.state is State.OPEN]
        for same in (
            lambda ask: (ask.key.apps, ask.key.uid) == (key.apps, key.uid),
            lambda ask: ask.key.uid == key.uid,
        ):
            for ask in stale:
                if same(ask):
                    return ask
        return None

    def _show(self, now: Now, ask: OpenAsk) -> list[Effect]:
        """Send the ask, unless the prompts know it so already. A changed count alone is sent
        while it is small, and then at each doubling: it must not flood them."""
        count = len(ask.waiting)
        if ask.shown is not None:
            last, stale, note = ask.shown
            small_change = count == last or 4 < count < 2 * last
            if small_change and (stale, note) == (ask.stale, ask.note):
                return []
        ask.shown = (count, ask.stale, ask.note)
        return [ShowAsk(ask.id)]

    def _watch(self, processes: Iterable[tuple[int, int]]) -> list[Effect]:
        new = [process for process in processes if process not in self._watched]
        self._watched.update(dict.fromkeys(new))
        return [WatchProcess(pid, start) for pid, start in new]

    # --- verdicts ---------------------------------------------------------------------------

    def _release_judged(self, now: Now, held: Held, judgement: Judgement) -> list[Effect]:
        if judgement.entry is None:
            note = "open since before arbiter saw it"
            return self._release(now, held, judgement.decision, Reason.OLDER, note=note)
        return self._release(now, held, judgement.decision, Reason.RULE, rule=judgement.entry)

    def _release(
        self,
        now: Now,
        held: Held,
        decision: Decision,
        reason: Reason,
        *,
        rule: Entry | None = None,
        by: Peer | None = None,
        note: str = "",
    ) -> list[Effect]:
        """Give a held packet its one verdict. Its ask, if any, is the caller's to settle."""
        self.held.pop(held.packet.id)
        verdict, how = carry_out(decision, self.links)
        self._count(decision, reason)
        report = Report(
            now.wall,
            held.packet,
            held.owner,
            decision,
            reason,
            rule,
            by,
            now.mono - held.since,
            note or how,
        )
        return [SetVerdict(held.packet.id, verdict), report]

    def _drop(self, now: Now, held: Held, reason: Reason, note: str) -> list[Effect]:
        self.held.pop(held.packet.id)
        self._count(DENY, reason)
        waited = now.mono - held.since
        report = Report(now.wall, held.packet, held.owner, DENY, reason, None, None, waited, note)
        return [SetVerdict(held.packet.id, DROPPED), report]

    def _at_once(
        self,
        now: Now,
        packet: Packet | Undecodable,
        decision: Decision,
        reason: Reason,
        note: str,
    ) -> list[Effect]:
        """A verdict for a packet that was never held."""
        verdict, _ = carry_out(decision, self.links)
        self._count(decision, reason)
        return [
            SetVerdict(packet.id, verdict),
            Report(now.wall, packet, None, decision, reason, note=note),
        ]

    def _overflow(self, now: Now, packet: Packet, note: str) -> list[Effect]:
        self._count(DENY, Reason.OVERFLOW)
        report = Report(now.wall, packet, None, DENY, Reason.OVERFLOW, note=note)
        return [SetVerdict(packet.id, DROPPED), report]

    def _count(self, decision: Decision, reason: Reason) -> None:
        self.counters[decision.action.value] += 1
        self.counters[f"by_{reason.value}"] += 1

    def _release_ask(
        self, now: Now, ask: OpenAsk, decision: Decision, reason: Reason, **why: object
    ) -> list[Effect]:
        """Every packet that waits for this ask, in the order they came (RFC 9000 flights and
        a flow's retransmits must not be reordered)."""
        effects: list[Effect] = []
        for packet_id in tuple(ask.waiting):
            held = self.held.get(packet_id)
            if held is not None:
                effects += self._release(now, held, decision, reason, **why)  # type: ignore[arg-type]
        ask.waiting.clear()
        return effects

    def _retry(self, now: Now) -> list[Effect]:
        """The rules have changed: try everything that waits again, and withdraw what is moot."""
        effects: list[Effect] = []
        for ask in self.asks:
            if ask.state is State.STORING:
                continue
            for packet_id in tuple(ask.waiting):
                held = self.held.get(packet_id)
                if held is None or held.owner is None:
                    continue
                judgement = judge(self.index, held.packet, held.owner, now.wall)
                if judgement is not None:
                    del ask.waiting[packet_id]
                    effects += self._release_judged(now, held, judgement)
            example = judge(self.index, ask.packet, ask.owner, now.wall)
            if example is not None and example.entry is not None:
                if not ask.waiting:
                    text = f"rule {example.entry.id} decides it now"
                    effects += self._withdraw(ask, protocol.WithdrawReason.RULE, text)
                    continue
                self._other_example(ask)
            effects += self._show(now, ask)
        return effects

    def _other_example(self, ask: OpenAsk) -> None:
        """Show the first packet that still waits."""
        for packet_id in ask.waiting:
            held = self.held.get(packet_id)
            if held is not None and held.owner is not None:
                ask.packet, ask.owner = held.packet, held.owner
                return

    def _withdraw(self, ask: OpenAsk, reason: protocol.WithdrawReason, text: str) -> list[Effect]:
        self._close(ask, answers.Closed(protocol.RefusedReason.GONE, f"it was withdrawn: {text}"))
        return [WithdrawAsk(ask.id, ask.uid, reason, text)]

    def _close(self, ask: OpenAsk, how: answers.Closed) -> None:
        self.asks.close(ask)
        self._closed[ask.id] = how
        while len(self._closed) > REMEMBERED_ENDS:
            self._closed.popitem(last=False)

    # --- answers ----------------------------------------------------------------------------

    def _answered(self, event: Answered) -> list[Effect]:
        now, peer, answer = event.now, event.peer, event.answer
        ask = self.asks.get(answer.ask)
        try:
            ask = answers.check_open(ask, answer.ask, self._closed, peer)
            chosen = answers.read(ask, answer, peer, self.links)
        except answers.AnswerError as error:
            text = str(error)
            return [Refuse(event.client, protocol.Refused(error.reason, text, answer.ask))]
        ask.peer, ask.answer = peer, chosen.decision
        if chosen.rule is not None:
            ask.state = State.STORING
            return [Remember(ask.id, chosen.rule, peer, chosen.process)]
        for packet_id in ask.waiting:
            held = self.held.get(packet_id)
            if held is not None:
                self._grace[held.packet.flow] = (now.mono + GRACE, chosen.decision, peer)
        if not ask.waiting:
            until = now.mono + self.settings.ask_ttl
            self._credits[ask.key] = (until, chosen.decision, peer)
        released = len(ask.waiting)
        effects = self._release_ask(now, ask, chosen.decision, Reason.ANSWER, by=peer)
        return [*effects, *self._settle(ask, chosen.decision, peer, released)]

    def _settle(
        self,
        ask: OpenAsk,
        decision: Decision,
        peer: Peer,
        released: int,
        entry: Entry | None = None,
        problem: str = "",
    ) -> list[Effect]:
        text = answers.decision_text(decision)
        closed = f"{peer.user} has answered it already: {text}"
        self._close(ask, answers.Closed(protocol.RefusedReason.ANSWERED, closed))
        self.counters["answers"] += 1
        message = protocol.Decided(
            ask=ask.id,
            decision=text,
            user=peer.user,
            frontend=peer.frontend,
            released=released,
            rule=answers.rule_text(entry),
            rule_id=entry.id if entry else None,
            problem=problem,
        )
        return [Announce(ask.uid, message)]

    def _remembered(
        self, now: Now, ask_id: int, entry: Entry, replaced: tuple[int, ...]
    ) -> list[Effect]:
        effects = self._change_rules((entry,), replaced)
        ask = self.asks.get(ask_id)
        if ask is not None and ask.peer is not None and ask.answer is not None:
            released = len(ask.waiting)
            effects += self._release_ask(
                now, ask, ask.answer, Reason.ANSWER, rule=entry, by=ask.peer
            )
            effects += self._settle(ask, ask.answer, ask.peer, released, entry)
        return [*effects, *self._retry(now)]

    def _remember_failed(self, now: Now, ask_id: int, problem: str) -> list[Effect]:
        ask = self.asks.get(ask_id)
        if ask is None or ask.peer is None or ask.answer is None:
            return []
        released = len(ask.waiting)
        note = f"not remembered: {problem}"
        effects = self._release_ask(now, ask, ask.answer, Reason.ANSWER, by=ask.peer, note=note)
        return [*effects, *self._settle(ask, ask.answer, ask.peer, released, None, problem)]

    # --- time, processes, rules -------------------------------------------------------------

    def next_wake(self, now: Now) -> float | None:
        """Monotonic seconds when a `Tick` is due; None while nothing waits for time to pass."""
        times = [ask.expires for ask in self.asks if ask.stale and ask.state is State.OPEN]
        deadline = self.held.next_deadline()
        if deadline is not None:
            times.append(deadline)
        expiry = self.index.next_expiry()
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
            if held.owner is None:
                held.owner = NoOwner(NoOwnerReason.NO_SOCKET, detail="not found in time")
            effects += self._release(now, held, self._fallback, Reason.DEADLINE)
        for ask in changed.values():
            for packet_id in ask.waiting:
                first = self.held.get(packet_id)
                if first is not None:
                    ask.deadline = now.wall + first.deadline - now.mono
                break
            effects += self._show(now, ask)
        ended = self.index.expired(now.wall)
        if ended:
            effects += self._end_rules(ended, "its time is over")
        for ask in self.asks:
            if ask.stale and ask.state is State.OPEN and ask.expires <= now.mono:
                text = "nobody has answered and nothing has asked again"
                effects += self._withdraw(ask, protocol.WithdrawReason.EXPIRED, text)
        for key in [key for key, credit in self._credits.items() if credit[0] <= now.mono]:
            del self._credits[key]
        return effects

    def _end_rules(self, entries: Iterable[Entry], why: str) -> list[Effect]:
        ids = []
        for entry in entries:
            self.index.remove(entry.id)
            ids.append(entry.id)
            self._ended[entry.id] = (entry, why)
        while len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)
        return [Retire(tuple(ids), why)] if ids else []

    def _process_exited(self, now: Now, process: tuple[int, int]) -> list[Effect]:
        """Its rules end. Its TCP handshakes go: no socket is left for an answer to reach; a
        datagram it sent before it ended still may go its way, and waits on."""
        self._watched.pop(process, None)
        ended = self._process_rules.pop(process, {})
        effects = self._end_rules(ended.values(), "its program has exited")
        for ask in self.asks:
            for packet_id in tuple(ask.waiting):
                held = self.held.get(packet_id)
                if held is None or not isinstance(held.owner, Owner):
                    continue
                if (
                    not self._lives(held.owner)
                    and held.packet.flow.proto == 6
                    and ask.state is State.OPEN
                ):
                    del ask.waiting[packet_id]
                    effects += self._drop(now, held, Reason.EXITED, "its program has exited")
            if isinstance(ask.owner, Owner) and not self._lives(ask.owner):
                self._other_example(ask)
            if isinstance(ask.owner, Owner) and not self._lives(ask.owner):
                ask.note = f"{ask.owner.apps[0].name} has exited"
                effects += self._show(now, ask)
        return effects

    def _rules_changed(
        self, now: Now, added: tuple[Entry, ...], removed: tuple[int, ...]
    ) -> list[Effect]:
        return [*self._change_rules(added, removed), *self._retry(now)]

    def _change_rules(self, added: tuple[Entry, ...], removed: tuple[int, ...]) -> list[Effect]:
        for id in removed:
            self.index.remove(id)
            for rules in self._process_rules.values():
                rules.pop(id, None)
        effects: list[Effect] = []
        for entry in added:
            self.index.add(entry)
            if entry.process is not None:
                self._process_rules.setdefault(entry.process, {})[entry.id] = entry
                effects += self._watch((entry.process,))
        return effects

    def _stopping(self, now: Now) -> list[Effect]:
        decision = ALLOW if self.settings.when_absent is WhenAbsent.PASS else DENY
        self._stopped = decision
        effects: list[Effect] = []
        for held in self.held:
            effects += self._release(now, held, decision, Reason.STOPPING)
        for ask in self.asks:
            ask.waiting.clear()
            text = "arbiter stops"
            effects += self._withdraw(ask, protocol.WithdrawReason.STOPPING, text)
        return effects

    def _lives(self, owner: Owner) -> bool:
        return any(process in self._watched for process in _holders(owner))


def _holders(owner: Owner | NoOwner) -> list[tuple[int, int]]:
    if isinstance(owner, NoOwner):
        return []
    return [(process.pid, process.start) for process in owner.processes]
