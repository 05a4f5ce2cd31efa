"""Facts of links over a real D-Bus: read, followed, and never waited for."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import cast

import pytest
from busmock import GUESS_YES, MM, NM, RESOLVE, ROAMING, YES, BusMock, V, missing
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from arbiter.bus import FactsWatch
from arbiter.bus.calls import READS, CallError, Calls, _BoundedSocket
from arbiter.bus.follow import Pace
from arbiter.netfacts import NetFacts

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SWIFT = Pace(quiet=0.02, longest=0.2, grace=0.2, retry=0.02, retry_most=0.1, unanswered=0.2)
ICCID = "8943010000000000001"
OTHER = "8943010000000000002"
V4, V6 = socket.inet_aton("192.0.2.53"), socket.inet_pton(socket.AF_INET6, "2001:db8::53")


@pytest.fixture
def bus() -> Iterator[BusMock]:
    with BusMock() as made:
        yield made


class Told:
    """What a watch told, and until when to wait for it."""

    def __init__(self, address: str, pace: Pace, limit: float) -> None:
        self.changes: list[Mapping[str, NetFacts]] = []
        self.problems: list[str] = []
        self.watch = FactsWatch(
            self.changes.append, self.problems.append, address=address, pace=pace, limit=limit
        )

    def __getitem__(self, interface: str) -> NetFacts:
        return self.changes[-1].get(interface, NetFacts())

    @property
    def problem(self) -> str:
        return self.problems[-1] if self.problems else ""

    @property
    def reads(self) -> list[int]:
        return [follower.reads for follower in self.watch._followers.values()]

    async def until(self, predicate: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not predicate():
            assert time.monotonic() < deadline, f"{self.changes[-1:]}; {self.problems}"
            await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(address: str, pace: Pace = SWIFT, limit: float = 5.0) -> AsyncIterator[Told]:
    told = Told(address, pace, limit)
    await told.watch.start()
    try:
        yield told
    finally:
        await told.watch.close()


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scene()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {left}"

    asyncio.run(whole())


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


class FakeBus:
    """Answers whatever is asked with one message."""

    def __init__(self, reply: Message | None) -> None:
        self.reply = reply

    async def call(self, _: Message) -> Message | None:
        return self.reply

    async def wait_for_disconnect(self) -> None:
        pass


def test_only_who_was_asked_may_answer() -> None:
    def reply(sender: str) -> Message:
        kind = MessageType.METHOD_RETURN
        return Message(
            message_type=kind, sender=sender, reply_serial=1, serial=2, signature="s", body=["x"]
        )

    async def ask(answer: Message | None) -> object:
        calls = Calls(cast(MessageBus, FakeBus(answer)), 1.0)
        await calls.ended()
        return await calls.call(":1.7", "/", "a.b", "C")

    async def scene() -> None:
        assert await ask(reply(":1.7")) == "x"
        with pytest.raises(CallError, match="in the place of"):
            await ask(reply(":1.8"))
        with pytest.raises(ConnectionError):
            await ask(None)

    run(scene)


def test_a_new_owner_that_comes_while_we_ask_for_the_owner_is_the_owner() -> None:
    async def scene() -> None:
        watch = FactsWatch(lambda facts: None, lambda problem: None, address="unix:path=/x")

        class Asked:
            async def add_match(self, rule: str) -> None:
                pass

            async def owner(self, name: str) -> str:
                if name == MM:
                    change = [name, ":1.5", ":1.9"]
                    bus = "org.freedesktop.DBus"
                    signal = Message(
                        message_type=MessageType.SIGNAL,
                        sender=bus,
                        path="/org/freedesktop/DBus",
                        interface=bus,
                        member="NameOwnerChanged",
                        signature="sss",
                        body=change,
                    )
                    watch._signal(signal)
                return ":1.5"

        await watch._subscribe(cast(Calls, Asked()))
        owners = {name: follower._owner for name, follower in watch._followers.items()}
        assert owners == {NM: ":1.5", MM: ":1.9", RESOLVE: ":1.5"}

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


def test_values_of_wrong_types_are_unknown_and_hide_no_others(bus: BusMock) -> None:
    nm, mm = bus.network_manager(), bus.modem_manager()
    wifi = nm.wifi("wlan0", "cafe")
    modem = mm.modem(0, "wwan0", ICCID)
    nm.extend(wifi, nm.DEVICE, Udi=V("as", ["x"]))
    for at in range(100):
        nm.add(
            f"{nm.MANAGER}/Devices/x{at}", nm.DEVICE, Interface=V("s", f"x{at}"), State=V("u", 100)
        )

    async def scene() -> None:
        async with watching(bus.address) as told:
            nm.update(
                wifi,
                nm.DEVICE,
                Metered=V("s", "yes"),
                Ip4Config=V("s", "../../etc"),
                Ip6Config=V("v", V("ay", b"\xff" * 1000)),
            )
            mm.update(
                modem,
                mm.GPP,
                OperatorName=V("s", "x" * 100_000),
                RegistrationState=V("b", True),
            )
            mm.update(modem, mm.MODEM, Bearers=V("aay", [b"/"]), Ports=V("a(us)", [[2, "wwan0"]]))
            await told.until(lambda: "wwan0" not in told.changes[-1])
            mm.update(modem, mm.MODEM, Ports=V("a(su)", [["wwan0", 2]]))
            await told.until(
                lambda: told["wwan0"] == NetFacts(sim=ICCID, operator="x" * 64),
            )
            await told.until(lambda: told["wlan0"] == NetFacts(ssid="cafe"))
            assert told.problem == ""

    run(scene)


def test_nothing_is_read_while_nothing_happens_nor_for_what_does_not_matter(bus: BusMock) -> None:
    nm, mm = bus.network_manager(), bus.modem_manager()
    wifi = nm.wifi("wlan0", "cafe")
    nm.extend(wifi, nm.WIRELESS, LastScan=V("x", 0))
    modem = mm.modem(0, "wwan0", ICCID)
    mm.extend(modem, mm.MODEM, SignalQuality=V("(ub)", [50, True]))

    async def scene() -> None:
        async with watching(bus.address) as told:
            before = told.reads
            for step in range(5):
                nm.update(wifi, nm.WIRELESS, LastScan=V("x", step))
                mm.update(modem, mm.MODEM, SignalQuality=V("(ub)", [step, True]))
            await asyncio.sleep(0.2)
            assert told.reads == before
            # And the same way is open: what matters does come through.
            nm.metered(wifi, YES)
            await told.until(lambda: told["wlan0"].metered)
            assert len(told.changes) == 2

    run(scene)


def test_only_the_owners_signals_count_and_nobody_is_answered(bus: BusMock) -> None:
    nm = bus.network_manager()
    wifi = nm.wifi("wlan0", "cafe", metered=YES)

    async def scene() -> None:
        async with watching(bus.address) as told:
            calls = told.watch._calls
            assert calls is not None
            us = calls.unique_name
            before = told.reads
            changed = [nm.DEVICE, {"Metered": V("u", 2)}, []]
            for sender in (NM, None):
                bus.send(
                    Message(
                        message_type=MessageType.SIGNAL,
                        destination=us,
                        sender=sender,
                        path="/org/freedesktop/NetworkManager/Devices/wlan0",
                        interface="org.freedesktop.DBus.Properties",
                        member="PropertiesChanged",
                        signature="sa{sv}as",
                        body=changed,
                    )
                )
            bus.send(
                Message(
                    message_type=MessageType.SIGNAL,
                    destination=us,
                    path="/org/freedesktop/DBus",
                    interface="org.freedesktop.DBus",
                    member="NameOwnerChanged",
                    signature="sss",
                    body=[NM, "", ":1.99"],
                )
            )
            peer = "org.freedesktop.DBus.Peer"
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(bus.call, us, "/", peer, "Ping", seconds=0.3)
            nm.metered(wifi, GUESS_YES)  # what came before this has been seen
            await told.until(lambda: told["wlan0"].metered_guessed)
            assert told.reads == [before[0] + 1, *before[1:]]
            assert told.problems == []

    run(scene)


def test_a_message_that_is_too_large_is_never_parsed_and_ends_nothing(bus: BusMock) -> None:
    nm = bus.network_manager()
    wifi = nm.wifi("wlan0", "cafe")

    async def scene() -> None:
        async with watching(bus.address, limit=1.0) as told:
            calls = told.watch._calls
            assert calls is not None and calls.dropped == 0
            for _ in range(3):
                bus.send(
                    Message(
                        message_type=MessageType.SIGNAL,
                        destination=calls.unique_name,
                        path="/",
                        interface="a.b",
                        member="C",
                        signature="as",
                        body=[["x"] * 500_000],
                    )
                )
            await told.until(lambda: calls.dropped == 3)
            nm.metered(wifi, YES)
            await told.until(lambda: told["wlan0"].metered)
            nm.extend(wifi, nm.WIRELESS, Huge=V("ay", bytes(2_000_000)))
            told.watch.look()
            await told.until(lambda: "NetworkManager" in told.problem)
            assert told["wlan0"].metered and calls.dropped > 3

    run(scene)


def test_under_a_flood_others_have_their_turn() -> None:
    async def scene() -> None:
        ours, theirs = socket.socketpair()
        bounded = _BoundedSocket(fileno=ours.detach())
        bounded.setblocking(False)
        bounded.send(b"BEGIN\r\n")
        small = bytes(Message(path="/a", interface="a.b", member="C", serial=1)._marshall(False))
        assert theirs.recv(100)  # what is left unread would make the end a reset
        theirs.sendall(small * 500)
        for _ in range(3):
            for _ in range(READS):
                assert bounded.recv(1024)
            with pytest.raises(BlockingIOError):
                bounded.recv(1024)
            await asyncio.sleep(0)
        theirs.close()
        for _ in range(500):
            await asyncio.sleep(0)
            if not bounded.recv(65536):
                break
        else:
            pytest.fail("the end was not seen as the end")
        bounded.close()

    run(scene)


def test_no_service_is_started_by_us_and_no_name_is_ours(bus: BusMock) -> None:
    async def scene() -> None:
        async with watching(bus.address):
            names = bus.call(
                "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ListNames"
            )
            assert {name for name in names if name[0] != ":"} == {"org.freedesktop.DBus"}
            assert not {NM, MM, RESOLVE} & set(names)

    run(scene)
    assert not bus.activated


def test_the_variable_names_the_bus_only_where_no_address_is_given(
    bus: BusMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.modem_manager().modem(0, "wwan0", ICCID)
    for name, value in bus.environment.items():
        monkeypatch.setenv(name, value)

    async def scene() -> None:
        told: list[Mapping[str, NetFacts]] = []
        watch = FactsWatch(told.append, lambda problem: None, pace=SWIFT)
        await watch.start()
        await watch.close()
        assert told[-1]["wwan0"].sim == ICCID
        async with watching(f"unix:path={bus.folder}/nowhere") as other:
            assert other.changes == [{}]

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
