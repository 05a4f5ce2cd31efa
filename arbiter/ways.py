"""Which link a decision takes for a packet, and what may stand in its way. Pure.

A decision names links; whether one of them can carry the packet now, and whether its budget
allows it, is looked up here at the last moment, for each connection anew.
"""

from __future__ import annotations

import enum
import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from arbiter.judge import Context, answerer
from arbiter.model import (
    ANY_LINK,
    DENIED,
    MARK_DECIDED,
    MARK_LINK_SHIFT,
    METERED,
    UNMETERED,
    Action,
    Decision,
    Flow,
    Link,
    NoOwner,
    OverBudget,
    Owner,
    Packet,
    Verdict,
    VerdictKind,
)
from arbiter.nesting import Nesting, named_before

NEVER = math.inf
"""As `decided`: of a connection that is open already, which no budget cuts."""
MAX_RUNS = 64
"""Runs of one user: each costs the daemon a descriptor. A command has 32 connections at most."""
JUST_NOW = sys.float_info.max
"""As `decided`: by a person who sees what is used up. No wall clock, which may be set back."""


MAX_ROUTED = 8192
"""Routed flows remembered; the oldest go first."""
MAX_HOMES = 1024
"""Addresses remembered of links; the oldest go first."""


class Obstacle(enum.Enum):
    """Why a decision cannot simply be carried out."""

    DOWN = enum.auto()
    """No link that it names carries the packet now."""
    OVER = enum.auto()
    """The link's budget was used up after the decision was made, and a person is to be asked."""


class Way(NamedTuple):
    """The verdict for a packet: with an obstacle, that of nobody doing anything about it."""

    verdict: Verdict
    note: str = ""
    obstacle: Obstacle | None = None


class Run(NamedTuple):
    """`arbiter run-via`: this process and its children go over one link."""

    process: tuple[int, int]
    """(pid, start)."""
    uid: int
    via: str


class Ways:
    """The links there are, in the order in which the kernel prefers them, and who is to use one."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._by_index: dict[int, Link] = {}
        self._by_number: dict[int, Link] = {}
        self._here = Context()
        self._contexts: dict[int, Context] = {}
        self._homes: OrderedDict[bytes, str] = OrderedDict()
        """Address → the link that has it, or had it last: one that goes down loses its own."""
        self._routed: OrderedDict[Flow, None] = OrderedDict()
        """TCP flows that were sent over a link of their rule's; see `was_routed`."""
        self._nesting = Nesting()
        self._runs: dict[int, dict[int, Run]] = {}
        """By pid and uid: whatever a user says of a process is of that user's connections only."""
        self._of_user: Counter[int] = Counter()

    def change(self, links: Iterable[Link]) -> None:
        """These are the links now."""
        self.links = {link.name: link for link in links}
        self._by_index = {link.index: link for link in self.links.values() if link.index}
        self._by_number = {link.number: link for link in self.links.values()}
        self._nesting.change(self.links.values())
        up = [link for link in self.links.values() if link.up]
        self._here = self._here._replace(
            sims=tuple(dict.fromkeys(link.sim for link in up if link.sim)),
            networks=tuple(dict.fromkeys(name for link in up for name in link.networks)),
        )
        self._contexts = {}
        for link in self.links.values():
            for address in link.addresses:
                self._homes[address] = link.name
                self._homes.move_to_end(address)
        while len(self._homes) > MAX_HOMES:
            self._homes.popitem(last=False)

    def hold(self, profile: str) -> None:
        """This profile is active now; "" for none."""
        self._here = self._here._replace(profile=profile)
        self._contexts = {}

    def context(self, packet: Packet, run: Run | None = None) -> Context:
        """Where the machine is, and how the link is that the packet leaves over by default, or
        by `run`: a rule on what metered links carry is not gone round by choosing one."""
        if run is not None:
            link = self.links.get(run.via)
            metered, roaming = (link.metered, link.roaming) if link else (None, None)
            return self._here._replace(metered=metered, roaming=roaming)
        found = self._contexts.get(packet.outdev)
        if found is None:
            link = self._by_index.get(packet.outdev)
            found = self._here
            if link is not None:
                found = found._replace(metered=link.metered, roaming=link.roaming)
            if packet.outdev in self._by_index:  # others are not kept: there may be any number
                self._contexts[packet.outdev] = found
        return found

    def default(self, packet: Packet) -> Link | None:
        """The link that the packet leaves over if nothing routes it."""
        return self._by_index.get(packet.outdev)

    def used(self, packet: Packet, number: int) -> Link | None:
        """The link that the packet leaves over: the one of its mark's number, 0 for by default."""
        return self._by_number.get(number) if number else self._by_index.get(packet.outdev)

    def lead_alike(self, daddr: bytes) -> bool:
        """Whether no link leads, or led, to some addresses of this family only: then the way of a
        packet is the same for all of them."""
        links = self.links.values()
        reaches = (one.reach4 if len(daddr) == 4 else one.reach6 for one in links)
        return all(reach is None for reach in reaches)

    # --- the way of one packet --------------------------------------------------------------

    def way(
        self, decision: Decision, packet: Packet, owner: Owner | NoOwner | None, decided: float
    ) -> Way:
        """How a decision of epoch second `decided` is carried out for an owner's packet now."""
        tunnels = owner.tunnels if owner is not None else ()
        return self.take(decision, packet, decided, self.run_of(owner), tunnels)

    def take(
        self,
        decision: Decision,
        packet: Packet,
        decided: float,
        run: Run | None = None,
        tunnels: tuple[int, ...] = (),
    ) -> Way:
        """The same. A route goes over the first link of its list that carries this family and
        whose budget lets it; with none it is denied, because a strict flow never leaves elsewhere,
        and a program that is refused over IPv6 tries IPv4. `run` narrows a decision to its link,
        and never widens it.

        `tunnels`, by index, never carry their own outer packet. It takes another link of the list;
        where the tunnel is the last one there it leaves as if there were no tunnel: it *is* that
        link, as a wire is.
        """
        if decision.action is Action.DENY:
            return _DENIED
        if run is not None:
            narrowed = self._narrow(decision, run)
            if narrowed is None:
                rule = f"it is routed via={','.join(decision.via)}"
                return Way(DENIED, f"run-via {run.via} asks for another link, and {rule}")
            decision = narrowed
        if tunnels:
            return self._below(decision, packet, decided, tunnels)
        if decision.action is Action.ALLOW:
            return self._allow(packet, decided)
        return self._route(decision.via, packet, decided)

    def _below(
        self, decision: Decision, packet: Packet, decided: float, tunnels: tuple[int, ...]
    ) -> Way:
        """The way of an outer packet of `tunnels`."""
        barred = self._nesting.on_top_of(tunnels)
        if decision.action is Action.ALLOW:
            if packet.outdev not in barred:
                return self._allow(packet, decided)
            return self._route((ANY_LINK,), packet, decided, barred)
        via = decision.via
        own = frozenset(link.name for link in self.links.values() if link.index in tunnels)
        barred |= named_before(via, own, self.links)
        if via[-1] in own:
            way = self._route((*via[:-1], ANY_LINK), packet, decided, barred)
            return way._replace(note=f"a packet of {via[-1]} itself: {way.note}")
        way = self._route(via, packet, decided, barred)
        others = [self.links[name] for name in via if name in self.links and name not in own]
        around = [link.name for link in others if link.index in barred]
        if way.obstacle is Obstacle.DOWN and around:
            return Way(DENIED, f"{around[0]} is carried by this tunnel: it would go in a circle")
        return way

    def _allow(self, packet: Packet, decided: float) -> Way:
        link = self._by_index.get(packet.outdev)
        if link is None:
            return _ALLOWED
        number = 0
        stranded = self._homes.get(packet.flow.saddr)
        if stranded is not None and stranded != link.name and not self._up(stranded):
            # Its address is that of a link that is gone, where no answer would come: as if it were
            # routed over the link that the kernel found instead, it leaves with that one's.
            number = link.number
        note = f"over {link.name}, from an address of {stranded}, which is down" if number else ""
        if link.spent is not None:
            stopped = self._within_budget(link, decided)
            if stopped is not None:
                return stopped
            note = "; ".join(part for part in (note, link.spent.text) if part)
        return Way(_ACCEPT[number], note) if note else _ALLOWED

    def _up(self, name: str) -> bool:
        link = self.links.get(name)
        return link is not None and link.up

    def _route(
        self,
        via: tuple[str, ...],
        packet: Packet,
        decided: float,
        barred: frozenset[int] = frozenset(),
    ) -> Way:
        over: list[str] = []
        for link in self._candidates(via, packet, barred):
            if link is None:
                return Way(_ACCEPT[0], "over the default route")
            stopped = self._within_budget(link, decided)
            if stopped is None:
                spent = f", {link.spent.text}" if link.spent is not None else ""
                return Way(_ACCEPT[link.number], f"over {link.name}{spent}")
            if stopped.obstacle is not None:
                return stopped
            over.append(stopped.note)
        if over:
            return Way(DENIED, "; ".join(over))
        what = f"no link of {','.join(via)} carries IPv{packet.flow.family} there now"
        return Way(DENIED, what, Obstacle.DOWN)

    def _candidates(
        self, via: tuple[str, ...], packet: Packet, barred: frozenset[int]
    ) -> Iterator[Link | None]:
        """The links that carry the packet now, in the order to try them; None for a default route
        that is no link. `barred`, by index: for an outer packet, what cannot carry it."""
        for name in via:
            if name == ANY_LINK:
                yield from self._any(packet, barred)
            elif name in (METERED, UNMETERED):
                links = self._of_class(name)
                yield from (link for link in links if _fits(link, packet, barred))
            elif name in self.links:
                link = self.links[name]
                if link.index not in barred and link.reaches(packet.flow.daddr):
                    yield link

    def _any(self, packet: Packet, barred: frozenset[int]) -> Iterator[Link | None]:
        """The link of the default route, by its number: so its connections are known when it is
        lost. The kernel may have chosen one that is gone by now: then the next it prefers."""
        first = self._by_index.get(packet.outdev)
        bar = packet.outdev in barred
        if not bar and (first is None or first.reaches(packet.flow.daddr)):
            yield first
        elif not bar and first is not None and (first.up or first.near(packet.flow.daddr)):
            yield None  # the kernel knows a way there, if none beyond: a LAN's
        else:
            yield from (link for link in self.links.values() if _fits(link, packet, barred))

    def _of_class(self, word: str) -> Iterator[Link]:
        # What nobody knows about may cost: it is no unmetered link.
        wanted = word == METERED
        return (link for link in self.links.values() if link.metered is wanted)

    def _within_budget(self, link: Link, decided: float) -> Way | None:
        """None if its budget lets the packet go; else what happens instead."""
        spent = link.spent
        if spent is None or spent.then is OverBudget.ALLOW or decided == NEVER:
            return None
        note = f"{link.name} is over its budget: {spent.text}"
        if spent.then is OverBudget.DENY:
            return Way(DENIED, note)
        return None if decided >= spent.since else Way(DENIED, note, Obstacle.OVER)

    def sent(self, packet: Packet, owner: Owner | NoOwner | None, number: int) -> None:
        """A packet was let go, over link `number` of its mark (0: by the default route)."""
        if number and packet.flow.proto == _TCP:
            self._routed[packet.flow] = None
            self._routed.move_to_end(packet.flow)
            if len(self._routed) > MAX_ROUTED:
                self._routed.popitem(last=False)
        if owner is not None and owner.tunnels:
            link = self.used(packet, number)
            below = link.index if link is not None else packet.outdev
            self._nesting.carried(owner.tunnels, packet.flow.daddr, below)

    def was_routed(self, flow: Flow) -> bool:
        """Whether a TCP flow that comes without a handshake is one that was routed.

        Its link was lost, and its conntrack entry with it (masq_device_event,
        nf_nat_masquerade.c); what the kernel still sends of it, when its program may be gone, must
        not leave by the default route.
        """
        return flow in self._routed

    # --- run-via ----------------------------------------------------------------------------

    def start_run(self, run: Run) -> bool:
        """From now on the process and its children go over one link; False if there are too many
        runs of this user."""
        pid = run.process[0]
        for old in self._runs.get(pid, {}).copy().values():
            if old.process != run.process or old.uid == run.uid:
                self._end(old)
        if self._of_user[run.uid] >= MAX_RUNS:
            return False
        self._runs.setdefault(pid, {})[run.uid] = run
        self._of_user[run.uid] += 1
        return True

    def end_run(self, process: tuple[int, int]) -> None:
        """The process is gone."""
        for run in self._runs.get(process[0], {}).copy().values():
            if run.process == process:
                self._end(run)

    def _end(self, run: Run) -> None:
        runs = self._runs[run.process[0]]
        del runs[run.uid]
        if not runs:
            del self._runs[run.process[0]]
        self._of_user[run.uid] -= 1
        if not self._of_user[run.uid]:
            del self._of_user[run.uid]

    @property
    def runs(self) -> bool:
        """Whether there are any."""
        return bool(self._runs)

    def run_of(self, owner: Owner | NoOwner | None) -> Run | None:
        """The run that one of the socket's holders belongs to: the nearest of root's, which takes
        all users' and which no user leaves by a run of their own; else the nearest of the user's.
        """
        if not self._runs or not isinstance(owner, Owner):
            return None
        uid, own = answerer(owner), None
        for process in owner.processes:
            for pid in (process.pid, *(ancestor.pid for ancestor in process.ancestors)):
                for run in self._runs.get(pid, {}).values():
                    if pid == process.pid and run.process[1] != process.start:
                        continue
                    if run.uid == 0:
                        return run
                    if run.uid == uid and own is None:
                        own = run
        return own

    def _narrow(self, decision: Decision, run: Run) -> Decision | None:
        """The decision over the run's link only; None where it may not go there."""
        link = self.links.get(run.via)
        if decision.action is Action.ROUTE and link is not None:
            words = {run.via, ANY_LINK}
            if link.metered is not None:  # what nobody knows about is of neither class
                words.add(METERED if link.metered else UNMETERED)
            if words.isdisjoint(decision.via):
                return None
        return Decision(Action.ROUTE, (run.via,), decision.traffic)


def _fits(link: Link, packet: Packet, barred: frozenset[int]) -> bool:
    """Whether a link that no rule names carries it. A tunnel carries another one only where a rule
    or the kernel's route says so: else two could carry each other."""
    return link.reaches(packet.flow.daddr) and not (barred and link.tunnel)


_ACCEPT = tuple(
    Verdict(VerdictKind.ACCEPT, MARK_DECIDED | number << MARK_LINK_SHIFT) for number in range(32)
)
_TCP = 6
_DENIED = Way(DENIED)
_ALLOWED = Way(_ACCEPT[0])
