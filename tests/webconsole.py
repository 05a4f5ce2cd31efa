"""`arbiter prompt web` in a process of its own, a scripted daemon behind it, requests to it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from scripted_daemon import ScriptedDaemon

from arbiter.protocol import Ask, ClientMessage, DaemonMessage

T = TypeVar("T")
C = TypeVar("C", bound=ClientMessage)


def eventually(look: Callable[[], T], timeout: float = 10.0) -> T:
    """The first true value that `look` gives."""
    end = time.monotonic() + timeout
    while not (value := look()):
        assert time.monotonic() < end, f"waited {timeout} s in vain; last: {value!r}"
        time.sleep(0.02)
    return value


class Daemon:
    """A scripted daemon whose loop runs in a thread: a browser's driver blocks."""

    def __init__(self, path: Path, *asks: Ask) -> None:
        self.scripted = ScriptedDaemon(path, *asks)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.start()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self.scripted.start(), self.loop).result(5)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.scripted.stop(), self.loop).result(5)

    def tell(self, *messages: DaemonMessage) -> None:
        async def tell() -> None:
            for message in messages:
                self.scripted.tell(message)

        asyncio.run_coroutine_threadsafe(tell(), self.loop).result(5)

    def received(self, type: type[C]) -> list[C]:
        """What the console has sent of this kind."""
        return [each for each in tuple(self.scripted.received) if isinstance(each, type)]

    def close(self) -> None:
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


class Console:
    """The console's process. `url` is what it printed, `host` its host and port."""

    def __init__(
        self, socket_path: Path, *options: str, env: Mapping[str, str] | None = None
    ) -> None:
        argv = [sys.executable, "-P", "-m", "arbiter", "prompt", "web", *options]
        self.process = subprocess.Popen(
            [*argv, "--socket", str(socket_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | dict(env or {}),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.url = line.split(": ", 1)[1].strip()
        self.origin, _, self.token = self.url.partition("/#")
        self.host = self.origin.removeprefix("http://")
        self.port = int(self.host.rpartition(":")[2]) if self.token else 0
        self.cookie = self.key = ""

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str | None] = {}
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request, as its own page would make it, but for `headers`; None leaves one out."""
        all = {
            "Host": self.host,
            "Origin": self.origin,
            "Content-Type": "application/json",
            "Cookie": self.cookie,
            "X-Arbiter-Key": self.key,
        } | dict(headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
            for name, value in all.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def login(self) -> None:
        """Trade the token for the cookie and the key, as the page does."""
        status, headers, body = self.request("POST", "/api/login", {"token": self.token})
        assert status == 200, body
        self.cookie = str(headers["set-cookie"]).split(";")[0]
        self.key = json.loads(body)["key"]

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        status, _, data = self.request("POST", f"/api/{path}", body)
        return status, json.loads(data)

    @contextmanager
    def news(self) -> Iterator[Callable[[], dict[str, Any]]]:
        """A page that is open; what it calls gives the next line of news."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Host": self.host, "Origin": self.origin, "Cookie": self.cookie}
        connection.request("POST", "/api/news", "{}", headers | {"X-Arbiter-Key": self.key})
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()

        def line() -> dict[str, Any]:
            while not (data := reply.readline()).strip():
                assert data, "the stream ended"
            found: dict[str, Any] = json.loads(data)
            return found

        try:
            yield line
        finally:
            reply.close()
            connection.close()

    def end(self) -> tuple[int, str]:
        """Ctrl-C. The exit code, and what it said on stderr."""
        if self.process.poll() is None:
            self.process.terminate()
        _, err = self.process.communicate(timeout=15)
        return self.process.returncode, err
