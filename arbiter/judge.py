"""What the rules say of one packet. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from arbiter.model import (
    ALLOW,
    Action,
    Decision,
    NoOwner,
    Owner,
    Packet,
    Process,
)
from arbiter.rules import Entry, Index, Query


class Context(NamedTuple):
    """Where the machine is when a packet comes (`sim=`, `network=`, `metered=` and `roaming=` of a
    rule are held against it, see rules.Query), which profile is active, and what its destination is
    called."""

    sims: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    metered: bool | None = None
    roaming: bool | None = None
    names: tuple[str, ...] = ()
    """By which the destination's address was looked up, the newest first."""
    profile: str = ""


NOWHERE = Context()
"""Nothing is known."""


class Judgement(NamedTuple):
    """A decision, and the rule it comes from; no rule for a connection older than arbiter."""

    decision: Decision
    entry: Entry | None


def answerer(owner: Owner | NoOwner) -> int | None:
    """Whose processes these are: the one uid whose rules and answers count beside admins'.

    None if that is mixed: the socket's uid and the effective uid of every process that holds it
    must agree, or a set-uid program could be let go by whoever started it.
    """
    if isinstance(owner, NoOwner):
        return owner.uid
    uids = {owner.uid, *(process.uid for process in owner.processes)}
    return owner.uid if len(uids) == 1 else None


def queries(packet: Packet, owner: Owner | NoOwner, context: Context = NOWHERE) -> Iterable[Query]:
    """One question to the rules for each different app that holds the socket.

    Which processes of that app hold it matters to rules that end with a process.
    """
    flow = packet.flow
    uid = answerer(owner)
    user = owner.user if uid is not None else ""
    if isinstance(owner, NoOwner):
        yield Query(
            app="",
            parents=(),
            uid=uid,
            user=user,
            daddr=flow.daddr,
            dport=flow.dport,
            proto=flow.proto,
            hook=packet.hook,
            sims=context.sims,
            networks=context.networks,
            metered=context.metered,
            roaming=context.roaming,
            profile=context.profile,
            names=context.names,
        )
        return
    holders: dict[tuple[str, tuple[str, ...]], list[Process]] = {}
    for process in owner.processes:
        parents = tuple(ancestor.app.id for ancestor in process.ancestors)
        holders.setdefault((process.app.id, parents), []).append(process)
    for (app, parents), processes in holders.items():
        yield Query(
            app=app,
            parents=parents,
            uid=uid,
            user=user,
            daddr=flow.daddr,
            dport=flow.dport,
            proto=flow.proto,
            hook=packet.hook,
            processes=tuple((process.pid, process.start) for process in processes),
            sims=context.sims,
            networks=context.networks,
            metered=context.metered,
            roaming=context.roaming,
            profile=context.profile,
            groups=owner.groups if uid is not None else (),
            gids=owner.gids if uid is not None else (),
            names=context.names,
        )


def judge(
    index: Index,
    packet: Packet,
    owner: Owner | NoOwner,
    wall: float,
    context: Context = NOWHERE,
) -> Judgement | None:
    """The remembered decision on a packet, or None where a person must be asked.

    A socket that several apps hold may go only where each of them may: one denial denies, one
    app without a rule asks, and the first that is routed names the link.
    """
    entries: list[Entry] = []
    undecided = False
    for query in queries(packet, owner, context):
        entry = index.lookup(query, wall)
        if entry is None:
            undecided = True
        elif entry.rule.decision.action is Action.DENY:
            return Judgement(entry.rule.decision, entry)
        else:
            entries.append(entry)
    if undecided:
        if owner.established and not packet.opens:
            # The kernel holds this TCP connection as open already: it began before arbiter did,
            # or its conntrack entry was lost. Asking would cut the ssh session of the person
            # who is to answer.
            return Judgement(ALLOW, None)
        return None
    entries.sort(key=lambda entry: entry.rule.decision.action is not Action.ROUTE)
    return Judgement(entries[0].rule.decision, entries[0])


def subject(
    index: Index,
    packet: Packet,
    owner: Owner | NoOwner,
    wall: float,
    context: Context = NOWHERE,
) -> Process | None:
    """The process that a question is about: the first whose app no rule decides yet.

    An answer about another would be remembered, and the same asked again for ever.
    """
    if isinstance(owner, NoOwner):
        return None
    for query in queries(packet, owner, context):
        if index.lookup(query, wall) is None:
            holders = [p for p in owner.processes if (p.pid, p.start) in query.processes]
            return holders[0]
    return owner.processes[0]
