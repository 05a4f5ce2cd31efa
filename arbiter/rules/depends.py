"""What the answers of rules in force depend on, besides the app: which process of it asks, who
started that, where it connects to. Pure."""

from __future__ import annotations

from collections import Counter

from arbiter.rules.rule import Domain, Entry, Host, Name, Rule
from arbiter.rules.tally import Tally


class Depends:
    """Counts entries by what they ask for. "Depends" may be said where nothing does (of one app in
    2**60), "does not" is certain."""

    def __init__(self) -> None:
        self.on_process = 0
        """How many entries end with a process. Without one, no answer depends on which asks."""
        self._parents: Counter[str] = Counter()
        """Of an app: entries that ask for an ancestor; "": for whatever app."""
        self._addresses, self._names = Tally(), Tally()
        """(app, port) of entries that ask for a host, by its addresses or its names; None for the
        port: more than one."""

    def add(self, entry: Entry) -> None:
        """An entry is in force."""
        self.on_process += entry.process is not None
        rule = entry.rule
        if rule.parent:
            self._parents[rule.app] += 1
        if rule.host is not None:
            self._of(rule.host).add(_where(rule))

    def remove(self, entry: Entry) -> None:
        """An entry that was added is in force no more."""
        self.on_process -= entry.process is not None
        rule = entry.rule
        if rule.parent:
            self._parents[rule.app] -= 1
            if not self._parents[rule.app]:
                del self._parents[rule.app]
        if rule.host is not None:
            self._of(rule.host).remove(_where(rule))

    def on_parents(self, app: str) -> bool:
        """Whether answers for this app may depend on who started it."""
        return app in self._parents or "" in self._parents

    def on_address(self, app: str, port: int) -> bool:
        """Whether answers for what it sends to this port may depend on the address."""
        return _any(self._addresses, app, port)

    def on_names(self, app: str, port: int) -> bool:
        """The same of what the address is called."""
        return _any(self._names, app, port)

    def _of(self, host: Host) -> Tally:
        return self._names if isinstance(host, (Name, Domain)) else self._addresses


def _any(tally: Tally, app: str, port: int) -> bool:
    return any(key in tally for key in ((app, port), (app, None), ("", port), ("", None)))


def _where(rule: Rule) -> tuple[str, int | None]:
    (first, last), *more = rule.ports or ((0, 65535),)
    return rule.app, first if first == last and not more else None
