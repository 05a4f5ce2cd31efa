"""Connections that began while nobody decided: which entries are looked at, what becomes of each,
and what the keeper does when, without a kernel."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from playbook import HERE, HERE6, SERVER, SERVER6, Playbook, owner, packet, process

from arbiter import olderkeeper as module
from arbiter.events import Cut, Event, OlderFound, Reason, Report
from arbiter.kernel import undecided, untracked
from arbiter.kernel.netlink import pack_attribute
from arbiter.kernel.sockdiag import SocketInfo
from arbiter.kernel.undecided import entry
from arbiter.model import (
    DENIED,
    DENY,
    MARK_DECIDED,
    MARK_DENIED,
    MARK_MASK,
    Flow,
    Link,
    NoOwner,
    NoOwnerReason,
    Owner,
    Packet,
)
from arbiter.older import NO_ID, Fate, Here, Older, began_here, fate, gone
from arbiter.olderkeeper import OlderKeeper

REFUSED = MARK_DECIDED | MARK_DENIED
LOOP4, LOOP6 = b"\x7f\0\0\1", bytes(15) + b"\1"
LAN_LAST = b"\x0a\x4d\x01\xff"
HOST = Here({HERE, HERE6, LOOP4, LOOP6}, {LAN_LAST})
NO_SOCKET = NoOwner(NoOwnerReason.CLOSED)
WIREGUARD = NoOwner(NoOwnerReason.KERNEL, 0, "root")
NOBODYS = NoOwner(NoOwnerReason.KERNEL)


def older(proto: int = 17, daddr: bytes = SERVER, **more: bool) -> Older:
    return Older(packet(NO_ID, daddr=daddr, proto=proto, flags=0x10), 7, b"", **more)


# --- which entries --------------------------------------------------------------------------


def nested(kind: int, *parts: tuple[int, bytes]) -> tuple[int, bytes]:
    return kind | 0x8000, b"".join(pack_attribute(*part) for part in parts)


def word(kind: int, value: int) -> tuple[int, bytes]:
    return kind, struct.pack("!I", value)


def tuple_of(kind: int, flow: Flow, *, echo: int | None = None) -> tuple[int, bytes]:
    v4 = len(flow.saddr) == 4
    ends = ((1, flow.saddr), (2, flow.daddr)) if v4 else ((3, flow.saddr), (4, flow.daddr))
    more: tuple[tuple[int, bytes], ...]
    if echo is None:
        more = (2, struct.pack("!H", flow.sport)), (3, struct.pack("!H", flow.dport))
    else:
        first = 4 if v4 else 7
        more = (first, struct.pack("!H", flow.sport)), (first + 1, bytes([echo]))
    proto = nested(2, (1, bytes([flow.proto])), *more)
    return nested(kind, nested(1, *ends), proto)


UDP = Flow(17, HERE, 45000, SERVER, 53)
CONFIRMED = 0b1110  # and a reply was seen, and it is assured


def payload(
    flow: Flow = UDP,
    *more: tuple[int, bytes],
    mark: int | None = None,
    status: int = CONFIRMED,
    reply: Flow | None = None,
    id: int = 99,
) -> bytes:
    back = reply or Flow(flow.proto, flow.daddr, flow.dport, flow.saddr, flow.sport)
    parts = [tuple_of(1, flow), tuple_of(2, back), word(3, status), word(12, id)]
    if mark is not None:
        parts.append(word(8, mark))
    return bytes(4) + b"".join(pack_attribute(*part) for part in (*parts, *more))


def read(*args: object, **more: object) -> Older | None:
    return entry(payload(*args, **more), HOST, REFUSED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "flow", [UDP, Flow(17, HERE6, 1, SERVER6, 2), Flow(132, HERE, 5, SERVER, 6)]
)
def test_what_began_here_undecided_is_read_as_its_next_packet(flow: Flow) -> None:
    found = read(flow)
    assert found is not None
    assert (found.packet.flow, found.id, found.denied, found.needed) == (flow, 99, False, False)
    assert found.packet.id == NO_ID
    assert pack_attribute(0x8001, found.original) == pack_attribute(*tuple_of(1, flow))


def test_a_tcp_segment_of_it_is_none_that_opens() -> None:
    found = read(Flow(6, HERE, 45000, SERVER, 443))
    assert found is not None
    assert not found.packet.opens


@pytest.mark.parametrize(("number", "there", "back"), [(1, 8, 0), (58, 128, 129)])
def test_an_echo_is_looked_up_as_one(number: int, there: int, back: int) -> None:
    near, far = (HERE, SERVER) if number == 1 else (HERE6, SERVER6)
    orig = tuple_of(1, Flow(number, near, 77, far, 0), echo=there)
    answer = tuple_of(2, Flow(number, far, 77, near, 0), echo=back)
    parts = (orig, answer, word(3, CONFIRMED), word(12, 5))
    found = entry(bytes(4) + b"".join(pack_attribute(*p) for p in parts), HOST, REFUSED)
    assert found is not None
    assert (found.packet.flow.sport, found.packet.icmp_type) == (77, there)
    assert not found.needed


@pytest.mark.parametrize(("state", "over"), [(3, False), (6, False), (7, True), (8, True)])
def test_conntrack_says_which_streams_are_over(state: int, over: bool) -> None:
    info = nested(4, nested(1, (1, bytes([state]))))
    found = read(Flow(6, HERE, 45000, SERVER, 443), info)
    assert found is not None
    assert found.over is over


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ([], CONFIRMED | 1 << 0),
        ([], CONFIRMED | 1 << 9),
        ([], CONFIRMED | 1 << 14),
        ([], CONFIRMED | 1 << 15),
        ([(18, b"\0\7")], CONFIRMED),
        ([tuple_of(14, UDP)], CONFIRMED),
    ],
    ids=["expected", "dying", "offloaded", "in hardware", "zone", "master"],
)
def test_what_belongs_to_something_else_is_not_read(
    more: list[tuple[int, bytes]], status: int
) -> None:
    assert read(UDP, *more, status=status) is None


@pytest.mark.parametrize(
    ("more", "status", "reply"),
    [
        ([], CONFIRMED | 1 << 4, None),
        ([], CONFIRMED | 1 << 5, None),
        ([], CONFIRMED | 1 << 13, None),
        ([nested(5, (1, b"sip\0"))], CONFIRMED, None),
        ([(22, b"\0" * 15 + b"\1")], CONFIRMED, None),
        ([], CONFIRMED, Flow(17, SERVER, 53, b"\x0a\x09\x09\x09", 45000)),
        ([], CONFIRMED, Flow(17, SERVER, 53, HERE, 45001)),
    ],
    ids=["source", "destination", "helper bit", "helper", "label", "address", "port"],
)
def test_what_others_have_a_use_for_is_never_deleted(
    more: list[tuple[int, bytes]], status: int, reply: Flow | None
) -> None:
    found = read(UDP, *more, status=status, reply=reply)
    assert found is not None
    assert found.needed
    assert fate(found, NO_SOCKET, False) is Fate.STAYS
    assert fate(found, owner(), True) is Fate.DENIED


@given(mark=st.integers(0, 0xFFFFFFFF))
def test_only_what_has_no_bit_of_anybodys_or_is_denied_is_read(mark: int) -> None:
    found = read(UDP, mark=mark)
    assert (found is not None) is (mark in (0, REFUSED))
    assert found is None or found.denied is (mark == REFUSED)


def test_the_mark_of_what_is_denied_is_one_that_is_looked_at() -> None:
    found = read(UDP, mark=REFUSED)
    assert found is not None
    assert found.denied
    assert read(UDP, mark=REFUSED | 0x8) is None
    assert read(UDP, mark=0x8) is None


@given(st.binary(max_size=300))
def test_any_bytes_give_an_entry_or_none(data: bytes) -> None:
    entry(data, HOST, REFUSED)


@given(st.data())
def test_an_entry_that_is_cut_or_changed_anywhere_gives_one_or_none(data: st.DataObject) -> None:
    whole = bytearray(payload(Flow(6, HERE, 45000, SERVER, 443), nested(4, nested(1, (1, b"\3")))))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    entry(bytes(whole[: data.draw(st.integers(0, len(whole)))]), HOST, REFUSED)


def test_a_look_past_others_finds_the_same_as_one_at_each() -> None:
    flows = [
        *(UDP, Flow(17, b"\x0a\x09\x09\x09", 1, SERVER, 2), Flow(6, HERE6, 1, SERVER6, 2)),
        *(Flow(6, SERVER6, 1, HERE6, 2), Flow(17, SERVER, 1, HERE, 2)),
    ]
    payloads = [payload(flow) for flow in flows]
    each = [one for data in payloads if (one := entry(data, HOST, REFUSED)) is not None]
    assert [*undecided._ours(payloads, HOST, REFUSED)] == each
    assert [one.packet.flow for one in each] == [flows[0], flows[2]]


# --- what began here ------------------------------------------------------------------------

addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@given(saddr=addresses, daddr=addresses, sport=st.integers(0, 65535), dport=st.integers(0, 65535))
def test_what_is_forwarded_or_came_in_never_began_here(
    saddr: bytes, daddr: bytes, sport: int, dport: int
) -> None:
    one = Packet(NO_ID, Flow(17, saddr, sport, daddr, dport))
    assert not began_here(one, Here(set()))
    assert not began_here(one, Here({daddr}))
    assert not began_here(one, Here({saddr, daddr}))


@pytest.mark.parametrize(
    ("saddr", "daddr", "sport", "dport", "yes"),
    [
        (HERE, SERVER, 1, 2, True),
        (HERE6, SERVER6, 1, 2, True),
        (HERE, b"\xf0\0\0\1", 1, 2, True),
        (HERE, b"\xdf\xff\xff\xff", 1, 2, True),
        (LOOP4, SERVER, 1, 2, False),
        (HERE, b"\x7f\1\2\3", 1, 2, False),
        (HERE6, LOOP6, 1, 2, False),
        (HERE, HERE, 1, 2, False),
        (HERE, b"\xe0\0\0\xfb", 1, 2, False),
        (HERE, b"\xff\xff\xff\xff", 1, 2, False),
        (HERE, LAN_LAST, 1, 2, False),
        (HERE, bytes(4), 1, 2, False),
        (HERE6, b"\xff\2" + bytes(14), 1, 2, False),
        (HERE6, b"\xfe\x80" + bytes(13) + b"\1", 1, 2, False),
        (HERE6, b"\xfe\xbf" + bytes(13) + b"\1", 1, 2, False),
        (HERE6, b"\xfe\xc0" + bytes(13) + b"\1", 1, 2, True),
        (HERE, SERVER, 68, 67, False),
        (HERE, SERVER, 67, 68, True),
        (HERE6, SERVER6, 546, 547, False),
        (HERE, SERVER, 546, 547, True),
    ],
)
def test_what_the_ruleset_lets_pass_unasked_is_not_looked_at(
    saddr: bytes, daddr: bytes, sport: int, dport: int, yes: bool
) -> None:
    assert began_here(Packet(NO_ID, Flow(17, saddr, sport, daddr, dport)), HOST) is yes
    tcp = Packet(NO_ID, Flow(6, saddr, sport, daddr, dport))
    assert began_here(tcp, HOST) is (yes or (sport, dport) in ((68, 67), (546, 547)))


# --- sockets that conntrack does not know ---------------------------------------------------


def sock(
    lport: int, state: int = 1, local: bytes = HERE, remote: bytes = SERVER, rport: int = 443,
    inode: int = 5,
) -> SocketInfo:  # fmt: skip
    return SocketInfo(inode, 0, state, local, lport, remote, rport)


LOCAL = range(32768, 61000)


def ports(proto: int, *sockets: SocketInfo) -> list[int]:
    return [one.flow.sport for one in untracked.connected(proto, sockets, HOST, LOCAL)]


def test_sockets_of_a_port_on_which_this_host_serves_are_what_came_in() -> None:
    listens = sock(22, 10, bytes(4), bytes(4), 0)
    assert ports(6, sock(22), sock(45000), listens) == [45000]
    bound = sock(53, 7, bytes(16), bytes(16), 0)
    assert ports(17, sock(53), sock(45000), bound) == [45000]


def test_a_session_whose_server_was_stopped_is_what_came_in() -> None:
    assert ports(6, sock(22, rport=51000), sock(2222, rport=1024), sock(32767, rport=60000)) == []
    # a client that binds a port of its own, as NFS does, and any other client
    assert ports(6, sock(700, rport=1023), sock(32768, rport=51000), sock(60999, rport=8080)) == [
        *(700, 32768, 60999)
    ]


def test_only_what_is_open_and_held_and_goes_out_is_looked_at() -> None:
    states = [state for state in range(1, 13) if ports(6, sock(45000, state))]
    assert states == [1, 4, 5, 8]
    assert ports(17, sock(45000, 1)) == [45000]
    assert ports(6, sock(1, inode=0), sock(2, remote=HERE), sock(3, local=SERVER)) == []
    assert ports(6, sock(3)) == [3]


def test_an_ipv4_flow_of_an_ipv6_socket_is_one_of_ipv4() -> None:
    mapped = bytes(10) + b"\xff\xff"
    (one,) = untracked.connected(
        6, [sock(45000, local=mapped + HERE, remote=mapped + SERVER)], HOST, LOCAL
    )
    assert one.flow == Flow(6, HERE, 45000, SERVER, 443)
    assert not one.opens


@pytest.mark.parametrize(
    ("there", "back", "wrong"), [(8, 8, True), (8, 0, False), (0, 8, False), (0x23, 0x23, False)]
)
def test_a_stream_is_told_from_one_that_came_in_by_what_conntrack_saw(
    there: int, back: int, wrong: bool
) -> None:
    flow = Flow(6, HERE, 45000, SERVER, 443)
    other = Flow(6, SERVER, 443, HERE, 45000)
    info = nested(4, nested(1, (1, b"\3"), (4, bytes([there, 0])), (5, bytes([back, 0]))))
    assert untracked.wrong_way(payload(other, info), flow) is wrong
    assert not untracked.wrong_way(payload(flow, info), flow)
    assert not untracked.wrong_way(payload(other), flow), "what says nothing came in"


# --- what becomes of each -------------------------------------------------------------------

owners = st.one_of(
    st.builds(owner),
    st.builds(
        NoOwner,
        st.sampled_from(NoOwnerReason),
        st.sampled_from([None, 0, 1000]),
        established=st.booleans(),
        tunnels=st.sampled_from([(), (5,)]),
    ),
)
entries = st.builds(
    older,
    st.sampled_from([1, 6, 17, 47, 50, 132, 253]),
    denied=st.booleans(),
    over=st.booleans(),
    needed=st.booleans(),
)


@given(one=entries, who=owners, denied=st.booleans())
def test_what_becomes_of_any_entry(one: Older, who: Owner | NoOwner, denied: bool) -> None:
    what = fate(one, who, denied)
    if what is Fate.DENIED:
        assert denied and not one.denied and not one.over and not gone(one.packet, who)
    if what is Fate.FORGOTTEN:
        assert not one.needed
        assert gone(one.packet, who) or (one.denied and not denied)
    if not one.denied and not denied and not gone(one.packet, who):
        assert what is Fate.STAYS, "what no rule denies is never cut"
    if denied and not one.over and not gone(one.packet, who):
        assert one.denied or what is Fate.DENIED, "what a rule denies never goes on"
    if gone(one.packet, who) and not one.needed and not one.denied:
        assert what is Fate.FORGOTTEN, "nobody goes on by it"


def test_what_was_denied_is_not_opened_to_the_other_sides_next_datagram() -> None:
    assert fate(older(17, denied=True), NO_SOCKET, False) is Fate.STAYS
    assert fate(older(6, denied=True), NO_SOCKET, False) is Fate.FORGOTTEN
    assert fate(older(17, denied=True), owner(), False) is Fate.FORGOTTEN
    assert fate(older(17, denied=True), owner(), True) is Fate.STAYS


@given(one=entries, who=owners, denied=st.booleans())
def test_what_has_no_entry_is_ended_or_stays(
    one: Older, who: Owner | NoOwner, denied: bool
) -> None:
    what = fate(replace(one, untracked=True), who, denied)
    cut = denied and not gone(one.packet, who)
    assert what is (Fate.DENIED if cut else Fate.STAYS)


@pytest.mark.parametrize(
    ("proto", "who", "is_gone"),
    [
        (17, NO_SOCKET, True),
        (17, NoOwner(NoOwnerReason.NO_SOCKET), True),
        (17, NoOwner(NoOwnerReason.EXITED, 1000), True),
        (6, NoOwner(NoOwnerReason.EXITED, 1000, established=True), False),
        (17, WIREGUARD, False),
        (17, owner(), False),
        (47, NOBODYS, False),
        (50, NOBODYS, False),
        (253, NOBODYS, True),
        (1, NOBODYS, True),
        (253, NoOwner(NoOwnerReason.KERNEL, tunnels=(4,)), False),
        (17, NoOwner(NoOwnerReason.HIDDEN), False),
        (17, NoOwner(NoOwnerReason.UNSUPPORTED), False),
        (17, NoOwner(NoOwnerReason.AMBIGUOUS), False),
    ],
)
def test_what_has_no_socket_any_more(proto: int, who: Owner | NoOwner, is_gone: bool) -> None:
    assert gone(older(proto).packet, who) is is_gone


# --- the pipeline ---------------------------------------------------------------------------


def found(play: Playbook, who: Owner | NoOwner, *, denied: bool = False, proto: int = 6) -> Event:
    return OlderFound(play.now, older(proto).packet, who, denied)


@pytest.mark.parametrize("proto", [1, 6, 17, 253])
def test_what_a_rule_denies_is_cut_and_recorded(proto: int) -> None:
    play = Playbook("deny app=/usr/bin/curl")
    play.send(found(play, owner(established=proto == 6), proto=proto))
    report = play.take(Cut).report
    play.end()
    assert (report.decision, report.reason, report.verdict) == (DENY, Reason.RULE, DENIED)
    assert report.note == "begun while arbiter was away"
    assert report.rule is not None
    assert play.pipeline.counters == {"cut": 1}, "no packet, no verdict"


def test_what_is_refused_already_is_counted_once() -> None:
    play = Playbook("deny app=/usr/bin/curl")
    play.send(found(play, owner(), denied=True))
    assert isinstance(play.take(Cut).report, Report)
    assert not play.pipeline.counters


@pytest.mark.parametrize(
    "rules", [(), ("allow app=/usr/bin/curl",), ("route via=lte app=/usr/bin/curl",)]
)
@pytest.mark.parametrize("mode", ["ask", "enforce", "observe"])
@pytest.mark.parametrize("who", [owner(), NO_SOCKET, WIREGUARD], ids=["curl", "none", "kernel"])
def test_what_no_rule_denies_is_neither_asked_nor_cut_nor_recorded(
    rules: tuple[str, ...], mode: str, who: Owner | NoOwner
) -> None:
    play = Playbook(*rules, mode=mode, fallback="deny")
    play.links(Link("lte", 2, "wwan0", up=False))
    play.effects.clear()
    for proto in (1, 6, 17):
        play.send(found(play, who, proto=proto))
    play.end()
    assert not play.pipeline.counters
    assert play.pipeline.next_wake(play.now) is None


def test_a_shared_socket_is_cut_where_one_of_its_apps_may_not() -> None:
    play = Playbook("deny app=/usr/bin/nc")
    play.send(found(play, owner(process(), process("/usr/bin/nc", pid=5))))
    assert play.take(Cut)


# --- the keeper -----------------------------------------------------------------------------


class Owners:
    """In place of the finder: two at a time."""

    def __init__(self) -> None:
        self.known: dict[int, Owner] = {}
        """By source port."""

    async def owners(self, some: Sequence[Packet], devices: object) -> list[Owner | NoOwner]:
        return [self.known.get(one.flow.sport, NO_SOCKET) for one in some[:2]]


class Scene:
    """A keeper over entries that are a list. nc is denied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: list[Older] = []
        self.play = Playbook("deny app=/usr/bin/nc")
        self.finder = Owners()
        self.reads: list[bool] = []
        self.settled: list[tuple[int, Fate]] = []
        self.records: list[Report] = []
        self.gone: set[int] = set()
        self.fails = self.hinders = ""
        self.fails_later = False
        monkeypatch.setattr(undecided, "read", self.read)
        monkeypatch.setattr(undecided, "settle", self.settle)
        monkeypatch.setattr(module, "LATER", 0.05)
        self.keeper = OlderKeeper(
            MARK_MASK,
            self.finder,  # type: ignore[arg-type]
            self.dispatch,
            self.records.append,
        )

    def there_is(self, sport: int, who: str = "", proto: int = 17, **more: bool) -> None:
        one = older(proto, SERVER, **more)
        flow = replace(one.packet.flow, sport=sport)
        packet, original = replace(one.packet, flow=flow), sport.to_bytes(2)
        self.entries.append(replace(one, packet=packet, original=original))
        if who:
            self.finder.known[sport] = owner(process(f"/usr/bin/{who}"))

    def read(self, mask: int, *, only_denied: bool) -> list[Older]:
        self.reads.append(only_denied)
        if self.fails and not self.fails_later:
            raise OSError(5, self.fails)
        return [one for one in self.entries if one.denied or not only_denied]

    def settle(self, fates: Sequence[tuple[Older, Fate]], mask: int) -> tuple[list[Older], str]:
        if self.fails:
            raise OSError(24, self.fails)
        cut = []
        for one, what in fates:
            sport = one.packet.flow.sport
            self.settled.append((sport, what))
            self.entries.remove(one)
            if what is Fate.DENIED and sport not in self.gone:
                self.entries.append(replace(one, denied=True))
                cut.append(one)
        return cut, self.hinders

    def dispatch(self, event: Event) -> None:
        for effect in self.play.pipeline.handle(event):
            assert isinstance(effect, Cut)
            self.keeper.cut(effect)

    def run(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        async def whole() -> None:
            await self.keeper.start()
            if then is not None:
                await then()
            await self.keeper.stop()

        asyncio.run(whole())


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_the_start_waits_until_each_is_looked_at(scene: Scene) -> None:
    for sport in range(1, 8):
        scene.there_is(sport, {1: "nc", 4: "nc", 5: "curl"}.get(sport, ""))
    scene.run()
    assert scene.settled == [
        *((1, Fate.DENIED), (2, Fate.FORGOTTEN), (3, Fate.FORGOTTEN), (4, Fate.DENIED)),
        *((6, Fate.FORGOTTEN), (7, Fate.FORGOTTEN)),
    ]
    packets = [report.packet for report in scene.records]
    assert [one.flow.sport for one in packets if isinstance(one, Packet)] == [1, 4]
    assert scene.reads == [False]


def test_what_ended_before_it_could_be_refused_has_no_record(scene: Scene) -> None:
    scene.there_is(1, "nc")
    scene.there_is(2, "nc")
    scene.gone.add(1)
    scene.run()
    (report,) = scene.records
    assert isinstance(report.packet, Packet)
    assert report.packet.flow.sport == 2


def test_with_nothing_refused_nothing_runs_until_it_is_wanted(scene: Scene) -> None:
    scene.there_is(1, "curl")

    async def then() -> None:
        await asyncio.sleep(0.2)
        assert scene.reads == [False]
        scene.keeper.look()
        await asyncio.sleep(0.1)
        assert scene.reads == [False, False]

    scene.run(then)


def test_what_is_refused_is_looked_at_until_it_is_over_or_denied_no_more(scene: Scene) -> None:
    scene.there_is(1, "nc")
    scene.there_is(2, "nc", proto=6)

    async def then() -> None:
        await asyncio.sleep(0.2)
        assert len(scene.reads) > 2 and set(scene.reads[1:]) == {True}
        assert len(scene.settled) == len(scene.records) == 2, "once each"
        scene.finder.known[1] = owner(process("/usr/bin/curl"))
        del scene.finder.known[2]
        await asyncio.sleep(0.2)
        assert sorted(scene.settled[2:]) == [(1, Fate.FORGOTTEN), (2, Fate.FORGOTTEN)]
        reads = len(scene.reads)
        await asyncio.sleep(0.2)
        assert len(scene.reads) <= reads + 1

    scene.run(then)


@pytest.mark.parametrize("later", [False, True])
def test_where_conntrack_cannot_be_spoken_to_it_is_said_and_tried_again(
    scene: Scene, later: bool
) -> None:
    scene.there_is(1, "nc")
    scene.fails_later = later
    scene.fails = "no such thing"

    async def then() -> None:
        (problem,) = scene.keeper.problems()
        assert "no such thing" in problem and "restart arbiter" in problem
        scene.fails = ""
        await asyncio.sleep(0.2)
        assert scene.keeper.problems() == ()
        assert len(scene.records) == 1

    scene.run(then)


def test_what_cannot_be_carried_out_is_said_and_the_rest_is(scene: Scene) -> None:
    scene.there_is(1, "nc")
    scene.hinders = "this kernel cannot close sockets of others"

    async def then() -> None:
        (problem,) = scene.keeper.problems()
        assert scene.hinders in problem
        assert len(scene.records) == 1

    scene.run(then)


def test_a_look_that_takes_long_does_not_hold_the_start(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST", 0.05)
    scene.there_is(1, "nc")
    go_on = threading.Event()
    read = scene.read

    def slow(mask: int, *, only_denied: bool) -> list[Older]:
        assert go_on.wait(10)
        return read(mask, only_denied=only_denied)

    monkeypatch.setattr(undecided, "read", slow)

    async def then() -> None:
        assert scene.records == []
        go_on.set()
        await asyncio.sleep(0.2)
        assert len(scene.records) == 1

    scene.run(then)


def test_a_stop_in_the_middle_ends_it(scene: Scene) -> None:
    for sport in range(1, 100):
        scene.there_is(sport)
    asked, many = scene.finder.owners, asyncio.Event()

    async def owners(some: Sequence[Packet], devices: object) -> list[Owner | NoOwner]:
        if len(scene.settled) > 10:
            many.set()
            await asyncio.sleep(60)
        return await asked(some, devices)

    scene.finder.owners = owners  # type: ignore[method-assign]

    async def whole() -> None:
        starting = asyncio.create_task(scene.keeper.start())
        await many.wait()
        await asyncio.wait_for(scene.keeper.stop(), 5)
        starting.cancel()

    asyncio.run(whole())
    assert len(scene.settled) < 20
