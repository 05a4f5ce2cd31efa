"""Giving verdicts: each is a SetVerdict, a Report and a count, and a held packet less. Pure."""

from __future__ import annotations

from collections import Counter

from msgspec import structs

from arbiter.events import Effect, Reason, Repeated, Report, SetVerdict
from arbiter.held import Held, HeldPackets
from arbiter.judge import Judgement
from arbiter.model import (
    ACCEPTED,
    DENIED,
    DENY,
    DROPPED,
    MARK_DENIED,
    MARK_LINK,
    MARK_LINK_SHIFT,
    Action,
    Decision,
    Now,
    Packet,
    Peer,
    Undecodable,
)
from arbiter.rules import Entry
from arbiter.ways import JUST_NOW, NEVER, Way, Ways

OLDER = "begun while arbiter was away"
LEFT_OVER = "left over of a link that was lost"
"""Notes of records."""


class Verdicts:
    """The only maker of SetVerdict. What is held is taken out as its verdict is given."""

    def __init__(self, held: HeldPackets, ways: Ways, counters: Counter[str]) -> None:
        self._held = held
        self._ways = ways
        self._counters = counters

    def way(self, held: Held, decision: Decision, decided: float) -> Way:
        """How a decision of epoch second `decided` would be carried out now."""
        return self._ways.way(decision, held.packet, held.owner, decided)

    def way_of(self, held: Held, judgement: Judgement) -> Way:
        """The same for what the rules say."""
        entry = judgement.entry
        return self.way(held, judgement.decision, NEVER if entry is None else entry.created)

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
        way: Way | None = None,
        lasting: bool = False,
    ) -> list[Effect]:
        """The verdict of a held packet. Its ask, if any, is the caller's to settle.

        Without a `way`, a person's word (`by`) is as of now, and goes over a link that is over its
        budget; what nobody said does not.
        """
        packet = held.packet
        if way is None:
            way = self.way(held, decision, 0.0 if by is None else JUST_NOW)
        self._held.pop(packet.id)
        self._count(decision, reason)
        waited = now.mono - held.since
        link = (way.verdict.mark & MARK_LINK) >> MARK_LINK_SHIFT
        if not way.verdict.mark & MARK_DENIED:
            self._ways.sent(packet, held.owner, link)
        text = "; ".join(part for part in (note, way.note) if part)
        report = Report(
            now.wall,
            packet,
            held.owner,
            decision,
            reason,
            rule,
            by,
            waited,
            text,
            link,
            way.verdict,
            held.context,
            lasting,
        )
        return [SetVerdict(packet.id, way.verdict), report]

    def judged(
        self, now: Now, held: Held, judgement: Judgement, way: Way | None = None
    ) -> list[Effect]:
        """The verdict that the rules say."""
        way = self.way_of(held, judgement) if way is None else way
        if judgement.entry is None:
            denied = judgement.decision.action is Action.DENY
            note = LEFT_OVER if denied else OLDER
            return self.give(now, held, judgement.decision, Reason.OLDER, note=note, way=way)
        rule = judgement.entry
        lasting = judgement.lasting
        return self.give(
            now, held, judgement.decision, Reason.RULE, rule=rule, way=way, lasting=lasting
        )

    def repeated(self, event: Repeated, names: tuple[str, ...]) -> list[Effect]:
        """A verdict that was given already, to a packet whose destination has these names now."""
        like, context = event.like, event.like.context
        self._count(like.decision, like.reason)
        if like.verdict.passes:
            self._ways.sent(event.packet, event.owner, like.link)
        if names != context.names:
            context = context._replace(names=names)
        return [
            structs.replace(
                like,
                wall=event.now.wall,
                packet=event.packet,
                owner=event.owner,
                waited=event.waited,
                context=context,
                lasting=False,
            )
        ]

    def cut(self, now: Now, held: Held, judgement: Judgement, *, again: bool) -> Report:
        """What is denied of a connection that began undecided; `again`: and is counted already. No
        packet waits for it, so it is no verdict."""
        rule = judgement.entry
        reason, note = (Reason.OLDER, LEFT_OVER) if rule is None else (Reason.RULE, OLDER)
        if not again:
            self._counters["cut"] += 1
        packet, owner, decision = held.packet, held.owner, judgement.decision
        return Report(
            now.wall,
            packet,
            owner,
            decision,
            reason,
            rule,
            note=note,
            verdict=DENIED,
            context=held.context,
        )

    def at_once(
        self, now: Now, packet: Undecodable, decision: Decision, reason: Reason, note: str = ""
    ) -> list[Effect]:
        """The verdict of a packet that was never held; `decision` is allow or deny."""
        verdict = DENIED if decision.action is Action.DENY else ACCEPTED
        self._count(decision, reason)
        report = Report(now.wall, packet, None, decision, reason, note=note, verdict=verdict)
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
        report = Report(
            now.wall,
            held.packet,
            held.owner,
            DENY,
            reason,
            waited=waited,
            note=note,
            context=held.context,
        )
        return [SetVerdict(held.packet.id, DROPPED), report]

    def _count(self, decision: Decision, reason: Reason) -> None:
        self._counters[decision.action.value] += 1
        self._counters[f"by_{reason.value}"] += 1
