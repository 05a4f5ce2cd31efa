"""`arbiter explain` of what runs: the same program, connection and context as the daemon has it."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from running import ARBITER, Arbiter, eventually, python
from sessions import like, session

from arbiter.cli import cli
from arbiter.lab import Lab
from arbiter.lab.config import SECOND4, SERVER4, SERVER6

EXPLAIN_MD = Path(__file__).parents[2] / "docs" / "explain.md"

# Each says what it has, and waits for the end of its standard input.
HOLD = """
import os, socket, sys
def say(*found):
    print(*found, flush=True)
def wait():
    sys.stdin.read()
def tcp(address, port=7):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(8)
    sock.connect((address, port))
    return sock
def udp(address, port=7):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, port))
    return sock
def ends(sock):
    def end(pair):
        return f"[{pair[0]}]:{pair[1]}" if ":" in pair[0] else f"{pair[0]}:{pair[1]}"
    return f"{end(sock.getsockname())} {end(sock.getpeername())}"
"""


BASH = "exec 3<>/dev/tcp/$1/7; echo ready; read"
"""The same of a program that every user may run."""


class Program:
    """A program that runs in the lab until the test ends, and what it said."""

    def __init__(self, lab: Lab, argv: Sequence[str], user: str | None = None) -> None:
        pipe = subprocess.PIPE
        self.process = lab.popen(argv, user=user, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    @property
    def pid(self) -> str:
        return str(self.process.pid)

    def end(self) -> None:
        self.process.communicate(timeout=10)


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        program.end()


class Explained:
    """`arbiter explain` in a lab without a daemon, over a database of these rules."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab, self.home = lab, home
        self.env = lab.environment() | {
            "ARBITER_DB": str(home / "arbiter.db"),
            "ARBITER_CONFIG": str(home / "config"),
        }

    def rule(self, line: str) -> None:
        done = CliRunner().invoke(cli, ["rules", "add", line], env=self.env)
        assert done.exit_code == 0, done.output

    def run(self, *argv: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        if user is not None:
            done = self.lab.run([*ARBITER, "explain", *argv], env=self.env, user=user)
            assert "Traceback" not in done.stderr, done.stderr
            return done
        line = ["explain", *argv]
        here = self.lab.inside(lambda: CliRunner().invoke(cli, line, env=self.env))
        assert here.exception is None or isinstance(here.exception, SystemExit), here.exc_info
        return subprocess.CompletedProcess(line, here.exit_code, here.stdout, here.stderr)

    def json(self, *argv: str, code: int = 0) -> list[dict[str, Any]]:
        done = self.run(*argv, "--json")
        assert done.returncode == code, done.stderr + done.stdout
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


@pytest.fixture
def explained(lab: Lab, tmp_path: Path) -> Explained:
    made = Explained(lab, tmp_path)
    made.rule("deny host=203.0.113.1")  # so that there is a database
    return made


def test_every_connection_of_a_process_is_explained_over_both_families(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    explained.rule(f"allow host={SERVER4} port=7 proto=tcp")
    explained.rule(f"deny host={SERVER6} proto=udp")
    code = f"""
socks = [tcp({SERVER4!r}), tcp({SERVER6!r}), udp({SERVER4!r}, 9), udp({SERVER6!r}, 9)]
unconnected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
unconnected.bind(("", 0))
mapped = socket.socket(socket.AF_INET6)
mapped.connect(("::ffff:{SERVER4}", 80))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
raw.connect(({SERVER4!r}, 0))
say("ready")
wait()
"""
    programs.append(Program(lab, python(HOLD + code)))
    found = explained.json("--pid", programs[0].pid, code=1)
    told = {
        (one["query"]["proto"], one["query"]["host"], one["query"]["port"]): one["decision"]
        for one in found
    }
    assert told == {
        ("tcp", SERVER4, 7): "allow",
        ("tcp", SERVER6, 7): None,
        ("udp", SERVER4, 9): None,
        ("udp", SERVER6, 9): "deny",
        ("tcp", SERVER4, 80): None,
        ("icmp", SERVER4, 0): None,
    }
    for one in found:
        assert one["query"]["pids"] == [int(programs[0].pid)]
        assert one["query"]["user"] == "root" and one["query"]["app"] == found[0]["query"]["app"]
        assert one["query"]["from"] and one["not_decided"] is None
        assert one["query"]["networks"], "the links of the lab have gateways"
    done = explained.run("--pid", programs[0].pid)
    assert done.returncode == 1
    assert "has 6 connections now" in done.stdout
    assert f"[{SERVER6}]:9" in done.stdout and "rule 3 " in done.stdout


def test_a_process_without_a_connection_and_one_that_is_not_there(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    programs.append(Program(lab, python(HOLD + "say('ready')\nwait()")))
    done = explained.run("--pid", programs[0].pid)
    assert done.returncode == 0 and "has no connection now" in done.stdout
    assert explained.json("--pid", programs[0].pid) == []
    done = explained.run("--pid", "4194303")
    assert done.returncode == 1 and "there is no process 4194303" in done.stderr


def test_a_process_of_another_network_namespace_is_named_with_the_way_there(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    programs.append(Program(lab, python(HOLD + "say('ready')\nwait()")))
    pid = programs[0].pid
    done = CliRunner().invoke(cli, ["explain", "--pid", pid], env=explained.env)
    assert done.exit_code == 1
    assert f"sudo nsenter -t {pid} -n arbiter explain --pid {pid}" in done.stderr


def test_what_ss_prints_can_be_pasted(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    explained.rule("allow proto=tcp")
    code = f"socks = [tcp({SERVER4!r}), tcp({SERVER6!r})]\nsay('ready')\nwait()"
    programs.append(Program(lab, python(HOLD + code)))
    shown = lab.run(["ss", "-Htnp"]).stdout.splitlines()
    mine = [line for line in shown if f"pid={programs[0].pid}," in line]
    assert len(mine) == 2
    for line in mine:
        done = explained.run("--connection", line)
        assert done.returncode == 0, done.stderr
        assert f"(pid {programs[0].pid}), user root" in done.stdout
        assert "rule 2 (remembered rules" in done.stdout
        (found,) = explained.json("--connection", line)
        # Written as arbiter itself writes it, it is found again.
        query = found["query"]
        ends = [
            f"[{a}]:{p}" if ":" in a else f"{a}:{p}"
            for a, p in ((query["from"], query["from_port"]), (query["host"], query["port"]))
        ]
        (again,) = explained.json("--connection", f"tcp {ends[0]} > {ends[1]}")
        assert again == found
        done = explained.run("--connection", f"tcp {ends[1]} > {ends[0]}")
        assert done.returncode == 1
        assert "there is one the other way round: the local side comes first" in done.stderr


def test_a_connection_that_nobody_has_is_said(explained: Explained) -> None:
    done = explained.run("--connection", f"tcp 10.77.1.2:1 > {SERVER4}:7")
    assert done.returncode == 1
    assert f"no socket here has the connection tcp 10.77.1.2:1 > {SERVER4}:7" in done.stderr
    assert "ss -tunp" in done.stderr


def test_a_closed_connection_has_no_program_but_an_answer(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    code = f"s = tcp({SERVER4!r})\nshown = ends(s)\ns.recv(1000)\ns.close()\nsay(shown)\nwait()"
    programs.append(Program(lab, python(HOLD + code)))
    done = explained.run("--connection", programs[0].said)
    assert done.returncode == 1 and "without a program: exited" in done.stdout, done


def test_who_connects_from_outside_is_not_asked_about(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    listen = """
import threading
server = socket.create_server(("", 8642))
say("listening")
conn, _ = server.accept()
wait()
"""
    programs.append(Program(lab, python(HOLD + listen)))
    address = json.loads(lab.run(["ip", "-j", "-4", "addr", "show", "wlan0"]).stdout)
    local = address[0]["addr_info"][0]["local"]
    peer = subprocess.PIPE
    client = lab.popen(
        python(HOLD + f"s = tcp({local!r}, 8642)\nsay(ends(s))\nwait()"),
        ns="wifi",
        stdin=peer,
        stdout=peer,
        text=True,
    )
    try:
        assert client.stdout is not None
        there, here = client.stdout.readline().split()
        (found,) = explained.json("--pid", programs[0].pid)
        assert found["not_decided"].startswith("the peer began it")
        assert (found["query"]["hook"], found["query"]["port"]) == ("in", 8642)
        done = explained.run("--connection", f"{here} {there}")
        assert done.returncode == 0 and "does not decide it: the peer began it" in done.stdout
        done = explained.run("--pid", programs[0].pid)
        assert done.returncode == 0 and "not decided" in done.stdout
    finally:
        client.communicate(timeout=10)


def test_each_program_that_shares_a_socket_counts(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    code = f"s = tcp({SERVER4!r})\ns.set_inheritable(True)\nsay(ends(s))\n"
    code += "import subprocess\nsubprocess.run(['cat'], close_fds=False)"
    programs.append(Program(lab, python(HOLD + code)))
    explained.rule(f"allow app={cat_id(explained, programs[0])} host={SERVER4}")
    done = eventually(lambda: shared(explained, programs[0].said))
    assert "2 programs hold its socket and each must be allowed, this is about " in done
    assert "no rule decides" in done
    (found,) = explained.json("--connection", programs[0].said, code=1)
    assert len(found["apps"]) == 2 and found["query"]["app"] != cat_id(explained, programs[0])


def cat_id(explained: Explained, program: Program) -> str:
    def apps() -> list[str]:
        (found,) = explained.json("--connection", program.said, code=1)
        return [app for app in found["apps"] if app.endswith("cat") or "busybox" in app]

    (found,) = eventually(apps)
    return found


def shared(explained: Explained, connection: str) -> str:
    out = explained.run("--connection", connection).stdout
    return out if "hold its socket" in out else ""


def test_a_user_sees_his_own_and_is_told_the_next_step_for_others(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    with readable(explained) as config:
        programs.append(Program(lab, python(HOLD + f"s = tcp({SERVER4!r})\nsay(ends(s))\nwait()")))
        code = f"s = tcp({SECOND4!r})\nsay(ends(s))\nwait()"
        programs.append(Program(lab, ("bash", "-c", BASH, "-", SECOND4), user="nobody"))
        root, own = programs
        shown = lab.run(["ss", "-Htnp"]).stdout.splitlines()
        (line,) = (line for line in shown if f"pid={own.pid}," in line)
        base = ("--db", str(config / "arbiter.db"), "--config", str(config))

        done = explained.run("--pid", root.pid, *base, user="nobody")
        assert done.returncode == 1, done
        assert f"process {root.pid} may not be looked into: it is root's" in done.stderr
        assert "repeat it with sudo" in done.stderr
        done = explained.run("--connection", root.said, *base, user="nobody")
        assert done.returncode == 1, done
        assert "may not be seen: it is root's; repeat it with sudo" in done.stderr

        programs.append(Program(lab, python(HOLD + code), user="nobody"))
        done = explained.run("--connection", programs[2].said, *base, user="nobody")
        hidden = not Path(sys.executable).resolve().is_relative_to("/usr")  # root's own Python
        assert ("may have another app for arbiter" in done.stderr) is hidden

        for argv in (("--pid", own.pid), ("--connection", line)):
            done = explained.run(*argv, *base, "--json", user="nobody")
            assert done.returncode == 1, done.stderr
            (found,) = json.loads(done.stdout)
            assert found["query"]["user"] == "nobody"
            (same,) = explained.json(*argv, code=1)
            assert same["query"]["app"] == found["query"]["app"]
            assert found["query"]["app"].endswith("/bash")


@contextlib.contextmanager
def readable(explained: Explained) -> Iterator[Path]:
    """A database that everybody may read, as members of group arbiter may."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        db = folder / "arbiter.db"
        done = CliRunner().invoke(
            cli, ["rules", "add", "deny host=203.0.113.1"], env={"ARBITER_DB": str(db)}
        )
        assert done.exit_code == 0, done.output
        for path in folder.iterdir():
            path.chmod(0o644)
        yield folder


def test_with_a_host_the_program_is_the_process_and_the_rest_is_said(
    lab: Lab, explained: Explained, programs: list[Program], tmp_path: Path
) -> None:
    script = tmp_path / "job.py"
    script.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    programs.append(Program(lab, (sys.executable, str(script))))
    (found,) = explained.json("--pid", programs[0].pid, "--host", SERVER4, "--port", "443", code=1)
    app = found["query"]["app"]
    assert app.startswith("script:") and app.endswith(f":{script}")
    assert found["query"]["groups"][0] == "root" and found["query"]["uid"] == 0
    explained.rule(f"allow app={app} host=example.org user=@root")
    argv = ("--pid", programs[0].pid, "--host", SERVER4, "--port", "443")
    assert explained.run(*argv).returncode == 1
    done = explained.run(*argv, "--name", "example.org")
    assert done.returncode == 0 and done.stdout.startswith(f"allow app={app} user=@root")
    done = explained.run("--pid", programs[0].pid, "--host", "127.0.0.1")
    assert "arbiter does not decide it: it stays on this machine" in done.stdout


def test_the_context_is_the_machines_unless_options_say_otherwise(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    links = explained.home / "config" / "links.d"
    links.mkdir(parents=True)
    file = '[link]\nname = "home"\nmatch = { interface = "wlan0" }\nmetered = true\n'
    (links / "home.toml").write_text(file)
    explained.rule("allow metered=yes")
    programs.append(Program(lab, python(HOLD + f"s = tcp({SERVER4!r})\nsay(ends(s))\nwait()")))
    (found,) = explained.json("--connection", programs[0].said)
    mac = json.loads(lab.run(["ip", "-j", "link", "show", "access0"], ns="wifi").stdout)
    assert f"gateway:{mac[0]['address']}" in found["query"]["networks"]
    assert found["query"]["metered"] is True
    (found,) = explained.json("--connection", programs[0].said, "--metered", "no", code=1)
    assert found["query"]["metered"] is False and found["query"]["networks"]
    argv = ("--connection", programs[0].said, "--network", "ssid:Elsewhere")
    (found,) = explained.json(*argv)
    assert found["query"]["networks"] == ["ssid:Elsewhere"]


def test_what_the_rules_let_go_is_held_against_the_links(
    lab: Lab, explained: Explained, programs: list[Program]
) -> None:
    programs.append(Program(lab, python(HOLD + f"s = tcp({SERVER4!r})\nsay(ends(s))\nwait()")))
    for line, passes, text in (
        ("allow port=7", True, "over wifi"),
        ("route via=lte,any port=7", True, "over lte"),
        ("route via=nowhere port=7", False, "no link of nowhere carries IPv4 there now"),
    ):
        explained.rule(line)
        (found,) = explained.json("--connection", programs[0].said)
        assert found["way"] == {"passes": passes, "text": text}
        done = explained.run("--connection", programs[0].said)
        shown = f"  as links are now it goes {text}" if passes else f"  but: {text}"
        assert done.stdout.splitlines()[-2:].count(shown) == 1, done.stdout
        done = explained.run("--pid", programs[0].pid)
        assert ("route via=nowhere, refused" in done.stdout) is not passes
    explained.rule("deny port=7")
    (found,) = explained.json("--connection", programs[0].said)
    assert found["way"] is None


# --- beside the daemon ----------------------------------------------------------------------


def test_what_runs_and_its_record_ask_what_the_daemon_asked(lab: Lab, tmp_path: Path) -> None:
    """The daemon decides a connection by name; live and by its record it is the same question."""
    with Arbiter(lab, tmp_path) as arbiter:
        arbiter.add("allow host=*.lab.test port=7")
        arbiter.add("allow port=53")
        code = "s = tcp(socket.getaddrinfo('some.lab.test', 7, socket.AF_INET)[0][4][0])\n"
        program = Program(lab, python(HOLD + code + "say(ends(s))\nwait()"))
        try:
            config = ("--config", str(tmp_path / "config"))
            wanted = "SELECT max(id) FROM decisions WHERE dport = 7"
            number = eventually(lambda: arbiter.database(wanted)[0][0])
            (then,) = arbiter.json("explain", "--record", str(number), *config)
            (now,) = arbiter.json("explain", "--connection", program.said, *config)
            (alive,) = arbiter.json("explain", "--pid", program.pid, *config)
            assert then["record"]["decision"] == "allow" and not then["record"]["differs"]
            assert then["record"]["change"] == "the same, by the same rule"
            assert then["rule"]["id"] == now["rule"]["id"] == 1
            assert then["query"] == now["query"] == alive["query"]
            assert now["query"]["names"] == ["some.lab.test"]

            arbiter.ran("rules", "remove", "1")
            done = arbiter.ran("explain", "--record", str(number), *config)
            assert done.returncode == 1
            assert "then: allow over wifi, by rule 1, by root" in done.stdout, done.stdout
            assert "now: no rule decides it: rule 1 was taken out of force" in done.stdout
            assert "by root (removed)" in done.stdout
        finally:
            program.end()


def test_what_is_open_goes_on_under_a_newer_rule_and_the_daemons_mode_counts(
    lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(lab, tmp_path, "--mode", "enforce") as arbiter:
        arbiter.add(f"allow host={SERVER4} port=7")
        program = Program(lab, python(HOLD + f"s = tcp({SERVER4!r})\nsay(ends(s))\nwait()"))
        config = ("--config", str(tmp_path / "config"))
        try:
            eventually(lambda: arbiter.database("SELECT id FROM decisions WHERE dport = 7"))
            (now,) = arbiter.json("explain", "--connection", program.said, *config)
            assert now["record"]["decision"] == "allow" and not now["record"]["differs"]
            done = arbiter.ran("explain", "--connection", program.said, *config)
            assert "decided before" not in done.stdout

            arbiter.add(f"deny host={SERVER4} port=7 proto=tcp")
            done = arbiter.ran("explain", "--connection", program.said, *config)
            assert done.returncode == 0 and "\ndeny host=" in done.stdout
            (line,) = (one for one in done.stdout.splitlines() if "decided before" in one)
            assert line.startswith("  decided before: allow over wifi, by rule 1, by root (record ")
            assert line.endswith("); it goes on: rules are for new connections")
            (now,) = arbiter.json("explain", "--connection", program.said, *config)
            assert now["decision"] == "deny" and now["record"]["differs"]

            argv = ("explain", "--pid", program.pid, "--host", SECOND4, "--port", "9", *config)
            done = arbiter.ran(*argv)
            assert done.returncode == 1
            assert "it is denied, as the mode is enforce" in done.stdout, done.stdout
        finally:
            program.end()


def test_the_pages_session_is_real(lab: Lab, tmp_path: Path) -> None:
    with Arbiter(lab, tmp_path) as arbiter:
        arbiter.add(f"allow app=/usr/bin/bash host={SERVER4} port=7")
        program = Program(lab, ("bash", "-c", BASH, "-", SERVER4))
        try:
            eventually(lambda: arbiter.database("SELECT id FROM decisions"))
            steps = session(EXPLAIN_MD, "live")
            assert len(steps) >= 3
            for command, shown in steps:
                assert "4711" in " ".join((command, *shown))
                name, *argv = shlex.split(command.replace("4711", program.pid))
                assert name == "arbiter"
                done = arbiter.ran(*argv)
                told = [line.replace("4711", program.pid) for line in shown]
                assert like(told, done.stdout), f"$ {command}\n{done.stdout}{done.stderr}"
        finally:
            program.end()
