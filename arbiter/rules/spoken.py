"""The names that rules in force speak of, counted: who keeps names keeps these longest. Pure."""

from __future__ import annotations

from collections import Counter

from arbiter.rules.names import suffix
from arbiter.rules.rule import Domain, Host, Name
from arbiter.rules.tally import Tally


class Spoken:
    """`name in spoken`: whether a rule has it as `host=`, or a domain above it.

    One in 2**60 others may be taken for one that is spoken of: it is kept longer, and no more.
    """

    def __init__(self) -> None:
        self._names = Tally()
        self._domains = Tally()
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
            self.version += self._names.add(host.name)
        elif isinstance(host, Domain):
            self.version += self._domains.add(host.name)
            self._depths[host.name.count(".") + 1] += 1

    def remove(self, host: Host | None) -> None:
        """A rule with this host, which was added, is in force no more."""
        if isinstance(host, Name):
            self.version += self._names.remove(host.name)
        elif isinstance(host, Domain):
            self.version += self._domains.remove(host.name)
            depth = host.name.count(".") + 1
            self._depths[depth] -= 1
            if not self._depths[depth]:
                del self._depths[depth]
