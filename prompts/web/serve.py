"""The console from its start to its end: sockets, signals, the address."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from arbiter.protocol import Role
from prompts.client import Client, ClientError
from prompts.lifeline import end_with_daemon
from prompts.web.app import build
from prompts.web.callers import IN_ALL, Caller
from prompts.web.desk import Desk
from prompts.web.gate import Gate

DONE, REFUSED, UNREACHABLE = 0, 1, 3
TRIES = 20
"""For a port that is free in both families."""


def listen(port: int) -> list[socket.socket]:
    """Listening sockets on 127.0.0.1 and, where there is IPv6, ::1, with one port; 0: any.

    Raises OSError.
    """
    for attempt in range(TRIES):
        first = _bound(socket.AF_INET, "127.0.0.1", port)
        try:
            return [first, _bound(socket.AF_INET6, "::1", first.getsockname()[1])]
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return [first]  # no IPv6 here, or none on loopback
            first.close()
            if port or attempt == TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(64)
    except OSError:
        sock.close()
        raise
    return sock


class _Uvicorn(uvicorn.Server):
    """Signals are ours: theirs would be raised again after the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


async def serve(socket_path: str, port: int, url_file: Path | None) -> int:
    """The console until a signal or the daemon ends it; `port` 0: one that is free.

    Tells its address on stdout, or in `url_file`, which goes with it. The exit code: 0 ended,
    1 refused by the daemon or no such port or file to be had, 3 the daemon cannot be reached.
    Errors are told on stderr.
    """
    try:
        client = await Client.connect(socket_path, "web", Role.PROMPT)
    except ClientError as error:
        return _fail(REFUSED if error.refused or error.final else UNREACHABLE, error.text)
    end_with_daemon(os.environ)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with client:
        try:
            sockets = listen(port)
        except OSError as error:
            reason = error.strerror or str(error)
            return _fail(REFUSED, f"port {port} of loopback cannot be had: {reason}; see --port")
        if sys.stdout is None and url_file is None:
            return _fail(REFUSED, "stdout is closed, where the address would be: see --url-file")
        gate = Gate(sockets[0].getsockname()[1])
        with contextlib.ExitStack() as stack:
            if url_file is not None:
                try:
                    stack.enter_context(address_file(url_file, gate.url()))
                except OSError as error:
                    return _fail(REFUSED, f"{url_file} cannot be written: {error.strerror}")
            if sys.stdout is not None:  # started with stdout closed
                sys.stdout.write(f"the web console, until Ctrl-C: {url_file or gate.url()}\n")
                sys.stdout.flush()
            return await _live(client, gate, sockets, stop)


@contextlib.contextmanager
def address_file(path: Path, url: str) -> Iterator[None]:
    """A file with the address for a while, for its owner only, whole or not there.

    Raises OSError if it cannot be made.
    """
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    made = Path(name)
    try:
        with os.fdopen(number, "w") as out:
            out.write(f"{url}\n")
        made.replace(path)
    except OSError:
        made.unlink()
        raise
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # somebody was faster
            path.unlink()


async def _live(
    client: Client, gate: Gate, sockets: list[socket.socket], stop: asyncio.Event
) -> int:
    desk = Desk(client, gate)
    config = uvicorn.Config(
        build(desk),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http=Caller,
        loop="none",
        limit_concurrency=IN_ALL,
        timeout_graceful_shutdown=1,
        server_header=False,
        proxy_headers=False,
    )
    web = _Uvicorn(config)
    serving = asyncio.create_task(web.serve(sockets))
    work = [asyncio.create_task(job) for job in desk.jobs()]
    ending = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({serving, ending, *work}, return_when=asyncio.FIRST_COMPLETED)
    desk.end()
    web.should_exit = True
    for task in (ending, *work):
        task.cancel()
    await asyncio.wait([serving, ending, *work])
    for task in done:
        try:
            task.result()
        except ClientError as error:  # the daemon, once back, does not want us any more
            return _fail(REFUSED, error.text)
    return DONE


def _fail(code: int, text: str) -> int:
    sys.stderr.write(f"arbiter prompt: {text}\n")
    return code
