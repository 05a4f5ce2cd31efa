"""`arbiter run-via`: a program and all that comes of it over one link, and nothing left behind."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ARBITER, UDP_CLIENT, Arbiter, eventually, python

from arbiter.lab import Lab
from arbiter.lab.config import DNS4, LTE, SECOND4, SERVER4, SERVER6

CURL = "curl -sS -g -m 8"
DAEMONIZE = """
import os, subprocess, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
time.sleep(0.3)
with open(sys.argv[1], "w") as file:
    subprocess.run(sys.argv[2:], stdout=file, stderr=file)
"""
TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def arbiter(lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(lab, tmp_path) as running:
        running.add("allow host=internet")
        yield running


@pytest.fixture
def open_to_all(lab: Lab) -> Iterator[Arbiter]:
    """Its socket and database are where every user may go."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        with Arbiter(lab, home) as running:
            running.add("allow host=internet")
            yield running


def via(arbiter: Arbiter, *argv: str, link: str = "lte") -> tuple[int, str]:
    """Exit code and output of a program that was run so."""
    done = arbiter.command("run-via", link, "--", *argv)
    return done.returncode, done.stdout + done.stderr


def links_of(output: str) -> list[str]:
    return [part.split()[0] for part in output.split("link=")[1:]]


def started(arbiter: Arbiter, *argv: str) -> subprocess.Popen[str]:
    program = arbiter.lab.popen(
        [*ARBITER, "run-via", "lte", "--", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=arbiter.command_environment(),
    )
    arbiter.programs.append(program)
    return program


def said(program: subprocess.Popen[str], line: str) -> str:
    """What a `while read` loop answers to a line."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(line + "\n")
    program.stdin.flush()
    return program.stdout.readline()


# --- whose connections ----------------------------------------------------------------------


def test_a_program_and_its_children_take_the_link_and_others_do_not(
    arbiter: Arbiter, lab: Lab, tmp_path: Path
) -> None:
    before = {name: len(lab.seen(name)) for name in ("wifi", "lte")}
    rules = arbiter.rules()
    udp = shlex.join(python(UDP_CLIENT, SERVER6, "7", "2"))
    script = f"""
        {CURL} http://{SERVER4}/ | cat
        {CURL} http://[{SERVER6}]/
        ( {CURL} http://{SERVER4}/ & )
        setsid sh -c '{CURL} http://{SECOND4}/ &'
        {udp}
        {CURL} http://www.lab.test/
    """
    code, output = via(arbiter, "sh", "-c", script)
    assert (code, links_of(output)) == (0, ["lte"] * 7), output
    assert len(lab.seen("wifi")) == before["wifi"], "something left over another link"
    questions = [s for s in lab.seen("lte")[before["lte"] :] if s.local == DNS4]
    assert questions, "the name was asked for elsewhere"
    left = tmp_path / "daemon"
    daemon = python(DAEMONIZE, str(left), *f"{CURL} http://{SERVER4}/".split())
    code, output = via(arbiter, *daemon)
    assert (code, links_of(left.read_text())) == (0, ["lte"]), "it did not wait, or did not know it"

    code, output, _ = arbiter.run(*f"{CURL} http://{SERVER4}/".split())
    assert (code, links_of(output)) == (0, ["wifi"])
    assert arbiter.rules() == rules
    assert arbiter.asks() == []


def test_nobody_routes_another_users_program(open_to_all: Arbiter) -> None:
    """Not even one that runs with another's rights because it is set-uid."""
    arbiter = open_to_all
    curl = f"{CURL} http://{SERVER4}/".split()
    done = arbiter.command("run-via", "lte", "--", *curl, user="nobody")
    assert (done.returncode, links_of(done.stdout)) == (0, ["lte"]), done.stderr
    copy = arbiter.home / "curl"
    shutil.copy("/usr/bin/curl", copy)
    copy.chmod(0o4755)
    argv = (str(copy), *curl[1:])
    done = arbiter.command("run-via", "lte", "--", *argv, user="nobody")
    assert (done.returncode, links_of(done.stdout)) == (0, ["wifi"]), done.stderr


# --- how it ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_exit_code_is_the_programs(arbiter: Arbiter, script: str, code: int) -> None:
    assert via(arbiter, "sh", "-c", script) == (code, "")


def test_what_cannot_be_run_is_said(arbiter: Arbiter, tmp_path: Path) -> None:
    code, output = via(arbiter, "no-such-program")
    assert (code, output) == (127, "arbiter: no-such-program: there is no such program\n")
    (tmp_path / "text").write_text("")
    code, output = via(arbiter, str(tmp_path / "text"))
    assert code == 126
    assert "Permission denied" in output
    code, output = via(arbiter, "true", link="vpn")
    assert code == 1
    assert "there is no link 'vpn' (known: wifi, lte)" in output
    done = arbiter.command("run-via", "lte")
    assert (done.returncode, "no program was given" in done.stderr) == (2, True)
    done = arbiter.command("run-via", "--socket", str(tmp_path / "none"), "lte", "--", "true")
    assert (done.returncode, "no daemon answers" in done.stderr) == (3, True)


def test_signals_reach_the_program(arbiter: Arbiter) -> None:
    program = started(
        arbiter, "sh", "-c", "trap 'echo got; exit 5' USR1; while read x; do echo $x; done"
    )
    assert said(program, "ready") == "ready\n"
    program.send_signal(signal.SIGUSR1)
    assert said(program, "") in ("got\n", "\n")  # a shell runs a trap after its read
    assert program.wait(10) == 5


def test_ctrl_c_is_the_programs_and_run_via_ends_with_it(arbiter: Arbiter, lab: Lab) -> None:
    master, slave = pty.openpty()
    script = "trap 'echo caught; exit 3' INT; echo on; while :; do sleep 0.1; done"
    argv = python(TERMINAL, *ARBITER, "run-via", "lte", "--", "sh", "-c", script)
    program = lab.popen(
        argv,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=arbiter.command_environment(),
    )
    arbiter.programs.append(program)
    os.close(slave)
    try:
        read(master, "on\r\n")
        os.write(master, b"\x03")
        read(master, "caught\r\n")
        assert program.wait(10) == 3
    finally:
        os.close(master)


def read(master: int, text: str) -> None:
    """Read a terminal until it shows a text."""
    os.set_blocking(master, False)
    shown = b""

    def more() -> bool:
        nonlocal shown
        try:
            shown += os.read(master, 65536)
        except BlockingIOError:
            return False
        return text.encode() in shown

    eventually(more)


# --- the daemon and the link come and go ----------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_holds_over_a_restart_of_the_daemon(arbiter: Arbiter, lab: Lab, how: int) -> None:
    loop = f"while read address; do {CURL} http://$address/; done"
    program = started(arbiter, "sh", "-c", loop)
    assert links_of(said(program, SERVER4)) == ["lte"]
    arbiter.stop(how)
    before = len(lab.seen("wifi"))
    arbiter.start()
    for address in (SERVER4, f"[{SERVER6}]", SECOND4):
        assert links_of(said(program, address)) == ["lte"]
    assert len(lab.seen("wifi")) == before
    assert program.stdin is not None
    program.stdin.close()
    assert program.wait(10) == 0


def test_while_its_link_is_down_it_is_refused_and_leaves_over_no_other(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow host=internet")
        loop = f"while read address; do {CURL} http://$address/ 2>&1; done"
        program = started(arbiter, "sh", "-c", loop)
        assert links_of(said(program, SERVER4)) == ["lte"]
        before = len(clean_lab.seen("wifi"))
        clean_lab.run(["ip", "link", "set", LTE.interface, "down"])
        eventually(lambda: "lte (wwan0, down)" in (tmp_path / "log").read_text())
        for address in (SERVER4, f"[{SERVER6}]"):
            began = time.monotonic()
            assert said(program, address).startswith("curl: (7)")
            assert time.monotonic() - began < 1
        code, output = via(arbiter, *f"{CURL} http://{SERVER4}/".split())
        assert code == 7
        assert "link lte is down" in output
        assert len(clean_lab.seen("wifi")) == before
        clean_lab.mend("lte")
        eventually(lambda: links_of(said(program, SERVER4)) == ["lte"])


def test_in_another_network_namespace_it_is_refused(arbiter: Arbiter) -> None:
    env = arbiter.command_environment()
    words = [*ARBITER, "run-via", "lte", "--", "echo", "ran"]
    done = arbiter.lab.run(words, ns="wifi", env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "this arbiter does not decide in your network namespace" in done.stderr
