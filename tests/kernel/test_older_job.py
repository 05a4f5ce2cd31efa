"""Connections that began while nobody decided: before the start, or while others had taken the
ruleset away. What a rule denies ends, what has no socket any more is no way in for whoever gets
its port, and everything else goes on."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Arbiter, eventually, python
from talking import REFUSED, Talk
from test_faults_ruleset import SETTINGS, VARIANTS, _works, through

from arbiter.kernel.firewall.probe import NFT, why_not
from arbiter.lab import Lab
from arbiter.lab.config import LINKS, SERVER4, SERVER6

both = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["IPv4", "IPv6"])
backends = pytest.mark.parametrize("variant", [*VARIANTS, "table"])
HOST4 = LINKS[0].host4
PORT = 45001


def sh(lab: Lab, line: str) -> str:
    done = lab.run(["sh", "-c", line])
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


@contextmanager
def away(
    lab: Lab, home: Path, *rules: str, variant: str = "nft", tracked: bool = True
) -> Iterator[Arbiter]:
    """A daemon that had these rules and is stopped; the block starts it again. Meanwhile there is
    conntrack or, not `tracked`, none: without a rule of anybody's a network namespace has none."""
    settings = ""
    if variant == "table":
        if why := lab.inside(lambda: why_not(NFT)):
            pytest.skip(f"this kernel lacks nft: {why}")
        settings += 'backend = "nft"\n'
    else:
        if why := _works(lab, variant):
            pytest.skip(f"this kernel or machine lacks iptables-{variant}: {why}")
        settings += SETTINGS
    for tool in ("iptables-nft", "ip6tables-nft") if tracked else ():
        sh(lab, f"{tool} -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    with Arbiter(lab, home, settings=settings, through=through(variant)) as arbiter:
        arbiter.add(*rules)
        assert arbiter.stop() == 0
        yield arbiter


def records(arbiter: Arbiter) -> list[tuple[str, str, str]]:
    """Decision, reason and note of each record of the echo port."""
    found = arbiter.json("audit", "--port", "7")
    return [(one["decision"], one["reason"], one["note"]) for one in found]


def entries(lab: Lab, port: int = PORT) -> list[str]:
    """Conntrack's lines of what began at that port, without their times."""
    found = []
    for family in ("ipv4", "ipv6"):
        shown = lab.run(["conntrack", "-L", "-f", family]).stdout.splitlines()
        found += [" ".join(line.split()) for line in shown if f" sport={port} " in line]
    return found


def mark(line: str) -> int:
    return int(line.partition(" mark=")[2].split()[0])


# --- what a rule denies ---------------------------------------------------------------------


@backends
@both
def test_a_datagram_socket_that_spoke_before_the_start_is_refused_if_a_rule_denies_it(
    clean_lab: Lab, tmp_path: Path, server: str, variant: str
) -> None:
    with away(clean_lab, tmp_path, f"deny host={server}", variant=variant) as arbiter:
        talk = Talk(arbiter, "udp", server, PORT)
        assert talk("send") == "done"
        assert talk("send") == "done"
        arbiter.start()
        for _ in range(5):
            assert talk("send") in REFUSED
        # and goes on to be, whatever the server has on the way
        time.sleep(1.2)
        assert talk("send") in REFUSED
        ((decision, reason, note),) = eventually(lambda: records(arbiter))
        assert (decision, reason, note) == ("deny", "rule", "begun while arbiter was away")
        assert arbiter.counter("cut") == 1
        assert "1 that began while nobody decided" in arbiter.command("status").stdout


@backends
@both
def test_a_new_socket_on_the_port_of_a_closed_one_is_decided(
    clean_lab: Lab, tmp_path: Path, server: str, variant: str
) -> None:
    with away(clean_lab, tmp_path, f"deny host={server}", variant=variant) as arbiter:
        first = Talk(arbiter, "udp", server, PORT)
        assert first("send") == "done"
        assert first("send") == "done"
        assert first("close") == "done"
        arbiter.start()
        assert Talk(arbiter, "udp", server, PORT)("send") in REFUSED
        (found,) = eventually(lambda: records(arbiter))
        assert found == ("deny", "rule", "")


@backends
@both
def test_an_open_stream_is_reset_at_its_next_byte_if_a_rule_denies_it(
    clean_lab: Lab, tmp_path: Path, server: str, variant: str
) -> None:
    with away(clean_lab, tmp_path, f"deny host={server}", variant=variant) as arbiter:
        talk = Talk(arbiter, "tcp", server, PORT)
        assert talk("send") == "done"
        arbiter.start()
        assert talk("send") in REFUSED
        (found,) = eventually(lambda: records(arbiter))
        assert found == ("deny", "rule", "begun while arbiter was away")
        # Its entry would live for five days, and refuse whoever gets the port.
        talk("close")
        eventually(lambda: entries(clean_lab) == [], 15)


@both
@pytest.mark.parametrize("closed", [False, True])
def test_what_slipped_out_past_a_killed_daemon_is_refused_once_it_is_back(
    clean_lab: Lab, tmp_path: Path, server: str, closed: bool
) -> None:
    """With `pass` its ruleset stays, and lets go what it cannot ask about."""
    with Arbiter(clean_lab, tmp_path, "--when-absent", "pass") as arbiter:
        arbiter.add(f"deny host={server}")
        arbiter.stop(signal.SIGKILL)
        talk = Talk(arbiter, "udp", server, PORT)
        assert talk("send") == talk("send") == "done"
        if closed:
            assert talk("close") == "done"
        arbiter.start()
        if closed:
            talk = Talk(arbiter, "udp", server, PORT)
        assert talk("send") in REFUSED


@both
def test_echo_requests_that_began_before_the_start_are_refused(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    proto = "icmpv6" if ":" in server else "icmp"
    with away(clean_lab, tmp_path, f"deny proto={proto}") as arbiter:
        began = time.monotonic()
        ping = arbiter.program("ping", "-n", "-i", "0.2", "-w", "20", server)
        time.sleep(1)
        arbiter.start()
        ready = time.monotonic()
        said, _ = ping.communicate(timeout=30)
        answered = len(re.findall(r"bytes from", said))
        assert 3 <= answered <= (ready - began) / 0.2 + 1, said
        assert re.search("prohibited|not permitted", said, re.IGNORECASE), said
        decided = eventually(lambda: arbiter.json("audit", "--proto", proto))
        assert {one["decision"] for one in decided} == {"deny"}


def test_what_was_denied_and_is_allowed_now_is_not_refused_for_longer_than_a_moment(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with away(clean_lab, tmp_path, f"deny host={SERVER4}") as arbiter:
        talk = Talk(arbiter, "udp", SERVER4, PORT)
        assert talk("send") == "done"
        arbiter.start()
        assert talk("send") in REFUSED
        assert arbiter.command("rules", "remove", "1").returncode == 0
        arbiter.add(f"allow host={SERVER4}")
        eventually(lambda: talk("send") == "done", 15)
        eventually(lambda: ("allow", "rule", "") in records(arbiter))


# --- what goes on ---------------------------------------------------------------------------


@backends
@both
def test_a_stream_that_no_rule_denies_goes_on_both_ways_behind_a_strict_input_chain(
    clean_lab: Lab, tmp_path: Path, server: str, variant: str
) -> None:
    tool = "ip6tables" if ":" in server else "iptables"
    with away(clean_lab, tmp_path, "deny port=80", variant=variant) as arbiter:
        sh(clean_lab, f"{tool}-nft -A INPUT ! -i lo -p tcp -j DROP")
        talk = Talk(arbiter, "tcp", server, PORT)
        assert talk("send") == "done"
        (before,) = entries(clean_lab)
        arbiter.start()
        for _ in range(5):
            assert talk("send") == "done"
        assert (mark(before), [mark(line) for line in entries(clean_lab)]) == (0, [0])
        assert arbiter.asks() == []
        assert records(arbiter) == []


@both
@pytest.mark.parametrize("line", ["allow host={}", "route via=lte host={}", "deny port=80"])
def test_datagrams_that_no_rule_denies_go_on_from_their_socket(
    clean_lab: Lab, tmp_path: Path, server: str, line: str
) -> None:
    with away(clean_lab, tmp_path, line.format(server)) as arbiter:
        talk = Talk(arbiter, "udp", server, PORT)
        assert talk("send") == "done"
        arbiter.start()
        for _ in range(5):
            assert talk("send") == "done"
        assert [mark(line) for line in entries(clean_lab)] == [0]
        assert records(arbiter) == []


def test_what_is_not_this_hosts_alone_is_left_as_it_is(clean_lab: Lab, tmp_path: Path) -> None:
    lab = clean_lab
    add = "conntrack -I -t 120 -u SEEN_REPLY,ASSURED -p udp --sport"
    with away(lab, tmp_path, "deny") as arbiter:
        theirs = [
            f"{add} 45002 --dport 7 -s 10.77.0.5 -d {SERVER4}",  # forwarded
            f"{add} 45003 --dport 7 -s {SERVER4} -d {HOST4}",  # what came in
            f"{add} 45004 --dport 7 -s {HOST4} -d {SERVER4} -m 0x8",  # somebody's mark
            f"{add} 45005 --dport 7 -s {HOST4} -d {SERVER4} -w 7",  # somebody's zone
            f"{add} 45006 --dport 7 -s 127.0.0.1 -d 127.0.0.1",
            f"{add} 45007 --dport 7 -s {HOST4} -d 224.0.0.251",
            f"{add} 45008 --dport 67 -s {HOST4} -d 10.1.0.255",
            # translated by somebody
            f"{add} 45009 --dport 7 -s {HOST4} -d {SERVER4} --src-nat 10.9.9.9",
            f"{add} 45010 --dport 7 -s {HOST4} -d {SERVER4} --dst-nat 10.9.9.9",
            f"{add} 45011 --dport 7 -s 10.77.0.5 -d {SERVER4} --src-nat {HOST4}",
        ]
        for line in (f"{add} {PORT} --dport 7 -s {HOST4} -d {SERVER4}", *theirs):
            sh(lab, line)
        before = {port: entries(lab, port) for port in range(45002, 45012)}
        assert all(before.values()), before
        arbiter.start()
        assert entries(lab) == [], "the socketless one is forgotten"
        for port, lines in before.items():
            left = entries(lab, port)
            strip = [re.sub(r"^(\S+ +\S+) \d+", r"\1", line) for line in lines]
            assert [re.sub(r"^(\S+ +\S+) \d+", r"\1", line) for line in left] == strip


# --- what conntrack does not know -----------------------------------------------------------

SERVES = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listens = socket.create_server((sys.argv[1], 45100), family=family)
print("listens", flush=True)
one, _ = listens.accept()
while part := one.recv(100):
    one.sendall(part)
"""
COMES = """
import socket, sys
one = socket.create_connection((sys.argv[1], 45100), timeout=5)
for line in sys.stdin:
    one.sendall(b"x")
    print(one.recv(1).decode(), flush=True)
"""


@both
def test_a_download_that_conntrack_learns_of_from_the_other_side_is_ended_if_denied(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    host = f"[{server}]" if ":" in server else server
    with away(clean_lab, tmp_path, "deny port=80", tracked=False) as arbiter:
        url = f"http://{host}/slow/600"
        denied = arbiter.program("curl", "-sSN", "-m", "60", url)
        allowed = arbiter.program("curl", "-sSN", "-m", "60", url.replace("/slow", ":8080/slow"))
        time.sleep(0.5)
        arbiter.start()
        assert denied.wait(5) == 56
        (found,) = eventually(lambda: arbiter.json("audit", "--port", "80"))
        assert (found["decision"], found["note"]) == ("deny", "begun while arbiter was away")
        time.sleep(1)
        assert allowed.poll() is None
        assert arbiter.asks() == []


@both
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_connected_socket_that_conntrack_does_not_know_is_ended_if_denied(
    clean_lab: Lab, tmp_path: Path, server: str, proto: str
) -> None:
    rule = f"deny host={server} proto={proto}"
    with away(clean_lab, tmp_path, rule, tracked=False) as arbiter:
        talk = Talk(arbiter, proto, server, PORT)
        other = Talk(arbiter, "tcp" if proto == "udp" else "udp", server, PORT)
        assert talk("send") == other("send") == "done"
        arbiter.start()
        assert talk("send") in REFUSED
        (found,) = eventually(lambda: records(arbiter))
        assert found == ("deny", "rule", "begun while arbiter was away")
        if proto == "udp":
            assert other("send") == "done", "a stream that is open goes on undecided"


@both
@pytest.mark.parametrize("tracked", [True, False])
def test_who_came_in_stays_whatever_a_rule_says_of_its_program(
    clean_lab: Lab, tmp_path: Path, server: str, tracked: bool
) -> None:
    """The ssh session of the person who is to answer."""
    here = LINKS[0].host6 if ":" in server else HOST4
    with away(clean_lab, tmp_path, "deny", tracked=tracked) as arbiter:
        sshd = arbiter.program(*python(SERVES, here))
        assert sshd.stdout is not None
        assert sshd.stdout.readline() == "listens\n"
        pipe = subprocess.PIPE
        argv = python(COMES, here)
        comes = clean_lab.popen(argv, ns="wifi", stdin=pipe, stdout=pipe, text=True)
        arbiter.programs.append(comes)
        said, heard = comes.stdin, comes.stdout
        assert said is not None
        assert heard is not None

        def speak() -> str:
            said.write("x\n")
            said.flush()
            line: str = heard.readline()
            return line

        assert speak() == "x\n"
        arbiter.start()
        assert [speak() for _ in range(3)] == ["x\n"] * 3
        assert arbiter.json("audit", "--port", "45100") == []


SPEAKS = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listens = socket.create_server((sys.argv[1], 45100), family=family)
print("listens", flush=True)
one, _ = listens.accept()
while True:
    one.sendall(b"x")
    time.sleep(0.02)
"""
HEARS = """
import socket, sys
one = socket.create_connection((sys.argv[1], 45100), timeout=5)
while one.recv(1):
    print("x", flush=True)
"""


@both
def test_a_server_that_speaks_to_who_came_in_before_conntrack_is_not_cut(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    """Its next segment looks like the first of something: an ssh session with a log in it."""
    here = LINKS[0].host6 if ":" in server else HOST4
    with away(clean_lab, tmp_path, "deny", tracked=False) as arbiter:
        sshd = arbiter.program(*python(SPEAKS, here))
        assert sshd.stdout is not None
        assert sshd.stdout.readline() == "listens\n"
        pipe = subprocess.PIPE
        comes = clean_lab.popen(python(HEARS, here), ns="wifi", stdout=pipe, text=True)
        arbiter.programs.append(comes)
        heard = comes.stdout
        assert heard is not None
        assert heard.readline() == "x\n"
        arbiter.start()
        assert [heard.readline() for _ in range(150)] == ["x\n"] * 150
        assert {one["decision"] for one in arbiter.json("audit")} <= {"allow"}


# --- while the ruleset was gone -------------------------------------------------------------

SENDER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.2)
sock.connect((sys.argv[1], 7))
while True:
    try:
        sock.send(b"x")
        sock.recv(100)
        end = "reached"
    except OSError as error:
        end = "no"
    print(end, flush=True)
    time.sleep(0.02)
"""


@pytest.mark.parametrize("variant", VARIANTS)
@both
def test_who_slips_out_while_others_have_the_ruleset_is_refused_once_it_is_back(
    clean_lab: Lab, tmp_path: Path, server: str, variant: str
) -> None:
    if why := _works(clean_lab, variant):
        pytest.skip(f"this kernel or machine lacks iptables-{variant}: {why}")
    tool = "ip6tables" if ":" in server else "iptables"
    with Arbiter(clean_lab, tmp_path, settings=SETTINGS, through=through(variant)) as arbiter:
        arbiter.add(f"deny host={server}")
        sender = arbiter.program(*python(SENDER, server))
        assert sender.stdout is not None
        said = [sender.stdout.readline() for _ in range(5)]
        assert set(said) == {"no\n"}
        lines = sender.stdout

        def refused() -> bool:
            said.append(lines.readline())
            assert said[-1] in ("no\n", "reached\n"), said[-1] + lines.read()
            return len(said) > 20 and set(said[-15:]) == {"no\n"}

        for repairs in range(1, 9):  # mostly the first: it is repaired in no time
            if variant == "nft":
                sh(clean_lab, "nft flush ruleset")
            else:
                sh(clean_lab, f"{tool}-legacy -t mangle -F; {tool}-legacy -F")
            eventually(lambda repairs=repairs: arbiter.counter("repairs") >= repairs, 15)  # type: ignore[misc]
            eventually(refused, 15)
            if "reached\n" in said:
                break
        assert "reached\n" in said, "it did slip out"
        time.sleep(1.5)
        sender.kill()
        assert "reached" not in sender.stdout.read()
