"""What others on the bus can and cannot do to us, and we to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from typing import cast

import pytest
from busmock import BusMock, missing
from busplayers import GUESS_YES, MM, NM, RESOLVE, YES, V
from buswatching import SWIFT, run, watching
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from arbiter.bus import FactsWatch
from arbiter.bus.calls import READS, CallError, Calls, _BoundedSocket
from arbiter.netfacts import NetFacts

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ICCID = "8943010000000000001"
OTHER = "8943010000000000002"
V4, V6 = socket.inet_aton("192.0.2.53"), socket.inet_pton(socket.AF_INET6, "2001:db8::53")


@pytest.fixture
def bus() -> Iterator[BusMock]:
    with BusMock() as made:
        yield made


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
