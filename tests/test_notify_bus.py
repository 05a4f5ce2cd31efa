"""`arbiter prompt notify` on a real private bus, with a played notification server and dunst."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import busmock
import pytest
from busmock import BusMock
from dbus_fast import Message
from dbus_fast.aio import MessageBus
from notifyserver import NotifyServer, eventually
from scripted_daemon import ScriptedDaemon, ask_to, example_ask

from arbiter.protocol import (
    Answer,
    Ask,
    Away,
    Choice,
    Decided,
    Hello,
    Undo,
    Withdraw,
    WithdrawReason,
)
from prompts.notify import shell
from prompts.notify.bus import NAME, PATH, Notifications, session_address
from prompts.notify.desk import GUARD_SECONDS
from prompts.notify.notes import Server

pytestmark = pytest.mark.skipif(
    shutil.which("dbus-daemon") is None, reason="NOT RUN: no dbus-daemon (Debian package dbus)"
)


def fresh(id: int = 7) -> Ask:
    """An ask that waits still."""
    now = time.time()
    ask = ask_to(id) if id != 7 else example_ask()
    return type(ask)(
        **{f: getattr(ask, f) for f in ask.__struct_fields__}
        | {"created": now, "deadline": now + 60}
    )


@pytest.fixture
def bus() -> Iterator[BusMock]:
    with BusMock() as made:
        yield made


@asynccontextmanager
async def prompting(
    bus: BusMock, daemon: ScriptedDaemon, **options: object
) -> AsyncIterator[asyncio.Task[int]]:
    """`arbiter prompt notify` in this process; SIGTERM ends it well."""
    env = {"DBUS_SESSION_BUS_ADDRESS": bus.address, "TERMINAL": ""}
    env |= dict(options.pop("env", {}))  # type: ignore[call-overload]
    options = {"lifetime": "forever", **options}
    task = asyncio.create_task(shell.run(daemon.path, env=env, **options))  # type: ignore[arg-type]
    try:
        yield task
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(task, 10) == 0
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def answers(daemon: ScriptedDaemon) -> list[Answer]:
    return [m for m in daemon.received if isinstance(m, Answer)]


def aways(daemon: ScriptedDaemon) -> list[bool]:
    return [m.away for m in daemon.received if isinstance(m, Away)]


def test_a_click_answers_the_daemon_and_its_result_can_be_undone(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon, prompting(bus, daemon):
            number = await server.until("curl, from deploy.sh, wants to connect")
            note = server.notes[number]
            assert note.expires == 0
            assert {name: value.value for name, value in note.hints.items()} == {
                "urgency": 1,
                "category": "network",
                "desktop-entry": "arbiter-notify",
            }
            await asyncio.sleep(GUARD_SECONDS + 0.1)
            server.press(number, note.keys["Allow"])
            result = await server.until("allowed curl", "rule 12: allow app=/usr/bin/curl")
            (sent,) = answers(daemon)
            assert (sent.decision, sent.lifetime) == (Choice.ALLOW, "forever")
            assert list(server.notes) == [result]
            server.press(result, server.notes[result].keys["Undo"])
            await eventually(lambda: daemon.received[-1] == Undo(12))
        await eventually(lambda: not server.notes, "nothing stays on the screen at the end")
        server.stop()

    asyncio.run(scene())


def test_hostile_names_are_escaped_for_a_server_that_reads_markup(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        ask = fresh()
        hostile = Ask(**{f: getattr(ask, f) for f in ask.__struct_fields__}
                      | {"why": "<img src='http://x/'>&amp;\x1b[31m"})  # fmt: skip
        for capabilities, shown in (
            (("actions", "body", "body-markup"), "&lt;img src='http://x/'&gt;&amp;amp;\ufffd[31m"),
            (("actions", "body"), "<img src='http://x/'>&amp;\ufffd[31m"),
        ):
            server = NotifyServer(bus.address, capabilities)
            await server.start()
            async with ScriptedDaemon(tmp_path / "s", hostile) as daemon, prompting(bus, daemon):
                assert await server.until(f"why: {shown}")
            server.stop()

    asyncio.run(scene())


def test_a_server_without_buttons_gets_none_and_the_command_instead(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address, ("body",))
        await server.start()
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon, prompting(bus, daemon):
            number = await server.until("arbiter answer 7 allow | deny")
            assert server.notes[number].actions == []
        server.stop()

    asyncio.run(scene())


def test_answered_and_withdrawn_asks_lose_their_notification_and_others_take_their_place(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        async with ScriptedDaemon(tmp_path / "s") as daemon, prompting(bus, daemon):
            await eventually(lambda: daemon.received)
            for id in range(10, 60):
                daemon.tell(fresh(id))
                await asyncio.sleep(0.005)
            await server.until("47 more questions wait")
            assert len(server.notes) == 4
            assert server.calls < 12, "a burst of asks is no burst of notifications"
            daemon.tell(Decided(10, "allow", "bob", "tui", 1))
            daemon.tell(Withdraw(11, WithdrawReason.EXITED))
            await server.until("45 more questions wait")
            assert not server.find("192.0.2.10,")
            assert not server.find("192.0.2.11,")
            assert server.find("192.0.2.12,") and server.find("192.0.2.14,")
        server.stop()

    asyncio.run(scene())


def test_the_servers_restart_loses_no_question_and_while_it_is_away_nobody_is_there(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon, prompting(bus, daemon):
            await server.until("wants to connect")
            server.stop()
            await eventually(lambda: aways(daemon) == [True])
            again = NotifyServer(bus.address)
            await again.start()
            number = await again.until("wants to connect")
            assert aways(daemon) == [True, False]
            await asyncio.sleep(GUARD_SECONDS + 0.1)
            again.press(number, again.notes[number].keys["Deny"])
            await eventually(lambda: answers(daemon))
            assert answers(daemon)[0].decision is Choice.DENY
            again.stop()

    asyncio.run(scene())


def test_a_server_that_the_bus_can_start_is_started_and_shown_each_question_once(
    bus: BusMock, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    log = tmp_path / "notes"
    (bus.folder / "services" / f"{NAME}.service").write_text(
        f"[D-BUS Service]\nName={NAME}\n"
        f"Exec={sys.executable} {here / 'notifyserver.py'} {bus.address} {log}\n"
    )
    bus.call(
        "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig"
    )

    async def scene() -> None:
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon, prompting(bus, daemon):
            await eventually(log.exists)
            await asyncio.sleep(0.5)
            assert log.read_text() == "curl, from deploy.sh, wants to connect\n"
            assert aways(daemon) == []

    asyncio.run(scene())


def test_do_not_disturb_of_the_server_is_told_to_the_daemon(bus: BusMock, tmp_path: Path) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address, inhibited=True)
        await server.start()
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon, prompting(bus, daemon):
            await eventually(lambda: aways(daemon) == [True])
            server.inhibit(False)
            await eventually(lambda: aways(daemon) == [True, False])
        server.stop()

    asyncio.run(scene())


def test_the_daemons_restart_is_survived_and_its_open_asks_come_again(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon, prompting(bus, daemon):
            await server.until("192.0.2.7,")
            await daemon.stop()
            await server.until("arbiter is not there", "trying again")
            assert not server.find("wants to connect")
            daemon.asks[7] = fresh()
            await daemon.start()
            await server.until("192.0.2.7,")
            assert not server.find("arbiter is not there")
        server.stop()

    asyncio.run(scene())


def test_what_others_on_the_bus_say_in_the_servers_name_answers_nothing(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon, prompting(bus, daemon):
            number = await server.until("wants to connect")
            await asyncio.sleep(GUARD_SECONDS + 0.1)
            key = server.notes[number].keys["Allow"]
            other = await MessageBus(bus_address=bus.address).connect()
            for to in (None, await unique_name_of_the_prompt(server)):
                forged = Message.new_signal(PATH, NAME, "ActionInvoked", "us", [number, key])
                forged.destination = to
                other.send(forged)
            other.disconnect()
            server.press(number + 99, key)
            await asyncio.sleep(0.3)
            assert answers(daemon) == []
            server.press(number, key)
            await eventually(lambda: answers(daemon))
        server.stop()

    asyncio.run(scene())


async def unique_name_of_the_prompt(server: NotifyServer) -> str:
    return server.senders[-1]


def test_the_full_question_is_one_click_away_with_the_focus(bus: BusMock, tmp_path: Path) -> None:
    """A terminal of our own: it writes down what it was to run."""
    terminal = tmp_path / "terminal"
    told = tmp_path / "told"
    terminal.write_text(
        f'#!/bin/sh\necho "$XDG_ACTIVATION_TOKEN $*" > {told}.new\nmv {told}.new {told}\n'
    )
    terminal.chmod(0o755)

    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        env = {"TERMINAL": str(terminal)}
        async with (
            ScriptedDaemon(tmp_path / "s", fresh()) as daemon,
            prompting(bus, daemon, env=env, wanted="terminal"),
        ):
            server.press(await server.until("wants to connect"), "default")
            await eventually(told.exists)
            words = told.read_text().split()
            assert words[:2] == ["token-1", "-e"]
            assert words[-5:] == ["arbiter", "prompt", "terminal", "--socket", daemon.path]
            assert answers(daemon) == []
            terminal.write_text("#!/bin/sh\nexit 7\n")
            daemon.tell(fresh(8))
            server.press(await server.until("192.0.2.8,"), "default")
            await server.until("the full question cannot be shown", "exit code 7")
            assert await server.until("192.0.2.8,"), "it is asked again"
        server.stop()

    asyncio.run(scene())


def test_the_terminal_goes_on_when_the_prompt_ends(bus: BusMock, tmp_path: Path) -> None:
    terminal, told = tmp_path / "terminal", tmp_path / "told"
    terminal.write_text(f"#!/bin/sh\necho $$ > {told}.new\nmv {told}.new {told}\nexec sleep 300\n")
    terminal.chmod(0o755)

    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        env = {"DBUS_SESSION_BUS_ADDRESS": bus.address, "TERMINAL": str(terminal)}
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon:
            process = command("--socket", daemon.path, env=env)
            try:
                server.press(await server.until("wants to connect"), "default")
                await eventually(told.exists)
                process.terminate()  # its stderr is the terminal's, too: it does not end yet
                assert await asyncio.to_thread(process.wait, timeout=10) == 0
            finally:
                process.kill()
                process.wait()
                assert process.stderr is not None
                process.stderr.close()
        server.stop()

    asyncio.run(scene())
    pid = int(told.read_text())
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGKILL)


# --- the command ----------------------------------------------------------------------------


def command(*options: str, env: dict[str, str]) -> subprocess.Popen[str]:
    argv = [sys.executable, "-P", "-m", "arbiter", "prompt", "notify", *options]
    base = {"PATH": os.environ["PATH"]}
    return subprocess.Popen(argv, env=base | env, stderr=subprocess.PIPE, text=True)


def test_without_a_session_bus_or_a_daemon_it_says_what_to_do(bus: BusMock, tmp_path: Path) -> None:
    path = ("--socket", str(tmp_path / "s"))
    for env, code, text in (
        ({"XDG_RUNTIME_DIR": "/nonexistent"}, 2, "there is no session bus"),
        ({"DBUS_SESSION_BUS_ADDRESS": bus.address}, 3, "Is arbiter running?"),
    ):
        process = command(*path, env=env)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said.count("\n")) == (code, 1), said
        assert text in said


def test_with_wait_it_waits_for_the_daemon_and_sigterm_ends_it_well(
    bus: BusMock, tmp_path: Path
) -> None:
    async def scene() -> None:
        server = NotifyServer(bus.address)
        await server.start()
        env = {"DBUS_SESSION_BUS_ADDRESS": bus.address}
        process = command("--wait", "--socket", str(tmp_path / "s"), env=env)
        try:
            await server.until("arbiter is not there", "arbiter run")
            async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon:
                await server.until("wants to connect")
                assert isinstance(daemon.received[0], Hello)
                assert (daemon.received[0].name, daemon.received[0].role) == ("notify", "prompt")
                process.terminate()
                _, said = await asyncio.to_thread(process.communicate, timeout=10)
                assert (process.returncode, said) == (0, "")
        finally:
            process.kill()
            process.wait()
        server.stop()

    asyncio.run(scene())


def test_the_end_of_the_session_bus_is_the_end_and_is_said(
    bus: BusMock,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = asyncio.Event()
    look = Notifications.look

    async def looks(self: Notifications) -> Server | None:
        looked.set()
        return await look(self)

    monkeypatch.setattr(Notifications, "look", looks)

    async def scene() -> None:
        async with ScriptedDaemon(tmp_path / "s", fresh()) as daemon:
            env = {"DBUS_SESSION_BUS_ADDRESS": bus.address}
            task = asyncio.create_task(shell.run(daemon.path, lifetime="once", env=env))
            await asyncio.wait_for(looked.wait(), 10)  # it is connected
            await asyncio.to_thread(bus.kill)
            assert await asyncio.wait_for(task, 10) == 1

    asyncio.run(scene())
    said = "arbiter prompt: the session bus has ended, and notifications with it\n"
    assert capsys.readouterr().err == said


def test_the_session_bus_is_where_it_is_by_the_environment_or_by_custom(tmp_path: Path) -> None:
    nobody = 4_000_001
    assert session_address({}, nobody) == ""
    assert session_address({"XDG_RUNTIME_DIR": str(tmp_path)}, nobody) == ""
    (tmp_path / "bus").touch()
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert session_address(runtime, nobody) == f"unix:path={tmp_path}/bus"
    assert session_address(runtime | {"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=x"}, nobody) == (
        "unix:abstract=x"
    )


# --- dunst ----------------------------------------------------------------------------------

DUNSTRC = """\
[global]
    dmenu = {chooser}
    markup = full
    idle_threshold = 0
    notification_limit = 0
    stack_duplicates = false
    separate_notifications = yes
"""
"""The chooser stands for the person: dunst gives it the buttons' labels, and takes one."""


@contextmanager
def dunst(bus: BusMock, folder: Path) -> Iterator[dict[str, str]]:
    """A real dunst on a display of its own; the environment of programs beside it."""
    read, write = os.pipe()
    xvfb = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as lines:
        display = lines.readline().strip()
    assert display, "Xvfb did not start"
    chooser = folder / "chooser"
    chooser.write_text(f'#!/bin/sh\ngrep -m1 -F "$(cat {folder}/label)"\n')
    chooser.chmod(0o755)
    (folder / "dunstrc").write_text(DUNSTRC.format(chooser=chooser))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "DISPLAY": f":{display}",
        "DBUS_SESSION_BUS_ADDRESS": bus.address,
    }
    process = subprocess.Popen(
        ["dunst", "-config", str(folder / "dunstrc")], env=env, stderr=subprocess.DEVNULL
    )
    try:
        busmock.until(lambda: bus.owner(NAME), "dunst")
        yield env
    finally:
        process.kill()
        process.wait()
        xvfb.terminate()
        xvfb.wait()


def dunstctl(env: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        ["dunstctl", *words], env=env, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def choose(env: dict[str, str], folder: Path, label: str) -> None:
    """What a person does who opens dunst's menu and takes an entry."""
    (folder / "label").write_text(label)
    dunstctl(env, "context")


@pytest.mark.skipif(
    not (shutil.which("dunst") and shutil.which("Xvfb")),
    reason="NOT RUN: no dunst or no Xvfb (Debian packages dunst, xvfb)",
)
def test_dunst_shows_answers_forgets_and_is_restarted(bus: BusMock) -> None:
    async def scene(folder: Path) -> None:
        async with ScriptedDaemon(folder / "s", fresh()) as daemon:
            with dunst(bus, folder) as env:
                async with prompting(bus, daemon):
                    await shown(env, 1)
                    await asyncio.sleep(GUARD_SECONDS + 0.1)
                    await asyncio.to_thread(choose, env, folder, "Allow")
                    await eventually(lambda: answers(daemon), "the answer")
                    assert answers(daemon)[0].decision is Choice.ALLOW
                    await shown(env, 1)  # the result, with its undo
                    daemon.tell(fresh(8))
                    await shown(env, 2)
                    daemon.tell(Withdraw(8, WithdrawReason.EXITED))
                    await shown(env, 1)
                    daemon.tell(fresh(9))
                    await shown(env, 2)
                    await asyncio.to_thread(dunstctl, env, "close")  # the newest: dismissed
                    await shown(env, 1)
                    assert len(answers(daemon)) == 1
                    await asyncio.to_thread(dunstctl, env, "set-paused", "true")
                    await eventually(lambda: aways(daemon) == [True], "do not disturb")
                    await asyncio.to_thread(dunstctl, env, "set-paused", "false")
                    await eventually(lambda: aways(daemon) == [True, False])
                    daemon.tell(fresh(10))
                    await shown(env, 2)
                await shown(env, 0)
                texts = await asyncio.to_thread(history, env)
                assert "curl, from deploy.sh, wants to connect" in texts
                assert "rule: allow (or deny) app=/usr/bin/curl host=192.0.2.7" in texts

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(scene(Path(name)))


async def shown(env: dict[str, str], count: int) -> None:
    """Wait until dunst displays so many."""

    async def look() -> int:
        return int(await asyncio.to_thread(dunstctl, env, "count", "displayed"))

    end = time.monotonic() + 8
    while (found := await look()) != count:
        assert time.monotonic() < end, f"{found} notifications, not {count}"
        await asyncio.sleep(0.05)


def history(env: dict[str, str]) -> str:
    """What dunst has shown, as it understood it: markup read, entities resolved."""
    found = json.loads(dunstctl(env, "history"))["data"][0]
    return "\n".join(f"{entry['summary']['data']}\n{entry['body']['data']}" for entry in found)
