"""Points 3 and 4 of the twelve: what repeats itself, and what happens, while a person thinks."""

from __future__ import annotations

import re
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from capture import Capture
from running import PATIENCE, Arbiter, eventually, python
from twelvescene import both, curl, finish, sh

from arbiter.lab import Lab
from arbiter.lab.config import DNS4, LTE, SERVER4, SERVER6


def foreign_table(lab: Lab) -> None:
    """Somebody's firewall comes and goes. The kernel drops held packets of every queue when a base
    chain is unregistered (nf_queue_nf_hook_drop, net/netfilter/nf_queue.c)."""
    table = "table inet foreign { chain c { type filter hook output priority 0; }; }\n"
    for text in (table, "delete table inet foreign\n"):
        assert lab.run(["nft", "-f", "-"], input=text).returncode == 0


# --- 3: what repeats itself while a person thinks ---------------------------------------------


@both
def test_03_syn_retransmits_are_one_prompt_and_one_connection(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    """While its SYN is held, TCP repeats none (skb_still_in_host_queue, net/ipv4/tcp_output.c):
    copies come once the kernel has dropped the held one."""
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*curl(server))
        for copies in (1, 2, 3):
            eventually(lambda copies=copies: arbiter.counter("queued") == copies)  # type: ignore[misc]
            if copies < 3:
                foreign_table(clean_lab)
        (ask,) = arbiter.asks()
        assert ask["id"] == 1
        assert wire.frames() == []
        arbiter.answer("route via=lte", "--for", "forever")
        assert finish(program)[0] == 0
        assert [seen.local for seen in clean_lab.seen("lte")] == [server]
        assert wire.frames("wifi") == []
        assert arbiter.asks() == []


A_AND_AAAA = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect((sys.argv[1], 53))
name = b"\\3www\\3lab\\4test\\0"
for number, kind in ((1, 1), (2, 28)):
    s.send(struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1))
print(*sorted(struct.unpack("!4H", s.recv(512)[:8])[::3] for _ in range(2)))
"""


def test_03_a_and_aaaa_from_one_socket_are_one_prompt_and_both_are_answered(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*python(A_AND_AAAA, DNS4))
        eventually(lambda: [a for a in arbiter.asks() if arbiter.counter("queued") == 2])
        arbiter.answer("route via=lte")
        code, output = finish(program)
        assert (code, output.strip()) == (0, "(1, 1) (2, 1)"), output
        assert [seen.detail[:4].strip() for seen in clean_lab.seen("lte")] == ["A ww", "AAAA"]
        assert wire.frames("wifi") == []
        assert (arbiter.asks(), arbiter.counter("queued")) == ([], 2)


QUIC = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect((sys.argv[1], 7))
s.setsockopt(17, 103, 1200)  # UDP_SEGMENT: one send, many datagrams, as QUIC stacks do
for first in range(0, 12, 4):
    s.send(b"".join(bytes([65 + first + n]) * 1200 for n in range(4)))
got = [s.recv(2000) for _ in range(12)]
print([data[-1] for data in got] == list(range(65, 77)), {data.count(data[-1:]) for data in got})
"""


@both
def test_03_a_quic_first_flight_is_one_prompt_and_arrives_whole_and_in_order(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*python(QUIC, server))
        eventually(lambda: arbiter.counter("queued") == 3)  # three sends of four datagrams
        assert wire.frames() == []
        arbiter.answer("route via=lte")
        assert finish(program) == (0, "True {1200}\n")
        assert wire.frames("wifi") == []
        assert len([s for s in clean_lab.seen("lte") if s.proto == "udp"]) == 12
        assert (arbiter.asks(), arbiter.counter("queued")) == ([], 3)


# --- 4: what happens while a person thinks ----------------------------------------------------


def test_04_a_foreign_table_added_and_deleted_in_a_prompt_costs_no_connection(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        programs = [arbiter.program(*curl(server)) for server in (SERVER4, SERVER6)]
        eventually(lambda: len(arbiter.asks()) == 2)
        foreign_table(clean_lab)
        for ask in arbiter.asks():
            done = arbiter.ran("answer", str(ask["id"]), "allow", "--for", "forever")
            assert done.returncode == 0, done.stderr
        assert [finish(program)[0] for program in programs] == [0, 0]
        assert arbiter.asks() == []


ONCE = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[2]))
s.connect((sys.argv[1], 7))
s.send(b"once")
print(s.recv(100)[-4:].decode())
"""


@both
def test_04_links_that_come_and_go_in_a_prompt_cost_no_datagram(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    """A ruleset is made for each of them, around what waits. Nobody sends the datagram again."""

    def last_plan() -> str:
        return str(re.findall("in force by.*", (tmp_path / "log").read_text())[-1])

    with Arbiter(clean_lab, tmp_path) as arbiter:
        program = arbiter.program(*python(ONCE, server, str(30 * PATIENCE)))
        ask = arbiter.ask()
        for line in (
            "link add extra0 type veth peer name extra1",
            "link set extra1 up",
            "link set extra0 up",
            "addr add 10.9.0.2/24 dev extra0",
            "route add default via 10.9.0.1 dev extra0 metric 900",
        ):
            sh(clean_lab, f"ip {line}")
        eventually(lambda: "extra0" in last_plan())
        sh(clean_lab, "ip link del extra0")
        eventually(lambda: "extra0" not in last_plan())
        arbiter.answer("allow")
        assert finish(program) == (0, "once\n")
        assert arbiter.counter("queued") == 1 and ask["id"] == 1


@pytest.mark.parametrize("answer", ["route via=lte,any", "route via=wifi", "deny", "allow"])
def test_04_the_default_link_lost_in_a_prompt_hangs_nobody(
    clean_lab: Lab, tmp_path: Path, answer: str
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*curl(SERVER4))
        ask = arbiter.ask()
        sh(clean_lab, "ip link set wlan0 down")
        eventually(lambda: "wifi (wlan0, down)" in (tmp_path / "log").read_text())
        assert [one["id"] for one in arbiter.asks()] == [ask["id"]], "the question stays"
        done = arbiter.ran("answer", str(ask["id"]), answer, "--for", "forever")
        assert done.returncode == 0, done.stderr
        code, output = finish(program, 10)
        if answer != "allow":  # then either end will do, but an end
            assert code == (0 if "lte" in answer else 7), output
        assert wire.frames("wifi") == []
        assert {frame.source for frame in wire.sent("lte")} <= {LTE.host4}
        assert arbiter.asks() == []


@pytest.mark.parametrize("when_absent", ["block", "pass"])
def test_04_sigkill_in_a_prompt_lets_what_waits_go_as_the_setting_says(
    clean_lab: Lab, tmp_path: Path, when_absent: str
) -> None:
    arbiter = Arbiter(clean_lab, tmp_path, "--when-absent", when_absent).start()
    with Capture(clean_lab) as wire:
        waiting = arbiter.program(*curl(SERVER4, "", "-m", "6"))
        arbiter.ask()
        arbiter.stop(signal.SIGKILL)
        code, output = finish(waiting)
        later = arbiter.run(*curl(SERVER6, "", "-m", "2"))
        if when_absent == "pass":
            assert (code, output[:9], later[0]) == (0, "link=wifi", 0)
        else:
            assert (code, later[0], wire.frames()) == (28, 28, [])
    assert arbiter.command("rescue").returncode == 0


FLOOD = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, 6000))
async def one():
    reader, writer = await asyncio.open_connection(sys.argv[1], 7)
    line = await reader.readline()
    writer.close()
    return line
async def all():
    lines = await asyncio.gather(*(one() for _ in range(int(sys.argv[2]))), return_exceptions=True)
    print(sum(isinstance(line, bytes) and line.startswith(b"link=wifi") for line in lines))
asyncio.run(all())
"""
SYNS = 5000 if PATIENCE == 1 else 2500
"""Half of the room is 2,048. An emulated CPU is busy for minutes with that."""


def answered(arbiter: Arbiter, ask: int) -> bool:
    """Whether the answer counts. An emulated CPU is busier than a command waits: then it may have
    given up before it could send its answer, or before it heard that it was taken."""
    done = arbiter.ran("answer", str(ask), "allow", "--for", "forever")
    if done.returncode == 0:
        return True
    assert PATIENCE > 1, done.stderr
    return ask not in [one["id"] for one in arbiter.asks()]


def test_04_five_thousand_syns_in_a_prompt_are_one_question_and_all_connect(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """Half of the room is one user's: what is over it is dropped as if lost, and sent again.
    Another user's question comes through all the same."""
    deadline = f"deadline = {min(120.0 * PATIENCE, 600.0)}\n"
    if PATIENCE > 1:  # Held for minutes, they have used up most of TCP's six repeats (127 s).
        sh(clean_lab, "sysctl -qw net.ipv4.tcp_syn_retries=8")
    with Arbiter(clean_lab, tmp_path, settings=deadline) as arbiter:
        flood = arbiter.program(*python(FLOOD, SERVER4, str(SYNS)))
        eventually(lambda: arbiter.counter("queued") >= SYNS, 60)
        (ask,) = arbiter.asks()
        patient = curl(SERVER4, "", "-m", str(60 * PATIENCE))  # the server has the flood to serve
        other = clean_lab.popen(patient, user="nobody", stdout=subprocess.PIPE, text=True)
        eventually(lambda: [a for a in arbiter.asks() if a["user"] == "nobody"], 20)
        for one in arbiter.asks():
            eventually(partial(answered, arbiter, one["id"]))
        assert finish(flood, 60) == (0, f"{SYNS}\n")
        assert finish(other, 60)[0] == 0
        assert ask["id"] == 1
        assert (arbiter.asks(), arbiter.status().held) == ([], 0)
