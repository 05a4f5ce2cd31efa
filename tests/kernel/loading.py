"""Programs that connect all the time, some where they may and some where they may not, and what
became of each try: the invariants of every fault are about these."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from types import TracebackType

from msgspec import Struct
from running import Arbiter, python

from arbiter.lab.config import SECOND4, SECOND6, SERVER4, SERVER6

ALLOWED = (f"tcp {SERVER4}", f"tcp {SERVER6}", f"udp {SERVER4}", f"udp {SERVER6}")
DENIED = (f"tcp {SECOND4}", f"tcp {SECOND6}", f"udp {SECOND4}", f"udp {SECOND6}")
RULES = (
    *(f"allow host={host}" for host in (SERVER4, SERVER6)),
    *(f"deny host={host}" for host in (SECOND4, SECOND6)),
)
PROGRAM = """
import errno, json, random, socket, sys, time
pause, targets = float(sys.argv[1]), sys.argv[2:]
while True:
    for target in targets:
        proto, address = target.split()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
        sock.settimeout(1.5)
        began, end, port = time.monotonic(), "reached", 0
        try:
            sock.connect((address, 7))
            port = sock.getsockname()[1]
            if proto == "udp":
                sock.send(b"x")
                sock.recv(100)
        except OSError as error:
            end = errno.errorcode.get(error.errno, type(error).__name__)
        sock.close()
        print(json.dumps([target, began, time.monotonic(), end, port]), flush=True)
        time.sleep(random.uniform(0, 2 * pause))
"""


class Try(Struct, frozen=True, array_like=True):
    """One connection: monotonic seconds, `reached` or why not, and its own port if it has one."""

    target: str
    began: float
    ended: float
    end: str
    port: int


class Load:
    """A program for what is allowed and one for what is denied, until the block ends."""

    def __init__(self, arbiter: Arbiter, pause: float = 0.005) -> None:
        """`pause`: seconds between two tries, on average."""
        self.arbiter, self.pause = arbiter, pause
        self.tries: list[Try] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Load:
        self._programs = [
            self.arbiter.program(*python(PROGRAM, str(self.pause), *targets))
            for targets in (ALLOWED[:2], ALLOWED[2:], DENIED[:2], DENIED[2:])
        ]
        for program in self._programs:
            assert program.stdout is not None
            thread = threading.Thread(target=self._read, args=(program.stdout,))
            thread.start()
            self._threads.append(thread)
        return self

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.startswith("["):
                self.tries.append(Try(*json.loads(line)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for program in self._programs:
            program.kill()
            program.wait()
        for thread in self._threads:
            thread.join(10)

    def leaks(self, but: list[tuple[float, float]] | None = None) -> list[Try]:
        """What was reached though it is denied, outside of the spans `but` (monotonic seconds)."""
        return [
            one
            for one in tuple(self.tries)
            if one.target in DENIED
            and one.end == "reached"
            and not any(a <= one.ended and one.began <= b for a, b in but or [])
        ]

    def reached(self, since: float) -> set[str]:
        """What is allowed and was reached by tries that began then or later."""
        good = (one for one in tuple(self.tries) if one.began >= since and one.end == "reached")
        return {one.target for one in good if one.target in ALLOWED}

    def ends(self) -> Counter[str]:
        """How tries ended, by target."""
        return Counter(f"{one.target}: {one.end}" for one in tuple(self.tries))
