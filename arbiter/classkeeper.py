"""The daemon's side of traffic classes: the ruleset for them, and a label on each connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from arbiter.classes import Marking
from arbiter.events import Report
from arbiter.kernel import firewall
from arbiter.kernel.ctlabel import Labels
from arbiter.model import MARK_DENIED, Packet, TrafficClass, VerdictKind

log = logging.getLogger("arbiter")


class ClassKeeper:
    """Nothing is done until a rule wants a class: it costs every packet some looks at labels."""

    def __init__(
        self,
        markings: Mapping[TrafficClass, Marking],
        backend: firewall.Backend,
        enable: Callable[[tuple[Marking, ...]], None],
    ) -> None:
        self._markings, self._backend, self._enable = markings, backend, enable
        self._labels: Labels | None = None
        self._why = ""
        self._refused = ""

    async def start(self) -> None:
        """A rule with a class is in force: have its packets marked, or say why that cannot be."""
        if self._labels is not None:
            return
        why = await asyncio.to_thread(firewall.why_no_classes, self._backend)
        if why:
            self._why = f"rules with class= mark no packets here: {why}"
            log.error("%s", self._why)
            return
        self._labels = Labels(marking.label for marking in self._markings.values())
        self._enable(tuple(self._markings.values()))

    def decided(self, report: Report) -> None:
        """The verdict was given, and its connection is known to conntrack by now."""
        traffic, packet, verdict = report.decision.traffic, report.packet, report.verdict
        if traffic is None or self._labels is None or not isinstance(packet, Packet):
            return
        if verdict.kind is not VerdictKind.ACCEPT or verdict.mark & MARK_DENIED:
            return
        try:
            self._labels.set(packet.flow, self._markings[traffic].label)
        except OSError as error:
            if not self._refused:
                log.error("class=%s: %s", traffic.value, error)
            self._refused = f"a connection goes without its class: {error}"
        else:
            # Refused were connections that are older than the first rule with a class.
            self._refused = ""

    def problems(self) -> tuple[str, ...]:
        """What keeps packets from being marked, each with its next step."""
        return tuple(problem for problem in (self._why, self._refused) if problem)

    def close(self) -> None:
        """Set no more labels."""
        if self._labels is not None:
            self._labels.close()
            self._labels = None
