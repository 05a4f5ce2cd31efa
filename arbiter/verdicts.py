"""Giving verdicts: each is a SetVerdict, a Report and a count, and a held packet less. Pure."""

from __future__ import annotations

from collections import Counter

from arbiter.events import Effect, Reason, Report, SetVerdict
from arbiter.held import Held, HeldPackets
from arbiter.judge import Judgement, carry_out
from arbiter.model import (
    DENY,
    DROPPED,
    MARK_LINK,
    MARK_LINK_SHIFT,
    Decision,
    Link,
    Now,
    Packet,
    Peer,
    Undecodable,
)
from arbiter.rules import Entry


class Verdicts:
    """The only maker of SetVerdict. What is held is taken out as its verdict is given."""

    def __init__(self, held: HeldPackets, counters: Counter[str]) -> None:
        self._held = held
        self._counters = counters
        self.links: dict[str, Link] = {}

    def give(
        self,
        now: Now,
        held: Held,
        decision: Decision,
        reason: Reason,
        *,
        rule: Entry | None = None,
        by: Peer | None = None,
        note: str = "",
    ) -> list[Effect]:
        """The verdict of a held packet. Its ask, if any, is the caller's to settle."""
        packet = held.packet
        self._held.pop(packet.id)
        verdict, how = carry_out(decision, self.links, packet.flow.family)
        self._count(decision, reason)
        waited = now.mono - held.since
        link = (verdict.mark & MARK_LINK) >> MARK_LINK_SHIFT
        report = Report(
            now.wall, packet, held.owner, decision, reason, rule, by, waited, note or how, link
        )
        return [SetVerdict(packet.id, verdict), report]

    def judged(self, now: Now, held: Held, judgement: Judgement) -> list[Effect]:
        """The verdict that the rules say."""
        if judgement.entry is None:
            note = "open since before arbiter saw it"
            return self.give(now, held, judgement.decision, Reason.OLDER, note=note)
        return self.give(now, held, judgement.decision, Reason.RULE, rule=judgement.entry)

    def at_once(
        self,
        now: Now,
        packet: Packet | Undecodable,
        decision: Decision,
        reason: Reason,
        note: str = "",
    ) -> list[Effect]:
        """The verdict of a packet that was never held."""
        verdict, how = carry_out(decision, self.links)
        self._count(decision, reason)
        report = Report(now.wall, packet, None, decision, reason, note=note or how)
        return [SetVerdict(packet.id, verdict), report]

    def lose(self, now: Now, packet: Packet, note: str) -> list[Effect]:
        """Drop a packet that was never held, as if lost: whoever sent it sends it again."""
        self._count(DENY, Reason.OVERFLOW)
        report = Report(now.wall, packet, None, DENY, Reason.OVERFLOW, note=note)
        return [SetVerdict(packet.id, DROPPED), report]

    def drop(self, now: Now, held: Held, reason: Reason, note: str) -> list[Effect]:
        """Drop a held packet that nobody waits for any more, or that there is no room for."""
        self._held.pop(held.packet.id)
        self._count(DENY, reason)
        waited = now.mono - held.since
        report = Report(now.wall, held.packet, held.owner, DENY, reason, None, None, waited, note)
        return [SetVerdict(held.packet.id, DROPPED), report]

    def _count(self, decision: Decision, reason: Reason) -> None:
        self._counters[decision.action.value] += 1
        self._counters[f"by_{reason.value}"] += 1
