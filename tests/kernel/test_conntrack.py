"""Conntrack's counters on the real kernel, compared with the interface's own."""

from __future__ import annotations

import array
import asyncio
import fcntl
import json
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from running import UDP_CLIENT, eventually, python

from arbiter.kernel import acct, conntrack, linkloss
from arbiter.kernel.conntrack import ConntrackWatch
from arbiter.kernel.netlink import NETLINK_NETFILTER, pack_message
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.usage import Account, Counted, Ledger, Used

T = TypeVar("T")
MARK = 0x21000000
DEFAULT = 0x7F000000
ETHTOOL_STSO, ETHTOOL_SGSO, SIOCETHTOOL = 0x1F, 0x24, 0x8946
both = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["IPv4", "IPv6"])


def sh(lab: Lab, line: str) -> str:
    done = lab.run(line.split())
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def mark_new(lab: Lab, match: str = "", mark: int = MARK) -> None:
    """Every new connection counts as decided, as arbiter's ruleset would have it."""
    rules = f"""
    table inet test
    delete table inet test
    table inet test {{
      chain output {{
        type filter hook output priority -150;
        oifname "lo" return
        icmpv6 type {{ 133, 134, 135, 136, 143 }} return
        {match} ct state new ct mark set {mark:#x}
      }}
    }}
    """
    done = lab.run(["nft", "-f", "-"], input=rules)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "run" / "acct.json"


@pytest.fixture
def counting(clean_lab: Lab, notes: Path) -> Lab:
    """A lab whose new connections are decided and counted."""
    assert clean_lab.inside(lambda: acct.enable(notes)) == ()
    mark_new(clean_lab)
    return clean_lab


def listening(lab: Lab, work: Callable[[ConntrackWatch], Awaitable[None]], **more: int) -> Heard:
    """Run `work` on an event loop inside the lab's host, with a watch that is started."""

    async def main() -> Heard:
        heard = Heard([], [])
        watch = ConntrackWatch(heard.ended.append, heard.problems.append, **more)
        watch.start()
        try:
            await work(watch)
            watch.drain()
        finally:
            watch.close()
            watch.close()
        heard.overruns = watch.overruns
        return heard

    return lab.inside(lambda: asyncio.run(main()))


class Heard:
    def __init__(self, ended: list[Counted], problems: list[str]) -> None:
        self.ended, self.problems, self.overruns = ended, problems, 0


def read(lab: Lab, mask: int = DEFAULT) -> tuple[Counted, ...]:
    return lab.inside(lambda: conntrack.read(mask))


def quiet(lab: Lab) -> tuple[Counted, ...]:
    """What conntrack has, once nothing changes any more."""
    last: list[tuple[Counted, ...]] = []

    def same() -> bool:
        last.append(read(lab))
        return len(last) > 1 and last[-1] == last[-2]

    eventually(same)
    return last[-1]


def ping(lab: Lab, server: str) -> int:
    """One echo; its identifier."""

    def send() -> int:
        v6 = ":" in server
        proto = socket.getprotobyname("ipv6-icmp" if v6 else "icmp")
        with socket.socket(
            socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM, proto
        ) as s:
            s.settimeout(5)
            s.connect((server, 0))
            s.send(bytes([128 if v6 else 8, 0, 0, 0, 0, 0, 0, 1]) + b"x" * 56)
            assert len(s.recv(1000)) == 64
            return int(s.getsockname()[1])

    return lab.inside(send)


def talk(lab: Lab, server: str) -> set[tuple[int, int]]:
    """A TCP, a UDP and an ICMP flow; (protocol, source port or identifier) of each."""
    host = f"[{server}]" if ":" in server else server
    options = ["-sS", "-g", "-m", "8", "-o", "/dev/null", "-w", "%{local_port}"]
    port = int(sh(lab, " ".join(["curl", *options, f"http://{host}/bytes/100000"])))
    assert lab.run(python(UDP_CLIENT, server, "7", "3")).returncode == 0
    echo = ping(lab, server)
    family = 6 if ":" in server else 4
    found = [e.flow for e in read(lab) if e.flow.family == family]
    (udp,) = (flow.sport for flow in found if flow.proto == 17)
    return {(6, port), (17, udp), (58 if ":" in server else 1, echo)}


# --- what is told ---------------------------------------------------------------------------


def test_the_end_of_each_flow_carries_the_counters_that_a_dump_shows(counting: Lab) -> None:
    lab = counting
    dumped: list[Counted] = []
    wanted: set[tuple[int, int]] = set()

    async def work(watch: ConntrackWatch) -> None:
        for server in (SERVER4, SERVER6):
            wanted.update(await asyncio.to_thread(talk, lab, server))
        dumped.extend(await asyncio.to_thread(quiet, lab))
        await asyncio.to_thread(lab.inside, lambda: linkloss.forget_connections(1))

    heard = listening(lab, work)
    assert {(e.flow.proto, e.flow.sport) for e in dumped} == wanted
    assert len(wanted) == 6
    assert sorted(heard.ended, key=repr) == sorted(dumped, key=repr)
    assert (heard.problems, heard.overruns) == ([], 0)
    assert read(lab) == ()
    for entry in dumped:
        assert entry.mark == MARK
        size = 20 if entry.flow.family == 4 else 40
        if entry.flow.proto == 17:
            assert (entry.out_packets, entry.out_bytes) == (3, 3 * (size + 8 + 7))
            assert entry.in_packets == 3
        elif entry.flow.proto != 6:
            assert (entry.out_bytes, entry.in_bytes) == (size + 64, size + 64)
        else:
            assert entry.in_bytes > 100_000
        assert entry.flow.dport == {6: 80, 17: 7}.get(entry.flow.proto, 0)


def test_what_is_not_decided_is_neither_read_nor_told(counting: Lab) -> None:
    lab = counting
    mark_new(lab, "tcp dport 80", 0x5F804000)  # everybody else's bits, and all of ours but one

    async def work(watch: ConntrackWatch) -> None:
        await asyncio.to_thread(sh, lab, f"curl -sS -m 8 http://{SERVER4}/")
        await asyncio.to_thread(lab.run, python(UDP_CLIENT, SERVER4, "7", "1"))
        await asyncio.to_thread(ended_by, lab)
        with pytest.raises(BlockingIOError):
            bare.recv(1000)  # not even to be looked at

    bare = lab.inside(lambda: conntrack.listen(DEFAULT, 1 << 20))
    with bare:
        heard = listening(lab, work)
    assert heard.ended == []
    assert read(lab) == ()


def ended_by(lab: Lab) -> None:
    """Ends every entry, whatever its mark: the whole table is the lab's."""

    def flush() -> None:
        with conntrack.open_netfilter() as sock:
            body = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
            sock.send(pack_message(conntrack.CT_DELETE, 0, 1, body))

    lab.inside(flush)


def test_marks_at_another_place_are_read_and_told_at_the_default_one(counting: Lab) -> None:
    lab = counting
    mark_new(lab, "", 0xFFFFFF80 | MARK >> 24)

    async def work(watch: ConntrackWatch) -> None:
        await asyncio.to_thread(sh, lab, f"curl -sS -m 8 http://{SERVER4}/")
        await asyncio.to_thread(ended_by, lab)

    heard = listening(lab, work, mask=0x7F)
    assert [(e.mark, e.flow.dport) for e in heard.ended] == [(MARK, 80)]


def test_an_entry_older_than_the_accounting_is_not_told(clean_lab: Lab, notes: Path) -> None:
    lab = clean_lab
    mark_new(lab)
    with lab.inside(lambda: socket.create_connection((SERVER4, 7), 5)) as old:
        assert old.recv(100)
        lab.inside(lambda: acct.enable(notes))
        assert read(lab) == ()
        with lab.inside(lambda: socket.create_connection((SERVER4, 7), 5)) as new:
            assert [e.flow.sport for e in read(lab)] == [new.getsockname()[1]]


def flood(lab: Lab, count: int) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in range(count):
                sock.sendto(b"x", (SERVER4, 20000 + port))

    lab.inside(send)


def test_an_overrun_is_counted_and_said_and_a_read_finds_what_is_gone(counting: Lab) -> None:
    lab = counting
    book = Ledger(lambda number: Account(link="wifi"), 0)

    async def work(watch: ConntrackWatch) -> None:
        flood(lab, 2000)
        book.read(read(lab), 0.0)
        assert len(book) == 2000
        lab.inside(lambda: linkloss.forget_connections(1))  # this thread: the watch cannot read

    heard = listening(lab, work, receive_buffer=20_000)
    assert 0 < len(heard.ended) < 2000
    assert heard.overruns >= 1
    assert "1 times" in heard.problems[0]
    for entry in heard.ended:
        book.ended(entry, 0.0)
    book.read(read(lab), 0.0)
    book.read(read(lab), 0.0)
    assert len(book) == 0
    batch = book.take()
    assert sum(used.out_packets for used in batch.used) == 2000
    assert len(batch.closed) == 2000


def test_thousands_that_end_at_once_are_all_told_a_few_at_a_time(counting: Lab) -> None:
    lab = counting
    turns: list[int] = []

    async def work(watch: ConntrackWatch) -> None:
        flood(lab, 3000)
        lab.inside(lambda: linkloss.forget_connections(1))
        told = 0

        def count(entry: Counted) -> None:
            nonlocal told
            told += 1

        watch._ended = count
        while told < 3000:
            before = told
            await asyncio.sleep(0)  # one turn of the loop
            turns.append(told - before)

    assert listening(lab, work).overruns == 0
    assert sum(turns) == 3000
    assert 0 < max(turns) <= conntrack._BATCH, "one turn of the loop read too much"


def test_only_the_kernel_is_believed(counting: Lab) -> None:
    lab = counting

    async def work(watch: ConntrackWatch) -> None:
        assert watch._socket is not None
        port = watch._socket.getsockname()[0]
        sh(lab, f"curl -sS -m 8 http://{SERVER4}/")
        with conntrack.open_netfilter() as sock:
            payloads = list(conntrack.dump(sock, conntrack.by_mark(MARK, MARK)))
        assert payloads
        forged = b"".join(pack_message(conntrack.CT_DELETE, 0, 0, p) for p in payloads)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
            sock.sendto(forged, (port, 0))

    assert listening(lab, work).ended == []


def test_a_watch_is_started_once(counting: Lab) -> None:
    async def work(watch: ConntrackWatch) -> None:
        with pytest.raises(RuntimeError, match="close it"):
            watch.start()

    listening(counting, work)


# --- the interface's own figures ------------------------------------------------------------


def interface(lab: Lab, name: str = "wlan0") -> tuple[int, int, int, int]:
    """Bytes out and in of IP packets, and packets, as the interface counted them."""
    (shown,) = json.loads(sh(lab, f"ip -s -j link show {name}"))
    tx, rx = shown["stats64"]["tx"], shown["stats64"]["rx"]
    ethernet = 14
    return (
        tx["bytes"] - ethernet * tx["packets"],
        rx["bytes"] - ethernet * rx["packets"],
        tx["packets"],
        rx["packets"],
    )


def cut_by_the_link(lab: Lab) -> None:
    """Segmentation before the interface, as for hardware that cannot: it counts what it carries."""

    def switch() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for command in (ETHTOOL_STSO, ETHTOOL_SGSO):
                value = array.array("B", struct.pack("II", command, 0))
                request = struct.pack("16sP", b"wlan0", value.buffer_info()[0])
                fcntl.ioctl(sock, SIOCETHTOOL, request)

    lab.inside(switch)


@both
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_bytes_agree_with_the_interface_within_5_percent(
    counting: Lab, server: str, cut: bool, tmp_path: Path
) -> None:
    lab = counting
    if cut:
        cut_by_the_link(lab)
    host = f"[{server}]" if ":" in server else server
    (tmp_path / "data").write_bytes(b"x" * 4_000_000)
    up = ["curl", "-sS", "-g", "-m", "30", "-T", str(tmp_path / "data"), f"http://{host}/"]
    down = ["curl", "-sS", "-g", "-m", "30", "-o", "/dev/null", f"http://{host}/bytes/4000000"]
    used: list[Used] = []
    book = Ledger(lambda number: Account(link="wifi"), 0)
    raw: list[Counted] = []

    async def work(watch: ConntrackWatch) -> None:
        def ended(entry: Counted) -> None:
            raw.append(entry)
            used.extend(book.ended(entry, 0.0))

        watch._ended = ended
        programs = [lab.popen(argv, stdout=-3, stderr=-3) for argv in (up, down, up, down)]
        while any(program.poll() is None for program in programs):
            used.extend(book.read(await asyncio.to_thread(read, lab), 0.0))
        assert [program.returncode for program in programs] == [0] * 4
        await asyncio.to_thread(quiet, lab)
        await asyncio.to_thread(lab.inside, lambda: linkloss.forget_connections(1))

    before = interface(lab)
    listening(lab, work)
    after = interface(lab)
    carried = [b - a for a, b in zip(before, after, strict=True)]
    assert sum(one.out_bytes for one in used) == pytest.approx(
        carried[0], rel=0.03 if cut else 0.05
    )
    assert sum(one.in_bytes for one in used) == pytest.approx(carried[1], rel=0.05)
    assert sum(one.connections for one in used) == len(raw) == 4
    assert carried[0] > 8_000_000
    if not cut:  # then both see the same packets
        assert sum(one.out_bytes for one in raw) == pytest.approx(carried[0], rel=0.005)
        assert sum(one.in_packets for one in raw) == pytest.approx(carried[3], rel=0.05, abs=20)


# --- the switches ---------------------------------------------------------------------------


def switches(lab: Lab) -> tuple[str, str]:
    names = "net.netfilter.nf_conntrack_acct net.netfilter.nf_conntrack_events"
    first, second = sh(lab, f"sysctl -n {names}").split()
    return first, second


def test_counting_is_switched_on_and_its_old_value_given_back(clean_lab: Lab, notes: Path) -> None:
    lab = clean_lab
    sh(lab, "sysctl -qw net.netfilter.nf_conntrack_acct=0 net.netfilter.nf_conntrack_events=0")
    for _ in range(2):
        assert lab.inside(lambda: acct.enable(notes)) == ()
        assert switches(lab) == ("1", "1")
    for _ in range(2):
        assert lab.inside(lambda: acct.restore(notes)) == ()
        assert switches(lab) == ("0", "0")
    assert not notes.exists()


def test_what_somebody_else_switched_on_stays_on(clean_lab: Lab, notes: Path) -> None:
    lab = clean_lab
    sh(lab, "sysctl -qw net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_events=2")
    assert lab.inside(lambda: acct.enable(notes)) == ()
    assert lab.inside(lambda: acct.restore(notes)) == ()
    assert switches(lab) == ("1", "2")


def test_what_is_kept_of_a_namespace_that_is_gone_is_not_believed_of_its_inode(
    clean_lab: Lab, notes: Path
) -> None:
    lab = clean_lab
    sh(lab, "sysctl -qw net.netfilter.nf_conntrack_acct=0")
    assert lab.inside(lambda: acct.enable(notes)) == ()
    kept = json.loads(notes.read_text())
    assert kept["cookie"] > 0
    notes.write_text(json.dumps(kept | {"cookie": kept["cookie"] + 1}))
    assert lab.inside(lambda: acct.enable(notes)) == ()  # another one's: found switched on
    assert lab.inside(lambda: acct.restore(notes)) == ()
    assert switches(lab)[0] == "1"


def test_a_switch_that_was_changed_since_stays_and_is_said(clean_lab: Lab, notes: Path) -> None:
    lab = clean_lab
    sh(lab, "sysctl -qw net.netfilter.nf_conntrack_acct=0 net.netfilter.nf_conntrack_events=0")
    assert lab.inside(lambda: acct.enable(notes)) == ()
    sh(lab, "sysctl -qw net.netfilter.nf_conntrack_events=2")
    (text,) = lab.inside(lambda: acct.restore(notes))
    assert "net.netfilter.nf_conntrack_events is 2" in text
    assert "sysctl net/netfilter/nf_conntrack_events=0" in text
    assert switches(lab) == ("0", "2")


KILLED = """
import os, signal, sys
from pathlib import Path
from arbiter.kernel import acct, sysctlnotes
left = int(sys.argv[2])
def step(original):
    def run(*args):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return original(*args)
    return run
Path.write_text = step(Path.write_text)
sysctlnotes.store = step(sysctlnotes.store)
acct.enable(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_after_sigkill_at_any_step_the_old_values_are_given_back(
    clean_lab: Lab, notes: Path, steps: int
) -> None:
    lab = clean_lab
    sh(lab, "sysctl -qw net.netfilter.nf_conntrack_acct=0 net.netfilter.nf_conntrack_events=0")
    done = lab.run([sys.executable, "-P", "-c", KILLED, str(notes), str(steps)])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (switches(lab) != ("0", "0")) == (steps > 1)
    if steps > 1:  # a second run that is killed, too, must not take ours for the old value
        lab.run([sys.executable, "-P", "-c", KILLED, str(notes), "9"])
    assert lab.inside(lambda: acct.restore(notes)) == ()
    assert switches(lab) == ("0", "0")


def test_a_kernel_that_cannot_count_is_said_with_the_next_step(
    lab: Lab, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acct, "_FOLDER", tmp_path)
    said = acct.enable(notes)
    assert [text.split(":")[0] for text in said] == [
        "there is no net.netfilter.nf_conntrack_acct",
        "there is no net.netfilter.nf_conntrack_events",
    ]
    assert "no budget is used up" in said[0]
    assert "modprobe nf_conntrack" in said[0]
    (tmp_path / "nf_conntrack_acct").mkdir()
    assert "cannot read net.netfilter.nf_conntrack_acct" in acct.enable(notes)[0]


@contextmanager
def rubbish(notes: Path) -> Iterator[None]:
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_bytes(b"{")
    yield
    assert notes.read_bytes() == b"{"


def test_notes_that_cannot_be_read_are_said_and_nothing_is_touched(
    clean_lab: Lab, notes: Path
) -> None:
    before = switches(clean_lab)
    with rubbish(notes):
        for action in (lambda: acct.enable(notes), lambda: acct.restore(notes)):
            (text,) = clean_lab.inside(action)
            assert str(notes) in text
    assert switches(clean_lab) == before
