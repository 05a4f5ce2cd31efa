"""`arbiter explain --pid` and `--connection`: what the rules say of what runs here now."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click
from msgspec import structs

from arbiter.cli.common import fail, show_json, table
from arbiter.cli.explainask import (
    Given,
    Rules,
    connection_text,
    names_known,
    names_text,
    note,
    owner_text,
)
from arbiter.cli.explainrecord import change, record_object, then_text
from arbiter.cli.linklook import Look
from arbiter.cli.ruleswords import when
from arbiter.flowtext import Named, flow_text
from arbiter.judge import Context
from arbiter.kernel.connections import Connection, LookError, came_in, of_process
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procfs import ProcessTable
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.kernel.sockets import Find, Found
from arbiter.kernel.users import user_groups, user_name
from arbiter.linkchange import link_of
from arbiter.linkstate import read_files
from arbiter.model import (
    DENY,
    PORT_PROTOS,
    Action,
    AppKind,
    Flow,
    Hook,
    NoOwner,
    NoOwnerReason,
    Owner,
    Packet,
    Process,
    address_text,
    proto_name,
)
from arbiter.namefiles import NameFiles
from arbiter.protocol import clean
from arbiter.questions import Answer, Question, exempt, first_packet, of_packet
from arbiter.recordwords import said
from arbiter.rules import format_decision
from arbiter.store import Kept, Store
from arbiter.ways import NEVER, Ways

CAME_IN = "the peer began it, and only outgoing connections are decided in this version"
_NONE = (NoOwnerReason.NO_SOCKET, NoOwnerReason.CLOSED)


class Here:
    """Where this machine is, and what it knows of addresses, as the daemon would say it."""

    def __init__(self, given: Given, config: Path, store: Store, now: float) -> None:
        self._given, self.store, self._now = given, store, now
        self._ways = Ways()
        self._files = NameFiles()
        self._files.look_at_hosts()
        for problem in self._files.problems:
            note(problem)
        files, problems = read_files(config / "links.d")
        for problem in problems:
            note(problem)
        try:
            links = asyncio.run(Look({}, files).once())
        except OSError as error:
            note(f"the kernel's links cannot be read: {error.strerror or error}")
            links = ()
        self._ways.change(link_of(link, None) for link in links)
        self._seen: dict[bytes, tuple[int, tuple[str, ...]]] = {}

    def packet(self, flow: Flow, hook: Hook) -> Packet:
        """The first packet of a flow, on the device that it leaves by."""
        outdev = self._look(flow.daddr)[0] if hook is Hook.OUT else 0
        return first_packet(flow, hook, outdev)

    def context(self, packet: Packet) -> Context:
        """What its rules are held against: the link it would leave over by default, and names."""
        found = self._ways.context(packet)
        return self._given.over(found._replace(names=self._look(packet.flow.daddr)[1]))

    def decided(self, question: Question) -> Kept | None:
        """The newest record of this connection."""
        flow = question.flow
        ends = (address_text(flow.saddr), flow.sport, address_text(flow.daddr), flow.dport)
        return self.store.records.of_flow(proto_name(flow.proto), *ends)

    def way(self, packet: Packet, answer: Answer) -> Going | None:
        """How what the rules say would be carried out now; None where they deny, or say nothing.

        Budgets that are used up are known to the daemon only.
        """
        judgement = answer.judgement
        if judgement is None or judgement.decision.action is Action.DENY:
            return None
        entry = judgement.entry
        way = self._ways.take(judgement.decision, packet, NEVER if entry is None else entry.created)
        default = self._ways.default(packet)
        text = way.note or f"over {default.name if default else 'a route that is no link'}"
        return Going(way.verdict.passes, text)

    def _look(self, daddr: bytes) -> tuple[int, tuple[str, ...]]:
        if daddr not in self._seen:
            with Rtnetlink() as routes:
                device = routes.leaves(0, daddr)
            self._seen[daddr] = device, self._names(daddr)
        return self._seen[daddr]

    def _names(self, daddr: bytes) -> tuple[str, ...]:
        known = names_known(self.store, daddr, self._now)
        hosts = self._files.hosts.get(daddr, ())
        return (*known, *(name for name in hosts if name not in known))


class Going(NamedTuple):
    """Whether a link lets it go now, and over which or why not."""

    passes: bool
    text: str


class Seen(NamedTuple):
    """A connection, and why it is not decided at all, or ""."""

    packet: Packet
    question: Question
    exempt: str


class _Owners:
    """Owners, as the daemon finds them; in a `with`."""

    def __init__(self, find: Find | None = None) -> None:
        self._processes = ProcessTable()
        self._lookup = OwnerLookup(self._processes, find=find)

    def __enter__(self) -> _Owners:
        return self

    def __exit__(self, *_: object) -> None:
        self._lookup.close()
        self._processes.close()

    def of(self, packet: Packet) -> Owner | NoOwner:
        """The owner; ends the program where it may not be seen."""
        try:
            owner = self._lookup.quick(packet) or self._lookup.scan(packet)
        except OSError as error:
            fail(f"the owner cannot be looked up: {error.strerror or error}")
        if isinstance(owner, NoOwner) and owner.reason is NoOwnerReason.HIDDEN:
            whose = f"it is {clean(owner.user, 64)}'s" if owner.user else owner.detail
            _sudo(f"whose connection {flow_text(packet.flow)} is may not be seen: {whose}")
        if isinstance(owner, Owner):
            _doubt(owner.processes)
        return owner


def _seen(owners: _Owners, here: Here, flow: Flow, hook: Hook, device: str = "") -> Seen | None:
    """The question about a connection that is open; None if no socket has it."""
    packet = here.packet(flow, hook)
    bound = packet
    if device:
        try:
            bound = structs.replace(packet, outdev=socket.if_nametoindex(device))
        except OSError:
            fail(f"there is no interface {clean(device, 40)!r} here", 2)
    owner = owners.of(bound)
    if isinstance(owner, NoOwner) and owner.reason in _NONE:
        return None
    why = CAME_IN if hook is Hook.IN else exempt(packet)
    return Seen(packet, of_packet(packet, owner, here.context(packet)), why)


def _doubt(processes: Iterable[Process]) -> None:
    """Not everybody may look at each executable, and the daemon may."""
    for process in processes:
        if process.app.kind is AppKind.FOREIGN and os.geteuid() != 0:
            note(
                f"process {process.pid} may have another app for arbiter than "
                f"{said(process.app.id, 200)}, as you may not see all of it: repeat it with sudo"
            )


def _sudo(text: str) -> NoReturn:
    root = os.geteuid() == 0
    step = (
        "not even root may here: do it outside of this container" if root else "repeat it with sudo"
    )
    fail(f"{text}; {step}")


# --- a process ------------------------------------------------------------------------------


def ask_process(rules: Rules, here: Here, pid: int, flow: Flow, hook: Hook, as_json: bool) -> bool:
    """What the rules say if the process connects there. Whether they decide it."""
    process = _process(pid)
    uid = process.uid
    groups, gids = user_groups(uid)
    owner = Owner(uid, user_name(uid), (process,), groups=groups, gids=gids)
    _doubt(owner.processes)
    packet = here.packet(flow, hook)
    question = of_packet(packet, owner, here.context(packet))
    return _tell(rules, here, Seen(packet, question, exempt(packet)), as_json, heading=False)


def ask_connections(rules: Rules, here: Here, pid: int, as_json: bool) -> bool:
    """Every connection that the process has now. Whether rules decide all of them."""
    process = _process(pid)
    try:
        found = of_process(pid)
    except LookError as error:
        fail(str(error))
    sockets = {_key(one): one.socket for one in found}

    def find(packet: Packet) -> Found | NoOwner:
        info = sockets.get((packet.flow, packet.hook))
        return Found((info,)) if info else NoOwner(NoOwnerReason.NO_SOCKET)

    with _Owners(find) as owners:
        looked = (_seen(owners, here, *_key(one)) for one in found)
        answers = [(one, rules.ask(one.question)) for one in looked if one is not None]
    if as_json:
        show_json([_object(rules, here, *one) for one in answers])
    else:
        count = f"{len(answers)} connection{'s' * (len(answers) != 1)}"
        click.echo(f"{_who(process)} has {count if answers else 'no connection'} now")
        if answers:
            table(
                ("connection", "names", "decision", "why"), (_row(rules, here, *a) for a in answers)
            )
    return all(one.exempt or answer.judgement is not None for one, answer in answers)


def _key(one: Connection) -> tuple[Flow, Hook]:
    """The flow of the connection's first packet, and its way."""
    return (_turned(one.flow) if one.came_in else one.flow), one.hook


def _row(rules: Rules, here: Here, seen: Seen, answer: Answer) -> tuple[str, str, str, str]:
    decision, reason = rules.decision(answer), rules.why(answer)
    way = here.way(seen.packet, answer)
    if seen.exempt:
        decision, reason = "not decided", seen.exempt
    elif way is not None and not way.passes:
        decision, reason = f"{decision}, refused", f"{way.text}; {reason}"
    return flow_text(seen.question.flow), names_text(answer.query.names), decision, reason


def _object(
    rules: Rules, here: Here, seen: Seen, answer: Answer, before: Kept | None = None
) -> dict[str, Any]:
    way = None if seen.exempt else here.way(seen.packet, answer)
    going = way and {"passes": way.passes, "text": way.text}
    told = record_object(before, change(rules, here.store, before, answer)) if before else None
    return rules.object(answer, not_decided=seen.exempt or None, way=going, record=told)


def _process(pid: int) -> Process:
    """The process, as the daemon would see it; ends the program where it cannot be."""
    processes = ProcessTable()
    try:
        process = processes.get(pid)
    finally:
        processes.close()
    if process is None:
        fail(f"there is no process {pid}")
    try:
        # A kernel thread has none; one that has just ended is told by what follows.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            Path(f"/proc/{pid}/exe").readlink()
    except PermissionError:
        _sudo(f"process {pid} may not be looked into: it is {user_name(process.uid)}'s")
    return process


def _who(process: Process) -> str:
    user = clean(user_name(process.uid), 64)
    return f"{said(process.app.id, 200)} (pid {process.pid}, user {user})"


# --- one connection -------------------------------------------------------------------------


def ask_connection(rules: Rules, here: Here, named: Named, as_json: bool) -> bool:
    """What the rules say of a connection that is open now. Whether they decide it."""
    flow = named.flow
    with _Owners() as owners:
        if came_in(flow):
            seen = _seen(owners, here, _turned(flow), Hook.IN, named.device)
        else:
            seen = _seen(owners, here, flow, Hook.OUT, named.device)
        if seen is None:
            hint = "see `ss -tunp`; is it closed, or in another network namespace?"
            if _seen(owners, here, _turned(flow), Hook.OUT) is not None:
                hint = "but there is one the other way round: the local side comes first"
            fail(f"no socket here has the connection {flow_text(flow)}: {hint}")
    return _tell(rules, here, seen, as_json, heading=True)


def _turned(flow: Flow) -> Flow:
    """The other direction."""
    if flow.proto not in PORT_PROTOS:
        return Flow(flow.proto, flow.daddr, flow.sport, flow.saddr, flow.dport)
    return Flow(flow.proto, flow.daddr, flow.dport, flow.saddr, flow.sport)


def _goes_on(before: Kept, question: Question) -> str:
    """How it was decided, where the rules of now decide otherwise, and that it goes on."""
    record = before.record
    then = f"decided before: {then_text(record)} (record {before.id} of {when(record.time)})"
    if record.decision == format_decision(DENY) or question.no_owner:
        return then
    return f"{then}; it goes on: rules are for new connections"


def _tell(rules: Rules, here: Here, seen: Seen, as_json: bool, *, heading: bool) -> bool:
    answer = rules.ask(seen.question)
    before = None
    if heading and not seen.exempt:  # it is open: how it was decided may be known
        before = here.decided(seen.question)
    if as_json:
        show_json([_object(rules, here, seen, answer, before)])
    else:
        if heading:
            click.echo(f"{connection_text(seen.question)}, {owner_text(answer)}")
        if seen.exempt:
            click.echo(f"arbiter does not decide it: {seen.exempt}; else:")
        rules.say(answer)
        if before is not None and rules.decision(answer) != before.record.decision:
            click.echo(f"  {_goes_on(before, seen.question)}")
        way = None if seen.exempt else here.way(seen.packet, answer)
        if way is not None:
            click.echo(
                f"  as links are now it goes {way.text}" if way.passes else f"  but: {way.text}"
            )
    return bool(seen.exempt) or answer.judgement is not None
