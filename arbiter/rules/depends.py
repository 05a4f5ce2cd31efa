"""What the answers of rules in force depend on, besides the app: which process of it asks, who
started that, where it connects to. Pure."""

from __future__ import annotations

from collections import Counter

from arbiter.rules.areas import Area, Areas, keys, where_of
from arbiter.rules.rule import Domain, Entry, Name
from arbiter.rules.tally import Tally


class Depends:
    """Counts entries by what they ask for. "Depends" may be said where nothing does (of one app in
    2**60), "does not" is certain."""

    def __init__(self) -> None:
        self.on_process = 0
        """How many entries end with a process. Without one, no answer depends on which asks."""
        self._parents: Counter[str] = Counter()
        """Of an app: entries that ask for an ancestor; "": for whatever app."""
        self._areas, self._names = Areas(), Tally()
        """Entries that ask for a host: by its address; by its name, as app and port."""

    def add(self, entry: Entry) -> None:
        """An entry is in force."""
        self.on_process += entry.process is not None
        rule = entry.rule
        if rule.parent:
            self._parents[rule.app] += 1
        if isinstance(rule.host, (Name, Domain)):
            self._names.add(where_of(rule))
        elif rule.host is not None:
            self._areas.add(rule)

    def remove(self, entry: Entry) -> None:
        """An entry that was added is in force no more."""
        self.on_process -= entry.process is not None
        rule = entry.rule
        if rule.parent:
            self._parents[rule.app] -= 1
            if not self._parents[rule.app]:
                del self._parents[rule.app]
        if isinstance(rule.host, (Name, Domain)):
            self._names.remove(where_of(rule))
        elif rule.host is not None:
            self._areas.remove(rule)

    def on_parents(self, app: str) -> bool:
        """Whether answers for this app may depend on who started it."""
        return app in self._parents or "" in self._parents

    def on_areas(self, app: str, port: int) -> list[Area] | None:
        """Outside of which areas answers for what it sends to this port do not depend on the
        address; None: they may anywhere."""
        return self._areas.of(app, port)

    def on_names(self, app: str, port: int) -> bool:
        """Whether they may depend on what the address is called."""
        return any(key in self._names for key in keys(app, port))
