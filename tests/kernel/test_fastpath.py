"""The fast path: it repeats what was decided, keeps its records, and takes back what changes of the
rules may change."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dialing import REFUSED, TARGETS, Dialer, Shell, known, records, repeats
from running import Arbiter, eventually

from arbiter.kernel.fastpath import compiled
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")
target = pytest.mark.parametrize(("proto", "server"), TARGETS)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arbiter]:
    with Lab(f"f{os.getpid()}") as lab:
        # Else a socket that gets the port of one that was closed goes on with that one's entry.
        brief = lab.run(["sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=2"])
        assert brief.returncode == 0, brief.stderr
        home = tmp_path_factory.mktemp("daemon")
        with Arbiter(lab, home, settings="deadline = 0.5\n") as running:
            yield running


@pytest.fixture
def arbiter(daemon: Arbiter) -> Iterator[Arbiter]:
    """One for all tests of this file: each has other rules and other processes."""
    yield daemon
    daemon.forget()


# --- what is repeated -----------------------------------------------------------------------


@target
def test_a_running_process_is_answered_again_and_recorded(
    arbiter: Arbiter, proto: str, server: str
) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    before, began = Counter(arbiter.status().counters), time.time()
    assert {dialer.dial(proto, server) for _ in range(10)} == {"reached"}
    assert repeats(arbiter) >= before["repeated"] + 5
    counters = arbiter.status().counters
    assert {counters[name] - before[name] for name in ("packets", "allow", "by_rule")} == {10}
    found = records(arbiter, 10, pid=dialer.pid)
    assert len(found) == 10
    assert len({one["sport"] for one in found}) == 10
    first, *others = found
    own = {"id", "time", "sport", "waited", "state", "replied", "closed"}
    own |= {f"{way}_{what}" for way in ("in", "out") for what in ("bytes", "packets")}
    for one in others:
        assert {k: v for k, v in one.items() if k not in own} == {
            k: v for k, v in first.items() if k not in own
        }
        assert began <= one["time"] <= time.time()
        assert 0 < one["waited"] < 1
    (rule,) = arbiter.json("rules", "list")
    assert (first["pid"], first["rule_id"], first["count"]) == (dialer.pid, rule["id"], 1)
    assert first["start"] == int(
        Path(f"/proc/{dialer.pid}/stat").read_text().rpartition(")")[2].split()[19]
    )
    assert [one["id"] for one in found] == sorted(one["id"] for one in found)
    times = [one["time"] for one in found]
    assert times == sorted(times), "as they came"


def test_packets_of_one_flow_are_one_record(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    burst, before = f"burst({SERVER4!r}, 7, 5)", repeats(arbiter)
    for _ in range(6):
        assert dialer.do(burst) == 5
    assert repeats(arbiter) >= before + 2
    assert len(records(arbiter, 6, pid=dialer.pid)) == 6


@target
def test_what_is_denied_is_refused_again_and_never_leaks(
    arbiter: Arbiter, proto: str, server: str
) -> None:
    arbiter.add("deny port=7")
    dialer = Dialer(arbiter)
    first = dialer.dial(proto, server)
    assert first in REFUSED
    known(arbiter, dialer, proto, server, end=str(first))
    before = repeats(arbiter)
    began = time.monotonic()
    assert {dialer.dial(proto, server) for _ in range(5)} == {first}
    assert time.monotonic() - began < 5, "at once, and not by its patience"
    again = repeats(arbiter) - before
    assert 3 <= again <= 5, "a storm of processes in another test makes it forget"
    assert {one["decision"] for one in records(arbiter, 5, pid=dialer.pid)} == {"deny"}


# --- what takes it back ---------------------------------------------------------------------


def _command(*argv: str) -> Callable[[Arbiter], None]:
    def run(arbiter: Arbiter) -> None:
        done = arbiter.command(*argv)
        assert done.returncode == 0, done.stderr

    return run


def _remove(arbiter: Arbiter) -> None:
    (rule,) = arbiter.json("rules", "list")
    _command("rules", "remove", str(rule["id"]))(arbiter)


CHANGES: dict[str, Callable[[Arbiter], None]] = {
    "a rule is removed": _remove,
    "a rule is taken back": _command("rules", "undo"),
    "a more exact rule denies": _command("rules", "add", f"deny host={SERVER4}"),
    "the same rule denies": _command("rules", "add", "deny port=7"),
    "a rule of the user denies": _command("rules", "add", "deny port=7 user=root"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_change_of_rules_counts_at_the_next_connection(
    arbiter: Arbiter, change: str, proto: str
) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, proto, SERVER4)
    before = repeats(arbiter)
    CHANGES[change](arbiter)
    assert dialer.dial(proto, SERVER4) != "reached"
    assert repeats(arbiter) == before


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_profile_that_is_used_counts_at_the_next_connection(arbiter: Arbiter, proto: str) -> None:
    _command("profiles", "add", f"office-{proto}")(arbiter)
    arbiter.add("allow port=7", f"deny port=7 profile=office-{proto}")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, proto, SERVER4)
    before = repeats(arbiter)
    _command("profiles", "use", f"office-{proto}")(arbiter)
    assert dialer.dial(proto, SERVER4) != "reached"
    assert repeats(arbiter) == before


def test_it_goes_on_for_new_processes_neither(arbiter: Arbiter) -> None:
    arbiter.add("allow port=80")
    shell, curl = Shell(arbiter), f"curl -sS -o /dev/null -m 3 http://{SERVER4}/"
    before = repeats(arbiter)
    eventually(lambda: shell.do(curl)[0] == 0 and repeats(arbiter) >= before + 3)
    before = repeats(arbiter)
    arbiter.add("deny app=/usr/bin/curl")
    assert shell.do(curl)[0] == 7
    assert repeats(arbiter) == before


def test_a_rule_that_ends_is_never_repeated(arbiter: Arbiter) -> None:
    dialer = Dialer(arbiter)
    before = repeats(arbiter)
    arbiter.add("allow port=9", "allow port=7 for=4s")
    (expires,) = (one["expires"] for one in arbiter.json("rules", "list") if one["expires"])
    while (told := dialer.dial("tcp", SERVER4)) == "reached":
        assert time.time() < expires + 4
        time.sleep(0.05)
    assert repeats(arbiter) == before, told
    allowed = [one for one in records(arbiter, 3, pid=dialer.pid) if one["decision"] == "allow"]
    assert len(allowed) >= 2
    assert all(one["time"] <= expires for one in allowed)


def test_a_rule_for_some_times_is_never_repeated(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7 time=00:00-23:59")
    dialer = Dialer(arbiter)
    before = repeats(arbiter)
    assert {dialer.dial("tcp", SERVER4) for _ in range(5)} == {"reached"}
    assert repeats(arbiter) == before
