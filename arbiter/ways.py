"""Which link a decision takes for a packet, and what may stand in its way. Pure.

A decision names links; whether one of them can carry the packet now, and whether its budget
allows it, is looked up here at the last moment, for each connection anew.
"""

from __future__ import annotations

import enum
import math
import sys
from collections import Counter
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
    Link,
    NoOwner,
    OverBudget,
    Owner,
    Packet,
    Verdict,
    VerdictKind,
)

NEVER = math.inf
"""As `decided`: of a connection that is open already, which no budget cuts."""
MAX_RUNS = 64
"""Runs of one user: each costs the daemon a descriptor. A command has 32 connections at most."""
JUST_NOW = sys.float_info.max
"""As `decided`: by a person who sees what is used up. No wall clock, which may be set back."""


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
        self._runs: dict[int, dict[int, Run]] = {}
        """By pid and uid: whatever a user says of a process is of that user's connections only."""
        self._of_user: Counter[int] = Counter()

    def change(self, links: Iterable[Link]) -> None:
        """These are the links now."""
        self.links = {link.name: link for link in links}
        self._by_index = {link.index: link for link in self.links.values() if link.index}
        self._by_number = {link.number: link for link in self.links.values()}
        up = [link for link in self.links.values() if link.up]
        self._here = Context(
            sims=tuple(dict.fromkeys(link.sim for link in up if link.sim)),
            networks=tuple(dict.fromkeys(name for link in up for name in link.networks)),
        )
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

    # --- the way of one packet --------------------------------------------------------------

    def take(
        self, decision: Decision, packet: Packet, decided: float, run: Run | None = None
    ) -> Way:
        """How a decision of epoch second `decided` is carried out for a packet now.

        A route goes over the first link of its list that carries this family and whose budget
        lets it; with none it is denied, because a strict flow never leaves elsewhere, and a
        program that is refused over IPv6 tries IPv4. `run` narrows a decision to its link, and
        never widens it.
        """
        if decision.action is Action.DENY:
            return _DENIED
        if run is not None:
            narrowed = self._narrow(decision, run)
            if narrowed is None:
                rule = f"it is routed via={','.join(decision.via)}"
                return Way(DENIED, f"run-via {run.via} asks for another link, and {rule}")
            decision = narrowed
        if decision.action is Action.ALLOW:
            link = self._by_index.get(packet.outdev)
            if link is None or link.spent is None:
                return _ALLOWED
            return self._within_budget(link, decided) or Way(_ACCEPT[0], link.spent.text)
        return self._route(decision.via, packet, decided)

    def _route(self, via: tuple[str, ...], packet: Packet, decided: float) -> Way:
        daddr = packet.flow.daddr
        over: list[str] = []
        for name, link in self._candidates(via, packet):
            if link is None:
                return Way(_ACCEPT[0], "over the default route")
            if name != ANY_LINK and not link.reaches(daddr):
                continue
            stopped = self._within_budget(link, decided)
            if stopped is not None and stopped.obstacle is not None:
                return stopped
            if stopped is not None:
                over.append(stopped.note)
                continue
            if name == ANY_LINK:
                return Way(_ACCEPT[0], "over the default route")
            return Way(_ACCEPT[link.number], f"over {link.name}")
        if over:
            return Way(DENIED, "; ".join(over))
        what = f"no link of {','.join(via)} carries IPv{packet.flow.family} there now"
        return Way(DENIED, what, Obstacle.DOWN)

    def _candidates(
        self, via: tuple[str, ...], packet: Packet
    ) -> Iterator[tuple[str, Link | None]]:
        """(word, link) in the order to try them; no link for the default route of no link."""
        for name in via:
            if name == ANY_LINK:
                yield name, self._by_index.get(packet.outdev)
            elif name in (METERED, UNMETERED):
                yield from ((name, link) for link in self._of_class(name))
            elif name in self.links:
                yield name, self.links[name]

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


_ACCEPT = tuple(
    Verdict(VerdictKind.ACCEPT, MARK_DECIDED | number << MARK_LINK_SHIFT) for number in range(32)
)
_DENIED = Way(DENIED)
_ALLOWED = Way(_ACCEPT[0])
