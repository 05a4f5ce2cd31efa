"""Traffic classes at work in the lab: what is on the wire, and which class of an HTB it was in.

No daemon: the rules, and the labels that a daemon would set. For nft the queue is left out, so that
a kernel without it shows what the rest does.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import PATIENCE

from arbiter import packets, settings
from arbiter.classes import Marking
from arbiter.kernel import doctor
from arbiter.kernel.ctlabel import Labels
from arbiter.kernel.firewall import Plan, apply, nft, probe, remove, why_no_classes
from arbiter.kernel.firewall.probe import IPTABLES, NFT, Backend, FirewallError
from arbiter.kernel.queue import Queue
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.model import ACCEPTED, DENIED, Flow, Packet, TrafficClass, Undecodable, Verdict

AF21, LE = 0x12, 0x01
PLAN = Plan(when_absent="pass", classes=(Marking(97, AF21, 6), Marking(99, LE, 0x10030)))
ADDRESSES = {4: SERVER4, 6: SERVER6}
ECT1 = 0x01
"""RFC 3168: the sender does congestion notification; in the byte of the DSCP, and not of it."""
families = pytest.mark.parametrize("family", [4, 6])
protocols = pytest.mark.parametrize("proto", [6, 17], ids=["tcp", "udp"])


def sh(lab: Lab, line: str, text: str | None = None) -> str:
    """The output of one command, words split at spaces, on the lab's host."""
    done = lab.run(line.split(), input=text)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def put(lab: Lab, plan: Plan, backend: Backend) -> None:
    """The plan in force on the lab's host; for nft without its queue."""
    if backend != NFT:
        return lab.inside(lambda: apply(plan, backend))
    text = re.sub(r"queue num \d+( bypass)?", "return", nft.render(plan))
    sh(lab, "nft -f -", text)
    return None


def usable(lab: Lab, backend: Backend) -> str | None:
    """Why these tests cannot be run with it; classes must work wherever it works."""
    if backend != NFT and (why := lab.inside(lambda: probe.why_not(backend))):
        return why
    if probe.find_tool("nft") is None:
        return "nft is not there"
    return None


@pytest.fixture(params=[NFT, *IPTABLES], ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Backend]:
    chosen: Backend = request.param
    if why := usable(lab, chosen):
        pytest.skip(f"this kernel or machine lacks {chosen.name}: {why}")
    yield chosen
    assert lab.inside(remove) == ()


@pytest.fixture
def labels(lab: Lab) -> Iterator[Labels]:
    made = lab.inside(lambda: Labels(m.label for m in PLAN.classes))
    yield made
    made.close()


class Wire:
    """What came from the lab's host over wifi: (flow, DSCP, ECN) of each packet, in order."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def seen(self) -> list[tuple[Flow, int, int]]:
        found: list[tuple[Flow, int, int]] = []
        while True:
            try:
                data, source = self.sock.recvfrom(65536)
            except TimeoutError:
                return found
            if source[2] == 4 or source[1] not in (0x0800, 0x86DD):  # PACKET_OUTGOING; not IP
                continue
            decoded = packets.decode(data[:4000], id=0)
            if not isinstance(decoded, Packet):
                continue
            (first,) = struct.unpack_from("!H", data)
            tos = first & 0xFF if decoded.flow.family == 4 else first >> 4 & 0xFF
            found.append((decoded.flow, tos >> 2, tos & 3))

    def dscps(self, flow: Flow) -> list[int]:
        return [dscp for one, dscp, _ in self.seen() if one == flow]


@contextmanager
def wire(lab: Lab) -> Iterator[Wire]:
    """Everything that is sent before `seen` is called is in the capture: veth has no queue."""

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
        sock.bind(("access0", 3))
        sock.settimeout(0.2)
        return sock

    with closing(lab.inside(opened, "wifi")) as sock:
        yield Wire(sock)


def connected(lab: Lab, family: int, proto: int, port: int = 7) -> socket.socket:
    """A socket of the host to the lab's echo server, its first answer read."""

    def made() -> socket.socket:
        kind = socket.SOCK_STREAM if proto == 6 else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        sock.settimeout(5)
        try:
            sock.connect((ADDRESSES[family], port))
        except OSError:
            sock.close()
            raise
        return sock

    sock = lab.inside(made)
    try:
        if proto == 17:
            sock.send(b"first")
        sock.recv(2000)
    except OSError:
        sock.close()
        raise
    return sock


def flow_of(sock: socket.socket, proto: int) -> Flow:
    here, there = sock.getsockname(), sock.getpeername()
    local, remote = (socket.inet_pton(sock.family, end[0]) for end in (here, there))
    return Flow(proto, local, here[1], remote, there[1])


def say(sock: socket.socket, times: int = 3) -> None:
    for _ in range(times):
        sock.send(b"hello")
        sock.recv(2000)


# --- on the wire -----------------------------------------------------------------------------


@protocols
@families
def test_a_labelled_connection_has_its_class_on_the_wire_from_then_on(
    lab: Lab, backend: Backend, labels: Labels, family: int, proto: int
) -> None:
    put(lab, PLAN, backend)
    with wire(lab) as seen, closing(connected(lab, family, proto)) as sock:
        flow = flow_of(sock, proto)
        before = seen.dscps(flow)
        assert before and set(before) == {0}
        assert labels.set(flow, 97)
        say(sock)
        marked = seen.dscps(flow)
        assert len(marked) >= 3 and set(marked) == {AF21}
        assert labels.set(flow, 99)  # a connection has one class
        say(sock)
        assert set(seen.dscps(flow)) == {LE}
        assert labels.set(flow, None)
        say(sock)
        assert set(seen.dscps(flow)) == {0}


@families
def test_a_connection_without_a_label_keeps_its_own_dscp(
    lab: Lab, backend: Backend, labels: Labels, family: int
) -> None:
    put(lab, PLAN, backend)
    with (
        wire(lab) as seen,
        closing(connected(lab, family, 17)) as sock,
        closing(connected(lab, family, 17)) as other,
    ):
        assert labels.set(flow_of(other, 17), 97)
        level, option = (0, 1) if family == 4 else (41, 67)  # IP_TOS, IPV6_TCLASS
        for one in (sock, other):
            one.setsockopt(level, option, 46 << 2 | ECT1)
            say(one)
        found = seen.seen()
        assert {(d, e) for f, d, e in found if f == flow_of(sock, 17)} == {(0, 0), (46, ECT1)}
        # The two bits of congestion notification are not the class's.
        assert (AF21, ECT1) in {(d, e) for f, d, e in found if f == flow_of(other, 17)}


@families
def test_what_comes_to_this_host_is_answered_unmarked(
    lab: Lab, backend: Backend, labels: Labels, family: int
) -> None:
    """A class is of the connections that a program here opened."""
    put(lab, PLAN, backend)
    address = "10.1.0.2" if family == 4 else "2001:db8:1::2"
    server = lab.inside(lambda: socket.create_server(
        (address, 0), family=socket.AF_INET if family == 4 else socket.AF_INET6))  # fmt: skip
    with closing(server):
        client = lab.inside(lambda: socket.create_connection(server.getsockname()[:2], 5), "wifi")
        with closing(client), closing(server.accept()[0]) as accepted, wire(lab) as seen:
            assert labels.set(flow_of(client, 6), 97)  # as conntrack has it: from there
            accepted.send(b"hello")
            assert client.recv(10) == b"hello"
            assert set(seen.dscps(flow_of(accepted, 6))) == {0}


def test_loopback_is_left_alone(lab: Lab, backend: Backend, labels: Labels) -> None:
    put(lab, PLAN, backend)

    def opened() -> tuple[socket.socket, socket.socket]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        other.settimeout(5)
        other.bind(("127.0.0.1", 0))
        sock.connect(other.getsockname())
        return sock, other

    sock, other = lab.inside(opened)
    with closing(sock), closing(other):
        sock.send(b"x")
        assert labels.set(flow_of(sock, 17), 97)
        sock.send(b"x")
        tos = [other.recvmsg(10, 100)[1][0][2] for _ in range(2)]
        assert tos == [b"\0", b"\0"]


RAW = {
    "icmp": (1, bytes.fromhex("0800f7b1004d0001"), 77, 0),
    "sctp": (132, struct.pack("!HHII", 4001, 4002, 0, 0)
             + bytes.fromhex("01000014000000010000ffff0001000100000001"), 4001, 4002),
    "dccp": (33, struct.pack("!HHBBHBBHII", 4001, 4002, 5, 0, 0, 1, 0, 0, 1, 42), 4001, 4002),
    "udplite": (136, struct.pack("!HHHH", 4001, 4002, 8, 0x1234) + b"x", 4001, 4002),
    "gre": (47, bytes.fromhex("00000800") + b"x", 0, 0),
    "esp": (50, bytes(16), 0, 0),
    "proto253": (253, b"x", 0, 0),
}  # fmt: skip
"""(protocol, packet, source port, destination port). 253: RFC 3692, for experiments."""
RAW6 = RAW | {"icmpv6": (58, bytes.fromhex("80000000004d0001"), 77, 0)}


@pytest.mark.parametrize(
    ("family", "name"),
    [(4, name) for name in RAW] + [(6, name) for name in RAW6 if name != "icmp"],
)
def test_every_protocol_can_be_of_a_class(
    lab: Lab, backend: Backend, labels: Labels, family: int, name: str
) -> None:
    put(lab, PLAN, backend)
    proto, data, sport, dport = RAW6[name]
    kind = socket.AF_INET if family == 4 else socket.AF_INET6

    def opened() -> socket.socket:
        sock = socket.socket(kind, socket.SOCK_RAW, proto)
        sock.connect((ADDRESSES[family], 0))
        return sock

    with closing(lab.inside(opened)) as sock, wire(lab) as seen:
        local = socket.inet_pton(kind, sock.getsockname()[0])
        remote = socket.inet_pton(kind, ADDRESSES[family])
        flow = Flow(proto, local, sport, remote, dport)
        labels.set(flow, None)  # an entry of another backend's run may still be there
        for _ in range(5):
            sock.send(data)
            assert set(seen.dscps(flow)) == {0}
            # SCTP's entry lives for 3 s (nf_conntrack_proto_sctp.c), which a busy machine may take.
            if labelled := labels.set(flow, 97):
                break
        assert labelled, f"no connection {flow}"
        sock.send(data)
        assert seen.dscps(flow) == [AF21]


# --- into the queueing discipline --------------------------------------------------------------


@contextmanager
def htb(lab: Lab) -> Iterator[Callable[[], dict[str, int]]]:
    """An HTB on wlan0; gives the packets sent by each of its classes, by name."""
    sh(lab, "tc qdisc add dev wlan0 root handle 1: htb default 20")
    try:
        for minor in ("10", "20", "30"):
            sh(lab, f"tc class add dev wlan0 parent 1: classid 1:{minor} htb rate 1gbit")
        yield lambda: {
            name: int(packets)
            for name, packets in re.findall(
                r"class htb (\S+) .*\n Sent \d+ bytes (\d+) pkt",
                sh(lab, "tc -s class show dev wlan0"),
            )
        }
    finally:
        sh(lab, "tc qdisc del dev wlan0 root")


@protocols
@families
def test_the_priority_puts_packets_into_a_class_of_the_link_s_queueing_discipline(
    lab: Lab, backend: Backend, labels: Labels, family: int, proto: int
) -> None:
    put(lab, PLAN, backend)
    with (
        htb(lab) as sent,
        closing(connected(lab, family, proto)) as sock,
        closing(connected(lab, family, proto)) as other,
    ):
        assert sent()["1:30"] == 0
        assert labels.set(flow_of(sock, proto), 99)
        say(sock, 20)
        say(other, 20)
        now = sent()
        assert 20 <= now["1:30"] <= 41, now  # with TCP an acknowledgement may go on its own
        assert now["1:20"] >= 20 and now["1:10"] == 0
        assert labels.set(flow_of(sock, proto), 97)  # 0:6 is of no HTB class: the default
        say(sock, 5)
        # What acknowledges the last answer may be under way yet, and was labelled before.
        assert sent()["1:30"] <= now["1:30"] + 1


# --- labels ----------------------------------------------------------------------------------


@families
def test_labels_of_others_survive(lab: Lab, backend: Backend, labels: Labels, family: int) -> None:
    sets = "".join(f"ct label set {n}; " for n in (0, 96, 127))
    counters = "".join(f"counter c{n} {{ }}\n" for n in (0, 96, 127))
    text = f"""table inet theirs {{
    {counters}
    chain early {{ type filter hook output priority -170; ct state new {sets} }}
    chain late {{ type filter hook postrouting priority 100; }}
    }}
    """
    text += "".join(
        f"add rule inet theirs late udp dport 7 ct label {n} counter name c{n}\n"
        for n in (0, 96, 127)
    )
    put(lab, PLAN, backend)
    sh(lab, "nft -f -", text)
    try:
        with closing(connected(lab, family, 17)) as sock:
            flow = flow_of(sock, 17)
            for label in (97, 99, None):
                assert labels.set(flow, label)
                say(sock, 1)
        shown = json.loads(sh(lab, "nft -j list counters table inet theirs"))["nftables"]
        counts = [one["counter"]["packets"] for one in shown if "counter" in one]
        assert counts == [4, 4, 4]
    finally:
        sh(lab, "nft delete table inet theirs")


def test_a_connection_that_is_not_there_is_said_not_raised(
    lab: Lab, backend: Backend, labels: Labels
) -> None:
    put(lab, PLAN, backend)
    flow = Flow(6, bytes([10, 1, 0, 2]), 1, socket.inet_aton(SERVER4), 1)
    assert labels.set(flow, 97) is False
    assert labels.set(Flow(253, bytes(16), 0, bytes(16), 0), 97) is False


def test_a_connection_older_than_the_rules_is_refused_with_that_reason(
    lab: Lab, backend: Backend, labels: Labels
) -> None:
    put(lab, Plan(when_absent="pass"), backend)
    with closing(connected(lab, 4, 17)) as sock:
        put(lab, PLAN, backend)
        with pytest.raises(OSError, match="older than the rules about classes"):
            labels.set(flow_of(sock, 17), 97)
    with closing(connected(lab, 4, 17)) as sock:
        assert labels.set(flow_of(sock, 17), 97)


def test_a_masqueraded_connection_is_found_by_the_socket_s_own_addresses(
    lab: Lab, backend: Backend, labels: Labels
) -> None:
    """Routed by lte with wifi's source address, as `route via=lte` does it."""
    mark = 0x22000000
    plan = Plan(when_absent="pass", links=((1, "wlan0"), (2, "wwan0")), classes=PLAN.classes)
    put(lab, plan, backend)
    rule = f"fwmark {mark:#x}/0x7f000000 table 7777"
    sh(lab, "ip route add default via 10.2.0.1 dev wwan0 table 7777")
    sh(lab, f"ip rule add {rule}")
    try:

        def opened() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(5)
            sock.bind(("10.1.0.2", 0))
            sock.connect((SERVER4, 7))
            sock.setsockopt(socket.SOL_SOCKET, 36, mark)  # SO_MARK: what a verdict would set
            return sock

        with closing(lab.inside(opened)) as sock:
            sock.send(b"x")
            assert b"link=lte peer=10.2.0.2" in sock.recv(2000)
            assert labels.set(flow_of(sock, 17), 97)
    finally:
        sh(lab, f"ip rule del {rule}")
        sh(lab, "ip route flush table 7777")


@protocols
@families
def test_the_label_can_be_set_right_after_the_verdict(
    lab: Lab, backend: Backend, labels: Labels, family: int, proto: int
) -> None:
    """The entry exists by then; what is denied never leaves, and has nobody to be marked."""
    if backend == NFT and lab.inside(lambda: probe.why_not(NFT)):
        pytest.skip("KERNEL TEST NOT RUN: this kernel has no nft queue")
    plan = Plan(queue=21, classes=PLAN.classes)
    lab.inside(lambda: apply(plan, backend))
    outcomes: list[tuple[Flow, bool]] = []
    verdicts: list[Verdict] = [ACCEPTED, DENIED]

    def on_packet(packet: Packet | Undecodable) -> None:
        assert isinstance(packet, Packet)
        verdict = verdicts.pop(0)
        queue.set_verdict(packet.id, verdict)
        if verdict == ACCEPTED:
            outcomes.append((packet.flow, labels.set(packet.flow, 97)))
            labelled.set()

    queue = lab.inside(lambda: Queue(21, on_packet, length=100, fail_open=False))
    labelled = threading.Event()
    answers: list[Any] = []

    def talk(seen: Wire) -> None:
        with closing(connected(lab, family, proto)) as sock:
            assert labelled.wait(5)
            answers.append(seen.dscps(flow_of(sock, proto)))
            say(sock)
            answers.append(seen.dscps(flow_of(sock, proto)))
            answers.append(flow_of(sock, proto))
        try:
            connected(lab, family, proto).close()
        except OSError as error:
            answers.append(error)

    with wire(lab) as seen:
        thread = threading.Thread(target=talk, args=(seen,))
        thread.start()
        while thread.is_alive() or verdicts:
            queue.handle()
            thread.join(0.001)
        queue.close()
        early, late, flow, error = answers
        assert outcomes == [(flow, True)]
        # The first packet has left before its connection can have a label.
        assert early[0] == 0
        assert len(late) >= 3 and set(late) == {AF21}
        assert isinstance(error, OSError)
        # The kernel solicits routers whenever it likes.
        others = [one for one, _, _ in seen.seen() if one != flow and one.proto == flow.proto]
        assert others == [], "a denied packet left"


# --- coming and going ------------------------------------------------------------------------


def ruleset(lab: Lab) -> list[str]:
    """Without counters, dates and the empty tables that legacy can never delete."""
    texts = [sh(lab, "nft list ruleset")]
    texts += [lab.inside(lambda f=f: probe.save(f, "legacy")) for f in ("ip", "ip6")]  # type: ignore[misc]
    return [
        re.sub(r"#.*\n|\*\w+\n(?::\w+ ACCEPT .*\n)*COMMIT\n|packets \d+ bytes \d+", "", text)
        for text in texts
    ]


def test_removing_leaves_nothing_and_marked_connections_go_on_unmarked(
    lab: Lab, backend: Backend, labels: Labels
) -> None:
    before = ruleset(lab)
    put(lab, PLAN, backend)
    assert ruleset(lab) != before
    with wire(lab) as seen, closing(connected(lab, 4, 6)) as sock:
        assert labels.set(flow_of(sock, 6), 97)
        say(sock)
        assert AF21 in seen.dscps(flow_of(sock, 6))
        put(lab, PLAN, backend)  # again: the connection is still of its class
        say(sock)
        assert AF21 in seen.dscps(flow_of(sock, 6))
        put(lab, Plan(when_absent="pass"), backend)
        say(sock)
        assert set(seen.dscps(flow_of(sock, 6))) == {0}
        assert lab.inside(remove) == ()
        say(sock)
        assert set(seen.dscps(flow_of(sock, 6))) == {0}
    assert ruleset(lab) == before


# --- where they cannot work ------------------------------------------------------------------


def test_classes_work_where_the_backend_works_and_asking_leaves_nothing(
    lab: Lab, backend: Backend
) -> None:
    before = ruleset(lab)
    assert lab.inside(lambda: why_no_classes(backend)) is None
    assert ruleset(lab) == before


@pytest.mark.parametrize(
    ("word", "needs"),
    [
        ("connlabel", "CONFIG_NETFILTER_XT_MATCH_CONNLABEL"),
        ("--set-dscp", "CONFIG_NETFILTER_XT_TARGET_DSCP"),
        ("--set-class", "CONFIG_NETFILTER_XT_TARGET_CLASSIFY"),
        ("ct label", "CONFIG_NF_CONNTRACK_LABELS"),
        ("dscp set", "setting a DSCP"),
        ("priority set", "setting the priority"),
    ],
)
def test_a_kernel_without_a_part_is_refused_by_its_name_and_the_backend_still_works(
    lab: Lab, backend: Backend, monkeypatch: pytest.MonkeyPatch, word: str, needs: str
) -> None:
    if (backend == NFT) == word.startswith(("connlabel", "--")):
        pytest.skip(f"{backend.name} does not use `{word}`")
    real = probe.run

    def lacking(argv: list[str], text: str | None = None) -> str:
        if text and word in text:
            raise FirewallError(f"{argv[0]} failed (4): No such file or directory")
        return real(argv, text)

    monkeypatch.setattr(probe, "run", lacking)
    why = lab.inside(lambda: why_no_classes(backend))
    assert why and needs in why and "Load the module" in why
    assert why.count("CONFIG_") == 1, "only what is missing is named"
    with pytest.raises(FirewallError, match="traffic classes do not work here"):
        lab.inside(lambda: apply(PLAN, backend))
    if backend != NFT:
        lab.inside(lambda: apply(Plan(when_absent="pass"), backend))
        assert lab.inside(lambda: probe.why_not(backend)) is None


def test_without_ctnetlink_the_answer_says_what_to_load(
    lab: Lab, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> bool:
        raise OSError(
            22, "Invalid argument"
        )  # nfnetlink_rcv_msg, for a subsystem that is not there

    monkeypatch.setattr(Labels, "set", refused)
    why = lab.inside(lambda: why_no_classes(backend))
    assert why and "modprobe nf_conntrack_netlink" in why


def test_doctor_says_whether_classes_work_and_why_not(
    lab: Lab, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lab.inside(lambda: probe.why_not(backend)):
        pytest.skip("KERNEL TEST NOT RUN: doctor asks a backend that works only")

    def check() -> doctor.Check:
        found = lab.inside(lambda: doctor.examine(Plan()))
        return next(one for one in found if one.name == "traffic classes")

    assert check().level is doctor.Level.OK
    monkeypatch.setattr(doctor, "why_no_classes", lambda _: "the kernel lacks xt_DSCP")
    said = check()
    assert (said.level, said.next_step) == (doctor.Level.WARN, "see docs/classes.md")
    assert "xt_DSCP" in said.text


# --- docs/classes.md --------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs/classes.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_keeps_a_background_upload_out_of_the_way(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """Every line of it is run; a queue consumer that knows its two rules stands for the daemon."""
    lab = clean_lab
    try:
        backend = lab.inside(probe.probe_backend)
    except FirewallError as error:
        pytest.skip(f"KERNEL TEST NOT RUN: {error}")
    make_queues, work = (block.splitlines() for block in blocks("sh"))
    for line in make_queues:
        sh(lab, line)
    markings = settings.load(blocks("toml")[0], "docs/classes.md").markings
    by_port = {
        int(found[2]): markings[TrafficClass(found[1])].label
        for found in re.finditer(r"class=(\w+) .* port=(\d+)", blocks("rules")[0])
    }
    plan = Plan(queue=22, classes=tuple(markings.values()))
    lab.inside(lambda: apply(plan, backend))
    labels = lab.inside(lambda: Labels(m.label for m in plan.classes))

    def on_packet(packet: Packet | Undecodable) -> None:
        queue.set_verdict(packet.id, ACCEPTED)
        if isinstance(packet, Packet) and packet.flow.dport in by_port:
            assert labels.set(packet.flow, by_port[packet.flow.dport])

    queue = lab.inside(lambda: Queue(22, on_packet, length=100, fail_open=False))

    def sent() -> tuple[int, int]:
        """Bytes of the interactive and of the background class so far."""
        counted = dict(
            re.findall(
                r"class htb (\S+) .*\n Sent (\d+) bytes", sh(lab, "tc -s class show dev wlan0")
            )
        )
        return int(counted["1:10"]), int(counted["1:30"])

    files, backup, photo, show, end = work
    subprocess.run(["sh", "-c", files], check=True, cwd=tmp_path)
    programs = []
    try:
        programs.append(lab.popen(["sh", "-c", f"exec {backup.removesuffix(' &')}"], cwd=tmp_path))
        until = time.monotonic() + 30
        while sent()[1] < 100_000:
            queue.handle()
            assert time.monotonic() < until, "the backup does not start"
        before = sent()
        out = subprocess.PIPE
        programs.append(
            lab.popen(["sh", "-c", f"exec {photo}"], stdout=out, text=True, cwd=tmp_path)
        )
        while programs[1].poll() is None:
            queue.handle()
            time.sleep(0.001)
        said = programs[1].communicate()[0]
        assert "received=512000" in said
        interactive, background = (now - then for now, then in zip(sent(), before, strict=True))
        assert programs[0].poll() is None, "the backup was over before the photo"
    finally:
        for program in programs:
            program.kill()
            program.wait()
        queue.close()
        labels.close()
    assert interactive > 512_000
    # Promised is 14 to 1, and without classes it would be 1 to 1; what waited in the queue
    # beforehand, large segments, and a busy CPU, on which the photo does not fill the link, blur
    # it. An emulated CPU does not fill it at all, and nobody is in anybody's way.
    if PATIENCE == 1:
        assert interactive > 2 * background, (interactive, background)
    assert "1:10" in sh(lab, show)
    assert end.startswith("kill %1; ")
    sh(lab, end.removeprefix("kill %1; "))
    assert lab.inside(remove) == ()
