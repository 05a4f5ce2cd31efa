"""Numbers found in an array, without an object for each: an index of 4 bytes a cell."""

from __future__ import annotations

from array import array

_FEWEST = 16


class Cells:
    """From the numbers in an array to their places there, by open addressing: 4 bytes a cell.

    A number may be there once only. Cost does not follow how many there are.
    """

    __slots__ = ("_cells", "_keys", "_mask", "_used")

    def __init__(self, keys: array[int]) -> None:
        self._keys = keys
        """Read only; the owner's. The place of a number must hold it while it can be found."""
        self._used = 0
        self._cells, self._mask = array("I", bytes(4 * _FEWEST)), _FEWEST - 1

    def find(self, key: int) -> int:
        """Its place; -1 where it is not."""
        cells, keys, mask = self._cells, self._keys, self._mask
        at = key & mask
        while place := cells[at]:
            if keys[place - 1] == key:
                return place - 1
            at = (at + 1) & mask
        return -1

    def add(self, place: int) -> None:
        """The number at `place` can be found from now on."""
        self._used += 1
        if self._used * 2 > self._mask:
            self._resize((self._mask + 1) * 2)
        self._put(place)

    def remove(self, key: int) -> None:
        """A number that is there cannot be found any more; its place must still hold it."""
        cells, keys, mask = self._cells, self._keys, self._mask
        hole = key & mask
        while keys[cells[hole] - 1] != key:
            hole = (hole + 1) & mask
        at = hole
        # Those behind it move up, or a search for them would end at the hole (Knuth 6.4, R).
        while place := cells[at := (at + 1) & mask]:
            home = keys[place - 1] & mask
            if (at - home) & mask >= (at - hole) & mask:
                cells[hole] = place
                hole = at
        cells[hole] = 0
        self._used -= 1

    def _put(self, place: int) -> None:
        cells, mask = self._cells, self._mask
        at = self._keys[place] & mask
        while cells[at]:
            at = (at + 1) & mask
        cells[at] = place + 1

    def _resize(self, size: int) -> None:
        before = self._cells
        self._cells, self._mask = array("I", bytes(4 * size)), size - 1
        for place in before:
            if place:
                self._put(place - 1)
