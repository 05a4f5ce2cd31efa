"""The fast path, where no rule asks to where: a first connection to another place is answered as at
those before, recorded as its own, and decided anew as soon as a rule asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dialing import (
    REFUSED,
    SECONDS,
    TARGETS,
    Dialer,
    Shell,
    known,
    records,
    repeated,
    repeats,
    script,
)
from running import Arbiter

from arbiter.kernel.fastpath import compiled
from arbiter.lab import Lab
from arbiter.lab.config import DNS4, DNS6, SECOND4, SECOND6, SERVER4, SERVER6

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")
target = pytest.mark.parametrize(("proto", "server"), TARGETS)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arbiter]:
    with Lab(f"g{os.getpid()}") as lab:
        home = tmp_path_factory.mktemp("daemon")
        with Arbiter(lab, home, settings="deadline = 0.5\n") as running:
            yield running


@pytest.fixture
def arbiter(daemon: Arbiter) -> Iterator[Arbiter]:
    """One for all tests of this file: each has other rules and other processes."""
    yield daemon
    daemon.forget()


def reached(arbiter: Arbiter, dialer: Dialer, first: str, then: str) -> None:
    """One place is known, and the first connection to another is answered by that."""

    def act() -> None:
        assert dialer.dial("tcp", then) == "reached"

    repeated(arbiter, act, lambda: known(arbiter, dialer, "tcp", first))


@target
def test_another_place_is_answered_and_recorded_with_its_own_names(
    arbiter: Arbiter, proto: str, server: str
) -> None:
    arbiter.add("allow port=7", "allow port=53")
    dialer, second = Dialer(arbiter), SECONDS[server]
    assert second in str(dialer.do("socket.getaddrinfo('second.lab.test', 7)"))

    def act() -> None:
        assert dialer.dial(proto, second) == "reached"

    repeated(arbiter, act, lambda: known(arbiter, dialer, proto, server))
    last = records(arbiter, 1, "--host", second, pid=dialer.pid)[-1]
    assert (last["daddr"], last["names"]) == (second, ["second.lab.test"])
    assert (last["decision"], last["reason"]) == ("allow", "rule")


@target
def test_what_is_denied_is_denied_at_another_place(
    arbiter: Arbiter, proto: str, server: str
) -> None:
    arbiter.add("deny port=7")
    dialer, second = Dialer(arbiter), SECONDS[server]
    first = dialer.dial(proto, server)
    assert first in REFUSED

    def act() -> None:
        assert dialer.dial(proto, second) == first

    repeated(arbiter, act, lambda: known(arbiter, dialer, proto, server, end=str(first)))
    assert {one["decision"] for one in records(arbiter, 2, pid=dialer.pid)} == {"deny"}


@pytest.mark.parametrize(
    "rule",
    [
        f"deny host={SECOND4}",
        "deny host=198.51.100.16/28 port=7",
        "deny host=second.lab.test",
        "deny host=*.lab.test port=1-9 user=root",
    ],
)
def test_a_rule_that_asks_to_where_counts_at_the_first_connection(
    arbiter: Arbiter, rule: str
) -> None:
    arbiter.add("allow port=7", "allow port=53")
    dialer = Dialer(arbiter)
    assert SECOND4 in str(dialer.do("socket.getaddrinfo('second.lab.test', 7)"))
    known(arbiter, dialer, "tcp", SERVER4)
    arbiter.add(rule)
    before = repeats(arbiter)
    assert dialer.dial("tcp", SECOND4) in REFUSED
    assert repeats(arbiter) == before
    known(arbiter, dialer, "tcp", SERVER4)
    before = repeats(arbiter)
    assert dialer.dial("tcp", SECOND4) in REFUSED
    assert repeats(arbiter) in (before, before + 1)  # that is known by now, too


def test_outside_of_what_rules_ask_for_another_place_is_answered(arbiter: Arbiter) -> None:
    """Most people have a rule for their own network."""
    arbiter.add("allow port=7", "allow host=lan", "deny host=198.51.100.16/28", "deny host=::/4")
    arbiter.add("deny host=2001:db8:100::20")
    dialer = Dialer(arbiter)
    for there, other, denied in ((SERVER4, DNS4, SECOND4), (SERVER6, DNS6, SECOND6)):
        reached(arbiter, dialer, there, other)
        before = repeats(arbiter)
        assert dialer.dial("tcp", denied) in REFUSED
        assert repeats(arbiter) == before
        known(arbiter, dialer, "tcp", denied, end=str(dialer.dial("tcp", denied)))


def test_a_name_that_a_rule_speaks_of_counts_as_soon_as_it_is_looked_up(arbiter: Arbiter) -> None:
    """One that no other test looks up: the daemon has no names for its addresses."""
    arbiter.add("allow port=7", "allow port=53", "deny host=*.lab.test")
    dialer = Dialer(arbiter)
    for other, server in ((SERVER4, DNS4), (SERVER6, DNS6)):
        reached(arbiter, dialer, other, server)  # nobody knows what it is called
    assert DNS4 in str(dialer.do("socket.getaddrinfo('dns.lab.test', 7)"))
    for other, server in ((SERVER4, DNS4), (SERVER6, DNS6)):
        before = repeats(arbiter)
        assert dialer.dial("tcp", server) in REFUSED
        assert repeats(arbiter) == before
        known(arbiter, dialer, "tcp", other)  # and elsewhere all is as before


def test_new_processes_that_look_the_same_name_up_each_time_are_answered(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    """Both of their connections, the query and what it is for: as a script has it."""
    arbiter.add("allow app=/usr/bin/curl host=www.example.org", "allow port=53")
    job = script(tmp_path, "job.sh", "curl -sS -o /dev/null -m 8 http://www.example.org/; exit\n")
    shell = Shell(arbiter)
    for _ in range(40):
        before = repeats(arbiter)
        assert shell.do(f"sh {job}") == (0, [])
        if repeats(arbiter) == before + 2:
            return
    raise AssertionError("they were looked at each time")


def test_a_rule_for_another_port_leaves_it_as_it_is(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7", f"deny host={SECOND4} port=80")
    dialer = Dialer(arbiter)
    reached(arbiter, dialer, SERVER4, SECOND4)
    assert dialer.dial("tcp", SECOND4, 80) in REFUSED
    assert dialer.dial("tcp", SECOND4) == "reached"


def test_what_is_routed_is_routed_to_another_place(arbiter: Arbiter) -> None:
    arbiter.add("route via=lte port=7")
    dialer = Dialer(arbiter)
    reached(arbiter, dialer, SERVER4, SECOND4)
    last = records(arbiter, 1, "--host", SECOND4, pid=dialer.pid)[-1]
    assert (last["link"], last["decision"]) == ("lte", "route via=lte")
