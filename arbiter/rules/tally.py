"""A counted set of anything, in little memory. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

from arbiter.rules.cells import Cells


class Tally:
    """How often something was added, by its hash: 25 bytes each. Another with the same hash, one in
    2**60, is taken for it."""

    def __init__(self) -> None:
        self._hashes, self._counts = array("q"), array("I")
        self._free: list[int] = []
        self._cells = Cells(self._hashes)

    def __contains__(self, one: Hashable) -> bool:
        return self._cells.find(hash(one)) >= 0

    def add(self, one: Hashable) -> bool:
        """Once more; whether it is new."""
        place = self._cells.find(hash(one))
        if place >= 0:
            self._counts[place] += 1
            return False
        if self._free:
            place = self._free.pop()
            self._hashes[place], self._counts[place] = hash(one), 1
        else:
            place = len(self._hashes)
            self._hashes.append(hash(one))
            self._counts.append(1)
        self._cells.add(place)
        return True

    def remove(self, one: Hashable) -> bool:
        """Once less, of one that was added; whether it is gone."""
        place = self._cells.find(hash(one))
        self._counts[place] -= 1
        if self._counts[place]:
            return False
        self._cells.remove(hash(one))
        self._free.append(place)
        return True
