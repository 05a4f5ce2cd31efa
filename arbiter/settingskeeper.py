"""The settings in force: read again on SIGHUP, as far as that can be without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import structs

from arbiter import protocol
from arbiter.events import Event, SettingsChanged
from arbiter.memory import now
from arbiter.settings import AT_START, Settings, SettingsError

log = logging.getLogger("arbiter")


class SettingsKeeper:
    """`settings` are those in force. `read` gives those that should be, or raises OSError,
    UnicodeDecodeError or SettingsError, and then nothing changes."""

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
        except (OSError, UnicodeDecodeError, SettingsError) as error:
            text = protocol.clean(str(error), 300)
            self._problems = (f"the settings in force stay as they are: {text}",)
            log.error("%s", self._problems[0])
            return
        changed = {
            name: getattr(wanted, name)
            for name in Settings.__struct_fields__
            if getattr(wanted, name) != getattr(self.settings, name)
        }
        late = sorted(changed.keys() & AT_START)
        self._problems = tuple(
            f"arbiter.toml: {name} has changed and counts from the next start: restart arbiter"
            for name in late
        )
        for problem in self._problems:
            log.warning("%s", problem)
        live = {name: value for name, value in changed.items() if name not in AT_START}
        for name, value in live.items():
            log.info("setting %s is %s now, was %s", name, value, getattr(self.settings, name))
        if live:
            self.settings = structs.replace(self.settings, **live)
            self._dispatch(SettingsChanged(now(), self.settings))

    def problems(self) -> tuple[str, ...]:
        """What of the settings is not in force, each with its next step."""
        return self._problems
