"""What leaves the core as text: ask messages for prompts, records for the store. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from arbiter import protocol
from arbiter.answers import offered
from arbiter.asks import Example, OpenAsk
from arbiter.events import Report
from arbiter.judge import SEVERAL_USERS, answerer
from arbiter.lives import Life, follows
from arbiter.model import (
    App,
    Flow,
    NoOwner,
    Owner,
    Packet,
    Peer,
    Process,
    address_text,
    proto_name,
)
from arbiter.policyfiles import AdviceBook
from arbiter.protocol import clean
from arbiter.records import Record, State, json_list, utf8
from arbiter.recordwords import said
from arbiter.rules import conditions, format_decision, format_rule, scope_of
from arbiter.rules.names import shown_name
from arbiter.ways import Ways


class Room(NamedTuple):
    """How much of the owner an ask carries; a record keeps all of it."""

    processes: int
    parents: int
    args: int
    arg: int
    """Characters of one argument."""
    path: int
    """Characters of a path or an app's id; what a rule would say stands whole in the scopes."""


ROOMS = (Room(8, 16, 32, 512, 4096), Room(4, 4, 16, 128, 1024), Room(2, 2, 8, 64, 256))
"""Tried in this order. The last one always fits protocol.MAX_MESSAGE, whatever processes are
called: an ask too large for its line would end the connection of every prompt it goes to."""
MAX_ASK = 16384
"""Bytes of an ask's line; a longer one is tried in the next smaller room."""
MAX_NAMES = 6
"""Names of one destination in an ask: it has the newest, and says them all as hints."""
MAX_NAME = 64
MAX_WHY = 1000
"""Characters of an app's name, and of the reason for an ask."""

UNDECODED = protocol.Destination(address="", proto="", scope="")
"""Where a packet goes that is not what its headers claim."""

SERVICES = {
    22: "ssh",
    25: "smtp",
    53: "domain",
    80: "http",
    110: "pop3",
    123: "ntp",
    143: "imap",
    443: "https",
    465: "submissions",
    587: "submission",
    631: "ipp",
    853: "domain-s",
    993: "imaps",
    995: "pop3s",
    3478: "stun",
    5060: "sip",
    5222: "xmpp-client",
    5228: "push",
    6667: "irc",
    8080: "http-alt",
    8443: "https-alt",
    9418: "git",
    51820: "wireguard",
}
"""IANA service names of the ports people meet; a hint, never a condition."""


def ask_message(
    ask: OpenAsk,
    peer: Peer,
    links: tuple[protocol.LinkView, ...],
    cwd: str = "",
    advice: protocol.AdviceView | None = None,
    profile: str = "",
) -> protocol.Ask:
    """An ask as this peer sees it: the scopes are those that its answer can make.

    Its line is never longer than protocol.MAX_MESSAGE.
    """
    scopes = tuple(protocol.Scope(id, conditions(rule)) for id, rule in offered(ask, peer).items())
    for room in ROOMS:
        message = _ask(ask, room, scopes, links, cwd, advice, profile)
        if len(protocol.encode(message)) <= MAX_ASK:
            break
    return message


def _ask(
    ask: OpenAsk,
    room: Room,
    scopes: tuple[protocol.Scope, ...],
    links: tuple[protocol.LinkView, ...],
    cwd: str,
    advice: protocol.AdviceView | None,
    profile: str,
) -> protocol.Ask:
    packet, owner, subject, names = ask.example
    flow = packet.flow
    holders = owner.processes if isinstance(owner, Owner) else ()
    processes = sorted(holders, key=lambda process: process != subject)  # what it is about, first
    more = len(processes) - room.processes
    hidden = f"{more} more processes hold this socket" if more > 0 else ""
    return protocol.Ask(
        id=ask.id,
        user=clean(owner.user, 64),
        uid=owner.uid,
        processes=tuple(
            _process(process, room, cwd if i == 0 else "")
            for i, process in enumerate(processes[: room.processes])
        ),
        destination=_destination(flow, names),
        # What is hidden comes first: a long text is cut at its end.
        why=clean(". ".join(text for text in (hidden, ask.note, ask.why) if text), MAX_WHY),
        scopes=scopes,
        created=ask.created,
        deadline=ask.deadline,
        fallback=protocol.Choice(ask.fallback.action.value),
        waiting=len(ask.waiting),
        no_owner=_no_owner(owner),
        links=links,
        advice=advice,
        profile=profile,
        obstacle=bool(ask.obstacle),
        via=ask.via,
        stale=ask.stale,
    )


def _destination(flow: Flow, names: tuple[str, ...]) -> protocol.Destination:
    return protocol.Destination(
        address=address_text(flow.daddr),
        proto=proto_name(flow.proto),
        port=flow.dport,
        service=SERVICES.get(flow.dport, "") if flow.dport else "",
        scope=scope_of(flow.daddr),
        name=clean(shown_name(names[0]), 255) if names else "",
        names=tuple(clean(shown_name(name), 255) for name in names[1:MAX_NAMES]),
    )


def connection_message(life: Life) -> protocol.Connection:
    """A decided connection that is shown, for those who follow."""
    report = life.report
    assert report is not None, "it is shown"
    packet, owner, rule = report.packet, report.owner, report.rule
    process = owner.processes[0] if isinstance(owner, Owner) else None
    flow = packet.flow if isinstance(packet, Packet) else None
    by = rule.by if report.by is None and rule is not None else ""
    return protocol.Connection(
        id=life.id,
        time=report.wall,
        user=clean(owner.user, 64) if owner is not None else "",
        uid=life.uid,
        app=_app(process.app, ROOMS[1]) if process is not None else None,
        pid=process.pid if process is not None else None,
        source=address_text(flow.saddr) if flow is not None else "",
        sport=flow.sport if flow is not None else 0,
        destination=_destination(flow, report.context.names) if flow is not None else UNDECODED,
        passes=report.verdict.passes,
        decision=format_decision(report.decision),
        reason=report.reason.value,
        link=life.link,
        rule=clean(format_rule(rule.rule), MAX_WHY) if rule is not None else "",
        rule_id=rule.id if rule is not None else None,
        by=clean(report.by.user if report.by is not None else by, 64),
        note=clean(report.note, MAX_WHY),
        no_owner=_no_owner(owner) if owner is not None else "",
        sent=life.sent,
        received=life.received,
    )


def advice_view(book: AdviceBook, example: Example) -> protocol.AdviceView | None:
    """What the program's own package says of this connection; None if nothing."""
    packet, subject, flow = example.packet, example.subject, example.packet.flow
    if subject is None or not isinstance(packet, Packet):
        return None
    advice = book.advice_for(subject.app.id, example.names, flow.daddr, flow.dport, flow.proto)
    if advice is None:
        return None
    return protocol.AdviceView(
        application=clean(advice.name, MAX_NAME),
        purpose=clean(advice.purpose, MAX_WHY),
        if_denied=clean(advice.if_denied, MAX_WHY),
        essential=advice.relevance == "essential",
        suggest=format_decision(advice.suggest) if advice.suggest is not None else "",
        file=clean(advice.origin, MAX_WHY),
    )


def link_views(
    ways: Ways,
    example: Example,
    used: Mapping[str, int],
    left: Mapping[str, int],
    via: tuple[str, ...] = (),
) -> tuple[protocol.LinkView, ...]:
    """The links as a route answer may name them; by link `used`, the bytes of this program, and
    `left`, those of the budget; `via`: what `allow` means, if not the default route."""
    packet = example.packet
    run, default = ways.run_of(example.owner), ways.default(packet)
    over = run.via if run is not None else default.name if default is not None else ""
    over = via[0] if via else over
    return tuple(
        protocol.LinkView(
            name=link.name,
            up=link.reaches(packet.flow.daddr),
            default=link.name == over,
            metered=link.metered,
            roaming=link.roaming,
            price=link.price,
            budget=link.budget,
            left=left.get(link.name),
            used=used.get(link.name, 0),
        )
        for link in ways.links.values()
    )


def _no_owner(owner: Owner | NoOwner) -> str:
    if isinstance(owner, Owner):
        return ""
    detail = f" ({clean(owner.detail, 200)})" if owner.detail else ""
    return owner.reason.value + detail


def _app(app: App, room: Room) -> protocol.AppView:
    return protocol.AppView(said(app.id, room.path), app.kind.value, said(app.name, MAX_NAME))


def _process(process: Process, room: Room, cwd: str) -> protocol.ProcessView:
    argv = [said(arg, room.arg) for arg in process.argv[: room.args]]
    if len(process.argv) > room.args:
        argv.append("…")
    return protocol.ProcessView(
        pid=process.pid,
        app=_app(process.app, room),
        exe=said(process.exe, room.path),
        argv=tuple(argv),
        cwd=said(cwd, room.path),
        parents=tuple(_app(ancestor.app, room) for ancestor in process.ancestors[: room.parents]),
        note=clean(process.note, room.path),
    )


def record_of(report: Report, link: str = "") -> Record:
    """A decision as the store keeps it; `link` is the name of the one it left over."""
    fields: dict[str, object] = {}
    packet = report.packet
    if isinstance(packet, Packet):
        flow = packet.flow
        fields.update(
            proto=proto_name(flow.proto),
            saddr=address_text(flow.saddr),
            sport=flow.sport,
            daddr=address_text(flow.daddr),
            dport=flow.dport,
            length=packet.length,
        )
    owner = report.owner
    if owner is not None:
        fields.update(uid=owner.uid, user=utf8(owner.user))
    if isinstance(owner, Owner):
        fields.update(_owner_fields(owner))
    elif isinstance(owner, NoOwner):
        fields.update(no_owner=utf8(_no_owner(owner)))
    rule = report.rule
    if rule is not None:
        fields.update(
            rule_id=rule.id, layer=int(rule.layer), by=utf8(rule.by), frontend=utf8(rule.frontend)
        )
    if report.by is not None:
        fields.update(by=utf8(report.by.user), frontend=utf8(report.by.frontend))
    return Record(
        time=report.wall,
        decision=format_decision(report.decision),
        reason=report.reason.value,
        hook=packet.hook.value,
        outdev=packet.outdev,
        waited=report.waited,
        note=utf8("; ".join(part for part in (report.note, _whose(owner), _shared(owner)) if part)),
        link=link,
        names=json_list(report.context.names),
        sims=json_list(report.context.sims),
        networks=json_list(report.context.networks),
        metered=report.context.metered,
        roaming=report.context.roaming,
        profile=report.context.profile,
        state=State.OPEN.value if follows(report) else "",
        **fields,  # type: ignore[arg-type]  # names and types are Record's, checked by its test
    )


def _whose(owner: Owner | NoOwner | None) -> str:
    """That the rules were not told whose it is; `questions.of_record` asks them the same way."""
    return SEVERAL_USERS if isinstance(owner, Owner) and answerer(owner) is None else ""


def _shared(owner: Owner | NoOwner | None) -> str:
    """The other holders of the socket, in words; a record has columns for one."""
    if not isinstance(owner, Owner) or len(owner.processes) == 1:
        return ""
    others = ", ".join(f"{p.app.id} (pid {p.pid})" for p in owner.processes[1:])
    return f"socket shared with {others}"


def _owner_fields(owner: Owner) -> dict[str, object]:
    process = owner.processes[0]
    return {
        "app": utf8(process.app.id),
        "app_kind": process.app.kind.value,
        "pid": process.pid,
        "start": process.start,
        "exe": utf8(process.exe),
        "argv": json_list(process.argv),
        "parents": json_list(ancestor.app.id for ancestor in process.ancestors),
    }
