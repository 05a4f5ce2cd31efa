"""What the rules say of one packet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from arbiter.model import (
    ALLOW,
    Action,
    Decision,
    Flow,
    Hook,
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
    lasting: bool = False
    """The same holds, whatever the time is, until something changes."""


SEVERAL_USERS = "its socket and its processes are of several users: no rule for a user counts"
"""In the note of a record: whose it is was not told to the rules, see `answerer`."""


def answerer(owner: Owner | NoOwner) -> int | None:
    """Whose processes these are: the one uid whose rules and answers count beside admins'.

    None if that is mixed: the socket's uid and the effective uid of every process that holds it
    must agree, or a set-uid program could be let go by whoever started it.
    """
    if isinstance(owner, NoOwner):
        return owner.uid
    for process in owner.processes:
        if process.uid != owner.uid:
            return None
    return owner.uid


def query(
    flow: Flow,
    hook: Hook,
    context: Context,
    app: str = "",
    parents: tuple[str, ...] = (),
    uid: int | None = None,
    user: str = "",
    processes: tuple[tuple[int, int], ...] = (),
    groups: tuple[str, ...] = (),
    gids: tuple[int, ...] = (),
) -> Query:
    """One question to the rules: this app sends this, here."""
    return Query(
        app=app,
        parents=parents,
        uid=uid,
        user=user,
        daddr=flow.daddr,
        dport=flow.dport,
        proto=flow.proto,
        hook=hook,
        processes=processes,
        sims=context.sims,
        networks=context.networks,
        metered=context.metered,
        roaming=context.roaming,
        profile=context.profile,
        groups=groups,
        gids=gids,
        names=context.names,
    )


def queries(packet: Packet, owner: Owner | NoOwner, context: Context = NOWHERE) -> Iterable[Query]:
    """One question to the rules for each different app that holds the socket.

    Which processes of that app hold it matters to rules that end with a process.
    """
    uid = answerer(owner)
    user = owner.user if uid is not None else ""
    if isinstance(owner, NoOwner):
        yield query(packet.flow, packet.hook, context, uid=uid, user=user)
        return
    groups, gids = (owner.groups, owner.gids) if uid is not None else ((), ())
    holders: dict[tuple[str, tuple[str, ...]], tuple[tuple[int, int], ...]] = {}
    for process in owner.processes:
        key = process.app.id, tuple([ancestor.app.id for ancestor in process.ancestors])
        holders[key] = (*holders.get(key, ()), (process.pid, process.start))
    for (app, parents), processes in holders.items():
        yield query(
            packet.flow, packet.hook, context, app, parents, uid, user, processes, groups, gids
        )


def judge(
    index: Index,
    packet: Packet,
    owner: Owner | NoOwner,
    wall: float,
    context: Context = NOWHERE,
) -> Judgement | None:
    """The remembered decision on a packet, or None where a person must be asked.

    What came in is nobody's to decide: without conntrack until now, its answers look like the
    beginning of something. A rule for the server, or for who came, would cut an ssh session.
    """
    if isinstance(owner, Owner) and owner.came_in:
        return Judgement(ALLOW, None)
    lasting = True

    def look_up() -> Iterator[Entry | None]:
        nonlocal lasting
        for one in queries(packet, owner, context):
            entry = index.lookup(one, wall)
            lasting = lasting and index.lasting
            yield entry

    found = join(look_up(), owner.established and not packet.opens)
    return found._replace(lasting=lasting) if found is not None else None


def join(found: Iterable[Entry | None], older: bool) -> Judgement | None:
    """The decision on a socket, of those on each app that holds it; None to ask a person.

    It may go only where each of them may: one denial denies, one app without a rule asks, and the
    first that is routed names the link. `older`: the kernel holds it as open already.
    """
    entries: list[Entry] = []
    undecided = False
    for entry in found:
        if entry is None:
            undecided = True
        elif entry.rule.decision.action is Action.DENY:
            return Judgement(entry.rule.decision, entry)
        else:
            entries.append(entry)
    if undecided:
        # A TCP connection that began before arbiter did, or whose conntrack entry was lost. Asking
        # would cut the ssh session of the person who is to answer.
        return Judgement(ALLOW, None) if older else None
    first = next((one for one in entries if one.rule.decision.action is Action.ROUTE), entries[0])
    return Judgement(first.rule.decision, first)


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
    for one in queries(packet, owner, context):
        if index.lookup(one, wall) is None:
            holders = [p for p in owner.processes if (p.pid, p.start) in one.processes]
            return holders[0]
    return owner.processes[0]
