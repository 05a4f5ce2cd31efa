"""OpenSnitch's order and ours: what has to be added, left out or said to decide the same.

There, rules are tried by name: the first deny, reject or rule with precedence that matches decides,
else any allow does (FindFirstMatch in daemon/rule/loader.go). So, of an allow and a deny that
both match, the allow wins only with precedence and an earlier name. Here the more specific wins.
Outcomes differ only where that differs for some pair that meets; and if, of each pair, the
same one wins, every connection is decided the same: the winner here beats all others of the
other kind there, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from arbiter.exchange.items import Item, Remark, RemarkKind, cannot
from arbiter.exchange.meet import ApartError, NotOneRuleError, meet
from arbiter.exchange.snitchfile import SnitchRule
from arbiter.model import Action
from arbiter.rules import FOREVER, Entry, Layer, Rule, conditions, format_rule, rank
from arbiter.rules.rank import Rank

MOST_PAIRS = 4_000_000
"""Pairs of an allow and a deny that are compared: some ten seconds of work."""


class Placed(Struct, frozen=True):
    """A rule of ours and the rule of OpenSnitch that it comes from."""

    rule: Rule
    source: SnitchRule
    place: str
    rank: Rank
    """Among rules of one layer and one age."""


def placed(rule: Rule, source: SnitchRule) -> Placed:
    """A rule of ours at its source's place."""
    entry = Entry(1, rule.replace(lifetime=FOREVER), Layer.REMEMBERED, 0.0, "x")
    return Placed(rule, source, source.origin, rank(entry))


def in_order(rules: Sequence[Placed]) -> tuple[list[Item], list[Remark]]:
    """The rules to import so that no connection is allowed that OpenSnitch denies.

    Denials are added where a more specific allow would win here; an allow that never has a say
    there is left out. Where something is denied here that is allowed there, a warning says so.
    """
    remarks: list[Remark] = []
    kept = _one_each(rules, remarks)
    allows = [one for one in kept.values() if one.rule.decision.action is Action.ALLOW]
    denies = [one for one in kept.values() if one.rule.decision.action is Action.DENY]
    if len(allows) * len(denies) > MOST_PAIRS:
        text = f"{len(allows)} allows and {len(denies)} denies are too many to compare their order"
        return [], [*remarks, cannot(rules[0].place, f"{text}; import in parts")]
    conflicts = list(_conflicts(_pairs(allows, denies)))
    # First what has no say at all: whether a denial has to be added depends on what is there.
    for conflict in conflicts:
        _drop(conflict, kept, remarks)
    allows = [one for one in allows if kept.get(conditions(one.rule)) is one]
    conflicts = [one for one in conflicts if kept.get(conditions(one.allow.rule)) is one.allow]
    added: dict[str, Placed] = {}
    for conflict in conflicts:
        _guard(conflict, kept, added, remarks)
    for conflict in (*conflicts, *_conflicts(_pairs(allows, list(added.values())))):
        _warn(conflict, remarks)
    every = [*kept.values(), *added.values()]
    return [Item(one.rule, one.place) for one in every], remarks


def _one_each(rules: Sequence[Placed], remarks: list[Remark]) -> dict[str, Placed]:
    """One rule for the same conditions: the one that is heeded there; `rules` are in order."""
    groups: dict[str, list[Placed]] = {}
    for one in rules:
        groups.setdefault(conditions(one.rule), []).append(one)
    kept: dict[str, Placed] = {}
    for key, group in groups.items():
        winner = next(filter(_ends_the_search, group), None)
        if winner is None:  # allows without precedence: each says the same
            winner = next((one for one in group if all(_lasts(one, o) for o in group)), group[0])
        kept[key] = winner
        for loser in group:
            if loser is winner:
                continue
            if _lasts(winner, loser):
                text = f"it has no effect beside {winner.place}"
                remarks.append(Remark(RemarkKind.LEFT_OUT, loser.place, text))
            else:
                text = f"{winner.place} has the same conditions and another duration"
                remarks.append(cannot(loser.place, f"{text}: keep one of them"))
    return kept


def _ends_the_search(one: Placed) -> bool:
    return one.rule.decision.action is Action.DENY or one.source.precedence


def _lasts(one: Placed, other: Placed) -> bool:
    """Whether `one` holds as long as `other`, or longer."""
    return one.rule.lifetime in (FOREVER, other.rule.lifetime)


def _wins_there(one: Placed, other: Placed) -> bool:
    """Of an allow and a deny that both match: which one OpenSnitch heeds."""
    allow, deny = (one, other) if one.rule.decision.action is Action.ALLOW else (other, one)
    first = allow.source.precedence and allow.source.order < deny.source.order
    return (one is allow) is first


def _pairs(allows: list[Placed], denies: list[Placed]) -> Iterable[tuple[Placed, Placed]]:
    """Those that can meet, by their apps."""
    by_app: dict[str, list[Placed]] = {}
    for deny in denies:
        by_app.setdefault(deny.rule.app, []).append(deny)
    for allow in allows:
        app = allow.rule.app
        near = denies if not app else (*by_app.get("", ()), *by_app.get(app, ()))
        for deny in near:
            yield allow, deny


class _Conflict(Struct, frozen=True):
    """An allow and a deny that can both match, of which one wins here and the other there."""

    allow: Placed
    deny: Placed
    both: Rule | None
    """The denial of what both match; None if that is not one rule."""
    why: str = ""

    @property
    def looser(self) -> bool:
        """It is the allow that wins here."""
        return self.allow.rank < self.deny.rank


def _conflicts(pairs: Iterable[tuple[Placed, Placed]]) -> Iterable[_Conflict]:
    for allow, deny in pairs:
        if (allow.rank < deny.rank) is _wins_there(allow, deny):
            continue
        try:
            yield _Conflict(allow, deny, meet(allow.rule, deny.rule))
        except ApartError:
            continue
        except NotOneRuleError as error:
            yield _Conflict(allow, deny, None, str(error))


def _drop(conflict: _Conflict, kept: dict[str, Placed], remarks: list[Remark]) -> None:
    """Leave an allow out that has no effect, because a deny that wins there covers it."""
    allow, deny = conflict.allow, conflict.deny
    key = conditions(allow.rule)
    if not conflict.looser or conflict.both is None or conditions(conflict.both) != key:
        return
    if not _lasts(deny, allow):
        text = f"{deny.place} denies all of it for a while: import it when that has ended"
        remarks.append(cannot(allow.place, text))
    elif kept.pop(key, None) is not None:
        text = f"it has no effect there: {deny.place} denies all of it"
        remarks.append(Remark(RemarkKind.LEFT_OUT, allow.place, text))


def _guard(
    conflict: _Conflict,
    kept: dict[str, Placed],
    added: dict[str, Placed],
    remarks: list[Remark],
) -> None:
    """Add the denial of what both match, where here the allow would win."""
    allow, deny, both = conflict.allow, conflict.deny, conflict.both
    if not conflict.looser:
        return
    if both is None:
        text = f"{deny.place} wins over it in OpenSnitch, and here it would win: {conflict.why}"
        remarks.append(cannot(allow.place, text))
        return
    key = conditions(both)
    if key == conditions(allow.rule):
        return  # refused by _drop
    guard = placed(both, deny.source)
    present = kept.get(key) or added.get(key)
    if present is None or (key in added and _lasts(guard, present)):
        added[key] = guard
    elif not _lasts(present, guard):
        text = f"{present.place} says something for a part of it, and for another time"
        remarks.append(cannot(deny.place, f"{text}: the order cannot be kept"))
        return
    if present is None:
        text = (
            f"added to keep OpenSnitch's order: {format_rule(both)}; without it "
            f"{allow.place} would win here, because it is more specific"
        )
        remarks.append(Remark(RemarkKind.WARNING, deny.place, text))


def _warn(conflict: _Conflict, remarks: list[Remark]) -> None:
    """Say where here the deny wins, and the allow there."""
    if conflict.looser:
        return
    allow = conflict.allow
    text = (
        f"it has precedence over {conflict.deny.place} in OpenSnitch; here the deny wins where "
        "both match, because it is more specific"
    )
    if conflict.both is not None:
        line = format_rule(conflict.both.replace(decision=allow.rule.decision))
        text = f"{text}; to allow it: {line}"
    remarks.append(Remark(RemarkKind.WARNING, allow.place, text))
