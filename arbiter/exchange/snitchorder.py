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

MOST_PAIRS = 4_000_000
"""Pairs of an allow and a deny that are compared: some ten seconds."""


class Placed(Struct, frozen=True):
    """A rule of ours and the rule of OpenSnitch that it comes from."""

    rule: Rule
    source: SnitchRule
    place: str


def in_order(placed: Sequence[Placed]) -> tuple[list[Item], list[Remark]]:
    """The rules to import so that no connection is allowed that OpenSnitch denies.

    Denials are added where a more specific allow would win here; an allow that never has a say
    there is left out. Where something is denied here that is allowed there, a warning says so.
    """
    remarks: list[Remark] = []
    kept = _one_each(placed, remarks)
    allows = [one for one in kept.values() if one.rule.decision.action is Action.ALLOW]
    denies = [one for one in kept.values() if one.rule.decision.action is Action.DENY]
    if len(allows) * len(denies) > MOST_PAIRS:
        text = f"{len(allows)} allows and {len(denies)} denies are too many to compare their order"
        return [], [*remarks, cannot(placed[0].source.origin, f"{text}; import in parts")]
    # First what has no say at all: whether a denial has to be added depends on what is there.
    for allow, deny in _pairs(allows, denies):
        _drop(allow, deny, kept, remarks)
    allows = [one for one in allows if kept.get(conditions(one.rule)) is one]
    added: dict[str, Placed] = {}
    for allow, deny in _pairs(allows, denies):
        _guard(allow, deny, kept, added, remarks)
    for allow, deny in _pairs(allows, [*denies, *added.values()]):
        _warn(allow, deny, remarks)
    every = [*kept.values(), *added.values()]
    return [Item(one.rule, one.place) for one in every], remarks


def _one_each(placed: Sequence[Placed], remarks: list[Remark]) -> dict[str, Placed]:
    """One rule for the same conditions: the one that is heeded there; `placed` is in order."""
    groups: dict[str, list[Placed]] = {}
    for one in placed:
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


def _wins_here(one: Rule, other: Rule) -> bool:
    ranks = [
        rank(Entry(1, rule.replace(lifetime=FOREVER), Layer.REMEMBERED, 0.0, "x"))
        for rule in (one, other)
    ]
    return ranks[0] < ranks[1]


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


def _meeting(allow: Placed, deny: Placed, *, here: bool) -> Rule | None:
    """The denial of what both match, where the allow wins `here` and not there, or the reverse.

    None where both orders agree. Raises ApartError, NotOneRuleError.
    """
    if _wins_here(allow.rule, deny.rule) is not here or _wins_there(allow, deny) is here:
        return None
    return meet(allow.rule, deny.rule)


def _drop(allow: Placed, deny: Placed, kept: dict[str, Placed], remarks: list[Remark]) -> None:
    """Leave an allow out that has no effect, because a deny that wins there covers it."""
    key = conditions(allow.rule)
    if key not in kept:
        return
    try:
        both = _meeting(allow, deny, here=True)
    except (ApartError, NotOneRuleError):
        return  # it does not cover it
    if both is None or conditions(both) != key:
        return
    if _lasts(deny, allow):
        del kept[key]
        text = f"it has no effect there: {deny.place} denies all of it"
        remarks.append(Remark(RemarkKind.LEFT_OUT, allow.place, text))
    else:
        text = f"{deny.place} denies all of it for a while: import it when that has ended"
        remarks.append(cannot(allow.place, text))


def _guard(
    allow: Placed,
    deny: Placed,
    kept: dict[str, Placed],
    added: dict[str, Placed],
    remarks: list[Remark],
) -> None:
    """Add the denial of what both match, where here the allow would win."""
    try:
        both = _meeting(allow, deny, here=True)
    except ApartError:
        return
    except NotOneRuleError as error:
        text = f"{deny.place} wins over it in OpenSnitch, and here it would win: {error}"
        remarks.append(cannot(allow.place, text))
        return
    if both is None or conditions(both) == conditions(allow.rule):
        return  # the second: refused by _drop
    key = conditions(both)
    guard = Placed(both, deny.source, deny.place)
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


def _warn(allow: Placed, deny: Placed, remarks: list[Remark]) -> None:
    """Say where here the deny wins, and the allow there."""
    try:
        both = _meeting(allow, deny, here=False)
    except ApartError:
        return
    except NotOneRuleError:
        line = ""
    else:
        if both is None:
            return
        line = f"; to allow it: {format_rule(both.replace(decision=allow.rule.decision))}"
    text = (
        f"it has precedence over {deny.place} in OpenSnitch; here the deny wins where both match, "
        "because it is more specific"
    )
    remarks.append(Remark(RemarkKind.WARNING, allow.place, text + line))
