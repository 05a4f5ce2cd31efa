"""`route via=`: a connection leaves over the link that was chosen, and nowhere else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from running import UDP_CLIENT, Arbiter, eventually, python

from arbiter.lab import Lab
from arbiter.lab.config import LAN_PEER4, LTE, SERVER4, SERVER6, WIFI
from arbiter.model import Link

CURL4 = ("curl", "-sS", "-m", "8", f"http://{SERVER4}/")
CURL6 = ("curl", "-sS", "-m", "8", f"http://[{SERVER6}]/")


def over(output: str) -> str:
    """The link that a server's answer names."""
    return output.split("link=")[1].split()[0]


@pytest.mark.parametrize("argv", [CURL4, CURL6], ids=["IPv4", "IPv6"])
def test_a_route_rule_takes_its_link_and_no_other(
    clean_lab: Lab, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte app=/usr/bin/curl")
        arbiter.add("allow app=/usr/bin/wget")
        before = len(clean_lab.seen("wifi"))
        for _ in range(3):
            code, output, _ = arbiter.run(*argv)
            assert (code, over(output)) == (0, "lte"), output
        url = argv[-1].replace("/", "/", 1) + "bytes/1000000"
        assert arbiter.run("curl", "-sS", "-g", "-m", "8", "-o", "/dev/null", url)[0] == 0
        assert len(clean_lab.seen("wifi")) == before
        code, output, _ = arbiter.run("wget", "-q", "-O", "-", "-T", "8", argv[-1])
        assert (code, over(output)) == (0, "wifi"), output


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_datagrams_are_routed_too(clean_lab: Lab, tmp_path: Path, server: str) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte host=internet")
        code, output, _ = arbiter.run(*python(UDP_CLIENT, server, "7", "5"))
        assert (code, output.count("link=lte")) == (0, 5), output
        assert arbiter.run("ping", "-c", "2", "-W", "4", server)[0] == 0


def test_route_is_an_answer(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        program = arbiter.program(*CURL4)
        ask = arbiter.ask()
        assert [(link["name"], link["up"]) for link in ask["links"]] == [
            ("wifi", True),
            ("lte", True),
        ]
        arbiter.answer("route via=lte", "--for", "forever")
        output, _ = program.communicate(timeout=10)
        assert over(output) == "lte"
        assert over(arbiter.run(*CURL4)[1]) == "lte"
        done = arbiter.ran("answer", str(ask["id"]), "route via=vpn")
        assert done.returncode == 1


def test_a_lost_link_refuses_strict_flows_at_once_and_a_list_falls_back(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte app=/usr/bin/curl")
        arbiter.add("route via=lte,any app=/usr/bin/wget")
        wget = ("wget", "-q", "-O", "-", "-T", "8", f"http://{SERVER4}/")
        assert over(arbiter.run(*CURL4)[1]) == over(arbiter.run(*wget)[1]) == "lte"
        before = len(clean_lab.seen("wifi"))
        clean_lab.run(["ip", "link", "set", LTE.interface, "down"])
        log = tmp_path / "log"
        eventually(lambda: "lte (wwan0, down)" in log.read_text())
        code, _, seconds = arbiter.run(*CURL4)
        assert (code, seconds < 1) == (7, True)
        assert len(clean_lab.seen("wifi")) == before, "a strict flow left over another link"
        assert over(arbiter.run(*wget)[1]) == "wifi"
        clean_lab.mend("lte")
        eventually(lambda: arbiter.run(*CURL4)[0] == 0)
        assert over(arbiter.run(*CURL4)[1]) == "lte"


def test_a_link_lost_in_mid_transfer_ends_its_connections_and_no_others(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte app=/usr/bin/curl")
        arbiter.add("allow app=/usr/bin/wget")
        url = f"http://{SERVER4}/slow/20"
        lost = arbiter.program("curl", "-sS", "-m", "30", url)
        kept = arbiter.program("wget", "-q", "-O", "/dev/null", "-T", "30", url)
        eventually(lambda: arbiter.counter("queued") == 2)
        clean_lab.run(["ip", "link", "set", LTE.interface, "down"])
        began = time.monotonic()
        assert lost.wait(10) != 0
        assert time.monotonic() - began < 2
        assert kept.poll() is None, "a connection of another link was cut"
        assert arbiter.asks() == [], "what is left of it must not be asked about"


def test_a_routed_flow_reaches_the_lan_all_the_same(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte")
        code, output, _ = arbiter.run("ping", "-c", "1", "-W", "4", LAN_PEER4)
        assert code == 0, output


def test_a_link_without_ipv6_is_refused_over_it_and_works_over_ipv4(tmp_path: Path) -> None:
    from dataclasses import replace

    with (
        Lab(f"n{os.getpid()}", (WIFI, replace(LTE, ipv6=False))) as lab,
        Arbiter(lab, tmp_path) as arbiter,
    ):
        arbiter.add("route via=lte host=internet")
        code, _, seconds = arbiter.run(*CURL6)
        assert (code, seconds < 1) == (7, True)
        code, output, _ = arbiter.run("curl", "-sS", "-m", "8", "http://www.lab.test/")
        assert (code, over(output)) == (0, "lte"), output


def test_numbers_of_links_stay_over_a_restart_and_a_bad_file_is_told(
    clean_lab: Lab, tmp_path: Path
) -> None:
    arbiter = Arbiter(clean_lab, tmp_path)
    folder = tmp_path / "config" / "links.d"
    folder.mkdir()
    (folder / "mobile.toml").write_text(
        '[link]\nname = "mobile"\nmatch = { interface = "wwan*" }\nprice = "0.02 EUR/MB"\n'
    )
    (folder / "bad.toml").write_text('[link]\nname = "x"\nmatch = { interface = "a;b" }\n')
    with arbiter:
        assert any("bad.toml" in problem for problem in arbiter.status().problems)
        arbiter.add("route via=mobile app=/usr/bin/curl")
        assert over(arbiter.run(*CURL4)[1]) == "lte"
    numbers = (tmp_path / "state" / "links.json").read_text()
    with arbiter:
        assert (tmp_path / "state" / "links.json").read_text() == numbers
        assert over(arbiter.run(*CURL4)[1]) == "lte"


def test_an_interface_that_no_ruleset_can_name_is_told_and_the_links_go_on(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        clean_lab.run(["ip", "link", "add", "we+rd", "type", "veth", "peer", "name", "other"])
        clean_lab.run(["ip", "address", "add", "10.9.9.2/24", "dev", "we+rd"])
        clean_lab.run(["ip", "link", "set", "other", "up"])
        clean_lab.run(["ip", "link", "set", "we+rd", "up"])
        route = ["ip", "route", "add", "default", "via", "10.9.9.1", "dev", "we+rd"]
        clean_lab.run([*route, "metric", "9000"])
        eventually(lambda: any("rename" in problem for problem in arbiter.status().problems))
        arbiter.add("route via=lte app=/usr/bin/curl")
        assert over(arbiter.run(*CURL4)[1]) == "lte"
        clean_lab.run(["ip", "link", "set", LTE.interface, "down"])
        eventually(lambda: "lte (wwan0, down)" in (tmp_path / "log").read_text())
        clean_lab.run(["ip", "link", "delete", "we+rd"])
        eventually(lambda: not arbiter.status().problems)


def test_after_a_rescue_a_change_of_links_puts_nothing_back(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        assert arbiter.command("rescue").returncode == 0
        log = tmp_path / "log"
        eventually(lambda: "were taken away" in log.read_text())
        clean_lab.run(["ip", "link", "set", LTE.interface, "down"])
        clean_lab.mend("lte")
        time.sleep(1)  # what must not happen
        assert "lookup 700" not in clean_lab.run(["ip", "rule"]).stdout
        assert any("taken away" in problem for problem in arbiter.status().problems)


def test_a_link_carries_a_family_only_where_it_is_up() -> None:
    link = Link("lte", 2, "wwan0", up=True, up4=True, up6=False)
    assert link.reaches(bytes(4))
    assert not link.reaches(bytes(16))
    assert not Link("lte", 2, "wwan0", up=False).reaches(bytes(4))


def test_links_that_come_while_arbiter_stops_bring_nothing_back(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """A new interface with a default route changes the ruleset: not after its end."""
    make = "ip link add extra0 type veth peer name extra1 && ip link set extra0 up"
    make += " && ip link set extra1 up && ip addr add 10.9.0.2/24 dev extra0"
    make += " && ip route add default via 10.9.0.1 dev extra0 metric 900"
    make += "; sleep 0.2; ip link del extra0; sleep 0.1"
    flap = f"while :; do {make}; done 2>/dev/null"
    for _ in range(3):
        arbiter = Arbiter(clean_lab, tmp_path).start()
        flapping = clean_lab.popen(["sh", "-c", flap])
        try:
            log = tmp_path / "log"
            eventually(lambda log=log: "extra0" in log.read_text())  # type: ignore[misc]
            assert arbiter.stop() == 0
        finally:
            flapping.kill()
            flapping.wait()
        assert "ARBITER" not in clean_lab.run(["iptables-save"]).stdout
        assert "proto 65" not in clean_lab.run(["ip", "rule"]).stdout
        log.unlink()


def test_a_stop_in_the_middle_of_a_repair_is_a_stop(clean_lab: Lab, tmp_path: Path) -> None:
    arbiter = Arbiter(clean_lab, tmp_path).start()
    log = tmp_path / "log"
    for repairs in (1, 2):
        clean_lab.run(["ip", "rule", "del", "pref", "910", "fwmark", "0x21000000/0x3f000000"])
        if repairs == 1:
            eventually(lambda: "they are put back" in log.read_text())
    time.sleep(0.25)  # the second is looked at by now, and its repair waits its turn (REPAIR_EVERY)
    assert arbiter.stop() == 0
    assert "proto 65" not in clean_lab.run(["ip", "rule"]).stdout


@pytest.mark.parametrize(
    "selector", ["", f"from {WIFI.host4}", "not fwmark 0xca6c", "uidrange 0-65534"]
)
def test_a_rule_that_gets_in_front_of_ours_takes_nothing_that_is_routed(
    clean_lab: Lab, tmp_path: Path, selector: str
) -> None:
    """Without a preference it gets the one before the first: wg-quick and most scripts do so."""
    for gateway in (WIFI.gateway4, WIFI.gateway6):
        clean_lab.run(["ip", "route", "add", "default", "via", gateway, "table", "99"])
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte app=/usr/bin/curl")
        assert over(arbiter.run(*CURL4)[1]) == "lte"
        for _ in range(2):
            assert clean_lab.run(f"ip rule add {selector} table 99".split()).returncode == 0
        if not selector:
            assert clean_lab.run(["ip", "-6", "rule", "add", "table", "99"]).returncode == 0

        def first() -> bool:
            ours = []
            for family in ("-4", "-6"):
                rules = clean_lab.run(["ip", family, "rule"]).stdout.splitlines()
                ours.append("lookup local" in rules[0] and "proto 65" in rules[1])
            return all(ours)

        eventually(first)
        assert over(arbiter.run(*CURL4)[1]) == "lte"
        assert over(arbiter.run(*CURL6)[1]) == "lte"
        assert "they are put back" in (tmp_path / "log").read_text()
    assert "proto 65" not in clean_lab.run(["ip", "rule"]).stdout
    assert clean_lab.run(["ip", "rule"]).stdout.count("lookup 99") == 2


def test_a_rescue_while_arbiter_runs_is_not_repaired(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        assert arbiter.command("rescue").returncode == 0
        eventually(lambda: "rules were taken away" in (tmp_path / "log").read_text())
        assert "proto 65" not in clean_lab.run(["ip", "rule"]).stdout
        assert "ARBITER" not in clean_lab.run(["iptables-save"]).stdout
