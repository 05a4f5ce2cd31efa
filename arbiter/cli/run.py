"""`arbiter run`: the daemon, and with --prompt a prompt for it in the same terminal."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from arbiter.cli.common import (
    CONFIG,
    SOCKET,
    STATE,
    config_option,
    fail,
    on_terminal,
    stdout_is_gone,
    sudo_uid,
)
from arbiter.cli.settingsfile import read_settings
from arbiter.notls import asyncio
from arbiter.protocol import clean
from arbiter.settings import Backend, Mode, Settings, SettingsError
from arbiter.startup import Paths, extra_rights

NOT_STOPPED = (
    "Ctrl-Z stops nothing: a stopped arbiter would hold every new connection; Ctrl-C ends it"
)
log = logging.getLogger("arbiter")
_LONGEST = 8192
"""Characters of a line of the log."""


@click.command()
@config_option("The directory of arbiter.toml; without the file, every setting has its default.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, readable=False),
    default=STATE,
    envvar="ARBITER_STATE",
    show_default=True,
    show_envvar=True,
    help="The directory of the database.",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path, readable=False),
    default=SOCKET,
    envvar="ARBITER_SOCKET",
    show_default=True,
    show_envvar=True,
    help="Where prompts and commands connect.",
)
@click.option("--queue-num", type=click.IntRange(0, 65535), help="The netfilter queue (0-65535).")
@click.option("--backend", type=click.Choice([b.value for b in Backend]), help="How rules are set.")
@click.option("--mode", type=click.Choice([m.value for m in Mode]), help="Without a rule: what.")
@click.option(
    "--when-absent",
    type=click.Choice(["block", "pass"]),
    help="New connections while no daemon runs.",
)
@click.option("--prompt", help="Also start this prompt here (terminal, tui); its end is ours.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def run(
    config: Path,
    state: Path,
    socket_path: Path,
    queue_num: int | None,
    backend: str | None,
    mode: str | None,
    when_absent: str | None,
    prompt: str | None,
    verbose: bool,
) -> None:
    """Start the daemon: decide every new connection of this machine.

    Prints "ready" once its rules are in force; ends on SIGINT, on SIGTERM and with the terminal
    that it was started in, with everything undone. SIGHUP reads settings, rules and the files of
    links and policies anew. Needs root.
    """
    given = {
        "queue_num": queue_num,
        "backend": backend,
        "mode": mode,
        "when_absent": when_absent,
    }
    if config != CONFIG and not config.is_dir():
        fail(f"--config {config} is no directory; it is where arbiter.toml would be", 2)
    chosen = {key: value for key, value in given.items() if value is not None}
    settings = _settings(config, chosen)
    if prompt is not None and not on_terminal():
        fail("--prompt needs a terminal; without one, run it alone and use `arbiter pending`", 2)
    with _logging(state if prompt is not None else None, verbose):
        paths = Paths(state, socket_path, config)
        sys.exit(_run(settings, lambda: _read(config, chosen), paths, prompt))


def _read(config: Path, given: dict[str, Any]) -> Settings:
    """What the file says and the options say, who come first. Raises as `read_settings`."""
    return msgspec.convert(msgspec.to_builtins(read_settings(config)) | given, Settings)


def _settings(config: Path, given: dict[str, Any]) -> Settings:
    try:
        made = _read(config, given)
    except SettingsError as error:
        fail(str(error), 2)
    if made.queue_num == made.dns_queue_num:
        fail(f"--queue-num {made.queue_num} is the queue of DNS answers; see dns_queue_num", 2)
    return made


class Formatter(logging.Formatter):
    """Lines fit for a terminal. Those after the first are set in: no name, and no text of an
    exception, begins a line that looks like a message of ours."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and its traceback."""
        text = self.formatMessage(_worded(self, record))
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return "\n  ".join(clean(line, _LONGEST) for line in text.split("\n"))


def _worded(formatter: logging.Formatter, record: logging.LogRecord) -> logging.LogRecord:
    record.message = record.getMessage()
    record.asctime = formatter.formatTime(record)
    return record


@contextlib.contextmanager
def _logging(directory: Path | None, verbose: bool) -> Iterator[None]:
    """Log to stderr, or to a file where the terminal belongs to a prompt."""
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler()
    if directory is not None:
        try:
            directory.mkdir(mode=0o750, exist_ok=True)
            handler = logging.StreamHandler(_log_file(directory / "arbiter.log"))
        except OSError as error:
            fail(f"the log in {directory} cannot be written: {error.strerror}")
        click.echo(f"the daemon logs to {directory / 'arbiter.log'}")
    handler.setFormatter(Formatter("%(asctime)s arbiter: %(levelname)s: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        if directory is not None:
            handler.stream.close()


def _log_file(path: Path) -> TextIO:
    """Open for appending, for root and its group: it names programs and where they went. Never
    over a link, which whoever owns the directory could put there. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags | os.O_NOCTTY, 0o640)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "arbiter.log is no regular file")
    return open(fd, "a", encoding="utf-8", errors="backslashreplace")


def _run(settings: Settings, read: Callable[[], Settings], paths: Paths, prompt: str | None) -> int:
    # Only now: these need the compiled parts, and a wrong option must not wait for them.
    from arbiter.ahead import Ahead
    from arbiter.daemon import Daemon
    from arbiter.kernel import rights
    from arbiter.kernel.firewall import FirewallError
    from arbiter.kernel.malloc import few_arenas
    from arbiter.kernel.queue import QueueError
    from arbiter.kernel.routes import RouteError
    from arbiter.server import ServerError
    from arbiter.startup import DaemonError, Terminal
    from arbiter.store import StoreError

    terminal = Terminal()
    asker = sudo_uid() if prompt is not None else None
    admins = frozenset() if asker is None else frozenset({asker})

    async def live() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        code = 0

        def ready() -> None:
            _say("ready")
            if prompt is not None and paths.socket != SOCKET:
                where = f"ARBITER_SOCKET={paths.socket.absolute()} "
                where += f"ARBITER_DB={paths.database.absolute()}"
                if paths.config != CONFIG:
                    where += f" ARBITER_CONFIG={paths.config.absolute()}"
                _say(f"for commands in another terminal: export {where}")
            if held is not None:
                child = held.go()
                loop.add_reader(pidfd := os.pidfd_open(child.pid), ended, pidfd)

        def ended(pidfd: int) -> None:
            nonlocal code
            assert held is not None
            loop.remove_reader(pidfd)
            os.close(pidfd)
            code = held.process.wait()
            if code < 0 and not terminal.gone:
                name = signal.Signals(-code).name
                click.echo(f"\nthe prompt was ended by {name}, and the daemon ends with it")
            stop.set()

        def hung_up() -> None:
            if terminal.gone:
                stop.set()
            else:
                daemon.reload()

        daemon = Daemon(settings, read, paths, admins, ahead)
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        if prompt is None:
            loop.add_signal_handler(signal.SIGTSTP, log.warning, NOT_STOPPED)
        try:
            await daemon.run(ready, stop)
        finally:
            if held is not None:
                held.end()
        return code if code in (1, 2, 3) and not terminal.gone else 0

    if prompt is not None:
        # Ctrl-Z is for the prompt.
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    few_arenas()
    # Before the daemon's rights are given up, which a prompt and what it starts do not need to.
    held = _HeldPrompt(prompt, paths, asker) if prompt is not None else None
    try:
        also = extra_rights(paths)
        ahead = Ahead.open(lambda: rights.confine(also))
        code = asyncio.run(live())
        if not terminal.gone:
            _say("stopped: nothing of arbiter is left in the kernel; what you decided is kept")
        return code
    except (DaemonError, FirewallError, QueueError, RouteError, ServerError, StoreError) as error:
        fail(str(error) + _left_alone(settings))
    except (MemoryError, RuntimeError) as error:
        # No memory for a thread, or for anything else: not even for an end in order.
        logging.getLogger("arbiter").error("the end was not in order", exc_info=error)
        why = str(error) or "out of memory"
        fail(f"it ended by itself: {why}; what is in the kernel stays until it is started again")


def _say(text: str) -> None:
    """On standard output; where nobody reads that any more, the daemon decides on without."""
    try:
        click.echo(text)
    except OSError:
        stdout_is_gone()


def _left_alone(settings: Settings) -> str:
    """More words for a failure that leaves rules in force, ours or a killed daemon's."""
    from arbiter.kernel.doctor import left_alone
    from arbiter.kernel.firewall import FirewallError
    from arbiter.startup import planned

    try:
        if not left_alone(planned(settings)[0]):
            return ""
    except FirewallError:
        return ""  # then the same error, or a want of rights, is what was said
    return (
        "\narbiter's rules are in force, and nobody decides: until it runs again, `arbiter rescue`"
        " takes them away, and connections go as without it"
    )


_WAIT = """
import os, sys
gate = int(sys.argv[1])
go = os.read(gate, 1)
os.close(gate)
if go:
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes the prompt once it is told to; ends if whoever should tell it has ended."""


class _HeldPrompt:
    """The prompt's process, which waits until the daemon is there. As the person who called sudo:
    it needs no right of root's."""

    def __init__(self, name: str, paths: Paths, uid: int | None) -> None:
        gate, self._gate = os.pipe()
        prompt = [sys.executable, "-P", "-m", "arbiter", "prompt", name]
        prompt += ["--socket", str(paths.socket)]
        argv = [sys.executable, "-I", "-c", _WAIT, str(gate), *prompt]
        env = os.environ | {"ARBITER_PROMPT_OF": str(os.getpid())}
        # For the commands that a prompt runs: the same rules and links as the daemon's.
        env |= {"ARBITER_DB": str(paths.database), "ARBITER_CONFIG": str(paths.config)}
        person: dict[str, Any] = {}
        if uid is not None:
            entry = pwd.getpwuid(uid)
            groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
            person = {"user": uid, "group": entry.pw_gid, "extra_groups": groups, "umask": 0o022}
            env |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
        self.process = subprocess.Popen(argv, env=env, pass_fds=[gate], **person)
        os.close(gate)

    def go(self) -> subprocess.Popen[bytes]:
        """The daemon is there. A prompt that was killed meanwhile is seen by its end."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b"g")
        return self.process

    def end(self) -> None:
        """Its end, if it has not come yet."""
        os.close(self._gate)
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
