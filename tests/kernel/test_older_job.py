"""Connections that began while nobody decided: before the start, or while others had taken the
ruleset away. What a rule denies ends, what has no socket any more is no way in for whoever gets
its port, and everything else goes on."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
from olderscene import HOST4, PORT, away, backends, both, both_recorded, entries, mark, records, sh
from running import Arbiter, eventually, python
from talking import REFUSED, Talk
from test_faults_ruleset import SETTINGS, VARIANTS, _works, through

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6

SERVERS = (SERVER4, SERVER6)
DENY = [f"deny host={server}" for server in SERVERS]

# --- what a rule denies ---------------------------------------------------------------------


@backends
def test_a_datagram_socket_that_spoke_before_the_start_is_refused_if_a_rule_denies_it(
    clean_lab: Lab, tmp_path: Path, variant: str
) -> None:
    with away(clean_lab, tmp_path, *DENY, variant=variant) as arbiter:
        talks = [Talk(arbiter, "udp", server, PORT) for server in SERVERS]
        assert [talk("send") for talk in talks * 2] == ["done"] * 4
        arbiter.start()
        assert {talk("send") for talk in talks * 5} <= REFUSED
        # and goes on to be, whatever the server has on the way
        time.sleep(1.2)
        assert {talk("send") for talk in talks} <= REFUSED
        assert both_recorded(arbiter) == [("deny", "rule", "begun while arbiter was away")] * 2
        assert arbiter.counter("cut") == 2
        assert "2 that began while nobody decided" in arbiter.ran("status").stdout


@backends
def test_a_new_socket_on_the_port_of_a_closed_one_is_decided(
    clean_lab: Lab, tmp_path: Path, variant: str
) -> None:
    with away(clean_lab, tmp_path, *DENY, variant=variant) as arbiter:
        for server in SERVERS:
            first = Talk(arbiter, "udp", server, PORT)
            assert first("send") == "done"
            assert first("send") == "done"
            assert first("close") == "done"
        arbiter.start()
        for server in SERVERS:
            assert Talk(arbiter, "udp", server, PORT)("send") in REFUSED
        assert both_recorded(arbiter) == [("deny", "rule", "")] * 2


@backends
def test_an_open_stream_is_reset_at_its_next_byte_if_a_rule_denies_it(
    clean_lab: Lab, tmp_path: Path, variant: str
) -> None:
    with away(clean_lab, tmp_path, *DENY, variant=variant) as arbiter:
        talks = [Talk(arbiter, "tcp", server, PORT) for server in SERVERS]
        assert [talk("send") for talk in talks] == ["done"] * 2
        arbiter.start()
        assert {talk("send") for talk in talks} <= REFUSED
        assert both_recorded(arbiter) == [("deny", "rule", "begun while arbiter was away")] * 2
        # Its entry would live for five days, and refuse whoever gets the port.
        for talk in talks:
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
        assert arbiter.ran("rules", "remove", "1").returncode == 0
        arbiter.add(f"allow host={SERVER4}")
        eventually(lambda: talk("send") == "done", 15)
        eventually(lambda: ("allow", "rule", "") in records(arbiter))


# --- what goes on ---------------------------------------------------------------------------


@backends
def test_a_stream_that_no_rule_denies_goes_on_both_ways_behind_a_strict_input_chain(
    clean_lab: Lab, tmp_path: Path, variant: str
) -> None:
    with away(clean_lab, tmp_path, "deny port=80", variant=variant) as arbiter:
        for tool in ("iptables", "ip6tables"):
            sh(clean_lab, f"{tool}-nft -A INPUT ! -i lo -p tcp -j DROP")
        talks = [Talk(arbiter, "tcp", server, PORT) for server in SERVERS]
        assert [talk("send") for talk in talks] == ["done"] * 2
        assert [mark(line) for line in entries(clean_lab)] == [0, 0]
        arbiter.start()
        assert [talk("send") for talk in talks * 5] == ["done"] * 10
        assert [mark(line) for line in entries(clean_lab)] == [0, 0]
        assert arbiter.asks() == []
        assert records(arbiter) == []


@pytest.mark.parametrize("line", ["allow port=7", "route via=lte port=7", "deny port=80"])
def test_datagrams_that_no_rule_denies_go_on_from_their_socket(
    clean_lab: Lab, tmp_path: Path, line: str
) -> None:
    with away(clean_lab, tmp_path, line) as arbiter:
        talks = [Talk(arbiter, "udp", server, PORT) for server in SERVERS]
        assert [talk("send") for talk in talks] == ["done"] * 2
        arbiter.start()
        assert [talk("send") for talk in talks * 5] == ["done"] * 10
        assert [mark(line) for line in entries(clean_lab)] == [0, 0]
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
