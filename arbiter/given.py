"""`once` answers that outlive their ask: for packets on their way, and for the next try. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

from arbiter.asks import Key
from arbiter.model import Action, Decision, Flow, Peer

GRACE = 5.0
"""Seconds for which a `once` answer also serves packets of the same flow that were on their way
when it was given: until conntrack has confirmed the first, the kernel queues the next."""
MAX_KEPT = 4096
"""Answers kept of each kind; the oldest go first."""

Given = tuple[Decision, Peer]


class GivenOnce:
    """Answers without a rule, each with the monotonic second when it ends."""

    def __init__(self) -> None:
        self._flows: OrderedDict[tuple[Flow, Key], tuple[float, Given]] = OrderedDict()
        self._credits: OrderedDict[Key, tuple[float, Given]] = OrderedDict()

    def serve_flow(self, flow: Flow, key: Key, given: Given, now: float) -> None:
        """The answer was for this flow of this ask: what of it is on its way goes the same."""
        _put(self._flows, (flow, key), (now + GRACE, given))

    def serve_next(self, key: Key, given: Given, until: float) -> None:
        """The answer came late, nothing waited: it serves the next connection of this ask."""
        _put(self._credits, key, (until, given))

    def take(self, flow: Flow, key: Key, now: float) -> Given | None:
        """The answer that serves this packet. A late one is used up by it."""
        kept = self._flows.get((flow, key))
        if kept is not None and kept[0] > now:
            if kept[1][0].action is Action.DENY:
                # A denied flow is never confirmed: as long as it goes on sending it is queued.
                self.serve_flow(flow, key, kept[1], now)
            return kept[1]
        kept = self._credits.pop(key, None)
        if kept is None or kept[0] <= now:
            return None
        self.serve_flow(flow, key, kept[1], now)
        return kept[1]


K = TypeVar("K")


def _put(kept: OrderedDict[K, tuple[float, Given]], key: K, value: tuple[float, Given]) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MAX_KEPT:
        kept.popitem(last=False)
