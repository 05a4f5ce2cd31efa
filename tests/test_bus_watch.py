"""Facts of links over a real D-Bus: read, followed, and never waited for."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping

import pytest
from busmock import BusMock, missing
from busplayers import GUESS_YES, MM, NM, ROAMING, YES, V
from buswatching import SWIFT, run, watching

from arbiter.bus import FactsWatch
from arbiter.bus.follow import Pace
from arbiter.netfacts import NetFacts

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ICCID = "8943010000000000001"
OTHER = "8943010000000000002"
V4, V6 = socket.inet_aton("192.0.2.53"), socket.inet_pton(socket.AF_INET6, "2001:db8::53")


@pytest.fixture
def bus() -> Iterator[BusMock]:
    with BusMock() as made:
        yield made


def test_wifi_and_lte_are_told_at_the_start_by_interface(bus: BusMock) -> None:
    nm, mm = bus.network_manager(), bus.modem_manager()
    nm.wifi("wlan0", "café", metered=YES, dns=("192.0.2.53",), dns6=(V6,))
    nm.modem("wwan0", metered=GUESS_YES)
    mm.modem(0, "wwan0", f"{ICCID}F", apn="internet", dns=("192.0.2.54",))

    async def scene() -> None:
        async with watching(bus.address) as told:
            assert told.changes == [
                {
                    "wlan0": NetFacts(metered=True, ssid="café", dns=(V4, V6)),
                    "wwan0": NetFacts(
                        metered=True,
                        metered_guessed=True,
                        sim=ICCID,
                        operator="Example Mobile",
                        apn="internet",
                        roaming=False,
                        dns=(socket.inet_aton("192.0.2.54"),),
                    ),
                }
            ]
            assert told.problems == []

    run(scene)


def test_a_guess_that_becomes_a_setting_is_told(bus: BusMock) -> None:
    nm = bus.network_manager()
    wifi = nm.wifi("wlan0", "cafe", metered=GUESS_YES)

    async def scene() -> None:
        async with watching(bus.address) as told:
            assert told["wlan0"].metered and told["wlan0"].metered_guessed
            nm.metered(wifi, YES)
            await told.until(lambda: not told["wlan0"].metered_guessed)
            assert told["wlan0"].metered
            nm.metered(wifi, 2)
            await told.until(lambda: told["wlan0"].metered is False)

    run(scene)


def test_another_network_and_a_device_that_comes_are_told(bus: BusMock) -> None:
    nm = bus.network_manager()
    wifi = nm.wifi("wlan0", "cafe")

    async def scene() -> None:
        async with watching(bus.address) as told:
            nm.update(wifi, nm.WIRELESS, ActiveAccessPoint=V("o", nm.point(wifi, "b", "home")))
            await told.until(lambda: told["wlan0"].ssid == "home")
            nm.modem("wwan0", metered=YES)
            await told.until(lambda: told["wwan0"].metered)
            nm.update(wifi, nm.DEVICE, State=V("u", 30))
            await told.until(lambda: told["wlan0"] == NetFacts())

    run(scene)


def test_the_profile_names_the_apn_where_the_modem_does_not(bus: BusMock) -> None:
    nm = bus.network_manager()
    nm.modem("ppp0", apn="from.profile")

    async def scene() -> None:
        async with watching(bus.address) as told:
            assert told["ppp0"].apn == "from.profile"
            assert told["ppp0"].sim == ""

    run(scene)


def test_a_ppp_link_has_the_sim_of_the_modem_that_networkmanager_names(bus: BusMock) -> None:
    mm, nm = bus.modem_manager(), bus.network_manager()
    nm.modem("ppp0", mm.modem(3, "ttyUSB2", ICCID, apn="mms"))

    async def scene() -> None:
        async with watching(bus.address) as told:
            assert (told["ppp0"].sim, told["ppp0"].apn) == (ICCID, "mms")

    run(scene)


def test_a_sim_that_is_swapped_and_a_roaming_that_begins_are_told(bus: BusMock) -> None:
    mm = bus.modem_manager()
    modem = mm.modem(0, "wwan0", ICCID)

    async def scene() -> None:
        async with watching(bus.address) as told:
            assert (told["wwan0"].sim, told["wwan0"].roaming) == (ICCID, False)
            mm.update(modem, mm.GPP, RegistrationState=V("u", ROAMING))
            await told.until(lambda: told["wwan0"].roaming)
            mm.update(modem, mm.MODEM, Sim=V("o", mm.sim("other", OTHER)))
            await told.until(lambda: told["wwan0"].sim == OTHER)
            mm.update(modem, mm.MODEM, Sim=V("o", "/"))
            await told.until(lambda: told["wwan0"].sim == "")
            assert told["wwan0"].operator == "Example Mobile"

    run(scene)


def test_each_modem_has_its_own_sim_and_one_that_is_unplugged_is_forgotten(bus: BusMock) -> None:
    mm = bus.modem_manager()
    first = mm.modem(0, "wwan0", ICCID)

    async def scene() -> None:
        async with watching(bus.address) as told:
            mm.modem(1, "wwan1", OTHER)
            await told.until(lambda: told["wwan1"].sim == OTHER)
            assert told["wwan0"].sim == ICCID
            mm.unplug(first)
            await told.until(lambda: set(told.changes[-1]) == {"wwan1"})

    run(scene)


def test_resolved_says_the_dns_servers_where_networkmanager_does_not(bus: BusMock) -> None:
    resolved = bus.resolved()

    async def scene() -> None:
        async with watching(bus.address) as told:
            assert told.changes == [{}]
            resolved.servers("lo", V4, V6)
            await told.until(lambda: told["lo"].dns == (V4, V6))
            bus.network_manager().wifi("lo", "x", dns=("198.51.100.1",))
            await told.until(lambda: told["lo"].dns == (socket.inet_aton("198.51.100.1"),))
            bus.stop(NM)
            await told.until(lambda: told["lo"].dns == (V4, V6))

    run(scene)


def test_a_service_that_comes_later_or_is_gone_is_followed(bus: BusMock) -> None:
    async def scene() -> None:
        async with watching(bus.address) as told:
            assert told.changes == [{}]
            mm = bus.modem_manager()
            mm.modem(0, "wwan0", ICCID)
            await told.until(lambda: told["wwan0"].sim == ICCID)
            bus.stop(MM)
            await told.until(lambda: told.changes[-1] == {})
            bus.modem_manager().modem(0, "wwan0", OTHER)
            await told.until(lambda: told["wwan0"].sim == OTHER)
            assert told.problem == ""

    run(scene)


def test_a_service_that_restarts_is_not_forgotten_meanwhile(bus: BusMock) -> None:
    nm, mm = bus.network_manager(), bus.modem_manager()
    nm.wifi("wlan0", "cafe", metered=YES)
    patient = Pace(quiet=0.02, longest=0.1, grace=60.0)

    async def scene() -> None:
        async with watching(bus.address, patient) as told:
            bus.stop(NM)
            mm.modem(0, "wwan0", ICCID)
            await told.until(lambda: told["wwan0"].sim == ICCID)
            assert told["wlan0"].ssid == "cafe"
            bus.network_manager().wifi("wlan0", "home")  # what it says now counts at once
            await told.until(lambda: told["wlan0"] == NetFacts(ssid="home"))

    run(scene)


def test_what_a_service_knew_holds_until_its_successor_has_found_it_again(bus: BusMock) -> None:
    """NetworkManager answers before it has taken up the connections that it finds."""
    bus.network_manager().wifi("wlan0", "cafe", metered=YES)
    bus.modem_manager().modem(0, "wwan0", ICCID)
    patient = Pace(quiet=0.02, longest=0.1, grace=60.0, takeover=60.0)

    async def scene() -> None:
        async with watching(bus.address, patient) as told:
            before = dict(told.changes[-1])
            bus.stop(NM)
            nm = bus.network_manager()
            bus.stop(MM)
            mm = bus.modem_manager()
            bus.resolved().servers("lo", bytes(4))  # read after them
            await told.until(lambda: "lo" in told.changes[-1])
            assert {k: v for k, v in told.changes[-1].items() if k != "lo"} == before
            assert all(change.keys() >= {"wlan0", "wwan0"} for change in told.changes)
            nm.wifi("wlan0", "home")
            mm.modem(3, "wwan0", OTHER)
            await told.until(lambda: told["wlan0"] == NetFacts(ssid="home"))
            await told.until(lambda: told["wwan0"].sim == OTHER)

    run(scene)


def test_what_a_successor_does_not_find_is_forgotten(bus: BusMock) -> None:
    bus.network_manager().wifi("wlan0", "cafe")
    quick = Pace(quiet=0.02, longest=0.1, grace=60.0, takeover=0.5)

    async def scene() -> None:
        async with watching(bus.address, quick) as told:
            assert told["wlan0"].ssid == "cafe"
            bus.stop(NM)
            bus.network_manager()
            await told.until(lambda: told.changes[-1] == {})

    run(scene)


def test_without_a_bus_nothing_is_known_and_one_that_comes_is_used() -> None:
    bus = BusMock(start=False)

    async def scene() -> None:
        async with watching(bus.address) as told:
            assert told.changes == [{}]
            bus.start()
            bus.modem_manager().modem(0, "wwan0", ICCID)
            await told.until(lambda: told["wwan0"].sim == ICCID)
            assert told.problems == []

    try:
        run(scene)
    finally:
        bus.close()


def test_a_bus_that_is_killed_and_comes_back_is_followed(bus: BusMock) -> None:
    bus.modem_manager().modem(0, "wwan0", ICCID)

    async def scene() -> None:
        async with watching(bus.address) as told:
            bus.kill()
            await told.until(lambda: told.changes[-1] == {})
            bus.start()
            bus.modem_manager().modem(0, "wwan0", OTHER)
            await told.until(lambda: told["wwan0"].sim == OTHER)
            assert told.problems == []

    run(scene)


def test_a_service_that_hangs_delays_no_other_and_is_a_problem_until_it_answers(
    bus: BusMock,
) -> None:
    nm, mm = bus.network_manager(), bus.modem_manager()
    nm.wifi("wlan0", "cafe")
    modem = mm.modem(0, "wwan0", ICCID)
    bus.freeze(NM)

    async def scene() -> None:
        async with watching(bus.address, limit=0.5) as told:
            await told.until(lambda: told["wwan0"].sim == ICCID)
            await told.until(lambda: "NetworkManager" in told.problem)
            assert "wlan0" not in told.changes[-1]
            mm.update(modem, mm.GPP, RegistrationState=V("u", ROAMING))
            await told.until(lambda: told["wwan0"].roaming)
            bus.thaw(NM)
            await told.until(lambda: told["wlan0"].ssid == "cafe" and told.problem == "")

    run(scene)


def test_what_a_service_said_stays_while_it_hangs(bus: BusMock) -> None:
    mm = bus.modem_manager()
    modem = mm.modem(0, "wwan0", ICCID)

    async def scene() -> None:
        async with watching(bus.address, limit=0.2) as told:
            assert told["wwan0"].sim == ICCID
            bus.freeze(MM)
            told.watch.look()
            await told.until(lambda: "ModemManager" in told.problem)
            assert told["wwan0"].sim == ICCID
            bus.thaw(MM)
            mm.update(modem, mm.GPP, RegistrationState=V("u", ROAMING))
            await told.until(lambda: told["wwan0"].roaming and told.problem == "")

    run(scene)


def test_what_another_process_said_is_not_kept_for_one_that_hangs(bus: BusMock) -> None:
    bus.network_manager().wifi("wlan0", "cafe")

    async def scene() -> None:
        async with watching(bus.address, Pace(grace=60.0), limit=0.2) as told:
            assert told["wlan0"].ssid == "cafe"
            bus.stop(NM)
            bus.network_manager()
            bus.freeze(NM)
            await told.until(lambda: "NetworkManager" in told.problem)
            assert told.changes[-1] == {}

    run(scene)


@pytest.mark.parametrize("end", ["service", "bus"])
def test_a_service_or_bus_that_goes_while_it_is_asked_is_no_problem(bus: BusMock, end: str) -> None:
    bus.modem_manager().modem(0, "wwan0", ICCID)

    async def scene() -> None:
        async with watching(bus.address) as told:
            bus.freeze(MM)
            before = told.reads[1]
            told.watch.look()
            await told.until(lambda: told.reads[1] > before)
            if end == "bus":
                bus.kill()
            else:
                bus.stop(MM)
            await told.until(lambda: told.changes[-1] == {})
            assert told.problems == []

    run(scene)


def test_the_start_waits_for_no_bus_that_hangs(bus: BusMock) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(bus.folder / "deaf"))
    listener.listen()

    async def scene() -> None:
        address = f"unix:path={bus.folder}/deaf"
        async with watching(address, limit=0.3) as told:
            assert told.changes == [{}]
            await told.until(lambda: "deaf" in told.problem)

    run(scene)
    listener.close()


def test_an_address_that_is_none_is_a_problem_and_no_exception() -> None:
    async def scene() -> None:
        async with watching("carrier pigeon") as told:
            assert told.changes == [{}]
            await told.until(lambda: "carrier pigeon" in told.problem)

    run(scene)


def test_after_close_nothing_is_told(bus: BusMock) -> None:
    mm = bus.modem_manager()

    async def scene() -> None:
        async with watching(bus.address) as told:
            pass
        await told.watch.close()
        mm.modem(0, "wwan0", ICCID)
        await asyncio.sleep(0.1)
        assert told.changes == [{}]

    run(scene)


def test_what_the_listener_throws_is_said_and_not_lost(bus: BusMock) -> None:
    mm = bus.modem_manager()

    async def scene() -> None:
        problems: list[str] = []

        def changed(facts: Mapping[str, NetFacts]) -> None:
            if facts:
                raise ZeroDivisionError("a bug")

        watch = FactsWatch(changed, problems.append, address=bus.address, pace=SWIFT)
        await watch.start()
        mm.modem(0, "wwan0", ICCID)
        deadline = time.monotonic() + 20
        while not problems:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert "ZeroDivisionError: a bug" in problems[0]
        await watch.close()

    run(scene)
