"""The real daemon as a service: what it tells systemd, what it may do, what SIGHUP changes."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ARBITER, Arbiter, eventually

from arbiter.kernel import rights
from arbiter.kernel.procevents import ProcEvents
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4
from arbiter.priority import URGENT
from arbiter.records import Record
from arbiter.store import Store

KEPT = sum(1 << rights.CAPABILITIES[name] for name in rights.NEEDED)
CURL = ("curl", "-sS", "-m", "8", f"http://{SERVER4}/")


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        self.told: list[str] = []

    def look(self) -> list[str]:
        """All that was told so far."""
        while True:
            try:
                self.told.append(self.sock.recv(4096).decode())
            except BlockingIOError:
                return self.told

    def hears(self, text: str) -> bool:
        return any(text in message for message in self.look())


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.sock.close()


def as_service(lab: Lab, home: Path, settings: str = "") -> Arbiter:
    environment = {"NOTIFY_SOCKET": str(home / "notify"), "WATCHDOG_USEC": "1500000"}
    return Arbiter(lab, home, settings=settings, environment=environment)


def threads(pid: int) -> list[dict[str, str]]:
    """What proc(5) says of each thread of a process."""
    found = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = (line.partition(":") for line in status.read_text().splitlines())
        found.append({key: value.strip() for key, _, value in lines})
    return found


def test_it_tells_systemd_how_it_is_from_start_to_end(
    lab: Lab, tmp_path: Path, systemd: Systemd
) -> None:
    with as_service(lab, tmp_path) as arbiter:
        eventually(lambda: systemd.hears("READY=1"))
        assert systemd.look()[0].startswith("READY=1\nSTATUS=mode ask; 0 asks open, 0 held;")
        eventually(lambda: systemd.hears("links up: lte, wifi"))
        arbiter.program(*CURL)
        arbiter.ask()
        eventually(lambda: systemd.hears("1 ask open, 1 held"))
        seen = systemd.look().count("WATCHDOG=1")
        eventually(lambda: systemd.look().count("WATCHDOG=1") >= seen + 2)

        assert arbiter.process is not None
        arbiter.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        seen = len(systemd.look())
        time.sleep(2)
        assert len(systemd.look()) == seen, "a stopped daemon gave a sign of life"
        arbiter.process.send_signal(signal.SIGCONT)
        eventually(lambda: systemd.look()[seen:].count("WATCHDOG=1"))
        assert arbiter.stop() == 0
    assert systemd.look()[-1] == "STOPPING=1\nSTATUS=stopping"


def test_no_thread_of_it_and_nothing_that_it_starts_may_more(lab: Lab, tmp_path: Path) -> None:
    with Arbiter(lab, tmp_path) as arbiter:
        arbiter.add(f"allow app={os.path.realpath('/usr/bin/curl')}")
        assert arbiter.run(*CURL)[0] == 0  # by now the threads there are have worked
        assert arbiter.status().problems == ()
        assert arbiter.process is not None
        found = threads(arbiter.process.pid)
        assert len(found) > 1, "the writer's thread is one"
        held = int(found[0]["CapBnd"], 16)
        for thread in found:
            assert int(thread["CapEff"], 16) == int(thread["CapPrm"], 16) == KEPT
            assert int(thread["CapInh"], 16) == int(thread["CapAmb"], 16) == 0
            assert (held, thread["NoNewPrivs"], thread["Umask"]) == (KEPT, "1", "0027")
    assert (tmp_path / "state" / "arbiter.db").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("sync", [False, True], ids=["", "audit.sync"])
def test_what_no_verdict_waits_for_gives_way(lab: Lab, tmp_path: Path, sync: bool) -> None:
    settings = f'audit.json_lines = "{tmp_path}/lines"\naudit.sync = {str(sync).lower()}\n'
    with Arbiter(lab, tmp_path, settings=settings) as arbiter:
        assert arbiter.process is not None
        tasks = sorted(Path(f"/proc/{arbiter.process.pid}/task").iterdir())
        nice = [os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks]
        own = os.getpriority(os.PRIO_PROCESS, arbiter.process.pid)
        wanted = 1 if sync else 2  # the sink's, and the store's unless verdicts wait for it
        assert nice.count(own + 10) == wanted
        words = ["nice", "-n", str(URGENT - own), "nice"]  # which says how far it may go
        urgent = int(subprocess.run(words, capture_output=True, check=True).stdout)
        assert urgent in nice, "who puts the ruleset back comes before others"


def test_process_events_are_heard_from_another_network_namespace(lab: Lab, tmp_path: Path) -> None:
    """Without the rights to go there being kept. Else each look-up reads twice as much of /proc."""
    here = ProcEvents.open()
    if here is None:
        pytest.skip("this kernel delivers no process events here")
    here.close()
    with Arbiter(lab, tmp_path) as arbiter:
        assert arbiter.process is not None
        assert "no process events" not in (arbiter.home / "log").read_text()


def test_a_directory_of_somebody_elses_can_be_used(lab: Lab, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 1234, 1234)
    state.chmod(0o700)
    with Arbiter(lab, tmp_path) as arbiter:
        arbiter.add("allow app=/usr/bin/curl")
        assert arbiter.process is not None
        (held,) = {thread["CapEff"] for thread in threads(arbiter.process.pid)}
        assert int(held, 16) == KEPT | 1 << rights.CAPABILITIES["CAP_DAC_OVERRIDE"]


def test_a_prompt_beside_the_daemon_keeps_what_the_person_may(lab: Lab, tmp_path: Path) -> None:
    master, terminal = os.openpty()
    argv = [*ARBITER, "run", "--prompt", "terminal", "--state", str(tmp_path / "state")]
    argv += ["--socket", str(tmp_path / "socket")]
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        if select.select([master], [], [], 0)[0]:
            shown += os.read(master, 65536)
        return text in shown

    env = lab.environment() | {"TERM": "xterm"}
    daemon = lab.popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, env=env)
    try:
        os.close(terminal)
        eventually(lambda: shows(b"ready\r\n"), 20)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
        (prompt,) = (int(pid) for pid in children.read_text().split())
        cmdline = Path(f"/proc/{prompt}/cmdline")
        eventually(lambda: b"gate" not in cmdline.read_bytes())
        eventually(lambda: shows(b"waiting"), 20)
        (held,) = {thread["CapEff"] for thread in threads(daemon.pid)}
        assert int(held, 16) == KEPT
        theirs, mine = threads(prompt)[0], threads(os.getpid())[0]
        assert {theirs[key] == mine[key] for key in ("CapEff", "CapBnd", "NoNewPrivs")} == {True}
        os.write(master, b"q")
        assert daemon.wait(20) == 0, shown.decode()
    finally:
        if daemon.poll() is None:
            daemon.kill()
        os.close(master)


def test_a_prompt_ends_with_a_daemon_that_cannot_start(lab: Lab, tmp_path: Path) -> None:
    with Arbiter(lab, tmp_path):
        master, terminal = os.openpty()
        argv = [*ARBITER, "run", "--prompt", "terminal", "--state", str(tmp_path / "other")]
        argv += ["--socket", str(tmp_path / "b")]
        second = lab.popen(
            argv, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        _, said = second.communicate(timeout=20)
        os.close(master)
        assert second.returncode == 1
        assert "another arbiter decides the connections of this network namespace" in said
        left = lab.run(["pgrep", "-f", f"socket {tmp_path}/b"]).stdout
        assert left == "", "the prompt waits on for a daemon that never comes"


@pytest.mark.parametrize("prompt", [(), ("--prompt", "terminal")])
def test_it_ends_with_the_terminal_it_was_started_in(
    lab: Lab, tmp_path: Path, prompt: tuple[str, ...]
) -> None:
    master, terminal = os.openpty()
    argv = [*ARBITER, "run", *prompt, "--state", str(tmp_path / "state")]
    argv += ["--socket", str(tmp_path / "socket")]
    # setsid(1) makes the terminal the controlling one: the kernel tells of its end by SIGHUP.
    argv = ["setsid", "--ctty", "--wait", *argv]
    started = lab.popen(argv, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while b"ready" not in shown:
        assert select.select([master], [], [], 20)[0], shown.decode()
        shown += os.read(master, 65536)
    os.close(master)
    assert started.wait(20) in (0, 1), "1: the prompt saw it first, and its code is arbiter's"
    assert not (tmp_path / "socket").exists()
    assert "arbiter" not in lab.run(["iptables-save"]).stdout.lower()


def test_ctrl_z_does_not_stop_it_as_every_new_connection_would_wait(
    lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(lab, tmp_path, settings='mode = "observe"\n') as arbiter:
        assert arbiter.process is not None
        arbiter.process.send_signal(signal.SIGTSTP)
        eventually(lambda: "Ctrl-Z stops nothing" in (tmp_path / "log").read_text())
        assert arbiter.run(*CURL)[0] == 0


def test_sighup_puts_settings_in_force_and_says_what_it_cannot(
    lab: Lab, tmp_path: Path, systemd: Systemd
) -> None:
    file = tmp_path / "config" / "arbiter.toml"
    with as_service(lab, tmp_path) as arbiter:
        assert arbiter.process is not None
        file.write_text('mode = "observe"\nqueue_num = 77\n')
        arbiter.process.send_signal(signal.SIGHUP)
        eventually(lambda: arbiter.status().mode == "observe")
        assert arbiter.run(*CURL)[0] == 0, "it is observed, and passes"
        (problem,) = arbiter.status().problems
        assert "queue_num has changed and counts from the next start" in problem
        assert arbiter.status().queue == 10
        eventually(lambda: systemd.hears("RELOADING=1\nMONOTONIC_USEC="))
        assert systemd.look()[-1] == "WATCHDOG=1" or "READY=1" in "".join(systemd.look()[-3:])

        file.write_text('mode = "nonsense"\n')
        arbiter.process.send_signal(signal.SIGHUP)
        eventually(lambda: "stay as they are" in "".join(arbiter.status().problems))
        assert arbiter.status().mode == "observe"
        file.write_text('fallback = "allow"\n')
        file.chmod(0o666)
        arbiter.process.send_signal(signal.SIGHUP)
        eventually(lambda: "others than root may write it" in "".join(arbiter.status().problems))
        assert (arbiter.status().mode, arbiter.status().fallback) == ("observe", "deny")
        file.chmod(0o644)
        file.write_text('mode = "enforce"\n')
        arbiter.process.send_signal(signal.SIGHUP)
        eventually(lambda: arbiter.status().problems == ())
        assert arbiter.run(*CURL)[0] != 0


def test_sighup_puts_in_force_how_long_records_are_kept(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "config" / "arbiter.toml"
    with Arbiter(lab, tmp_path, settings="audit.keep_days = 0\n") as arbiter:
        assert arbiter.process is not None
        with Store.open(tmp_path / "state" / "arbiter.db") as store:
            old = [Record(time.time() - age * 86400, "deny", "rule") for age in (40, 20, 1)]
            store.record(old)
        file.write_text("audit.keep_days = 30\naudit.sync = true\n")
        arbiter.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(arbiter.status().problems) == 1)
        assert "audit.sync has changed and counts from the next" in arbiter.status().problems[0]

        def left() -> int:
            with Store.open(tmp_path / "state" / "arbiter.db", readonly=True) as store:
                return len(store.decisions(until=time.time() - 3600))

        eventually(lambda: left() == 2)


@pytest.mark.parametrize("when_absent", ["block", "pass"])
def test_after_a_crash_the_settings_say_whether_anything_stays(
    lab: Lab, tmp_path: Path, when_absent: str
) -> None:
    arbiter = Arbiter(lab, tmp_path, settings=f'when_absent = "{when_absent}"\n').start()
    arbiter.stop(signal.SIGKILL)
    config = ["--config", str(tmp_path / "config")]
    try:
        done = arbiter.command("rescue", "--as-settings-say", *config)
        assert done.returncode == 0, done.stderr
        assert ("refused until arbiter is back" in done.stdout) == (when_absent == "block")
        assert (arbiter.run("curl", "-sS", "-m", "2", f"http://{SERVER4}/")[0] == 0) == (
            when_absent == "pass"
        )
        (tmp_path / "config" / "arbiter.toml").write_text("when_absent = 7\n")
        unsure = arbiter.command("rescue", "--as-settings-say", *config)
        assert unsure.returncode == 1
        assert "what is in the kernel stays" in unsure.stderr
    finally:
        assert arbiter.command("rescue").returncode == 0
    assert arbiter.run(*CURL)[0] == 0
