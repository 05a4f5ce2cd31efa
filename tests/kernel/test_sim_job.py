"""What services know of links reaches rules and people: the real daemon beside a played D-Bus.

NetworkManager and ModemManager are dbusmock's, of the lab's wlan0 and wwan0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import busmock
import pytest
from busmock import BusMock
from busplayers import GUESS_YES, HOME, MM, NM, NO, ROAMING, YES, ModemManager, NetworkManager, V
from running import Arbiter, Prompt, eventually

from arbiter.lab import Lab
from arbiter.lab.config import HTTP_PORTS, PUBLIC4, PUBLIC6, SERVER4

pytestmark = pytest.mark.skipif(bool(busmock.missing()), reason=busmock.missing())

WORK, TRAVEL = "8949012345678901234", "8988301234567890123"
CURL = ("curl", "-sS", "-m", "8", f"http://{SERVER4}/")
LINKS = {
    "work.toml": f"""
        [link]
        name = "work"
        match = {{ sim = "{WORK}" }}
        price = "0.02 EUR/MB"
        budget = "500 MB/month"
    """,
    "travel.toml": """
        [link]
        name = "travel"
        match = { interface = "wwan*", apn = "travel" }
        price = "0.20 EUR/MB"
    """,
}


@pytest.fixture
def bus() -> Iterator[BusMock]:
    with BusMock() as running:
        yield running


def gateway_mac(lab: Lab, link: str = "wifi") -> str:
    done = lab.run(["ip", "-j", "link", "show", "access0"], ns=link)
    return str(json.loads(done.stdout)[0]["address"])


def over(output: str) -> str:
    return output.split("link=")[1].split()[0]


def goes(arbiter: Arbiter) -> bool:
    """Whether curl may go to CURL now; what no rule lets go is refused at once, with `--mode
    enforce`, and where a rule routes it nowhere."""
    code, output, _ = arbiter.run(*CURL)
    assert code in (0, 7), output
    return code == 0


class Machine:
    """The services of a machine with wifi and a modem."""

    def __init__(self, bus: BusMock, *, sim: str = WORK, apn: str = "internet") -> None:
        self.bus = bus
        self.nm: NetworkManager = bus.network_manager()
        self.mm: ModemManager = bus.modem_manager()
        self.wifi = self.nm.wifi("wlan0", "cafe", metered=GUESS_YES)
        self.modem = self.mm.modem(0, "wwan0", sim, apn=apn)
        self.wwan = self.nm.modem("wwan0", self.modem, metered=YES)

    def insert(self, name: str, iccid: str) -> None:
        """Another SIM is in the modem; "" for one that tells no number."""
        sim = self.mm.sim(name, iccid)
        self.mm.update(self.modem, self.mm.MODEM, Sim=V("o", sim))

    def registered(self, state: int) -> None:
        self.mm.update(self.modem, self.mm.GPP, RegistrationState=V("u", state))


def test_facts_of_the_services_are_shown_and_are_conditions_of_rules(
    clean_lab: Lab, tmp_path: Path, bus: BusMock
) -> None:
    machine = Machine(bus)
    enforce = "--mode", "enforce"
    with Arbiter(clean_lab, tmp_path, *enforce, environment=bus.environment) as arbiter:
        shown = arbiter.links()
        wifi, lte = shown["wifi"], shown["lte"]
        mac = gateway_mac(clean_lab)
        assert (wifi["metered"], wifi["metered_by"]) == (True, "NetworkManager's guess")
        assert (wifi["roaming"], wifi["sim"]) == (False, None)
        assert set(wifi["networks"]) == {"ssid:cafe", f"gateway:{mac}"}
        assert (lte["metered"], lte["metered_by"]) == (True, "NetworkManager")
        assert (lte["sim"], lte["operator"]) == (WORK, "Example Mobile")
        assert (lte["apn"], lte["roaming"]) == ("internet", False)

        holds = {
            f"sim={WORK}": True,
            f"sim={TRAVEL}": False,
            "network=ssid:cafe": True,
            "network=ssid:Cafe": False,
            f"network=gateway:{mac}": True,
            "network=gateway:02:00:00:00:00:01": False,
            "metered=yes": True,
            "metered=no": False,
            "roaming=no": True,
            "roaming=yes": False,
        }
        assert not goes(arbiter)
        # Each has a server's address and port of its own.
        places = [(address, port) for address in (*PUBLIC4, *PUBLIC6) for port in HTTP_PORTS]
        tried = dict(zip(holds, places[1:], strict=False))  # the first is CURL's
        assert len(tried) == len(holds)
        arbiter.add(
            *(
                f"allow app=/usr/bin/curl host={address} port={port} {condition}"
                for condition, (address, port) in tried.items()
            )
        )
        for condition, (address, port) in tried.items():
            url = f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"
            code, output, _ = arbiter.run("curl", "-sS", "-g", "-m", "8", url)
            assert (code, condition) == (0 if holds[condition] else 7, condition), output
        # How the way is decides, not how another link is: curl leaves over wifi.
        arbiter.add("allow app=/usr/bin/curl metered=no")
        assert not goes(arbiter)
        machine.nm.metered(machine.wifi, NO)
        eventually(lambda: goes(arbiter))
        machine.registered(ROAMING)
        machine.nm.metered(machine.wifi, YES)
        eventually(lambda: not goes(arbiter))
        assert arbiter.status().problems == ()


def test_rules_and_files_follow_the_sim_and_an_empty_one_matches_nothing(
    clean_lab: Lab, tmp_path: Path, bus: BusMock
) -> None:
    machine = Machine(bus)
    with Arbiter(
        clean_lab, tmp_path, "--mode", "enforce", links=LINKS, environment=bus.environment
    ) as arbiter:
        arbiter.add(f"route via=work,travel app=/usr/bin/curl sim={WORK}")
        with Prompt(arbiter) as prompt:
            work = arbiter.links()["work"]
            assert (work["price"], work["budget"]) == ("0.02 EUR/MB", "500 MB/month")
            assert over(arbiter.run(*CURL)[1]) == "lte"

            machine.insert("travel", TRAVEL)
            prompt.told("link work is gone")
            assert not goes(arbiter)
            (other,) = (link for link in arbiter.links().values() if link["interface"] == "wwan0")
            assert (other["name"], other["sim"]) == ("lte", TRAVEL)
            assert (other["price"], other["budget"]) == (None, None)

            machine.insert("none", "")
            eventually(lambda: arbiter.links()["lte"]["sim"] is None)
            assert not goes(arbiter)
            arbiter.add("allow app=/usr/bin/curl sim=8900000000000000000")
            assert not goes(arbiter)

            machine.insert("again", WORK)
            prompt.told("new link: work (wwan0)")
            assert over(arbiter.run(*CURL)[1]) == "lte"
            bearer = f"{machine.mm.ROOT}/Bearer/0"
            other_apn = V("a{sv}", {"apn": V("s", "travel")})
            machine.mm.update(bearer, "org.freedesktop.ModemManager1.Bearer", Properties=other_apn)
            machine.insert("travel2", TRAVEL)
            eventually(lambda: "travel" in arbiter.links())
            assert arbiter.links()["travel"]["price"] == "0.20 EUR/MB"


def test_roaming_is_announced_and_holds_for_new_connections_only(
    clean_lab: Lab, tmp_path: Path, bus: BusMock
) -> None:
    machine = Machine(bus)
    with Arbiter(
        clean_lab, tmp_path, "--mode", "enforce", links=LINKS, environment=bus.environment
    ) as arbiter:
        arbiter.add("route via=work host=internet")
        arbiter.add("deny app=/usr/bin/curl roaming=yes")
        # The machine leaves over the modem: what roams is the way itself.
        assert clean_lab.run(["ip", "route", "del", "default", "dev", "wlan0"]).returncode == 0
        with Prompt(arbiter) as prompt:
            eventually(lambda: goes(arbiter))
            running = arbiter.echo(SERVER4)
            running.send(1000)
            machine.registered(ROAMING)
            prompt.told("link work is roaming")
            assert not goes(arbiter)
            running.send(1000)
            machine.registered(HOME)
            prompt.told("link work is not roaming any more")
            assert goes(arbiter)
            running.send(1000)


def test_what_was_guessed_gives_way_to_what_is_set(
    clean_lab: Lab, tmp_path: Path, bus: BusMock
) -> None:
    machine = Machine(bus)
    with (
        Arbiter(clean_lab, tmp_path, environment=bus.environment) as arbiter,
        Prompt(arbiter) as prompt,
    ):
        arbiter.add("route via=unmetered app=/usr/bin/curl")
        assert not goes(arbiter)
        machine.nm.metered(machine.wifi, NO)
        prompt.told("link wifi is not metered now")
        assert over(arbiter.run(*CURL)[1]) == "wifi"
        wifi = arbiter.links()["wifi"]
        assert (wifi["metered"], wifi["metered_by"]) == (False, "NetworkManager")


def test_a_restart_of_networkmanager_makes_nothing_flap(
    clean_lab: Lab, tmp_path: Path, bus: BusMock
) -> None:
    machine = Machine(bus)
    with (
        Arbiter(
            clean_lab, tmp_path, "--mode", "enforce", links=LINKS, environment=bus.environment
        ) as arbiter,
        Prompt(arbiter) as prompt,
    ):
        arbiter.add(f"route via=work app=/usr/bin/curl sim={WORK} network=ssid:cafe")
        assert over(arbiter.run(*CURL)[1]) == "lte"
        before = arbiter.links()
        for name in (NM, MM):
            bus.stop(name)
            assert over(arbiter.run(*CURL)[1]) == "lte", f"{name} is gone, and its facts with it"
        machine = Machine(bus)
        assert over(arbiter.run(*CURL)[1]) == "lte"
        machine.registered(ROAMING)  # it is listened to, after its restart
        prompt.told("link work is roaming")
        assert [text for text in prompt.notices() if "roaming" not in text] == []
        after = arbiter.links()
        assert after["work"] == before["work"] | {"roaming": True}
        assert after["wifi"] == before["wifi"]


def test_without_a_bus_links_are_found_and_rules_work(clean_lab: Lab, tmp_path: Path) -> None:
    nowhere = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/nothing"}
    with Arbiter(clean_lab, tmp_path, "--mode", "enforce", environment=nowhere) as arbiter:
        mac = gateway_mac(clean_lab)
        arbiter.add(f"route via=lte app=/usr/bin/curl network=gateway:{mac}")
        assert over(arbiter.run(*CURL)[1]) == "lte"
        arbiter.add(f"deny app=/usr/bin/curl sim={WORK}")
        assert goes(arbiter)
        shown = arbiter.links()
        assert (shown["lte"]["metered"], shown["lte"]["metered_by"]) == (True, "guess")
        assert shown["wifi"]["metered"] is False
        assert arbiter.status().problems == ()
