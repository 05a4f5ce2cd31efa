"""The state of deciding, and what asking and the pipeline share. Pure.

`Core` ← `asking.Asking` ← `pipeline.Pipeline`: one object in three files, each a floor of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from arbiter.asks import AskBook
from arbiter.events import (
    Cut,
    Effect,
    NamesLearned,
    Notify,
    OlderFound,
    UseClasses,
    WatchProcess,
)
from arbiter.held import Held, HeldPackets
from arbiter.judge import Context, Judgement
from arbiter.model import ALLOW, DENY, Action, Decision, Link, NoOwner, Now, Owner, Packet, Peer
from arbiter.names import NameCache
from arbiter.policyfiles import AdviceBook
from arbiter.rulebook import ProcessId, RuleBook
from arbiter.rules import Entry
from arbiter.settings import Fallback, LinkDown, Mode, Settings
from arbiter.snoozes import Snoozes
from arbiter.switching import Switching
from arbiter.verdicts import Verdicts
from arbiter.ways import Obstacle, Ways


class Core:
    """Everything that is known. Only `Pipeline.handle` changes it."""

    def __init__(self, settings: Settings) -> None:
        self.rules = RuleBook()
        self.asks = AskBook(*_bounds(settings))
        self.held = HeldPackets()
        self.peers: tuple[Peer, ...] = ()
        self.counters: Counter[str] = Counter()
        self.ways = Ways()
        self.names = NameCache(self.rules.index.spoken)
        self.profiles = Switching()
        self.advice = AdviceBook()
        self.snoozes = Snoozes()
        self._verdicts = Verdicts(self.held, self.ways, self.counters)
        self._alive: set[ProcessId] = set()
        """Processes that are watched and have not exited."""
        self._use(settings)
        self._stopped: Decision | None = None
        self._classes = False
        """Whether a rule with a traffic class has been in force."""

    def _use(self, settings: Settings) -> list[Effect]:
        """For what is decided from now on. What is held keeps its deadline."""
        self.settings = settings
        self.asks.bound(*_bounds(settings))
        observing = settings.mode is Mode.OBSERVE
        passes = observing or settings.fallback is Fallback.ALLOW
        self._fallback = ALLOW if passes else DENY
        words = f"mode {settings.mode.value}, without an answer {settings.fallback.value}"
        return [Notify(None, f"the administrator has changed settings: {words}")]

    @property
    def links(self) -> dict[str, Link]:
        """The links there are, by name."""
        return self.ways.links

    def _about(self, obstacle: Obstacle) -> LinkDown:
        """What is done about it now. Without people to ask it stays in the way."""
        about = self.settings.link_down if obstacle is Obstacle.DOWN else LinkDown.ASK
        if self._stopped is not None:
            return LinkDown.REFUSE
        if about is LinkDown.ASK and self.settings.mode is not Mode.ASK:
            return LinkDown.REFUSE
        return about

    def _learn(self, event: NamesLearned) -> list[Effect]:
        """Nothing that waits is tried again for it: who asked connects only after this."""
        found, mono = event.answers, event.now.mono
        self.names.learn(found.name, found.addresses, found.ttl, mono, found.targets)
        return []

    def _judge(self, now: Now, held: Held) -> Judgement | None:
        assert held.owner is not None
        packet = held.packet
        held.context = self._context(packet, held.owner, held.names)
        judgement = self.rules.judge(packet, held.owner, now.wall, held.context)
        if judgement is None or judgement.entry is not None:
            return judgement
        # Without a rule that still matches, it is older than arbiter, or what is left of a routed
        # connection whose program is gone.
        return Judgement(DENY, None) if self.ways.was_routed(packet.flow) else judgement

    def _older(self, event: OlderFound) -> list[Effect]:
        """Only a rule's denial counts: asking would cut it, and so would another way."""
        now, packet = event.now, event.packet
        held = Held(packet, now.mono, now.mono)
        held.owner = event.owner
        held.names = self.names.names_of(packet.flow.daddr, now.mono)
        judgement = self._judge(now, held)
        if judgement is None or judgement.decision.action is not Action.DENY:
            return []
        return [Cut(self._verdicts.cut(now, held, judgement, again=event.denied))]

    def _context(self, packet: Packet, owner: Owner | NoOwner, names: tuple[str, ...]) -> Context:
        context = self.ways.context(packet, self.ways.run_of(owner))
        return context._replace(names=names) if names else context

    def _exited(self, owner: Owner | NoOwner | None) -> bool:
        holders = holders_of(owner)
        return bool(holders) and self._alive.isdisjoint(holders)

    def _watch(self, processes: Iterable[ProcessId]) -> list[Effect]:
        new = [process for process in processes if process not in self._alive]
        self._alive.update(new)
        return [WatchProcess(pid, start) for pid, start in new]

    def _change_rules(self, added: Iterable[Entry], removed: Iterable[int]) -> list[Effect]:
        entries = tuple(added)
        effects: list[Effect] = []
        for entry in entries:
            effects += self._use_class(entry.rule.decision)
        return [*effects, *self._watch(self.rules.change(entries, removed))]

    def _use_class(self, decision: Decision) -> list[Effect]:
        """For the first decision that has one, tell the kernel of traffic classes."""
        if decision.traffic is None or self._classes:
            return []
        self._classes = True
        return [UseClasses()]


def holders_of(owner: Owner | NoOwner | None) -> list[ProcessId]:
    """(pid, start) of every process that holds the socket."""
    if not isinstance(owner, Owner):
        return []
    return [(process.pid, process.start) for process in owner.processes]


def _bounds(settings: Settings) -> tuple[int, int, int]:
    return settings.asks_per_app, settings.asks_per_user, settings.asks_total
