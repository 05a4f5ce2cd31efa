"""The fast path: it repeats what was decided, keeps its records, and takes back what may change."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dialing import REFUSED, TARGETS, Dialer, Shell, binary, known, once, repeats
from running import ARBITER as ARBITER_WORDS
from running import Arbiter, eventually

from arbiter.kernel.fastpath import NAME, compiled
from arbiter.lab import Lab
from arbiter.lab.config import LTE, SERVER4, SERVER6

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")
target = pytest.mark.parametrize(("proto", "server"), TARGETS)


@pytest.fixture
def arbiter(clean_lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(clean_lab, tmp_path, settings="deadline = 0.5\n") as running:
        yield running


def records(arbiter: Arbiter, count: int, *filters: str) -> list[dict[str, Any]]:
    """All of them, the newest last, once there are so many; and the log is whole."""
    eventually(lambda: len(arbiter.json("audit", *filters)) >= count)
    found: list[dict[str, Any]] = arbiter.json("audit", *filters)
    done = arbiter.command("audit", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(found, key=lambda one: int(one["id"]))


# --- what is repeated -----------------------------------------------------------------------


@target
def test_a_running_process_is_answered_again_and_recorded(
    arbiter: Arbiter, proto: str, server: str
) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    began = time.time()
    assert {dialer.dial(proto, server) for _ in range(10)} == {"reached"}
    assert repeats(arbiter) >= 5
    counters = arbiter.status().counters
    assert (counters["packets"], counters["allow"], counters["by_rule"]) == (10, 10, 10)
    found = records(arbiter, 10, "--port", "7")
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
    assert (first["pid"], first["rule_id"], first["count"]) == (dialer.pid, 1, 1)
    assert first["start"] == int(
        Path(f"/proc/{dialer.pid}/stat").read_text().rpartition(")")[2].split()[19]
    )
    assert [one["id"] for one in found] == sorted(one["id"] for one in found)
    times = [one["time"] for one in found]
    assert times == sorted(times), "as they came"


def test_new_processes_of_a_known_program_are_answered_and_told_apart(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    arbiter.add("allow port=80")
    shell = Shell(arbiter)
    for number in range(8):
        code, lines = shell.do(
            f"sh -c 'echo $$; exec curl -sS -o /dev/null -m 8 -H X-Number:{number} http://{SERVER4}/'"
        )
        assert code == 0, lines
    assert repeats(arbiter) >= 2
    found = records(arbiter, 8, "--port", "80")
    assert [one["argv"][-2] for one in found] == [f"X-Number:{number}" for number in range(8)]
    assert len({(one["pid"], one["start"]) for one in found}) == 8
    assert len({json.dumps([one["app"], one["exe"], one["parents"]]) for one in found}) == 1
    assert {one["count"] for one in found} == {1}


def test_each_new_process_is_recorded_with_its_own_pid_and_start(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    arbiter.add("allow port=7")
    shell = Shell(arbiter)
    program = " ".join(binary(tmp_path))
    who = (
        "print(__import__('os').getpid(), open('/proc/self/stat').read().split(')')[1].split()[19])"
    )
    file = tmp_path / "program.py"
    file.write_text(once("tcp", SERVER4)[-1] + "\n" + who + "\n")
    told = []
    for _ in range(6):
        code, lines = shell.do(f"{program} -S {file}")
        assert (code, lines[0]) == (0, "reached"), lines
        told.append(tuple(map(int, lines[1].split())))
    assert repeats(arbiter) >= 2
    assert [(one["pid"], one["start"]) for one in records(arbiter, 6, "--port", "7")] == told


def test_packets_of_one_flow_are_one_record(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    burst = f"burst({SERVER4!r}, 7, 5)"
    for _ in range(6):
        assert dialer.do(burst) == 5
    assert repeats(arbiter) >= 2
    assert len(records(arbiter, 6, "--port", "7")) == 6


def test_the_names_and_the_link_of_a_repeated_one_are_recorded(arbiter: Arbiter) -> None:
    arbiter.add_all("allow port=53", "route via=lte host=www.example.org")
    dialer = Dialer(arbiter)
    assert SERVER4 in str(dialer.do("socket.getaddrinfo('www.example.org', 7)"))
    known(arbiter, dialer, "tcp", SERVER4)
    *_, last = records(arbiter, 2, "--port", "7")
    assert (last["link"], last["names"]) == ("lte", ["www.example.org"])
    assert last["decision"] == "route via=lte"


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
    assert repeats(arbiter) == before + 5
    assert {one["decision"] for one in records(arbiter, 5, "--port", "7")} == {"deny"}


# --- what takes it back ---------------------------------------------------------------------


def _profile(arbiter: Arbiter) -> None:
    done = arbiter.command("profiles", "use", "office")
    assert done.returncode == 0, done.stderr


def hang_up(arbiter: Arbiter) -> None:
    assert arbiter.process is not None
    arbiter.process.send_signal(signal.SIGHUP)


def _command(*argv: str) -> Callable[[Arbiter], None]:
    def run(arbiter: Arbiter) -> None:
        done = arbiter.command(*argv)
        assert done.returncode == 0, done.stderr

    return run


CHANGES: dict[str, Callable[[Arbiter], None]] = {
    "a rule is removed": _command("rules", "remove", "1"),
    "a rule is taken back": _command("rules", "undo"),
    "a more exact rule denies": lambda arbiter: arbiter.add(f"deny host={SERVER4}"),
    "the same rule denies": lambda arbiter: arbiter.add("deny port=7"),
    "a rule of the user denies": lambda arbiter: arbiter.add("deny port=7 user=root"),
    "a profile's rule denies": _profile,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_change_of_rules_counts_at_the_next_connection(
    arbiter: Arbiter, change: str, proto: str
) -> None:
    if change == "a profile's rule denies":
        _command("profiles", "add", "office")(arbiter)
        arbiter.add("allow port=7")
        arbiter.add("deny port=7 profile=office")
    else:
        arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, proto, SERVER4)
    before = repeats(arbiter)
    CHANGES[change](arbiter)
    assert dialer.dial(proto, SERVER4) != "reached"
    assert repeats(arbiter) == before


def test_it_goes_on_for_new_processes_neither(arbiter: Arbiter) -> None:
    arbiter.add("allow port=80")
    shell, curl = Shell(arbiter), f"curl -sS -o /dev/null -m 3 http://{SERVER4}/"
    eventually(lambda: shell.do(curl)[0] == 0 and repeats(arbiter) >= 3)
    before = repeats(arbiter)
    arbiter.add("deny app=/usr/bin/curl")
    assert shell.do(curl)[0] == 7
    assert repeats(arbiter) == before


def test_a_policy_file_that_changes_counts_at_the_next_connection(arbiter: Arbiter) -> None:
    arbiter.add("allow host=internet")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "tcp", SERVER4)
    folder = arbiter.home / "config" / "policy.d"
    folder.mkdir(exist_ok=True)
    (folder / "10-own.toml").write_text('[[rule]]\ndecision = "deny"\nport = 7\n')
    hang_up(arbiter)
    eventually(lambda: dialer.dial("tcp", SERVER4) in REFUSED)


def test_a_rule_that_ends_is_never_repeated(arbiter: Arbiter) -> None:
    arbiter.add("allow port=9")
    dialer = Dialer(arbiter)
    done = arbiter.command("rules", "add", "allow port=7 for=6s")
    assert done.returncode == 0, done.stderr
    (expires,) = (one["expires"] for one in arbiter.json("rules", "list") if one["expires"])
    before, began = repeats(arbiter), time.time()
    while (told := dialer.dial("tcp", SERVER4)) == "reached":
        assert time.time() < began + 10
    assert repeats(arbiter) == before, told
    allowed = records(arbiter, 2, "--port", "7", "--decision", "allow")
    assert all(one["time"] <= expires for one in allowed)


def test_a_rule_for_some_times_is_never_repeated(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7 time=00:00-23:59")
    dialer = Dialer(arbiter)
    assert {dialer.dial("tcp", SERVER4) for _ in range(5)} == {"reached"}
    assert repeats(arbiter) == 0


def test_a_name_that_is_learned_for_the_address_counts_at_once(arbiter: Arbiter) -> None:
    arbiter.add_all("allow host=internet", "deny host=www.example.org")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "tcp", SERVER4)
    known(arbiter, dialer, "tcp", SERVER6)
    assert SERVER6 in str(dialer.do("socket.getaddrinfo('www.example.org', 7)"))
    before = repeats(arbiter)
    assert dialer.dial("tcp", SERVER4) in REFUSED
    assert dialer.dial("tcp", SERVER6) in REFUSED
    assert repeats(arbiter) == before


def test_a_link_that_goes_down_and_up_counts(arbiter: Arbiter) -> None:
    arbiter.add("route via=lte port=7")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "tcp", SERVER4)
    before = repeats(arbiter)
    arbiter.lab.run(["ip", "link", "set", LTE.interface, "down"])
    eventually(lambda: "lte (wwan0, down)" in (arbiter.home / "log").read_text())
    assert dialer.dial("tcp", SERVER4) in REFUSED
    assert dialer.dial("tcp", SERVER4) in REFUSED
    assert repeats(arbiter) == before, "what a link refuses is found out each time"


def test_settings_that_change_take_everything_back(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "tcp", SERVER4)
    before = repeats(arbiter)
    (arbiter.home / "config" / "arbiter.toml").write_text('deadline = 0.7\nfallback = "allow"\n')
    hang_up(arbiter)
    time.sleep(1)
    assert dialer.dial("tcp", SERVER4) == "reached"
    assert repeats(arbiter) == before
    known(arbiter, dialer, "tcp", SERVER4)


def test_an_answer_counts_at_the_next_connection(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add(f"allow host={SERVER4}")
        dialer, other = Dialer(arbiter), Dialer(arbiter)
        known(arbiter, dialer, "tcp", SERVER4)
        other.tell(f"dial('tcp', {SERVER6!r}, 7)")
        ask = arbiter.ask()
        arbiter.answer("deny", "--for", "forever")
        before = repeats(arbiter)
        assert ask["processes"][0]["pid"] == other.pid
        assert dialer.dial("tcp", SERVER4) == "reached"
        assert repeats(arbiter) == before, "it might have been about this, too"


def test_a_run_over_a_link_takes_everything_back_and_is_obeyed(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    arbiter.add("allow host=internet")
    shell, program = Shell(arbiter), binary(tmp_path)
    told = tmp_path / "told.py"
    told.write_text(once("tcp", SERVER4)[-1])
    command = f"{' '.join(program)} -S {told}"
    for _ in range(6):
        assert shell.do(command) == (0, ["reached"])
    assert repeats(arbiter) >= 2
    environment = arbiter.command_environment()
    words = f"env ARBITER_SOCKET={environment['ARBITER_SOCKET']} {' '.join(ARBITER_WORDS)}"
    for _ in range(3):
        code, lines = shell.do(f"{words} run-via lte -- {command}")
        assert (code, lines[-1:]) == (0, ["reached"]), lines
    assert [one["link"] for one in records(arbiter, 9, "--port", "7")][-3:] == ["lte"] * 3


# --- the thread -----------------------------------------------------------------------------


def _threads(arbiter: Arbiter) -> dict[str, dict[str, str]]:
    """The status of each thread, by its id."""
    assert arbiter.process is not None
    found = {}
    for task in Path(f"/proc/{arbiter.process.pid}/task").iterdir():
        lines = (line.partition(":") for line in (task / "status").read_text().splitlines())
        found[task.name] = {key: value.strip() for key, _, value in lines}
    return found


def test_its_thread_has_no_more_rights_than_the_others(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7")
    known(arbiter, Dialer(arbiter), "tcp", SERVER4)
    threads = _threads(arbiter)
    names = [status["Name"] for status in threads.values()]
    assert names.count(NAME) == 1, names
    rights = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Umask")
    assert len({tuple(status[key] for key in rights) for status in threads.values()}) == 1
    assert {status["NoNewPrivs"] for status in threads.values()} == {"1"}
    full = int(Path("/proc/self/status").read_text().split("CapBnd:")[1].split()[0], 16)
    assert int(next(iter(threads.values()))["CapEff"], 16) != full


def test_processes_that_come_and_go_leave_no_descriptors_behind(arbiter: Arbiter) -> None:
    arbiter.add("allow port=7")
    assert arbiter.process is not None
    table = Path(f"/proc/{arbiter.process.pid}/fd")

    def held() -> int:
        """Of processes in /proc."""
        links = [os.readlink(entry) for entry in table.iterdir() if entry.is_symlink()]
        return sum(
            bool(re.match(r"/proc/\d+(/(fd|stat|cgroup|cmdline))?$", link)) for link in links
        )

    for _ in range(80):
        dialer = Dialer(arbiter)
        known(arbiter, dialer, "tcp", SERVER4)
        assert dialer.program.stdin is not None
        dialer.program.stdin.close()
        dialer.program.wait()
    most = 64 * 2 + 64 * 1 + 16 * 4
    assert held() <= most, "64 places of two each, the table's warm ones, and new processes"
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "tcp", SERVER4)
    assert held() <= 74, "whoever has ended is let go at the next look"
