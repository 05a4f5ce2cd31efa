"""The link watch goes on after lost events, broken sockets and a failing kernel, and says so."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest
from rtnlscene import OWN_TABLES, Overrun, Scene, act, made_namespace

from arbiter.kernel import rtnl
from arbiter.kernel.netlink import Message
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.kernel.rtnl import LinkWatch
from arbiter.kernel.rtnldump import Kinds, Snapshot
from arbiter.lab.namespaces import inside, ip_batch
from arbiter.links import Interface


@pytest.fixture
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


def test_an_overrun_is_survived_by_looking_again(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        # The loop stands still meanwhile: the socket's 2 kB are full at once.
        scene.ip(
            *(["link set wlan0 down", "link set wlan0 up"] * 100),
            "link set wwan0 mtu 1300",
            "link set wlan0 mtu 1400",
        )
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        assert scene.watch.overruns > 0
        assert scene.there("wwan0").mtu == 1300
        # And the watch goes on.
        scene.ip("link set wlan0 mtu 1410")
        await scene.until(lambda: scene.there("wlan0").mtu == 1410)
        assert scene.problems == []

    act(namespace, play, receive_buffer=1)


def test_the_last_lost_event_of_an_overrun_is_not_missed(namespace: str) -> None:
    async def play(scene: Scene) -> None:
        scene.ip(*(["link set wlan0 down", "link set wlan0 up"] * 100), "link del wwan0")
        await scene.until(lambda: scene.now("wwan0") is None)

    act(namespace, play, receive_buffer=1)


def test_an_overrun_alone_is_a_reason_to_look(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtnl, "GROUPS", 0)

    async def play(scene: Scene) -> None:
        scene.ip("link set wlan0 mtu 1400")
        await scene.quiet()
        assert len(scene.told) == 1
        with Overrun(socket.AF_UNIX) as overrun:
            scene.watch._readable(overrun)
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        assert scene.watch.overruns == 1
        assert scene.touched == 1, "what was lost may have been about rules"

    act(namespace, play)


def test_a_broken_socket_is_replaced(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(scene: Scene) -> None:
        broken = scene.watch._socket
        assert broken is not None

        def fail(*_: object) -> tuple[bytes, object]:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

        with Overrun(socket.AF_UNIX) as overrun:
            monkeypatch.setattr(overrun, "recvfrom", fail)
            scene.watch._readable(overrun)
        assert broken.fileno() == -1
        scene.ip("link set wlan0 mtu 1400")
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        scene.ip("link set wlan0 mtu 1300")
        await scene.until(lambda: scene.there("wlan0").mtu == 1300)

    act(namespace, play)


def test_a_failing_kernel_is_told_and_tried_again(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(own_tables: range, kinds: Kinds | None = None) -> Snapshot:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(rtnl, "RETRY", 0.05)

    async def play(scene: Scene) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(rtnl, "read_interfaces", fail)
            scene.ip("link set wlan0 mtu 1400")
            await scene.until(lambda: scene.problems)
            await asyncio.sleep(0.3)
            assert len(scene.told) == 1
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        told, fine = scene.problems
        assert "Cannot allocate memory" in told
        assert "ip monitor" in told
        assert fine == ""

    act(namespace, play)


def test_a_kernel_that_talks_nonsense_is_told_and_tried_again(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(*_: object) -> Iterator[list[Message]]:
        yield [Message(16, 2, 1, b"nonsense")]

    monkeypatch.setattr(rtnl, "RETRY", 0.05)

    async def play(scene: Scene) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(Rtnetlink, "parts", nonsense)
            scene.ip("link set wlan0 mtu 1400")
            await scene.until(lambda: scene.problems)
            assert "interface message of 8 bytes, 16 expected" in scene.problems[-1]
            assert "ip monitor" in scene.problems[-1]
        await scene.until(lambda: scene.there("wlan0").mtu == 1400)
        assert scene.problems[-1] == ""

    act(namespace, play)


def test_a_fault_in_the_receiver_is_said_and_does_not_pass_into_the_loop(namespace: str) -> None:
    async def run() -> list[str]:
        problems: list[str] = []
        loop_errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: loop_errors.append(what))
        calls = 0

        def changed(_: tuple[Interface, ...]) -> None:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise LookupError("a bug")

        watch = LinkWatch(changed, problems.append, own_tables=OWN_TABLES)
        await watch.start()
        ip_batch(["link set wlan0 mtu 1400"], namespace)
        for _ in range(400):
            if problems:
                break
            await asyncio.sleep(0.01)
        await watch.close()
        assert loop_errors == []
        return problems

    (said,) = inside(namespace, lambda: asyncio.run(run()))
    assert "LookupError: a bug" in said


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_after_close_nothing_is_told_and_nothing_is_left_open(namespace: str) -> None:
    async def run() -> None:
        scene = Scene(namespace)
        fds = open_files()
        for _ in range(3):
            await scene.watch.start()
            with pytest.raises(RuntimeError, match="close it before"):
                await scene.watch.start()
            scene.ip("link set wlan0 txqueuelen 5")
            await asyncio.sleep(0.08)
            await scene.watch.close()
            await scene.watch.close()
        told = len(scene.told)
        scene.ip("link set wlan0 mtu 1400")
        await scene.quiet()
        assert len(scene.told) == told
        assert open_files() == fds

    inside(namespace, lambda: asyncio.run(run()))
