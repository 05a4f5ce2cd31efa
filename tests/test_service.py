"""arbiter/service.py and arbiter/settingskeeper.py: what systemd is told, and what SIGHUP does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from msgspec import structs

from arbiter.auditsettings import Audit
from arbiter.events import Event, LinksChanged, Notify, SettingsChanged
from arbiter.kernel.queue import Counters, Queue
from arbiter.model import Link, Now
from arbiter.pipeline import Pipeline
from arbiter.service import Service
from arbiter.settings import AT_START, Fallback, Mode, Settings, SettingsError, load
from arbiter.settingskeeper import SettingsKeeper
from arbiter.startup import DaemonError


class FakeQueue:
    """The kernel's counters as a test wants them: the kernel's own are in tests/kernel."""

    number = 10

    def __init__(self) -> None:
        self.waiting = 0
        self.unread = 0
        self.ours = True

    def bound(self) -> bool:
        return self.ours

    def counters(self) -> Counters:
        return Counters(self.waiting + self.unread, 0, 0, 0)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """All that was told since the last look."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

        def told() -> list[str]:
            found = []
            while True:
                try:
                    found.append(sock.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield told


def started(queue: FakeQueue, pipeline: Pipeline | None = None) -> Service:
    service = Service(pipeline or Pipeline(Settings()))
    service.ready(cast(Queue, queue))
    return service


def test_it_is_ready_alive_and_stopping(systemd: Callable[[], list[str]]) -> None:
    async def play() -> None:
        service = started(FakeQueue())
        words = "STATUS=mode ask; 0 asks open, 0 held; links up: none"
        assert systemd() == [f"READY=1\n{words}", "WATCHDOG=1"]
        await asyncio.sleep(0.25)  # a third of the interval each: at least two more
        told = systemd()
        assert told.count("WATCHDOG=1") == len(told) >= 2, told
        service.stopping()
        assert systemd() == ["STOPPING=1\nSTATUS=stopping"]
        await asyncio.sleep(0.15)
        assert systemd() == [], "it has stopped, and gives signs of life"

    asyncio.run(play())


def test_a_loop_that_hangs_gives_no_sign_of_life(systemd: Callable[[], list[str]]) -> None:
    async def play() -> None:
        service = started(FakeQueue())
        systemd()
        import time

        time.sleep(0.35)  # noqa: ASYNC251 - this is the hanging
        assert systemd() == []
        service.close()

    asyncio.run(play())


def test_a_queue_that_is_lost_or_not_read_gives_no_sign_of_life(
    systemd: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        queue, pipeline = FakeQueue(), Pipeline(Settings())
        service = started(queue, pipeline)
        queue.waiting = 5  # held for an answer: read, and no sign of trouble
        assert service.wrong() == service.wrong() == ""
        queue.unread = 2
        assert service.wrong() == "", "they may have come this moment"
        pipeline.counters["packets"] += 1
        assert service.wrong() == "", "others were read since: a flood, and it works"
        assert "2 packets wait in the kernel" in service.wrong()
        queue.unread = 0
        assert service.wrong() == ""
        queue.ours = False
        assert "queue 10 is not ours" in service.wrong()
        systemd()
        await asyncio.sleep(0.25)
        assert systemd() == []
        service.close()

    asyncio.run(play())
    assert "no sign of life for the watchdog: queue 10 is not ours any more" in caplog.text


def test_the_status_follows_soon_and_once_and_is_one_clean_line(
    systemd: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbiter.service.WORDS_AFTER", 0.05)
    monkeypatch.delenv("WATCHDOG_USEC")

    async def play() -> None:
        pipeline = Pipeline(Settings())
        service = started(FakeQueue(), pipeline)
        systemd()
        hostile = Link("evil\nMAINPID=1", 2, "wlan0")
        pipeline.handle(LinksChanged(Now(1, 1), (Link("wifi", 1, "w0"), hostile)))
        for _ in range(100):
            service.changed()
        assert systemd() == []
        await asyncio.sleep(0.15)
        (told,) = systemd()
        assert "wifi" in told
        assert told.startswith("STATUS=mode ask; 0 asks open, 0 held; links up: evil")
        assert "\n" not in told
        service.changed()
        await asyncio.sleep(0.15)
        assert systemd() == [], "nothing has changed"
        service.close()

    asyncio.run(play())


def test_a_reload_is_told_before_and_after(systemd: Callable[[], list[str]]) -> None:
    done: list[str] = []

    class Keeper:
        def reload(self) -> None:
            done.append(systemd()[-1].partition("=")[0] if not done else "again")

    async def play() -> None:
        service = started(FakeQueue())
        systemd()
        service.reload([Keeper(), Keeper()])
        assert done == ["RELOADING", "again"]
        assert systemd()[-1].startswith("READY=1\nSTATUS=mode ask")
        service.close()

    asyncio.run(play())


def test_without_systemd_it_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    async def play() -> None:
        service = started(FakeQueue())
        service.changed()
        assert service._beating is service._wording is None
        service.stopping()

    asyncio.run(play())


def test_a_socket_that_cannot_be_used_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    with pytest.raises(DaemonError, match=r"NOTIFY_SOCKET cannot be used: .*; unset it"):
        Service(Pipeline(Settings()))


# --- settings ---------------------------------------------------------------------------------


def keeper(wanted: Settings | Exception) -> tuple[SettingsKeeper, list[Event]]:
    events: list[Event] = []

    def read() -> Settings:
        if isinstance(wanted, Exception):
            raise wanted
        return wanted

    return SettingsKeeper(Settings(), read, events.append), events


def test_what_may_change_is_in_force_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arbiter")
    made, events = keeper(Settings(mode=Mode.ENFORCE, deadline=5.0))
    made.reload()
    (event,) = events
    assert isinstance(event, SettingsChanged)
    assert event.settings == made.settings == Settings(mode=Mode.ENFORCE, deadline=5.0)
    assert made.problems() == ()
    assert "setting mode is enforce now, was ask" in caplog.text
    made.reload()
    assert len(events) == 1, "nothing has changed since"


def test_what_needs_a_restart_is_said_and_stays_until_it_is_taken_back() -> None:
    made, events = keeper(Settings(queue_num=20, fallback=Fallback.ALLOW))
    made.reload()
    assert made.settings == Settings(fallback=Fallback.ALLOW)
    (problem,) = made.problems()
    assert problem == (
        "arbiter.toml: queue_num has changed and counts from the next start: restart arbiter"
    )
    assert len(events) == 1


def test_a_bad_file_changes_nothing_and_is_said() -> None:
    text = "it must be one of ask, \x1b[2J"
    made, events = keeper(SettingsError("/etc/arbiter/arbiter.toml", 3, "mode", text))
    made.reload()
    assert (events, made.settings) == ([], Settings())
    (problem,) = made.problems()
    assert problem.startswith("the settings in force stay as they are: /etc/arbiter/arbiter.toml:3")
    assert "\x1b" not in problem


def into(pipeline: Pipeline) -> Callable[[Event], None]:
    def dispatch(event: Event) -> None:
        pipeline.handle(event)

    return dispatch


def test_every_setting_is_either_live_or_of_the_start() -> None:
    """Each is tried: a live one reaches the pipeline, another does not."""
    texts = {
        "mode": '"observe"', "fallback": '"allow"', "deadline": "7.0", "when_absent": '"pass"',
        "when_unattended": '"fallback"', "link_down": '"wait"', "shipped_policies": '"decide"',
        "queue_num": "99", "dns_queue_num": "98", "queue_length": "9000", "backend": '"nft"',
        "mark_base": "0x3F8", "route_table": "9000", "route_pref": "800", "asks_per_app": "3",
        "asks_per_user": "100", "asks_total": "1000", "packets_per_flow": "3",
        "packets_held": "100", "ask_ttl": "99.0", "class_interactive": '"ef 0:6"',
        "class_bulk": '"af12 0:2"', "class_background": '"le 0:1"', "class_labels": "50",
        "audit.sync": "true", "audit.when_unwritten": '"pass"', "audit.json_lines": '"/x"',
        "audit.journald": "true", "audit.syslog": '"unix:/x"', "audit.keep_days": "9",
        "audit.keep_megabytes": "9", "audit.keep_sums_days": "9", "audit.keep_rules_days": "9",
        "audit.keep_usage_months": "9", "audit.keep_destinations_days": "9",
    }  # fmt: skip
    plain = {name for name in Settings.__struct_fields__ if name != "audit"}
    assert texts.keys() == plain | {f"audit.{name}" for name in Audit.__struct_fields__}
    for name, text in texts.items():
        pipeline = Pipeline(Settings())
        made = SettingsKeeper(Settings(), partial(load, f"{name} = {text}\n", "x"), into(pipeline))
        made.reload()
        expected = Settings() if name in AT_START else load(f"{name} = {text}\n", "x")
        assert pipeline.settings == made.settings == expected, name
        assert bool(made.problems()) == (name in AT_START)


def test_the_pipeline_decides_by_new_settings_and_tells_prompts() -> None:
    pipeline = Pipeline(Settings())
    settings = structs.replace(
        Settings(), mode=Mode.OBSERVE, asks_per_app=1, asks_per_user=1, asks_total=1
    )
    (notice,) = pipeline.handle(SettingsChanged(Now(1, 1), settings))
    assert notice == Notify(
        None, "the administrator has changed settings: mode observe, without an answer deny"
    )
    assert pipeline.settings == settings
