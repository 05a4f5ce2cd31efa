"""The fast path, where more than rules changes: names, files, links, settings, answers, who runs
what. Each test has a daemon to itself, and so has what is counted from its start."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from dialing import REFUSED, Dialer, Shell, binary, known, once, records, repeats
from running import ARBITER as ARBITER_WORDS
from running import Arbiter, eventually

from arbiter.kernel.fastpath import NAME, compiled
from arbiter.lab import Lab
from arbiter.lab.config import LTE, SERVER4, SERVER6

pytestmark = pytest.mark.skipif(not compiled(), reason="KERNEL TEST NOT RUN: not compiled")


@pytest.fixture
def arbiter(clean_lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(clean_lab, tmp_path, settings="deadline = 0.5\n") as running:
        yield running


# --- new processes --------------------------------------------------------------------------


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


def test_the_names_and_the_link_of_a_repeated_one_are_recorded(arbiter: Arbiter) -> None:
    arbiter.add("allow port=53", "route via=lte host=www.example.org")
    dialer = Dialer(arbiter)
    assert SERVER4 in str(dialer.do("socket.getaddrinfo('www.example.org', 7)"))
    known(arbiter, dialer, "tcp", SERVER4)
    *_, last = records(arbiter, 2, "--port", "7")
    assert (last["link"], last["names"]) == ("lte", ["www.example.org"])
    assert last["decision"] == "route via=lte"


# --- what takes it back ---------------------------------------------------------------------


def hang_up(arbiter: Arbiter) -> None:
    assert arbiter.process is not None
    arbiter.process.send_signal(signal.SIGHUP)


def test_a_policy_file_that_changes_counts_at_the_next_connection(arbiter: Arbiter) -> None:
    arbiter.add("allow host=internet")
    dialer = Dialer(arbiter)
    known(arbiter, dialer, "tcp", SERVER4)
    folder = arbiter.home / "config" / "policy.d"
    folder.mkdir(exist_ok=True)
    (folder / "10-own.toml").write_text('[[rule]]\ndecision = "deny"\nport = 7\n')
    hang_up(arbiter)
    eventually(lambda: dialer.dial("tcp", SERVER4) in REFUSED)


def test_a_name_that_is_learned_for_the_address_counts_at_once(arbiter: Arbiter) -> None:
    arbiter.add("allow host=internet", "deny host=www.example.org")
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
    eventually(lambda: arbiter.status().fallback == "allow")
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
