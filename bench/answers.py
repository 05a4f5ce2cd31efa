"""A prompt that answers every question at once, and when it did: what comes after is ours."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from arbiter import protocol
from arbiter.protocol import Answer, Ask, Choice, Hello, Role, Welcome


class Answering:
    """Answers "allow, this once" in a thread, as long as it is entered."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(path))
        self._thread = threading.Thread(target=self._run)
        self._welcome = threading.Event()
        self.at: list[float] = []
        """Monotonic seconds of each answer, before it was sent."""

    def __enter__(self) -> Answering:
        self._send(Hello(protocol.VERSION, Role.PROMPT, "bench"))
        self._thread.start()
        self._welcome.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        decoder, answered = protocol.daemon_decoder(), set[int]()
        while data := self._sock.recv(65536):
            for message in decoder.feed(data):
                if isinstance(message, Welcome):
                    self._welcome.set()
                if isinstance(message, Ask) and message.waiting and message.id not in answered:
                    answered.add(message.id)
                    self.at.append(time.monotonic())
                    self._send(Answer(message.id, Choice.ALLOW))

    def _send(self, message: Hello | Answer) -> None:
        self._sock.sendall(protocol.encode(message))
