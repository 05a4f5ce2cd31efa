"""The daemon's policy files: read, put in force, and read again when they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from arbiter import packages, policystate
from arbiter.events import AdviceChanged, Event, RulesChanged
from arbiter.kernel.filewatch import FileWatch
from arbiter.memory import now
from arbiter.policyfiles import AdviceBook, PolicyFile, entries

log = logging.getLogger("arbiter")


class PolicyKeeper:
    """Administrators' rules (layer 1), and what packages say of their programs (layer 3)."""

    def __init__(
        self, folder: Path, decide: Callable[[], bool], dispatch: Callable[[Event], None]
    ) -> None:
        self._folder, self._decide, self._dispatch = folder, decide, dispatch
        self._packages = packages.find()
        watched = {folder.absolute(): "*.toml", policystate.SHIPPED: "*.toml"}
        if self._packages is not None:
            records = self._packages.changes
            watched[records.parent] = records.name
        self._watch = FileWatch(watched, self._changed, self._trouble)
        self._fresh = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._files: tuple[PolicyFile, ...] = ()
        self._ids: tuple[int, ...] = ()
        self._problems: tuple[str, ...] = ()
        self._watching = ""

    async def start(self) -> None:
        """Put the files in force, and follow what changes. A bad file is a problem, no error."""
        try:
            self._watch.start()
        except OSError as error:
            self._trouble(f"changes of policy files are not seen: {error}; send SIGHUP after one")
        await self._read()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Follow no more; what is in force stays."""
        self._watch.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def reload(self) -> None:
        """Read the files again."""
        self._fresh.set()

    def problems(self) -> tuple[str, ...]:
        """What is wrong with policy files, each with its next step."""
        return tuple(text for text in (self._watching, *self._problems) if text)

    def _changed(self) -> None:
        self._fresh.set()

    def _trouble(self, problem: str) -> None:
        self._watching = problem
        if problem:
            log.error("%s", problem)

    async def _run(self) -> None:
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            await self._read()

    async def _read(self) -> None:
        self._files, errors = await asyncio.to_thread(
            policystate.read_policies,
            self._folder,
            self._files,
            policystate.SHIPPED,
            self._packages,
        )
        made, unsaid = entries(self._files, decide=self._decide())
        problems = [str(error) for error in errors]
        problems += [
            f"{advice.origin}:{advice.line}: no rule can say what it suggests: it only suggests it"
            for advice in unsaid
        ]
        for problem in problems:
            if problem not in self._problems:
                log.error("%s", problem)
        self._problems = tuple(problems)
        if self._files:
            log.info("policy files: %d, with %d rules", len(self._files), len(made))
        removed, self._ids = self._ids, tuple(entry.id for entry in made)
        if made or removed:
            self._dispatch(RulesChanged(now(), made, removed))
        self._dispatch(AdviceChanged(now(), AdviceBook(self._files)))
