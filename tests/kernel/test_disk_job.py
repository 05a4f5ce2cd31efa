"""The disk under a real daemon: records before verdicts, a disk that is full, a database that is
locked. Verdicts go on as the settings say, people are told, and it mends by itself."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from running import Arbiter, Prompt, eventually, python

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6

CROWD = """
import socket, sys
address, count = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
socks = [socket.socket(family, socket.SOCK_STREAM) for _ in range(count)]
for sock in socks:
    sock.setblocking(False)
    sock.connect_ex((address, 7))
for sock in socks:
    sock.settimeout(10)
    sock.recv(1)
print("all")
"""
SYNC = "audit.sync = true\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB where the daemon keeps its state."""
    place = tmp_path / "state"
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    subprocess.run(argv, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no room."""
    path = place / "fill"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return path


def sound(place: Path) -> bool:
    with closing(sqlite3.connect(place / "arbiter.db")) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def curl(arbiter: Arbiter, address: str = SERVER4, port: int = 80) -> int:
    host = f"[{address}]" if ":" in address else address
    return arbiter.run("curl", "-sS", "-m", "9", "-o", "/dev/null", f"http://{host}:{port}/")[0]


def records(arbiter: Arbiter) -> list[tuple[str, str]]:
    return [
        (str(decision), str(reason))
        for decision, reason in arbiter.database("SELECT decision, reason FROM decisions")
    ]


@pytest.mark.parametrize("address", [SERVER4, SERVER6])
def test_with_sync_whoever_is_connected_has_its_record(
    clean_lab: Lab, tmp_path: Path, address: str
) -> None:
    with Arbiter(clean_lab, tmp_path, settings=SYNC) as arbiter:
        arbiter.add("allow host=internet")
        for round in range(1, 6):
            code, out, _ = arbiter.run(*python(CROWD, address, "20"))
            assert (code, out) == (0, "all\n")
            assert arbiter.database("SELECT count(*) FROM decisions") == [(20 * round,)]
        assert arbiter.database("SELECT count(DISTINCT id), max(id) FROM decisions") == [(100, 100)]
        assert arbiter.run(*python(CROWD, address, "1"))[0] == 0
        arbiter.stop()
        states = arbiter.database("SELECT count(*) FROM decisions WHERE state <> ''")
        assert states == [(101,)], "each is completed like any other"


def test_with_sync_a_full_disk_refuses_and_says_why_until_there_is_room(
    small_disk: Path, clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path, settings=SYNC) as arbiter, Prompt(arbiter) as prompt:
        arbiter.add("allow host=internet")
        assert curl(arbiter) == 0
        filled = fill(small_disk)
        began = time.monotonic()
        assert curl(arbiter) == 7
        assert curl(arbiter, SERVER6) == 7
        assert time.monotonic() - began < 5
        assert "no space left" in prompt.told("new connections are refused: audit.sync is on")
        (first, *_) = [p for p in arbiter.status().problems if "audit.sync" in p]
        assert "df -h" in first
        assert "audit.sync is on" in (tmp_path / "log").read_text()
        filled.unlink()
        assert curl(arbiter) == 0
        prompt.told("records can be written again")
        eventually(lambda: arbiter.status().problems == ())
        eventually(lambda: len(records(arbiter)) == 4)
        assert sorted(records(arbiter)) == [
            *[("allow", "rule")] * 2,
            *[("deny", "unrecorded")] * 2,
        ]
        assert "rule says allow; cannot write decision records" in str(
            arbiter.database("SELECT note FROM decisions WHERE decision = 'deny'")
        )
        assert sound(small_disk)


def test_with_sync_an_answer_is_recorded_though_it_could_not_be_carried_out(
    small_disk: Path, clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path, settings=SYNC) as arbiter:
        filled = fill(small_disk)
        asking = arbiter.program("curl", "-sS", "-m", "15", f"http://{SERVER4}/")
        said = arbiter.ran("answer", str(arbiter.ask()["id"]), "allow", "--for", "forever")
        assert "could not be remembered" in said.stderr
        assert asking.wait(15) == 7
        filled.unlink()
        eventually(lambda: records(arbiter) == [("deny", "unrecorded")], 40)
        [(by, note)] = arbiter.database("SELECT by_user, note FROM decisions")
        assert (by, note.split(";")[0]) == ("root", "answer says allow")


def test_with_sync_that_may_pass_a_full_disk_stops_nobody(
    small_disk: Path, clean_lab: Lab, tmp_path: Path
) -> None:
    settings = '[audit]\nsync = true\nwhen_unwritten = "pass"\n'
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        arbiter.add("allow host=internet")
        filled = fill(small_disk)
        assert [curl(arbiter) for _ in range(3)] == [0, 0, 0]
        assert any("verdicts come before records" in p for p in arbiter.status().problems)
        filled.unlink()
        eventually(lambda: records(arbiter) == [("allow", "rule")] * 3, 40)


def test_with_sync_a_lock_holds_connections_no_longer_than_their_deadline(
    clean_lab: Lab, tmp_path: Path
) -> None:
    settings = "deadline = 3\nask_ttl = 60\n" + SYNC
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        arbiter.add("allow host=internet")
        with closing(
            sqlite3.connect(tmp_path / "state" / "arbiter.db", isolation_level=None)
        ) as other:
            other.execute("BEGIN EXCLUSIVE")
            code, _, seconds = arbiter.run("curl", "-sS", "-m", "9", f"http://{SERVER4}/")
            assert code == 7
            assert 1.4 <= seconds < 3
            assert any("the disk takes too long" in p for p in arbiter.status().problems)
            other.execute("COMMIT")
        eventually(lambda: curl(arbiter) == 0, 20)
        eventually(lambda: ("deny", "unrecorded") in records(arbiter), 20)


def test_without_sync_a_full_disk_stops_nobody_and_an_answer_decides_once(
    small_disk: Path, clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Prompt(arbiter) as prompt:
        filled = fill(small_disk)
        asking = arbiter.program("curl", "-sS", "-m", "15", "-o", "/dev/null", f"http://{SERVER4}/")
        said = arbiter.ran("answer", str(arbiter.ask()["id"]), "allow", "--for", "forever")
        assert asking.wait(15) == 0, "an answer counts, remembered or not"
        told = said.stdout + said.stderr
        assert "not remembered" in told or "no space left" in told
        assert "no space left" in prompt.told("nothing can be written down")
        again = arbiter.program("curl", "-sS", "-m", "15", "-o", "/dev/null", f"http://{SERVER4}/")
        arbiter.answer("deny", "--for", "once")
        assert again.wait(15) == 7, "it is asked again, as nothing was remembered"
        assert any("no space left" in problem for problem in arbiter.status().problems)
        filled.unlink()
        eventually(lambda: arbiter.status().problems == (), 40)
        prompt.told("what was decided is written down again")
        eventually(lambda: len(records(arbiter)) == 2)
        (first, second) = arbiter.database("SELECT decision, reason, note FROM decisions")
        assert (first[:2], second[:2]) == (("allow", "answer"), ("deny", "answer"))
        assert "not remembered" in first[2]
        arbiter.add("allow host=internet")
        assert curl(arbiter) == 0
        assert arbiter.rules() == ["allow host=internet"]
        assert sound(small_disk)
        assert arbiter.stop() == 0
        arbiter.start()
        assert arbiter.rules() == ["allow host=internet"]


def test_arbiter_stops_in_order_with_a_full_disk(
    small_disk: Path, clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path, settings=SYNC) as arbiter:
        arbiter.add("allow host=internet")
        filled = fill(small_disk)
        assert curl(arbiter) == 7
        assert arbiter.stop() == 0
        assert "were lost" in (tmp_path / "log").read_text()
        filled.unlink()
        arbiter.start()
        assert curl(arbiter) == 0
        gaps = arbiter.database("SELECT count, why FROM gaps")
        assert gaps, "what could not be written by the end is a gap"
        assert sound(small_disk)


def test_arbiter_starts_with_a_full_disk_and_decides_by_its_rules(
    small_disk: Path, clean_lab: Lab, tmp_path: Path
) -> None:
    """Else a full disk, and one restart, would cut a machine off that blocks without arbiter."""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow host=internet")
        arbiter.add("deny host=internet port=81")
        arbiter.stop(signal.SIGKILL)
        filled = fill(small_disk)
        arbiter.start()
        assert curl(arbiter) == 0 and curl(arbiter, port=81) == 7
        assert "cannot begin a run" in (tmp_path / "log").read_text()
        (problem,) = arbiter.status().problems
        assert "no space left" in problem and "free some: df -h" in problem
        filled.unlink()
        eventually(lambda: arbiter.status().problems == (), 40)
        eventually(lambda: len(arbiter.database("SELECT id FROM runs WHERE ended IS NULL")) == 1)
        first, second = arbiter.database("SELECT started, ended FROM runs ORDER BY id")
        assert first[1] is not None and first[1] < second[0]
        gaps = arbiter.database("SELECT time_to, why FROM gaps WHERE count IS NULL")
        assert len(gaps) == 1 and "killed" in gaps[0][1]
        assert gaps[0][0] == pytest.approx(second[0], abs=0.001), (
            "until it was started, and not later"
        )
        assert curl(arbiter) == 0
        eventually(lambda: ("allow", "rule") in records(arbiter))
        assert arbiter.stop() == 0
        assert arbiter.ran("audit", "verify").returncode == 0
        assert sound(small_disk)


def test_a_start_that_fails_after_a_kill_says_how_to_open_the_net(
    clean_lab: Lab, tmp_path: Path
) -> None:
    arbiter = Arbiter(clean_lab, tmp_path)
    with arbiter:
        arbiter.stop(signal.SIGKILL)
        database = tmp_path / "state" / "arbiter.db"
        for file in database.parent.glob("arbiter.db*"):
            file.unlink()
        database.write_bytes(b"no database" * 1000)
        with pytest.raises(AssertionError, match="arbiter rescue"):
            arbiter.start()
        assert arbiter.command("rescue").returncode == 0
        with pytest.raises(AssertionError) as caught:
            arbiter.start()
        (*_, last) = str(caught.value).splitlines()
        assert str(database) in last, "with nothing in force there is nothing more to say"
