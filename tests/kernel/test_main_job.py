"""From a NEW packet to a remembered, marked decision: the real daemon, kernel and programs."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ARBITER, MAPPED_CLIENT, UDP_CLIENT, Arbiter, eventually, python

from arbiter import protocol
from arbiter.kernel.firewall import probe
from arbiter.lab import Lab
from arbiter.lab.config import LAN_PEER4, SECOND4, SERVER4, SERVER6
from arbiter.protocol import Role

CLIENTS = {
    "curl": ("curl", "-sS", "-m", "10", f"http://{SERVER4}/"),
    "curl over IPv6": ("curl", "-sS", "-m", "10", f"http://[{SERVER6}]/"),
    "UDP": python(UDP_CLIENT, SERVER4, "7", "1"),
    "UDP over IPv6": python(UDP_CLIENT, SERVER6, "7", "1"),
    "ping": ("ping", "-c", "1", "-W", "8", SERVER4),
    "ping over IPv6": ("ping", "-c", "1", "-W", "8", SERVER6),
    "IPv4 through an IPv6 socket": python(MAPPED_CLIENT, SERVER4, "7"),
}


@pytest.fixture
def arbiter(lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(lab, tmp_path) as running:
        yield running


def finish(program: subprocess.Popen[str], timeout: float = 12) -> tuple[int, str]:
    output, _ = program.communicate(timeout=timeout)
    return program.returncode, output


# --- asked once, remembered, one packet -----------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_a_connection_is_held_asked_answered_and_never_asked_again(
    arbiter: Arbiter, client: str
) -> None:
    argv = CLIENTS[client]
    program = arbiter.program(*argv)
    ask = arbiter.ask()
    assert program.poll() is None, "it was not held"
    assert ask["processes"][0]["pid"] == program.pid
    arbiter.answer("allow", "--for", "forever")
    code, output = finish(program)
    assert code == 0, output

    before = arbiter.counter("queued")
    code, output, _ = arbiter.run(*argv)
    assert code == 0, output
    assert arbiter.counter("queued") == before + 1, "a remembered connection costs one packet"
    assert arbiter.asks() == []
    assert len(arbiter.rules()) == 1


def test_established_traffic_never_enters_the_queue(arbiter: Arbiter) -> None:
    arbiter.add("allow host=internet")
    before = arbiter.counter("queued")
    code, output, _ = arbiter.run(
        "curl", "-sS", "-o", "/dev/null", f"http://{SERVER4}/bytes/5000000"
    )
    assert code == 0, output
    assert arbiter.counter("queued") == before + 1
    code, output, _ = arbiter.run(*python(UDP_CLIENT, SERVER4, "7", "50"))
    assert (code, output.count("link=")) == (0, 50)
    assert arbiter.counter("queued") == before + 2


def test_datagrams_without_a_reply_are_queued_once_too(arbiter: Arbiter) -> None:
    """conntrack calls them NEW until a reply comes: only the mark keeps them out."""
    arbiter.add("allow host=internet")
    before = arbiter.counter("queued")
    code = (
        "import socket,sys,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "s.sendto(b'x',(sys.argv[1],9)); time.sleep(0.5)\n"  # a verdict, on the slowest machine
        "for i in range(20): s.sendto(b'x',(sys.argv[1],9))"
    )
    assert arbiter.run(*python(code, SERVER4))[0] == 0
    assert arbiter.counter("queued") == before + 1


def test_the_ask_says_who_where_and_what_would_be_remembered(arbiter: Arbiter) -> None:
    program = arbiter.program("sh", "-c", f"curl -sS -m 8 http://{SERVER4}/; true")
    ask = arbiter.ask()
    (process,) = ask["processes"]
    assert process["app"]["id"] == "/usr/bin/curl"
    assert list(process["argv"]) == ["curl", "-sS", "-m", "8", f"http://{SERVER4}/"]
    assert ask["user"] == "root"
    destination = ask["destination"]
    assert (destination["address"], destination["port"]) == (SERVER4, 80)
    assert (destination["proto"], destination["service"]) == ("tcp", "http")
    shown = next(s["conditions"] for s in ask["scopes"] if s["id"] == "connection")
    arbiter.answer("allow", "--for", "forever")
    assert arbiter.rules() == [f"allow {shown}"]
    assert finish(program)[0] == 0


def test_until_the_program_exits_holds_for_that_process_only(arbiter: Arbiter) -> None:
    code = (
        "import socket,sys\n"
        "for n in range(2):\n"
        "  s=socket.create_connection((sys.argv[1],7),8); print(s.recv(99)); s.close()"
    )
    program = arbiter.program(*python(code, SERVER4))
    arbiter.answer("allow", "--for", "process")
    assert finish(program)[0] == 0
    eventually(lambda: arbiter.rules() == [])
    program = arbiter.program(*python(code, SERVER4))
    arbiter.answer("deny", "--for", "once")
    assert finish(program)[0] != 0


# --- denied means denied --------------------------------------------------------------------

TCP = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM)
s.settimeout(8)
began = time.monotonic()
try:
    s.connect((sys.argv[1], 7))
except OSError as error:
    print(type(error).__name__, round(time.monotonic() - began, 2))
"""
UDP = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 7))
s.settimeout(3)
began = time.monotonic()
try:
    s.send(b"first"); time.sleep(0.2); s.send(b"second"); s.recv(100)
except OSError as error:
    print(error.errno, round(time.monotonic() - began, 2))
"""


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_denied_tcp_is_refused_at_once(arbiter: Arbiter, lab: Lab, server: str) -> None:
    arbiter.add("deny host=internet")
    seen = len(lab.seen("wifi"))
    _, output, _ = arbiter.run(*python(TCP, server))
    name, seconds = output.split()
    assert name == "ConnectionRefusedError"
    assert float(seconds) < 1
    assert len(lab.seen("wifi")) == seen


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_denied_udp_is_refused_at_once(arbiter: Arbiter, lab: Lab, server: str) -> None:
    arbiter.add("deny host=internet")
    seen = len(lab.seen("wifi"))
    _, output, _ = arbiter.run(*python(UDP, server))
    number, seconds = output.split()
    assert int(number) in (13, 111, 113)  # EACCES, ECONNREFUSED, EHOSTUNREACH
    assert float(seconds) < 1
    assert len(lab.seen("wifi")) == seen


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_denied_ping_gets_an_error_and_no_reply(arbiter: Arbiter, server: str) -> None:
    arbiter.add("deny host=internet")
    code, output, seconds = arbiter.run("ping", "-c", "1", "-W", "5", server)
    assert code != 0
    assert "bytes from" not in output
    assert seconds < 2, output


def test_a_denied_ask_refuses_what_waits(arbiter: Arbiter) -> None:
    program = arbiter.program("curl", "-sS", "-m", "10", f"http://{SERVER4}/")
    arbiter.answer("deny", "--for", "15m", "--scope", "app")
    code, output = finish(program, 2)
    assert code == 7, output  # CURLE_COULDNT_CONNECT
    code, _, seconds = arbiter.run("curl", "-sS", "-m", "10", f"http://[{SERVER6}]/")
    assert (code, seconds < 1) == (7, True)


# --- what is none of our business -----------------------------------------------------------


def test_loopback_and_incoming_connections_are_not_asked_about(arbiter: Arbiter, lab: Lab) -> None:
    assert arbiter.run("ping", "-c", "1", "-W", "2", "127.0.0.1")[0] == 0
    server = "import socket\ns=socket.create_server(('10.1.0.2',4321)); print('up',flush=True)\n"
    server += "c,_=s.accept(); c.sendall(b'welcome'); c.close()"
    program = arbiter.program(*python(server))
    assert program.stdout is not None
    assert program.stdout.readline() == "up\n"
    client = "import socket; print(socket.create_connection(('10.1.0.2',4321),3).recv(9))"
    done = lab.run(python(client), ns="wifi")
    assert "welcome" in done.stdout, done.stderr
    finish(program)
    assert arbiter.asks() == []


def test_a_connection_that_was_open_before_arbiter_goes_on(lab: Lab, tmp_path: Path) -> None:
    code = (
        "import socket,sys\ns=socket.create_connection((sys.argv[1],7),8)\n"
        "print(s.recv(99),flush=True); sys.stdin.readline()\n"
        "s.sendall(b'again\\n'); print(s.recv(99))"
    )
    program = lab.popen(
        python(code, SERVER4), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert "link=wifi" in program.stdout.readline()
    with Arbiter(lab, tmp_path) as arbiter:
        output, _ = program.communicate("go\n", timeout=10)
        assert "again" in output
        assert arbiter.asks() == []


def test_other_softwares_mark_bits_survive(clean_lab: Lab, tmp_path: Path) -> None:
    chains = ("OUTPUT", "POSTROUTING")
    for chain in chains:
        clean_lab.run(["iptables", "-t", "mangle", "-A", chain, "-j", "MARK", "--or-mark", "0x40"])
    both = ["iptables", "-t", "mangle", "-A", "OUTPUT", "-j", "CONNMARK", "--or-mark", "0x4000"]
    clean_lab.run(both)
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow host=internet")
        assert arbiter.run("curl", "-sS", f"http://{SERVER4}/bytes/100000")[0] == 0
        for match in (
            ("-m", "connmark", "--mark", "0x20004000"),
            ("-m", "mark", "--mark", "0x20000040"),
        ):
            rule = ["iptables", "-t", "mangle", "-A", "POSTROUTING", *match]
            assert clean_lab.run(rule).returncode == 0
        assert arbiter.run("curl", "-sS", f"http://{SERVER4}/")[0] == 0
        listing = clean_lab.run(["iptables", "-t", "mangle", "-nvxL", "POSTROUTING"]).stdout
        counted = [int(line.split()[0]) for line in listing.splitlines()[-2:]]
        assert all(count >= 2 for count in counted), listing
    left = clean_lab.run(["iptables", "-t", "mangle", "-S", "OUTPUT"]).stdout
    assert left.count("-A OUTPUT") == 2, "the other software's own rules are gone"


# --- many at once ---------------------------------------------------------------------------


def test_200_programs_asking_at_once_are_all_answered(lab: Lab, tmp_path: Path) -> None:
    scripts = []
    for number in range(200):
        script = tmp_path / f"program{number}.sh"
        script.write_text(f"exec 3<>/dev/tcp/{SERVER4}/7 && read -r -t 60 line <&3 && echo $line\n")
        scripts.append(script)
    with Arbiter(lab, tmp_path, settings="deadline = 120.0\n") as arbiter:
        programs = [arbiter.program("bash", str(script)) for script in scripts]
        asks = eventually(lambda: (a := arbiter.asks()) and len(a) == 200 and a, 60)
        assert isinstance(asks, list)
        names = {ask["processes"][0]["app"]["name"] for ask in asks}
        assert len(names) == 200
        assert answer_all(arbiter) == 200
        outputs = [finish(program, 60) for program in programs]
        assert [code for code, _ in outputs] == [0] * 200
        assert all("link=wifi" in output for _, output in outputs)
        assert arbiter.asks() == []
        status = arbiter.status().counters
        assert status["dropped_full"] == status["dropped_socket"] == 0


def answer_all(arbiter: Arbiter) -> int:
    """Every ask, over one connection; how many were decided."""
    with arbiter.connection(Role.PROMPT) as connection:
        for ask in connection.asks:
            assert isinstance(ask, protocol.Ask)
            connection.send(protocol.Answer(ask.id, protocol.Choice.ALLOW, lifetime="15m"))
        decided: set[int] = set()
        while len(decided) < len(connection.asks):
            message = connection.receive()
            assert not isinstance(message, protocol.Refused), message
            if isinstance(message, protocol.Decided):
                decided.add(message.ask)
        return len(decided)


def test_one_program_many_connections_one_question(arbiter: Arbiter) -> None:
    code = (
        "import socket,sys,threading\n"
        "def go():\n"
        "  s=socket.create_connection((sys.argv[1],7),20); print(s.recv(99).decode().strip())\n"
        "t=[threading.Thread(target=go) for n in range(30)]\n"
        "[x.start() for x in t]; [x.join() for x in t]"
    )
    program = arbiter.program(*python(code, SERVER4))
    eventually(lambda: arbiter.status().held == 30)
    arbiter.answer("allow")
    code_, output = finish(program)
    assert (code_, output.count("link=wifi")) == (0, 30)


# --- killed, restarted, rescued -------------------------------------------------------------


def picture(lab: Lab) -> dict[str, str]:
    """Everything arbiter could leave in the kernel of the lab's machine."""
    commands = (
        "iptables-save",
        "ip6tables-save",
        "nft list ruleset",
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "sysctl -a --pattern ^net[.](ipv4|ipv6|netfilter)[.].*",
    )
    shown = {command: lab.run(command.split()).stdout for command in commands}
    moving = ("nf_conntrack_count", "# ", "expires")
    for command, text in shown.items():
        lines = [line for line in text.splitlines() if not any(m in line for m in moving)]
        shown[command] = "\n".join(lines)
    return shown


def test_sigkill_with_packets_held_then_restart_and_rescue(clean_lab: Lab, tmp_path: Path) -> None:
    before = picture(clean_lab)
    arbiter = Arbiter(clean_lab, tmp_path).start()
    program = arbiter.program("curl", "-sS", "-m", "20", f"http://{SERVER4}/")
    arbiter.answer("allow", "--for", "forever")
    assert finish(program)[0] == 0
    held = arbiter.program("curl", "-sS", "-m", "20", f"http://{SECOND4}/")
    arbiter.ask()
    arbiter.stop(signal.SIGKILL)

    code, _, _ = arbiter.run("curl", "-sS", "-m", "1", f"http://{SERVER4}/")
    assert code == 28, "when_absent = block: nothing new passes while arbiter is gone"
    arbiter.start()
    assert arbiter.rules() == [f"allow app=/usr/bin/curl host={SERVER4} port=80 proto=tcp"]
    assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 0
    # The kernel dropped the held SYN with the queue; its retransmit is asked about anew.
    arbiter.answer("allow", "--for", "forever")
    assert finish(held, 20)[0] == 0
    assert len(arbiter.rules()) == 2

    arbiter.stop(signal.SIGKILL)
    done = arbiter.command("rescue")
    assert done.returncode == 0, done.stderr
    assert picture(clean_lab) == before
    assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 0
    assert "nothing" in arbiter.command("rescue").stdout


def test_when_absent_pass_lets_everything_through(clean_lab: Lab, tmp_path: Path) -> None:
    arbiter = Arbiter(clean_lab, tmp_path, "--when-absent", "pass").start()
    arbiter.stop(signal.SIGKILL)
    assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 0
    assert arbiter.run(*CLIENTS["UDP over IPv6"])[0] == 0


def test_stopping_leaves_no_trace_and_hangs_nobody(clean_lab: Lab, tmp_path: Path) -> None:
    before = picture(clean_lab)
    arbiter = Arbiter(clean_lab, tmp_path).start()
    program = arbiter.program("curl", "-sS", "-m", "20", f"http://{SERVER4}/")
    arbiter.ask()
    assert arbiter.stop(signal.SIGINT) == 0
    code, output = finish(program, 3)
    assert code == 7, output  # refused, not left hanging
    assert picture(clean_lab) == before
    assert not arbiter.socket.exists()


def test_a_second_daemon_says_who_is_in_the_way(arbiter: Arbiter, tmp_path: Path) -> None:
    done = arbiter.command("run", "--state", str(tmp_path / "state"), "--socket", "/nowhere/x")
    assert done.returncode == 1
    assert "another arbiter runs" in done.stderr
    other = tmp_path / "other"
    options = ("--state", str(other), "--socket", str(other / "s"), "--queue-num", "13")
    done = arbiter.command("run", *options)
    assert done.returncode == 1
    assert "another arbiter decides the connections of this network" in done.stderr
    code = arbiter.run("curl", "-sS", "-m", "1", f"http://{SERVER4}/")[0]
    assert code == 28, "the first daemon's rules must still be in force"


def test_a_rule_is_in_force_when_its_command_returns(arbiter: Arbiter) -> None:
    held = arbiter.program("curl", "-sS", "-m", "20", f"http://{SECOND4}/")
    arbiter.ask()
    arbiter.add(f"allow host={SECOND4}")
    assert arbiter.asks() == []
    assert finish(held)[0] == 0
    for decision, code in (("deny", 7), ("allow", 0)) * 3:
        arbiter.add(f"{decision} host={SERVER4}")
        assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == code
    assert arbiter.ran("rules", "undo").returncode == 0
    assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 7


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "nobody reads"])
def test_without_a_standard_output_it_decides(clean_lab: Lab, tmp_path: Path, closed: bool) -> None:
    arbiter = Arbiter(clean_lab, tmp_path)
    argv = [*ARBITER, "run", "--state", str(tmp_path / "state"), "--socket", str(arbiter.socket)]
    argv += ["--config", str(tmp_path / "config")]
    with (tmp_path / "log").open("w") as log:
        if closed:
            process = clean_lab.popen(["sh", "-c", 'exec "$@" >&-', "sh", *argv], stderr=log)
        else:
            process = clean_lab.popen(argv, stdout=subprocess.PIPE, stderr=log)
            assert process.stdout is not None
            process.stdout.close()
    eventually(arbiter.socket.exists)
    arbiter.add(f"allow host={SERVER4}")
    assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 0
    process.terminate()
    assert process.wait(10) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_ctrl_c_does_not_reach_the_tools(clean_lab: Lab) -> None:
    said = clean_lab.inside(lambda: probe.run(["/bin/sh", "-c", "ps -o pgid= -p $$; echo $$"]))
    assert len(set(said.split())) == 1, "it is the first of a group of its own"


def test_rules_that_somebody_removed_are_missed(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        assert arbiter.status().problems == ()
        assert arbiter.process is not None
        arbiter.process.send_signal(signal.SIGSTOP)  # or it would put them back
        assert clean_lab.run(["iptables", "-t", "mangle", "-F", "ARBITER_OUTPUT"]).returncode == 0
        said = arbiter.command("doctor").stdout
        arbiter.process.send_signal(signal.SIGCONT)
        assert "chain ARBITER_OUTPUT in mangle is missing or empty" in said
        assert arbiter.command("rescue").returncode == 0
        assert any("not in the kernel" in problem for problem in arbiter.status().problems)
        assert "it is arbiter without its rules: restart it" in arbiter.command("doctor").stdout


def test_a_socket_that_somebody_removed_is_there_again_and_rules_since_then_decide(
    arbiter: Arbiter,
) -> None:
    arbiter.socket.unlink()
    assert arbiter.ran("rules", "add", f"allow host={SERVER4}").returncode == 0
    eventually(arbiter.socket.is_socket)
    eventually(lambda: arbiter.status().rules == 1)
    assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 0


def test_what_somebody_put_in_the_sockets_place_is_told_and_never_removed(
    lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(lab, tmp_path) as arbiter, arbiter.connection() as connection:
        arbiter.socket.unlink()
        arbiter.socket.write_text("precious")

        def problems() -> tuple[str, ...]:
            connection.send(protocol.Query())
            reply = connection.receive()
            assert isinstance(reply, protocol.Status), reply
            return reply.problems

        (problem,) = eventually(problems)
        assert "do not reach this arbiter" in problem and str(arbiter.socket) in problem
        arbiter.stop()
        assert arbiter.socket.read_text() == "precious"


def test_the_doctor_says_to_an_ordinary_user_what_it_may_not_look_at(clean_lab: Lab) -> None:
    done = clean_lab.run([*ARBITER, "doctor", "--json"], user="nobody")
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["rights"]["next_step"] == "run as root"
    assert [name for name, check in checks.items() if check["level"] == "fail"] == ["rights"]
    assert "that needs CAP_NET_ADMIN" in checks["firewall"]["text"]


def test_the_doctor_says_that_nobody_listens(clean_lab: Lab, tmp_path: Path) -> None:
    arbiter = Arbiter(clean_lab, tmp_path).start()
    assert arbiter.command("doctor").returncode == 0
    arbiter.stop(signal.SIGKILL)
    done = arbiter.command("doctor")
    assert done.returncode == 1
    assert "no daemon listens on queue 10" in done.stdout
    assert "arbiter rescue" in done.stdout


def test_allowed_connections_do_not_fail_while_arbiter_stops(
    clean_lab: Lab, tmp_path: Path
) -> None:
    arbiter = Arbiter(clean_lab, tmp_path).start()
    arbiter.add(f"allow app=/usr/bin/curl host={SERVER4}")
    loop = (
        f"for i in $(seq 60); do curl -sS -m 5 -o /dev/null http://{SERVER4}/ || echo failed; done"
    )
    program = arbiter.program("sh", "-c", loop)
    eventually(lambda: arbiter.counter("queued") > 5)
    assert arbiter.stop() == 0
    code, output = finish(program, 60)
    assert (code, output) == (0, "")


# --- waiting --------------------------------------------------------------------------------


def test_at_the_deadline_it_is_refused_and_a_late_answer_serves_the_retry(
    lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(lab, tmp_path, settings="deadline = 1.0\n") as arbiter:
        code, output, seconds = arbiter.run("curl", "-sS", "-m", "10", f"http://{SERVER4}/")
        assert (code, 0.9 < seconds < 4) == (7, True), output
        arbiter.answer("allow", "--for", "forever")
        assert arbiter.run("curl", "-sS", "-m", "10", f"http://{SERVER4}/")[0] == 0


def test_a_program_that_is_killed_leaves_its_question_as_stale(arbiter: Arbiter) -> None:
    program = arbiter.program("curl", "-sS", "-m", "10", f"http://{SERVER4}/")
    assert arbiter.ask()["stale"] is False
    program.kill()
    program.communicate()
    ask = eventually(lambda: [a for a in arbiter.asks() if a["stale"]])[0]
    assert "curl has exited" in ask["why"]
    assert arbiter.status().held == 0


def test_datagrams_that_follow_a_held_one_are_one_question_and_none_is_lost(
    arbiter: Arbiter,
) -> None:
    """A QUIC first flight, or A and AAAA from one socket."""
    code = (
        "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(9)\n"
        "[s.sendto(b'%d' % n,(sys.argv[1],7)) for n in range(6)]\n"
        "[print(s.recv(99).decode()) for n in range(6)]"
    )
    program = arbiter.program(*python(code, SERVER4))
    ask = eventually(lambda: [a for a in arbiter.asks() if a["waiting"] == 6])[0]
    assert ask["id"] == 1
    arbiter.answer("allow")
    code_, output = finish(program)
    assert (code_, output.count("link=wifi")) == (0, 6), output
    assert arbiter.asks() == []
    assert arbiter.counter("queued") == 6


def test_lan_peers_are_asked_about_and_known_as_lan(arbiter: Arbiter) -> None:
    program = arbiter.program("ping", "-c", "1", "-W", "8", LAN_PEER4)
    assert arbiter.ask()["destination"]["scope"] == "lan"
    arbiter.answer("allow")
    assert finish(program)[0] == 0


def test_a_handshake_that_nobody_waits_for_any_more_is_no_question(arbiter: Arbiter) -> None:
    """The socket is closed before the daemon sees the SYN; what is held for it would be for nobody.
    A datagram needs no socket to arrive: about that one, somebody is asked."""
    code = (
        "import socket,sys\n"
        "for address in sys.argv[1:]:\n"
        "    family = socket.AF_INET6 if ':' in address else socket.AF_INET\n"
        "    s = socket.socket(family); s.setblocking(False)\n"
        "    s.connect_ex((address, 80)); s.close()\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', (sys.argv[1], 7)); s.close()"
    )
    assert arbiter.process is not None
    arbiter.process.send_signal(signal.SIGSTOP)
    try:
        assert arbiter.run(*python(code, SERVER4, SERVER6))[0] == 0
    finally:
        arbiter.process.send_signal(signal.SIGCONT)
    ask = arbiter.ask()
    assert (ask["destination"]["proto"], ask["waiting"]) == ("udp", 1)
    assert arbiter.status().held == 1
    rows = "SELECT daddr, reason, no_owner, waited < 2 FROM decisions WHERE proto = 'tcp'"
    found = eventually(lambda: arbiter.database(rows + " ORDER BY id"))
    assert [row[:2] for row in found] == [(SERVER4, "exited"), (SERVER6, "exited")]
    assert all(row[2].startswith("socket closed") and row[3] for row in found)
