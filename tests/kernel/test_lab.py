"""The lab keeps its promises: every link, family and name works, and nothing is ever left.

Long, because each of many promises needs its own few lines over the same fixtures.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dpkt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from running import PATIENCE

from arbiter.cli.lab import configure, describe
from arbiter.cli.lab import lab as command
from arbiter.lab import (
    Lab,
    LabConfig,
    LabError,
    LinkConfig,
    dns,
    namespaces,
    plan,
    private,
    state,
)
from arbiter.lab.config import (
    DNS4,
    DNS6,
    LAN_PEER4,
    LAN_PEER6,
    LINKS,
    LTE,
    NAMES,
    SECOND4,
    SECOND6,
    SERVER4,
    SERVER6,
    USB,
    WIFI,
)
from arbiter.lab.servers import _request

InHost = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]
REAL_ROOT = Path("/proc/self/uid_map").read_text().split()[2] == "4294967295"
"""Not the root of a user namespace (user_namespaces(7))."""


def traces(name: str) -> list[str]:
    """Whatever there is of the lab `name` on this machine."""
    found = [p.name for p in Path("/run/netns").glob(f"{name}-*")]
    found += [str(p) for p in Path("/etc/netns").glob(f"{name}-*")]
    found += [str(p) for p in Path("/run/arbiter-lab").glob(f"*{name}*")]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"arbiter.lab.servers" in line and f"/{name}/".encode() in line:
            found.append(folder.name)
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True)
    return found + [
        x for x in links.stdout.splitlines() if any(link.interface in x for link in LINKS)
    ]


@pytest.fixture
def name() -> Iterator[str]:
    """A lab name of this test's own; whatever a failed test leaves is removed."""
    chosen = f"u{os.getpid()}"
    yield chosen
    Lab(chosen).down()


# --- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [80, 8080])
def test_http_goes_over_wifi_by_default_in_both_families(in_host: InHost, port: int) -> None:
    got4 = in_host("curl", "-sS", f"http://{SERVER4}:{port}/")
    assert got4.startswith(f"link=wifi peer={WIFI.host4}:")
    got6 = in_host("curl", "-sS", f"http://[{SECOND6}]:{port}/")
    assert got6.startswith(f"link=wifi peer=[{WIFI.host6}]:")


def test_a_rule_for_the_source_of_lte_takes_lte(clean_lab: Lab) -> None:
    for family, source, gateway, url in (
        ("-4", LTE.host4, LTE.gateway4, f"http://{SERVER4}/"),
        ("-6", LTE.host6, LTE.gateway6, f"http://[{SERVER6}]/"),
    ):
        route = ["route", "add", "default", "via", gateway, "dev", "wwan0", "table", "77"]
        for step in (route, ["rule", "add", "from", source, "lookup", "77"]):
            assert clean_lab.run(["ip", family, *step]).returncode == 0
        got = clean_lab.run(["curl", "-sS", "--interface", source, url])
        assert got.stdout.startswith("link=lte peer="), got.stderr
        assert source in got.stdout


def test_without_wifi_the_second_default_route_serves_and_mend_brings_wifi_back(
    clean_lab: Lab, wait_for: Callable[..., object]
) -> None:
    def answer(host: str) -> str:
        return clean_lab.run(["curl", "-sS", "-m", "2", f"http://{host}/"]).stdout[:9]

    assert clean_lab.run(["ip", "link", "set", "wlan0", "down"]).returncode == 0
    assert (answer(SERVER4), answer(f"[{SERVER6}]")) == ("link=lte ", "link=lte ")
    clean_lab.mend("wifi")
    wait_for(lambda: (answer(SERVER4), answer(f"[{SERVER6}]")) == ("link=wifi", "link=wifi"))


@pytest.mark.parametrize("address", [SERVER4, SECOND4, SERVER6, SECOND6, LAN_PEER4, LAN_PEER6])
def test_udp_is_answered_from_the_address_that_was_asked(lab: Lab, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(3)
        sock.sendto(b"ping", (address, 7))
        data, sender = sock.recvfrom(1000)
        port = sock.getsockname()[1]
    assert sender[0] == address
    assert data.startswith(b"link=wifi peer=")
    assert data.endswith(f":{port}\nping".encode())
    asked = [s.local for s in lab.seen("wifi") if (s.proto, s.peer_port) == ("udp", port)]
    assert asked == [address]


@pytest.mark.parametrize("address", [SERVER4, SERVER6, LAN_PEER4, LAN_PEER6])
def test_every_address_answers_ping_without_privilege(lab: Lab, address: str) -> None:
    # A ping socket is given by group, to root too; no capability helps (icmp(7)).
    kind, request = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 8)
    proto = socket.IPPROTO_ICMPV6 if kind == socket.AF_INET6 else socket.IPPROTO_ICMP
    with lab.inside(lambda: socket.socket(kind, socket.SOCK_DGRAM, proto)) as sock:
        sock.settimeout(3)
        sock.sendto(bytes([request, 0, 0, 0, 0, 0, 0, 1]) + b"hello", (address, 0))
        data, sender = sock.recvfrom(100)
    assert (sender[0], data[8:]) == (address, b"hello")


@pytest.mark.skipif(not REAL_ROOT, reason="KERNEL TEST NOT RUN: a user namespace has no nobody")
def test_a_program_runs_as_the_user_that_was_named(lab: Lab, in_host: InHost) -> None:
    assert in_host("id", "-un", user="nobody") == "nobody\n"
    assert "1 received" in in_host("ping", "-c1", "www.lab.test", user="nobody")
    with pytest.raises(LabError, match="no user 'nosuchuser'"):
        lab.run(["id"], user="nosuchuser")


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_wifi_has_the_better_default_route(in_host: InHost, family: str) -> None:
    routes = json.loads(in_host("ip", "-j", family, "route", "show", "default"))
    found = [(route["dev"], route["metric"]) for route in routes]
    assert found == [("wlan0", 100), ("wwan0", 200)]


def test_the_lan_peer_is_not_reachable_over_lte(lab: Lab) -> None:
    for address in (LAN_PEER4, LAN_PEER6):
        assert lab.run(["ping", "-c1", "-W1", "-I", "wwan0", address]).returncode != 0


def test_an_unknown_destination_fails_at_once(lab: Lab) -> None:
    for url in ("http://203.0.113.1/", "http://[2001:db8:ffff::1]/"):
        began = time.monotonic()
        assert lab.run(["curl", "-sS", url]).returncode == 7
        assert time.monotonic() - began < 2


def test_tcp_echo_names_the_link_and_returns_every_byte(lab: Lab) -> None:
    data = os.urandom(300_000)
    sock = lab.inside(lambda: socket.create_connection((SERVER6, 7), 5))
    with sock, sock.makefile("rb") as stream, ThreadPoolExecutor(1) as sender:
        assert stream.readline().startswith(f"link=wifi peer=[{WIFI.host6}]:".encode())
        sent = sender.submit(sock.sendall, data)
        assert stream.read(len(data)) == data
        sent.result(5)


def test_http_sends_and_takes_as_many_bytes_as_asked(lab: Lab, in_host: InHost) -> None:
    assert in_host("curl", "-sS", f"http://{SERVER4}/bytes/1000000") == "x" * 1_000_000
    post = ["curl", "-sSv", "--data-binary", "@-", f"http://{SERVER4}/"]
    done = lab.run(post, input="y" * 2_000_000)
    assert "HTTP/1.1 100 Continue" in done.stderr
    assert done.stdout.endswith("received=2000000\n")
    assert len(in_host("curl", "-sS", f"http://{SERVER4}/slow/3").splitlines()) == 3
    assert "not a number" in in_host("curl", "-sS", f"http://{SERVER4}/bytes/-1")


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["www.lab.test", "any.thing.lab.test", "example.org"])
def test_names_resolve_by_the_labs_dns(lab: Lab, in_host: InHost, host: str) -> None:
    assert in_host("curl", "-sS", f"http://{host}/").startswith("link=wifi peer=")
    asked = {s.detail for s in lab.seen("wifi")}
    assert {f"A {host}", f"AAAA {host}"} <= asked


def test_dns_answers_by_udp_and_tcp_at_both_addresses(in_host: InHost) -> None:
    for server in (DNS4, DNS6):
        for way in ("+notcp", "+tcp"):
            dig = ["dig", "+short", "+time=2", way, f"@{server}"]
            assert in_host(*dig, "A", "second.lab.test").split() == [SECOND4]
            assert in_host(*dig, "AAAA", "SECOND.lab.test").split() == [SECOND6]
    assert "NXDOMAIN" in in_host("dig", "example.com")
    no_data = in_host("dig", "v4.lab.test", "AAAA")
    assert "NOERROR" in no_data
    assert "ANSWER: 0" in no_data


# --- what was seen, and the health of the servers -------------------------------------------------


def test_each_link_remembers_what_it_saw(lab: Lab, in_host: InHost) -> None:
    before = {link: len(lab.seen(link)) for link in ("wifi", "lte")}
    in_host("curl", "-sS", "--interface", "wwan0", f"http://{SERVER4}/")
    assert len(lab.seen("wifi")) == before["wifi"]
    (seen,) = lab.seen("lte")[before["lte"] :]
    assert (seen.link, seen.proto, seen.peer) == ("lte", "tcp", LTE.host4)
    assert (seen.local, seen.local_port) == (SERVER4, 80)
    assert abs(seen.time - time.time()) < 10


def test_a_new_lab_has_seen_nothing(clean_lab: Lab) -> None:
    assert clean_lab.seen("wifi") == clean_lab.seen("lte") == []


@pytest.mark.parametrize("port", [7, 53, 80])
def test_rubbish_hurts_no_server(lab: Lab, in_host: InHost, port: int) -> None:
    for rubbish in (b"", b"\0" * 600, b"GET /bytes/x HTTP/1.1\r\n\r\n", b"\xff" * 200_000):
        with lab.inside(lambda: socket.create_connection((SERVER4, port), 5)) as sock:
            try:
                sock.sendall(rubbish)
            except (ConnectionResetError, BrokenPipeError):
                assert port != 7, "echo takes everything"
    with lab.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        for rubbish in (b"", b"\0" * 11, b"\0" * 12, b"\xff" * 1400):
            sock.sendto(rubbish, (SERVER4, 7 if port == 80 else port))
    assert in_host("curl", "-sS", f"http://{SERVER4}/").startswith("link=wifi")
    assert in_host("dig", "+short", "www.lab.test").split() == [SERVER4]
    assert lab.errors.read_text() == ""


# --- up and down ----------------------------------------------------------------------------------


def test_down_leaves_nothing_and_may_be_repeated(name: str) -> None:
    before = set(os.listdir("/run"))
    lab = Lab(name)
    began = time.monotonic()
    lab.up()
    took_up = time.monotonic() - began
    assert lab.condition() == "up"
    stray = lab.popen(["sleep", "1000"])
    assert traces(name)
    began = time.monotonic()
    lab.down()
    took_down = time.monotonic() - began
    assert stray.wait(5) == -signal.SIGTERM
    assert traces(name) == []
    assert lab.condition() == "down"
    # `ip netns` itself makes /run/netns and keeps it.
    assert set(os.listdir("/run")) - before <= {"netns", "arbiter-lab"}
    lab.down()
    # Usual: 0.2 s and 0.1 s. The bound is wide for a busy machine.
    assert (took_up < 3, took_down < 2) == (True, True), (took_up, took_down)


def test_down_ends_a_process_that_ignores_sigterm(name: str) -> None:
    with Lab(name) as lab:
        script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True)"
        argv = [sys.executable, "-c", f"{script}; time.sleep(1000)"]
        stubborn = lab.popen(argv, stdout=subprocess.PIPE)
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == b"x\n"
    stubborn.stdout.close()
    assert stubborn.wait(5) == -signal.SIGKILL


def test_a_recorded_pid_that_was_used_again_is_left_alone(name: str) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        started = namespaces.start_time(bystander.pid)
        assert started is not None
        recycled = state.State(LabConfig(name), (1, 0), True, (bystander.pid, started - 1))
        state.claim(recycled)
        Lab(name).down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_two_labs_exist_at_once(lab: Lab, clean_lab: Lab) -> None:
    assert lab.name != clean_lab.name
    seen = len(lab.seen("wifi"))
    assert clean_lab.run(["curl", "-sS", f"http://{SERVER4}/"]).stdout.startswith("link=wifi")
    assert (len(lab.seen("wifi")), len(clean_lab.seen("wifi"))) == (seen, 1)


_KILLED = """
import os, signal, sys
from arbiter.lab import Lab, build
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
setattr({where}, {step!r}, die)
Lab({name!r}).up()
"""


@pytest.mark.parametrize(
    ("where", "step"),
    [
        ("build.namespaces", "ip_batch"),
        ("build.plan", "host_lines"),
        ("Lab", "_serve"),
        ("Lab", "_await_ready"),
        ("Lab", "_await_routes"),
    ],
)
def test_a_builder_killed_half_way_is_cleaned_up_by_the_next(
    name: str, where: str, step: str
) -> None:
    script = _KILLED.format(where=where, step=step, name=name)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert Lab(name).condition() == "broken"
    assert traces(name)
    with Lab(name) as lab:
        assert lab.run(["curl", "-sS", f"http://{SERVER4}/"]).stdout.startswith("link=wifi")
    assert traces(name) == []


def test_a_killed_server_makes_the_lab_broken_and_down_still_works(
    name: str, wait_for: Callable[..., object]
) -> None:
    with Lab(name) as lab:
        pid = lab.servers()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: lab.condition() == "broken")
        assert lab.servers() is None
    assert traces(name) == []


def test_a_broken_lab_and_what_runs_in_it_are_left_to_whoever_enters_it(
    name: str, wait_for: Callable[..., object]
) -> None:
    with Lab(name) as lab:
        program = lab.popen(["sleep", "1000"])
        os.kill(lab.servers() or 0, signal.SIGKILL)
        wait_for(lambda: lab.condition() == "broken")
        done = CliRunner().invoke(command, ["exec", "--name", name, "--", "true"])
        assert done.exit_code == 1
        assert f"lab {name} is broken" in done.output
        assert f"`arbiter lab down --name {name}`" in done.output
        assert program.poll() is None
    program.wait(5)


def test_a_lab_that_is_taken_down_while_it_is_built_says_so_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> socket.socket:
        with ThreadPoolExecutor(1) as other:  # not in the lab, as its builder's thread is
            other.submit(Lab(name).down).result()
        raise OSError("no way")

    monkeypatch.setattr("arbiter.lab.build.socket.create_connection", connect)
    began = time.monotonic()
    with pytest.raises(LabError, match=f"lab {name} was taken down while it was built"):
        Lab(name).up()
    assert time.monotonic() - began < 10 * PATIENCE
    assert traces(name) == []


def test_whoever_takes_it_down_second_is_told_nothing_bad(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = namespaces.ip_batch

    def late(lines: Iterable[str], namespace: str = "", force: bool = False) -> str:
        wanted = list(lines)
        if wanted[0].startswith("netns del"):
            real(wanted, force=True)  # somebody else's
        return real(wanted, namespace, force)

    lab = Lab(name)
    lab.up()
    monkeypatch.setattr(namespaces, "ip_batch", late)
    lab.down()
    assert traces(name) == []


def test_a_failed_build_leaves_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "host_lines", lambda config: ["link set nothere up"])
    with pytest.raises(LabError, match="nothere"):
        Lab(name).up()
    assert traces(name) == []


def test_a_lab_that_is_up_and_a_strangers_namespace_are_not_touched(lab: Lab, name: str) -> None:
    with pytest.raises(LabError, match="already up"):
        Lab(lab.name).up()
    assert lab.condition() == "up"
    subprocess.run(["ip", "netns", "add", f"{name}-lte"], check=True)
    with pytest.raises(LabError, match="made by no lab"):
        Lab(name).up()
    assert Path(f"/run/netns/{name}-lte").exists()


def test_a_link_without_ipv6_has_none_and_a_small_mtu_works_both_ways(name: str) -> None:
    links = configure(("lte",), ("lte=1280", "wifi=1400"))
    with Lab(name, links) as lab:
        assert Lab.existing(name) is not None
        assert "inet6" not in lab.run(["ip", "addr", "show", "wwan0"]).stdout
        assert "wwan0" not in lab.run(["ip", "-6", "route"]).stdout
        wwan = ["curl", "-sS", "--interface", "wwan0"]
        done = lab.run([*wwan, f"http://{SERVER4}/bytes/1000000"])
        assert len(done.stdout) == 1_000_000
        done = lab.run([*wwan, "--data-binary", "@-", f"http://{SERVER4}/"], input="y" * 1_000_000)
        assert "received=1000000" in done.stdout
        assert lab.run([*wwan, f"http://[{SERVER6}]/"]).returncode != 0
        got6 = lab.run(["curl", "-sS", f"http://[{SERVER6}]/bytes/100000"])
        assert len(got6.stdout) == 100_000
        assert "mtu 1400" in lab.run(["ip", "link", "show", "wlan0"]).stdout


def test_three_links_each_have_their_own_way_and_their_own_resolver(name: str) -> None:
    with Lab(name, LINKS) as lab:
        routes = json.loads(lab.run(["ip", "-j", "route", "show", "default"]).stdout)
        assert [route["dev"] for route in routes] == ["wlan0", "wwan0", "usb0"]
        for link in LINKS:
            for server in (SERVER4, f"[{SERVER6}]"):
                got = lab.run(["curl", "-sS", "--interface", link.interface, f"http://{server}/"])
                assert got.stdout.startswith(f"link={link.name} peer="), got.stderr
            for resolver in link.resolvers():
                dig = ["dig", "+short", "+time=1", "+tries=1", f"@{resolver}", "www.lab.test", "A"]
                over_wifi = lab.run(dig).stdout.split() == [SERVER4]
                assert over_wifi == (link == WIFI), "it answers on its own link only"


def test_the_operators_resolver_is_reached_by_a_route_over_its_link(name: str) -> None:
    with Lab(name, LINKS) as lab:
        for family, resolver, gateway in (
            ("-4", USB.dns4, USB.gateway4),
            ("-6", USB.dns6, USB.gateway6),
        ):
            add = ["ip", family, "route", "add", resolver, "via", gateway, "dev", USB.interface]
            assert lab.run(add).returncode == 0
            done = lab.run(["dig", "+short", f"@{resolver}", "www.lab.test", "A"])
            assert done.stdout.split() == [SERVER4]
        details = [s.detail for s in lab.seen("usb") if s.local in USB.resolvers()]
        assert details == ["A www.lab.test"] * 2


def test_a_link_without_default_route_is_up_and_stays_without_when_mended(name: str) -> None:
    with Lab(name, configure(links="lte,wifi", no_default=("lte",))) as lab:
        assert lab.run(["ping", "-c1", "-W2", LTE.gateway4]).returncode == 0
        lab.mend("lte")
        for family in ("-4", "-6"):
            shown = lab.run(["ip", family, "route", "show", "default"]).stdout
            assert "wlan0" in shown
            assert "wwan0" not in shown


# --- the command ----------------------------------------------------------------------------------


def test_up_status_exec_down(name: str) -> None:
    def invoke(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(command, arguments)
        return result.exit_code, result.output

    code, output = invoke("status", "--name", name)
    assert code == 1
    assert output.startswith(f"arbiter: there is no lab {name}: `arbiter lab up --name {name}`")
    assert json.loads(invoke("status", "--name", name, "--json")[1])[0]["state"] == "down"
    options = ("--links", "usb,wifi,lte", "--no-default", "usb", "--no-ipv6", "lte")
    assert invoke("up", "--name", name, *options)[0] == 0
    code, output = invoke("up", "--name", name)
    assert (code, "already up" in output) == (1, True)
    assert output.startswith("arbiter: ")
    code, output = invoke("status", "--json")
    assert code == 0
    (entry,) = [e for e in json.loads(output) if e["name"] == name]
    assert (entry["state"], entry["links"][1]["address6"]) == ("up", None)
    assert [(link["name"], link["default_route"]) for link in entry["links"]] == [
        ("wifi", True),
        ("lte", True),
        ("usb", False),
    ]
    assert entry == describe(Lab.existing(name) or Lab("x"))
    code, output = invoke("status")
    assert (code, name in output) == (0, True)
    assert invoke("exec", "--name", name, "--", "sh", "-c", "exit 5")[0] == 5
    assert invoke("exec", "--name", name, "--", "sh", "-c", "kill -9 $$")[0] == 137
    code, output = invoke("exec", "--name", name, "--mtu", "wifi=1300", "--", "true")
    assert (code, "other links" in output) == (1, True)
    assert invoke("status", "--name", name)[0] == 0
    assert invoke("down", "--name", name)[0] == 0
    assert traces(name) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["up", "--no-ipv6", "dsl"], 2, "no link 'dsl'"),
        (["up", "--mtu", "lte"], 2, "LINK=BYTES"),
        (["up", "--mtu", "lte=1279"], 2, "1280 to 65535"),
        (["up", "--name", "../x"], 2, "lab name '../x' is not possible"),
        (["down", "--name", "A"], 2, "a letter first"),
        (["status", "--name", "a/b"], 2, "lab name 'a/b' is not possible"),
        (["exec", "--name", "a/b", "--", "true"], 2, "lab name 'a/b' is not possible"),
        (["exec"], 2, "Missing argument"),
        (["up", "--links", "wifi,dsl"], 2, "no link 'dsl'; use wifi, lte, usb"),
        (["up", "--links", ""], 2, "no link ''"),
        (["up", "--links", "lte,lte"], 2, "name each once"),
        (["up", "--no-default", "usb"], 2, "no link 'usb'; use wifi or lte"),
    ],
)
def test_a_wrong_call_is_refused_with_the_reason(
    arguments: list[str], code: int, text: str
) -> None:
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code, text in result.output) == (code, True), result.output


def test_exec_builds_a_lab_and_takes_it_down(name: str) -> None:
    script = f"curl -sS http://www.lab.test/; echo $ARBITER_LAB; command -v arbiter; cat {name} -"
    argv = [sys.executable, "-m", "arbiter.cli.lab", "exec", "--name", name, "--"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*argv, "sh", "-c", script], env=env, capture_output=True, text=True)
    first, *rest = done.stdout.splitlines()
    assert first.startswith("link=wifi"), done.stderr
    assert rest == [name, f"/run/arbiter-lab/{name}/bin/arbiter"]
    assert traces(name) == []


def test_a_folder_closed_to_others_on_the_way_is_found(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(0o755)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "python").touch()
    (tmp_path / "link").symlink_to("closed/python")
    (tmp_path / "closed").chmod(0o755)
    assert state.closed_to_others(tmp_path / "closed" / "python", tmp_path / "link") is None
    (tmp_path / "closed").chmod(0o750)
    assert state.closed_to_others(tmp_path / "closed" / "python") == tmp_path / "closed"
    assert state.closed_to_others(tmp_path, tmp_path / "link") == tmp_path / "closed", (
        "links followed"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_shell_that_loses_its_terminal_takes_its_lab_down(name: str, number: int) -> None:
    argv = [sys.executable, "-m", "arbiter.cli.lab", "shell", "--name", name]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SHELL": "/bin/cat"}
    shell = subprocess.Popen(
        argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with shell:
        assert shell.stdout is not None
        lines = iter(shell.stdout.readline, "")
        assert any("Leave with `exit`" in line for line in lines)
        assert Lab(name).condition() == "up"
        shell.send_signal(number)
        assert shell.wait(10) == 128 + number
    assert traces(name) == []


def test_the_arbiter_command_in_the_lab_is_this_installation(lab: Lab, tmp_path: Path) -> None:
    wrapper = tmp_path / "bin"
    state.write_command(wrapper)
    assert (wrapper / "arbiter").read_text() == Path(
        f"/run/arbiter-lab/{lab.name}/bin/arbiter"
    ).read_text()
    probe = (
        (wrapper / "arbiter")
        .read_text()
        .replace(
            "from arbiter.cli import main\nmain()",
            "import arbiter; print(arbiter.__file__, sys.argv)",
        )
    )
    (wrapper / "arbiter").write_text(probe)
    done = lab.run([str(wrapper / "arbiter"), "a b"], cwd="/")
    assert done.stdout == f"{ROOT}/arbiter/__init__.py {[str(wrapper / 'arbiter'), 'a b']}\n"


def test_down_from_inside_the_lab_is_refused(lab: Lab) -> None:
    script = f"from arbiter.lab import Lab; Lab({lab.name!r}).down()"
    env = {**lab.environment(), "PYTHONPATH": str(ROOT)}
    done = lab.run([sys.executable, "-c", script], env=env)
    assert "leave it first" in done.stderr
    assert lab.condition() == "up"


# --- without root ---------------------------------------------------------------------------------


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`arbiter lab` as nobody, with an interpreter and packages that nobody may read."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env"]
    drop += [f"PYTHONPATH={ROOT}:{sysconfig.get_path('purelib')}", "SHELL=/bin/sh"]
    for python in (sys.executable, f"/usr/bin/{version}"):
        tried = subprocess.run([*drop, python, "-c", "import click, rich, arbiter.lab"])
        if tried.returncode == 0 and shutil.which("unshare"):
            argv = [*drop, python, "-m", "arbiter.cli.lab", *arguments]
            return subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd="/")
    if os.environ.get("CI"):
        pytest.fail("in CI there must be a Python that nobody may run")
    pytest.skip(f"KERNEL TEST NOT RUN: nobody may neither run {sys.executable} nor {version}")


def test_without_root_exec_works_in_a_private_lab_beside_roots(lab: Lab) -> None:
    assert lab.condition() == "up"
    script = (
        "curl -sS http://www.lab.test/ && ping -qc1 lan.lab.test >&2 && ip -br link show wwan0 >&2"
        " && ip -br link show usb0 >&2 && ! ip route show default | grep -q usb0"
        " && cat /etc/passwd >/dev/null && id -u && exit 3"
    )
    options = ("--links=wifi,lte,usb", "--no-ipv6=lte", "--no-default=usb")
    done = as_nobody("exec", "--name", "priv", *options, "--", "sh", "-c", script)
    assert done.stdout.startswith(f"link=wifi peer=[{WIFI.host6}]:"), done.stderr
    assert (done.stdout.splitlines()[1:], done.returncode) == (["0"], 3), done.stderr
    assert traces("priv") == []


def test_without_root_up_and_down_name_the_way() -> None:
    for arguments in (["up"], ["down"]):
        done = as_nobody(*arguments)
        assert (done.returncode, "sudo" in done.stderr) == (1, True)


def test_the_private_preparation_refuses_the_real_machine() -> None:
    if not REAL_ROOT:
        pytest.skip("this is a user namespace already")
    with pytest.raises(LabError, match="no user namespace"):
        private.prepare()


# --- the pure parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Arb", "a-b", "a/b", "a" * 17, "1a", "a\n", "é"])
def test_names_that_could_be_misread_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="not possible"):
        LabConfig(name)


def test_links_must_differ() -> None:
    with pytest.raises(LabError, match="different"):
        LabConfig("x", (WIFI, WIFI))
    for change in ({"interface": "a b"}, {"interface": "lo"}, {"mtu": 1279}, {"host4": "1.2.3"}):
        with pytest.raises(LabError):
            LinkConfig(**{**vars(WIFI), **change})


def test_only_mapped_groups_are_given_the_right_to_ping() -> None:
    assert plan.ping_groups("         0          0 4294967295\n") == (0, 2147483647)
    assert plan.ping_groups("0 1000 1\n") == (0, 0)
    assert plan.ping_groups("5 1000 10\n100 1 1\n") == (5, 14)


def test_the_hosts_line_alone_is_replaced() -> None:
    files = plan.etc_files(
        LabConfig(), "passwd: files\nhosts: files resolve dns\nnetworks: files\n"
    )
    assert files["nsswitch.conf"] == "passwd: files\nnetworks: files\nhosts: files dns\n"


@given(st.binary(max_size=600))
def test_dns_answers_every_byte_string_or_nothing(query: bytes) -> None:
    answer = dns.reply(query, NAMES)
    assert answer is None or (answer[:2] == query[:2] and answer[2] & 0x80 and len(answer) >= 12)


@given(
    st.sampled_from([*NAMES, "www.lab.test", "A.B.LAB.TEST", "lab.test", "no.such", "xlab.test"]),
    st.sampled_from([1, 28, 15, 255]),
    st.binary(max_size=40),
)
def test_dns_answers_are_what_dpkt_reads(name: str, kind: int, tail: bytes) -> None:
    query = dpkt.dns.DNS(id=77, qd=[dpkt.dns.DNS.Q(name=name, type=kind)])
    got = dpkt.dns.DNS(dns.reply(bytes(query) + tail, NAMES))
    known = dns.lookup(NAMES, name.lower())
    families = {1: [4], 28: [16], 255: [4, 16]}.get(kind, [])
    expected = [
        socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in known or ()
    ]
    assert got.id == 77
    assert got.rcode == (dpkt.dns.DNS_RCODE_NXDOMAIN if known is None else 0)
    assert [bytes(r.rdata) for r in got.an] == [a for a in expected if len(a) in families]
    assert (known is None) == (name in ("lab.test", "no.such", "xlab.test"))


@given(st.binary(max_size=300))
def test_an_http_head_is_read_or_refused(head: bytes) -> None:
    try:
        _, number, length, _ = _request(b"GET / HTTP/1.1\r\n" + head)
    except ValueError:
        return
    assert number >= 0
    assert length >= 0
