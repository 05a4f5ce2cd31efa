"""`arbiter explain` where no rule decides: by the daemon's mode, or else by the settings."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Done
from explainscene import BROWSE, Run, explaining, record
from scripted_daemon import ScriptedDaemon

from arbiter import policyfiles
from arbiter.cli import explainask, running
from arbiter.store import Store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def arbiter(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return explaining(home, monkeypatch)


@pytest.fixture
def store(home: Path) -> Store:
    return Store.open(home / "a.db")


def settings(home: Path, text: str) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "arbiter.toml").write_text(text)


@pytest.mark.parametrize(
    ("text", "decision", "said"),
    [
        ("", "deny", "you are asked; without an answer within 30 s it is denied"),
        ("deadline = 5", "deny", "you are asked; without an answer within 5 s it is denied"),
        ('mode = "enforce"', "deny", "it is denied, as the mode is enforce"),
        ('mode = "enforce"\nfallback = "allow"', "allow", "it is allowed, as the mode is enforce"),
        ('mode = "observe"', "allow", "it is allowed, as the mode is observe"),
    ],
)
def test_where_no_rule_decides_the_settings_say_what_happens(
    arbiter: Run, store: Store, home: Path, text: str, decision: str, said: str
) -> None:
    settings(home, text)
    done = arbiter("explain", "--host", "192.0.2.7", "--port", "443")
    assert done == Done(1, f"no rule decides tcp 192.0.2.7 port 443: {said}\n", "")
    (found,) = json.loads(arbiter("explain", "--host", "192.0.2.7", "--json").out)
    assert found["decision"] is None and found["otherwise"]["decision"] == decision
    done = arbiter("explain", "--pcap", BROWSE)
    assert done.code == 1 and said in done.out
    assert f"8 connections in 15 packets: 8 {'ask' if 'mode' not in text else decision}" in done.out


@pytest.fixture
def daemon(home: Path) -> Iterator[ScriptedDaemon]:
    """A scripted daemon in a thread, without asks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = ScriptedDaemon(home / "socket")
    asyncio.run_coroutine_threadsafe(running.start(), loop).result(5)
    try:
        yield running
    finally:
        asyncio.run_coroutine_threadsafe(running.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@pytest.mark.parametrize(
    ("text", "mode", "fallback", "said"),
    [
        ("", "enforce", "deny", "it is denied, as the mode is enforce"),
        ("", "enforce", "allow", "it is allowed, as the mode is enforce"),
        ('mode = "enforce"', "observe", "deny", "it is allowed, as the mode is observe"),
        ('mode = "enforce"\ndeadline = 5', "ask", "allow",
         "you are asked; without an answer within 5 s it is allowed"),
        ("mod = 1", "enforce", "deny", "it is denied, as the mode is enforce"),
        ("mod = 1", "ask", "deny", "you are asked, unless the mode says otherwise"),
    ],
)  # fmt: skip
def test_the_mode_of_the_daemon_that_runs_counts_before_the_settings(
    arbiter: Run,
    store: Store,
    home: Path,
    daemon: ScriptedDaemon,
    text: str,
    mode: str,
    fallback: str,
    said: str,
) -> None:
    settings(home, text)
    daemon.mode, daemon.fallback = mode, fallback
    store.record([record(reason="enforce", rule_id=None)])
    for form in (("--host", "192.0.2.7"), ("--record", "last")):
        done = arbiter("explain", *form)
        assert done.code == 1 and done.out.count(said) == 1, done
    assert said in arbiter("explain", "--pcap", BROWSE).out
    assert ("settings cannot be read" in arbiter("explain", "--host", "::2").err) is (
        "mod " in text
    )


@pytest.mark.parametrize("word", ["of-tomorrow", "\x1b[2J"])
def test_a_daemon_that_does_not_say_its_mode_is_noted(
    arbiter: Run, store: Store, daemon: ScriptedDaemon, word: str
) -> None:
    daemon.mode = word
    done = arbiter("explain", "--host", "192.0.2.7")
    assert done.code == 1 and "you are asked; without an answer within 30 s" in done.out
    assert "does not say its mode (" in done.err and "is by the settings" in done.err
    assert "\x1b" not in done.err


def test_a_socket_that_cannot_be_asked_is_noted(
    arbiter: Run, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("explain", "--host", "192.0.2.7")
    assert arbiter(*argv).err == ""
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
        assert arbiter(*argv).err == "", "it is left over: nobody listens"
        listener.listen()
        assert "does not say its mode (timed out)" in arbiter(*argv).err


def test_settings_that_cannot_be_read_are_said_and_nothing_is_claimed_of_them(
    arbiter: Run, store: Store, home: Path
) -> None:
    settings(home, "mod = 1")
    done = arbiter("explain", "--host", "192.0.2.7")
    assert done.code == 1 and "note: the settings cannot be read: " in done.err
    assert "arbiter.toml" in done.err and "did you mean" in done.err
    assert "you are asked, unless the mode says otherwise" in done.out
    (found,) = json.loads(arbiter("explain", "--host", "192.0.2.7", "--json").out)
    assert found["otherwise"] is None and found["decision"] is None


def test_what_packages_ship_decides_where_the_settings_say_so(
    arbiter: Run, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root may put such a file where it counts, so that it is given here."""
    text = '[application]\nname = "Curl"\napp = "/usr/bin/curl"\n[[connection]]\n'
    text += 'host = "192.0.2.7"\npurpose = "x"\nsuggest = "allow"\n'
    file = policyfiles.load(text, "/usr/share/arbiter/policy.d/curl.toml", shipped=True)
    monkeypatch.setattr(explainask, "read_policies", lambda folder: ((file,), ()))
    argv = ("explain", "--app", "/usr/bin/curl", "--host", "192.0.2.7")
    assert arbiter(*argv).code == 1
    settings(home, 'shipped_policies = "decide"')
    done = arbiter(*argv)
    assert done.code == 0 and "files shipped by packages" in done.out, done
