"""The names that rules in force speak of, counted: who keeps names keeps these longest. Pure."""

from __future__ import annotations

from collections import Counter

from arbiter.rules.names import suffix
from arbiter.rules.rule import Domain, Host, Name


class Spoken:
    """`name in spoken`: whether a rule has it as `host=`, or a domain above it."""

    def __init__(self) -> None:
        self._names: Counter[str] = Counter()
        self._domains: Counter[str] = Counter()
        self._depths: Counter[int] = Counter()  # labels of the domains
        self.version = 0
        """Another number after each change of what `in` says."""

    def __contains__(self, name: str) -> bool:
        if name in self._names:
            return True
        return any(suffix(name, depth) in self._domains for depth in self._depths)

    def add(self, host: Host | None) -> None:
        """A rule with this host is in force."""
        if isinstance(host, Name):
            self._count(self._names, host.name, 1)
        elif isinstance(host, Domain):
            self._count(self._domains, host.name, 1)
            self._depths[host.name.count(".") + 1] += 1

    def remove(self, host: Host | None) -> None:
        """A rule with this host, which was added, is in force no more."""
        if isinstance(host, Name):
            self._count(self._names, host.name, -1)
        elif isinstance(host, Domain):
            self._count(self._domains, host.name, -1)
            depth = host.name.count(".") + 1
            self._depths[depth] -= 1
            if not self._depths[depth]:
                del self._depths[depth]

    def _count(self, counted: Counter[str], name: str, change: int) -> None:
        before = counted[name]
        if before + change:
            counted[name] = before + change
        else:
            del counted[name]
        if not before or not before + change:
            self.version += 1
