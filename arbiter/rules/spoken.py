"""The names that rules in force speak of, counted: who keeps names keeps these longest. Pure."""

from __future__ import annotations

from array import array
from collections import Counter

from arbiter.rules.cells import Cells
from arbiter.rules.names import suffix
from arbiter.rules.rule import Domain, Host, Name


class Spoken:
    """`name in spoken`: whether a rule has it as `host=`, or a domain above it.

    One in 2**60 others may be taken for one that is spoken of: it is kept longer, and no more.
    """

    def __init__(self) -> None:
        self._names = _Tally()
        self._domains = _Tally()
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


class _Tally:
    """How often names were added, by their hashes: 25 bytes a name."""

    def __init__(self) -> None:
        self._hashes, self._counts = array("q"), array("I")
        self._free: list[int] = []
        self._cells = Cells(self._hashes)

    def __contains__(self, name: str | None) -> bool:
        return self._cells.find(hash(name)) >= 0

    def add(self, name: str) -> bool:
        """Once more; whether it is new."""
        place = self._cells.find(hash(name))
        if place >= 0:
            self._counts[place] += 1
            return False
        if self._free:
            place = self._free.pop()
            self._hashes[place], self._counts[place] = hash(name), 1
        else:
            place = len(self._hashes)
            self._hashes.append(hash(name))
            self._counts.append(1)
        self._cells.add(place)
        return True

    def remove(self, name: str) -> bool:
        """Once less, of one that was added; whether it is gone."""
        place = self._cells.find(hash(name))
        self._counts[place] -= 1
        if self._counts[place]:
            return False
        self._cells.remove(hash(name))
        self._free.append(place)
        return True
