"""What the rules say of one packet, and which verdict carries a decision out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from arbiter.model import (
    ALLOW,
    ANY_LINK,
    DENIED,
    MARK_DECIDED,
    MARK_LINK_SHIFT,
    Action,
    Decision,
    Link,
    NoOwner,
    Owner,
    Packet,
    Process,
    Verdict,
    VerdictKind,
)
from arbiter.rules import Entry, Index, Query


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


def queries(packet: Packet, owner: Owner | NoOwner) -> Iterable[Query]:
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
        )


def judge(index: Index, packet: Packet, owner: Owner | NoOwner, wall: float) -> Judgement | None:
    """The remembered decision on a packet, or None where a person must be asked.

    A socket that several apps hold may go only where each of them may: one denial denies, one
    app without a rule asks, and the first that is routed names the link.
    """
    entries: list[Entry] = []
    undecided = False
    for query in queries(packet, owner):
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


def subject(index: Index, packet: Packet, owner: Owner | NoOwner, wall: float) -> Process | None:
    """The process that a question is about: the first whose app no rule decides yet.

    An answer about another would be remembered, and the same asked again for ever.
    """
    if isinstance(owner, NoOwner):
        return None
    for query in queries(packet, owner):
        if index.lookup(query, wall) is None:
            holders = [p for p in owner.processes if (p.pid, p.start) in query.processes]
            return holders[0]
    return owner.processes[0]


def carry_out(
    decision: Decision, links: Mapping[str, Link], family: int = 4
) -> tuple[Verdict, str]:
    """The verdict for a decision, and a note where it is not the plain one.

    A route goes over the first link of its list that carries this family (4 or 6) now; with none
    it is denied at once, because a strict flow never leaves elsewhere, and a program that is
    refused over IPv6 tries IPv4.
    """
    if decision.action is Action.DENY:
        return DENIED, ""
    if decision.action is Action.ALLOW:
        return _accept(0), ""
    for name in decision.via:
        if name == ANY_LINK:
            return _accept(0), "over the default route"
        link = links.get(name)
        if link is not None and link.carries(family):
            return _accept(link.number), f"over {name}"
    return DENIED, f"no link of {','.join(decision.via)} carries IPv{family} now"


_ACCEPT = tuple(
    Verdict(VerdictKind.ACCEPT, MARK_DECIDED | number << MARK_LINK_SHIFT) for number in range(32)
)


def _accept(link: int) -> Verdict:
    return _ACCEPT[link]
