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

from arbiter import protocol
from arbiter.asking import Asking
from arbiter.asks import OpenAsk, State, key_of
from arbiter.events import (
    AdviceChanged,
    Answered,
    Effect,
    Event,
    FindOwner,
    HostsRead,
    LinksChanged,
    NamesLearned,
    Notify,
    OlderFound,
    OwnerFound,
    PacketQueued,
    ProcessExited,
    ProfilesRead,
    PromptsChanged,
    Reason,
    Refuse,
    Remembered,
    RememberFailed,
    Repeated,
    Reply,
    Retire,
    RulesChanged,
    RunVia,
    SettingsChanged,
    SnoozeWanted,
    Stopping,
    TellSnoozes,
    Tick,
    Trouble,
)
from arbiter.held import Held
from arbiter.judge import Judgement
from arbiter.linknews import Refusals, news
from arbiter.model import (
    ALLOW,
    DENIED,
    DENY,
    Action,
    Decision,
    Link,
    NoOwner,
    NoOwnerReason,
    Now,
    Owner,
    Packet,
    Undecodable,
)
from arbiter.profiles import Book
from arbiter.protocol import RefusedReason, WithdrawReason
from arbiter.rulebook import ProcessId
from arbiter.rules import Entry
from arbiter.settings import LinkDown, Settings, WhenAbsent
from arbiter.ways import MAX_RUNS, Run, Way

_Waiter = tuple[tuple[str, ...], int | None, str]
"""Whose packets wait for a link, and for what: apps, uid, note."""


class Pipeline(Asking):
    """All of deciding. `handle` is the only way to change it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._for_link: dict[int, _Waiter] = {}
        """Ids of held packets that wait for a link, in the order they came."""
        self._told: Counter[_Waiter] = Counter()
        """How many of each wait: the first is told, once."""
        self._refusals = Refusals()
        self._linked = False
        """Whether the first `LinksChanged` has come: it is no news."""

    def handle(self, event: Event) -> list[Effect]:
        """What is to be done about `event`, in this order."""
        match event:
            case PacketQueued(now, packet):
                return self._queued(now, packet)
            case Repeated():
                return self._repeated(event)
            case OwnerFound(now, packet_id, owner):
                return self._owner_found(now, packet_id, owner)
            case OlderFound():
                return self._older(event)
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
            case ProfilesRead(now, book):
                return self._profiles_read(now, book)
            case RunVia():
                return self._run_via(event)
            case SnoozeWanted():
                return self._snooze(event)
            case NamesLearned():
                return self._learn(event)
            case HostsRead(_, hosts):
                self.names.use_hosts(hosts)
                return []
            case AdviceChanged(now, advice):
                self.advice = advice
                self._show_anew()
                return self._retry(now)
            case Trouble(_, text):
                return [Notify(None, protocol.clean(text, 400))]
            case SettingsChanged(now, settings):
                return [*self._use(settings), *self._retry(now)]
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
        self.held.add(packet, now.mono, now.mono + self.settings.waiting)
        return [FindOwner(packet)]

    def _repeated(self, event: Repeated) -> list[Effect]:
        """The rules were not asked again: nothing that they depend on had changed by then."""
        self.counters["packets"] += 1
        self.counters["repeated"] += 1
        daddr = event.packet.flow.daddr
        names = self.names.names_of(daddr, event.now.mono)
        if names:
            self.names.keep(daddr, event.now.mono)
        return self._verdicts.repeated(event, names)

    def _owner_found(self, now: Now, packet_id: int, owner: Owner | NoOwner) -> list[Effect]:
        held = self.held.get(packet_id)
        if held is None or held.owner is not None:
            return []  # its deadline came before its owner did
        held.owner = owner
        daddr = held.packet.flow.daddr
        held.names = self.names.names_of(daddr, now.mono)
        if held.names:
            self.names.keep(daddr, now.mono)
        return self._decide(now, held, owner)

    def _decide(self, now: Now, held: Held, owner: Owner | NoOwner) -> list[Effect]:
        """By the rules, if they do and nothing is in the way of what they say."""
        judgement = self._judge(now, held)
        if judgement is None:
            return self._undecided(now, held, owner)
        way = self._verdicts.way_of(held, judgement)
        if way.obstacle is None:
            effects = self._verdicts.judged(now, held, judgement, way)
            if way.verdict == DENIED and judgement.decision.action is not Action.DENY:
                effects += self._tell_refused(now, held, owner, way)
            return effects
        match self._about(way.obstacle):
            case LinkDown.ASK:
                return self._undecided(now, held, owner, way.note)
            case LinkDown.WAIT:
                return self._wait_for_link(now, held, owner, judgement, way)
            case LinkDown.REFUSE:
                refused = self._verdicts.judged(now, held, judgement, way)
                return [*refused, *self._tell_refused(now, held, owner, way)]

    def _tell_refused(self, now: Now, held: Held, owner: Owner | NoOwner, way: Way) -> list[Effect]:
        """A rule lets it go and its link does not: whoever runs it should hear why."""
        key = key_of(held.packet, owner)
        if not self._refusals.worth_telling(key.apps, key.uid, way.note, now.mono):
            return []
        text = f"{_who(owner)} was refused: {protocol.clean(way.note, 200)}"
        return [Notify(0 if key.uid is None else key.uid, text)]

    def _wait_for_link(
        self, now: Now, held: Held, owner: Owner | NoOwner, judgement: Judgement, way: Way
    ) -> list[Effect]:
        """Hold it for a link that may come back before its deadline, and say so."""
        key = key_of(held.packet, owner)
        crowd = self.held.crowd(key.uid, self.settings.packets_held)
        if crowd:
            return self._verdicts.drop(now, held, Reason.OVERFLOW, crowd)
        waiter = (key.apps, key.uid, way.note)
        told = waiter in self._told
        self.held.wait(held, None, key.uid)
        self._for_link[held.packet.id] = waiter
        self._told[waiter] += 1
        if told:
            return []
        text = f"{_who(owner)} waits: {way.note}"
        left = f"{held.deadline - now.mono:.0f} s"
        # What is no single user's is for admins only, as its ask would be: root is one.
        uid = 0 if key.uid is None else key.uid
        return [Notify(uid, f"{text}; it is refused in {left}")]

    # --- again ------------------------------------------------------------------------------

    def _retry(self, now: Now) -> list[Effect]:
        """Rules or links have changed: try everything that waits again, withdraw what is moot."""
        effects: list[Effect] = []
        for held in self._take_for_link():
            assert held.owner is not None
            effects += self._decide(now, held, held.owner)
        self._told = Counter(self._for_link.values())  # what waits on was told before
        return [*effects, *self._retry_asks(now)]

    def _take_for_link(self) -> list[Held]:
        """The packets that wait for a link, which no longer do."""
        found = [held for id in self._for_link if (held := self.held.get(id)) is not None]
        self._for_link.clear()
        for held in found:
            self.held.wait_no_more(held)
        return found

    def _waits_no_more(self, held: Held) -> bool:
        """Whether it waited for a link."""
        waiter = self._for_link.pop(held.packet.id, None)
        if waiter is None:
            return False
        self._told[waiter] -= 1
        if not self._told[waiter]:
            del self._told[waiter]
        return True

    def _remembered(
        self, now: Now, ask_id: int, entry: Entry, replaced: tuple[int, ...]
    ) -> list[Effect]:
        effects = self._change_rules((entry,), replaced)
        ask = self.asks.get(ask_id)
        if ask is not None and ask.state is State.STORING:
            effects += self._settle(now, ask, entry)
        return [*effects, *self._retry(now)]

    # --- time, processes, rules -------------------------------------------------------------

    def next_wake(self, now: Now) -> float | None:
        """Monotonic seconds when a `Tick` is due; None while nothing waits for time to pass."""
        times = [ask.expires for ask in self.asks if ask.stale and ask.state is State.OPEN]
        deadline = self.held.next_deadline()
        if deadline is not None:
            times.append(deadline)
        snoozed = self.snoozes.next_end(now)
        if snoozed is not None:
            times.append(snoozed)
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
            # The rule that kept it waiting may have ended: silence does not let it elsewhere.
            strict = self._waits_no_more(held) or (ask is not None and bool(ask.obstacle))
            effects += self._overdue(now, held, DENY if strict else self._fallback)
        for ask in changed.values():
            effects += self._show(now, ask)
        effects += [TellSnoozes(snooze.uid) for snooze in self.snoozes.end(now)]
        effects += _retire(self.rules.end_due(now.wall), "its time is over")
        for ask in self.asks:
            if ask.stale and ask.state is State.OPEN and ask.expires <= now.mono:
                text = "nobody has answered and nothing has asked again"
                effects += self.asks.withdraw(ask, WithdrawReason.EXPIRED, text)
        return effects

    def _overdue(self, now: Now, held: Held, fallback: Decision) -> list[Effect]:
        """The fallback, if no rule says otherwise: one that needs no owner where none was found in
        time, or one that was made while the answer was on its way to the disk."""
        if held.owner is None:
            held.owner = NoOwner(NoOwnerReason.NO_SOCKET, detail="not found in time")
        judgement = self._judge(now, held)
        if judgement is not None:
            return self._verdicts.judged(now, held, judgement)
        return self._verdicts.give(now, held, fallback, Reason.DEADLINE)

    # --- links ------------------------------------------------------------------------------

    def _links_changed(self, now: Now, links: tuple[Link, ...]) -> list[Effect]:
        before = self.ways.links
        self.ways.change(links)
        told = news(before, self.ways.links) if self._linked else ()
        self._linked = True
        self._show_anew()  # an ask shows the links
        switched = self.profiles.look(self.ways.links.values())
        self.ways.hold(self.profiles.active)
        return [*(Notify(None, text) for text in told), *switched, *self._retry(now)]

    def _profiles_read(self, now: Now, book: Book) -> list[Effect]:
        before = self.profiles.active
        effects = self.profiles.read(book)
        if self._linked:
            effects += self.profiles.look(self.ways.links.values())
        if self.profiles.active == before:
            return effects
        self.ways.hold(self.profiles.active)
        self._show_anew()
        return [*effects, *self._retry(now)]

    def _run_via(self, event: RunVia) -> list[Effect]:
        link = self.links.get(event.via)
        # Before the links are known, a run that an earlier daemon knew says so again: until its
        # link is there it is refused, and goes nowhere else.
        if link is None and self._linked:
            known = ", ".join(self.links) or "none"
            text = f"there is no link {protocol.clean(event.via, 40)!r} (known: {known})"
            return [Refuse(event.client, protocol.Refused(RefusedReason.INVALID, text))]
        if not self.ways.start_run(Run(event.process, event.peer.uid, event.via)):
            text = f"you have {MAX_RUNS} programs under run-via already: end some of them first"
            return [Refuse(event.client, protocol.Refused(RefusedReason.BUSY, text))]
        watch = self._watch((event.process,))
        up = link is not None and link.up
        return [*watch, Reply(event.client, protocol.Running(event.via, up))]

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

    def _stopping(self, now: Now) -> list[Effect]:
        """Nothing stays held: rules decide, and what none does goes by `when_absent`, as what
        still comes will."""
        self._stopped = ALLOW if self.settings.when_absent is WhenAbsent.PASS else DENY
        effects: list[Effect] = []
        self._for_link.clear()
        self._told.clear()
        for held in self.held:
            judgement = self._judge(now, held) if held.owner is not None else None
            if judgement is not None:
                effects += self._verdicts.judged(now, held, judgement)
            else:
                effects += self._verdicts.give(now, held, self._stopped, Reason.STOPPING)
        for ask in self.asks:
            ask.waiting.clear()
            effects += self.asks.withdraw(ask, WithdrawReason.STOPPING, "arbiter stops")
        return effects


def _who(owner: Owner | NoOwner) -> str:
    """For a sentence: the program's name, made harmless."""
    if isinstance(owner, NoOwner):
        return "a connection"
    return protocol.clean(owner.processes[0].app.name, 64)


def _retire(ids: tuple[int, ...], why: str) -> list[Effect]:
    return [Retire(ids, why)] if ids else []
