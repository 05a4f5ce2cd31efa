"""Owners on the real kernel: sockets that several processes hold, or none does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from ownerscene import (
    NOBODY,
    V4,
    Client,
    clients,
    entered,
    flow,
    looking_up,
    made_namespace,
    owner,
    pids,
    resolve,
)

from arbiter.kernel.holders import Scan
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a network namespace"),
]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


@pytest.fixture(autouse=True)
def inside(namespace: str) -> Iterator[None]:
    """The whole test runs in the namespace, and so do its clients."""
    with entered(namespace):
        yield


@pytest.fixture
def client() -> Iterator[Client]:
    with clients() as start:
        yield start


@pytest.fixture(params=["events", "no events"])
def lookup(request: pytest.FixtureRequest) -> Iterator[OwnerLookup]:
    with looking_up(request.param == "events") as made:
        yield made


@pytest.mark.parametrize("depth", [1, 2])
def test_a_socket_inherited_over_fork_names_all_the_youngest_first(
    lookup: OwnerLookup, client: Client, depth: int
) -> None:
    code = "s = tcp('10.9.0.2'); pids = [os.getpid()]\nr, w = os.pipe()\n"
    code += f"for _ in range({depth}):\n time.sleep(0.03)\n if not os.fork():\n"
    code += "  os.write(w, b'%9d' % os.getpid())\n else:\n  break\n"
    code += "else:\n wait(); os._exit(0)\n"
    code += "if os.getpid() == pids[0]:\n"
    code += f" say(s.getsockname()[1], *(int(os.read(r, 9)) for _ in range({depth})))\n"
    code += "wait()\n"
    process, [port, *born] = client(code)
    family = [*reversed(born), process.pid]
    assert pids(resolve(lookup, flow(6, port))) == family
    assert pids(lookup.quick(flow(6, port))) == family, "known now: without a scan"
    assert pids(lookup.scan(flow(6, port))) == family


def test_a_child_forked_after_the_first_look_up_is_named_by_the_next(lookup: OwnerLookup) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        packet = flow(17, sock.getsockname()[1])
        assert pids(resolve(lookup, packet)) == [os.getpid()]
        assert pids(lookup.quick(packet)) == [os.getpid()]
        sock.set_inheritable(True)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(sock.fileno(),)) as child:
            try:
                assert pids(lookup.quick(packet)) == [child.pid, os.getpid()]
            finally:
                assert child.stdin is not None
                child.stdin.close()
        assert pids(lookup.quick(packet)) == [os.getpid()]


def test_a_child_with_the_connection_as_its_standard_input_is_named(lookup: OwnerLookup) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        packet = flow(6, sock.getsockname()[1])
        resolve(lookup, packet)
        with subprocess.Popen(["sleep", "60"], stdin=sock.fileno()) as child:
            try:
                assert pids(lookup.quick(packet)) == [child.pid, os.getpid()]
            finally:
                child.kill()


def test_a_socket_passed_to_a_stranger_names_both_in_a_scan(
    lookup: OwnerLookup, client: Client, tmp_path: Path
) -> None:
    path = str(tmp_path / "pass")
    get = "u = socket.socket(socket.AF_UNIX); u.bind({0!r}); u.listen(); say(0)\n"
    get += (
        "c, _ = u.accept(); fds = [os.dup(0) for _ in range(5)]; got = socket.recv_fds(c, 9, 1)\n"
    )
    get += "c.send(b'x'); wait()"
    receiver, _ = client(get.format(path))
    give = "s = tcp('10.9.0.2'); u = socket.socket(socket.AF_UNIX); u.connect({0!r})\n"
    give += "socket.send_fds(u, [b'x'], [s.fileno()]); u.recv(1); say(s.getsockname()[1]); wait()"
    sender, [port] = client(give.format(path))
    assert sorted(pids(lookup.scan(flow(6, port)))) == sorted([sender.pid, receiver.pid])


def test_a_thread_is_its_process(lookup: OwnerLookup, client: Client) -> None:
    code = "def work():\n global s\n s = tcp('10.9.0.2'); say(s.getsockname()[1]); time.sleep(60)\n"
    process, [port] = client(code + "threading.Thread(target=work, daemon=True).start(); wait()")
    assert pids(owner(lookup, flow(6, port))) == [process.pid]


def test_a_descriptor_of_one_thread_only_is_found_by_a_scan(
    lookup: OwnerLookup, client: Client
) -> None:
    code = "import ctypes\ndef work():\n assert ctypes.CDLL(None).unshare(0x400) == 0\n"
    code += " s = tcp('10.9.0.2'); say(s.getsockname()[1]); time.sleep(60)\n"
    process, [port] = client(code + "threading.Thread(target=work, daemon=True).start(); wait()")
    assert pids(lookup.scan(flow(6, port))) == [process.pid]


def test_a_process_with_many_descriptors_is_found(lookup: OwnerLookup, client: Client) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
    code += "s = tcp('10.9.0.2'); more = [os.dup(0) for _ in range(2000)]\n"
    process, [port] = client(code + "say(s.getsockname()[1]); wait()")
    assert pids(owner(lookup, flow(6, port))) == [process.pid]
    assert pids(lookup.quick(flow(6, port))) == [process.pid], "known now: without a scan"


def test_one_scan_tells_of_all_sockets_of_a_program_that_has_thousands(
    lookup: OwnerLookup, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who opens thousands of connections at once makes everybody wait for a scan for each."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
    code += "all = [udp('10.9.0.2') for _ in range(3000)]\n"
    code += "say(*(s.getsockname()[1] for s in all))\n"
    process, ports = client(code + "wait()")
    scans, scan = list[int](), lookup._holders.scan

    def counted(inodes: Iterable[int]) -> Scan:
        scans.append(1)
        return scan(inodes)

    monkeypatch.setattr(lookup._holders, "scan", counted)
    assert pids(lookup.scan(flow(17, ports.pop(), dport=53))) == [process.pid]
    for port in ports[:200]:
        assert pids(lookup.quick(flow(17, port, dport=53))) == [process.pid]
        assert pids(lookup.scan(flow(17, port, dport=53))) == [process.pid]
    assert len(scans) < 10, "another one where others start many programs, or a second is over"


def test_a_child_forked_after_a_scan_is_named_with_what_that_scan_saw(
    lookup: OwnerLookup, client: Client
) -> None:
    code = "one, two = tcp('10.9.0.2'), tcp('10.9.0.2')\n"
    code += "say(one.getsockname()[1], two.getsockname()[1])\n"
    code += "sys.stdin.readline()\npid = os.fork()\nif pid: say(pid)\nwait()"
    process, [one, two] = client(code)
    assert pids(lookup.scan(flow(6, one))) == [process.pid]
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    [child] = json.loads(process.stdout.readline())
    assert sorted(pids(resolve(lookup, flow(6, two)))) == sorted([process.pid, child])


def test_a_process_that_moved_to_another_namespace_still_owns(
    lookup: OwnerLookup, client: Client
) -> None:
    code = "import ctypes\ns = tcp('10.9.0.2'); assert ctypes.CDLL(None).unshare(0x40000000) == 0\n"
    process, [port] = client(code + "say(s.getsockname()[1]); wait()")
    assert pids(owner(lookup, flow(6, port))) == [process.pid]


def test_the_uid_is_the_sockets_not_the_processs(lookup: OwnerLookup, client: Client) -> None:
    process, [port] = client(
        "s = tcp('10.9.0.2'); os.setuid(65534); say(s.getsockname()[1]); wait()"
    )
    found = owner(lookup, flow(6, port))
    assert (pids(found), found.uid, found.processes[0].uid) == ([process.pid], 0, NOBODY)


def test_another_users_process_is_hidden_from_nobody(client: Client) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        code = f"""
sys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.procfs import ProcessTable
from arbiter.model import Flow, Packet
drop({NOBODY})
events = ProcEvents.open()
lookup = OwnerLookup(ProcessTable(), events=events)
own = tcp("10.9.0.2")
packets = [Packet(1, Flow(6, bytes((10, 9, 0, 1)), port, bytes((10, 9, 0, 2)), 443))
           for port in ({sock.getsockname()[1]}, own.getsockname()[1])]
other = lookup.scan(packets[0])
mine = lookup.scan(packets[1])
say(events is None, lookup.quick(packets[0]) is None, other.reason, other.uid,
    [p.pid for p in mine.processes])
wait()
"""
        process, said = client(code)
        assert said == [True, True, "not permitted to look", 0, [process.pid]]


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.setblocking(False)
        made.connect_ex((V4, 443))
        yield made


@pytest.fixture
def events() -> Iterator[ProcEvents]:
    made = ProcEvents.open()
    if made is None:
        pytest.skip("this kernel delivers no process events here")
    yield made
    made.close()
