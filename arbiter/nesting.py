"""Which tunnel is carried by which link, so that none ever carries itself. Pure.

A tunnel's outer packets (those in which it carries others) are connections like all, but for one
thing: sent into the tunnel itself, or into one that it carries, they would go round for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from arbiter.model import Link

MAX_CARRIED = 1024
"""Far ends of tunnels remembered; the oldest go first."""


class Nesting:
    """What carries the tunnels, as it was last decided for each far end of theirs."""

    def __init__(self) -> None:
        self._under: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        """(tunnel, far end) → the link below. Tunnels and links are interface indexes."""

    def change(self, links: Iterable[Link]) -> None:
        """These are the links now: what is gone carries nothing any more."""
        there = {link.index for link in links}
        for key, link in list(self._under.items()):
            if key[0] not in there or link not in there:
                del self._under[key]

    def carried(self, tunnels: Iterable[int], remote: bytes, link: int) -> None:
        """From now on the link carries what these tunnels send to a far end (packed)."""
        for tunnel in tunnels:
            self._under[tunnel, remote] = link
            self._under.move_to_end((tunnel, remote))
        while len(self._under) > MAX_CARRIED:
            self._under.popitem(last=False)

    def on_top_of(self, tunnels: Iterable[int]) -> frozenset[int]:
        """These tunnels, and all that are carried by one of them: none of them may carry these."""
        found = set(tunnels)
        more = found
        while more:
            more = {tunnel for (tunnel, _), link in self._under.items() if link in more} - found
            found |= more
        return frozenset(found)


def named_before(
    via: Iterable[str], own: frozenset[str], links: Mapping[str, Link]
) -> frozenset[int]:
    """The tunnels that a list names before one of its `own`: of two in one list the first is
    carried by the second, whichever comes up first."""
    before: list[int] = []
    for name in via:
        if name in own:
            return frozenset(before)
        if name in links and links[name].tunnel:
            before.append(links[name].index)
    return frozenset()
