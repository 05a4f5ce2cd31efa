"""`arbiter …` run as this user, for what a frontend must not do itself: lists, changes of rules.

The command refuses where the person may not, and its own words say why. Which database it is, the
environment says: ARBITER_DB and ARBITER_CONFIG, as for every command.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from prompts.render import tidy

SECONDS = 20.0
"""How long a command may take, what it waits for a busy database included."""
FAILED = -1
"""The code of a command that could not be run, or did not end in time."""


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code, output, and what it said on stderr, harmless lines."""

    code: int
    out: str
    said: str

    def rows(self) -> list[dict[str, Any]]:
        """The objects of its JSON; [] where there are none. A list may be there although `said`
        tells of a problem with the rest of it."""
        try:
            found = json.loads(self.out)
        except ValueError:  # no output: what it said tells why
            return []
        rows = found if isinstance(found, list) else [found]
        return [row for row in rows if isinstance(row, dict)]


class Commands:
    """Runs commands against the daemon at `socket_path`. `close` it at the end."""

    def __init__(self, socket_path: str) -> None:
        self._env = os.environ | {"ARBITER_SOCKET": socket_path, "NO_COLOR": "1"}
        self._running: set[asyncio.Task[Done]] = set()

    async def close(self) -> None:
        """End what still runs."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def run(self, *argv: str) -> Done:
        """To its end, without a shell; never raises for what the command does.

        Who waits for it may be cancelled, even twice: `close` ends the command in peace.
        """
        task = asyncio.create_task(self._run(argv))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _run(self, argv: tuple[str, ...]) -> Done:
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "arbiter",
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._env,
            )
        except OSError as error:
            return Done(FAILED, "", f"arbiter cannot be run: {error.strerror or error}")
        try:
            async with asyncio.timeout(SECONDS):
                out, err = await child.communicate()
        except TimeoutError:
            return Done(FAILED, "", f"`arbiter {tidy(argv[0])}` took more than {SECONDS:g} s")
        finally:
            if child.returncode is None:
                child.kill()
                await child.communicate()  # to the end of its pipes, so that these are closed
        lines = err.decode(errors="replace").splitlines()
        said = "\n".join(tidy(line.removeprefix("arbiter: ")) for line in lines if line.strip())
        return Done(child.returncode or 0, out.decode(errors="replace"), said)
