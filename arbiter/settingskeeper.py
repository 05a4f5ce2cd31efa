"""The settings in force: read again on SIGHUP, as far as that can be without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from msgspec import structs

from arbiter import protocol
from arbiter.events import Event, SettingsChanged
from arbiter.memory import now
from arbiter.settings import AT_START, Settings, SettingsError

AUDIT = "audit."
log = logging.getLogger("arbiter")


class SettingsKeeper:
    """`settings` are those in force. `read` gives those that should be, or raises
    SettingsError, and then nothing changes."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        dispatch: Callable[[Event], None],
    ) -> None:
        self.settings = settings
        self._read, self._dispatch = read, dispatch
        self._problems: tuple[str, ...] = ()

    def reload(self) -> None:
        """Read the file again and put what can be in force; say what changed, and what waits."""
        try:
            wanted = self._read()
        except SettingsError as error:
            text = protocol.clean(str(error), 300)
            self._problems = (f"the settings in force stay as they are: {text}",)
            log.error("%s", self._problems[0])
            return
        before, after = _each(self.settings), _each(wanted)
        changed = [name for name in after if after[name] != before[name]]
        late = sorted(AT_START.intersection(changed))
        self._problems = tuple(
            f"arbiter.toml: {name} has changed and counts from the next start: restart arbiter"
            for name in late
        )
        for problem in self._problems:
            log.warning("%s", problem)
        live = {name: after[name] for name in changed if name not in AT_START}
        for name, value in live.items():
            log.info("setting %s is %s now, was %s", name, value, before[name])
        if live:
            audit = {n.removeprefix(AUDIT): v for n, v in live.items() if n.startswith(AUDIT)}
            plain = {name: value for name, value in live.items() if not name.startswith(AUDIT)}
            kept = structs.replace(self.settings.audit, **audit)
            self.settings = structs.replace(self.settings, **plain, audit=kept)
            self._dispatch(SettingsChanged(now(), self.settings))

    def problems(self) -> tuple[str, ...]:
        """What of the settings is not in force, each with its next step."""
        return self._problems


def _each(settings: Settings) -> dict[str, Any]:
    """Every setting by its name in the file: those of the table as `audit.sync`."""
    found = structs.asdict(settings)
    del found["audit"]
    return found | {AUDIT + name: value for name, value in structs.asdict(settings.audit).items()}
