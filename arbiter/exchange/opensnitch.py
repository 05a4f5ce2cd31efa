"""OpenSnitch's rules: a directory of JSON files, one rule each, whose names make their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from arbiter.exchange.items import Batch, Remark, RemarkKind, cannot, clipped
from arbiter.exchange.meet import ApartError, NotOneRuleError, meet
from arbiter.exchange.snitchfile import SnitchError, SnitchRule, decode
from arbiter.exchange.snitchorder import Placed, in_order, placed
from arbiter.exchange.snitchwords import lifetime_of, rules_of
from arbiter.identity import interpreter_name
from arbiter.model import Action


def read_opensnitch(values: Sequence[tuple[str, object]]) -> Batch:
    """The rules in JSON values, each with its origin, in the order of their loading. Total."""
    remarks: list[Remark] = []
    rules: dict[str, SnitchRule] = {}
    for origin, value in values:
        try:
            rule = decode(value, origin)
        except SnitchError as error:
            remarks.append(cannot(_place(origin, error.place), str(error)))
            continue
        earlier = rules.get(rule.name)
        if earlier is not None:
            text = f"{origin} has the same name, {clipped(rule.name)!r}, and is loaded later"
            remarks.append(Remark(RemarkKind.LEFT_OUT, earlier.origin, text))
        rules[rule.name] = rule
    ours: list[Placed] = []
    for rule in sorted(rules.values(), key=lambda rule: rule.order):
        ours += _converted(rule, remarks)
    items, said = in_order(ours)
    remarks += said
    remarks += _notes(ours)
    return Batch(tuple(items), tuple(remarks))


def _place(origin: str, path: str) -> str:
    return f"{origin}: {path}" if path else origin


def _converted(rule: SnitchRule, remarks: list[Remark]) -> Iterable[Placed]:
    if not rule.enabled:
        remarks.append(Remark(RemarkKind.LEFT_OUT, rule.origin, "it is disabled"))
        return []
    try:
        if lifetime_of(rule.duration) is None:
            text = "its duration is once: it has been used, and is no rule"
            remarks.append(Remark(RemarkKind.LEFT_OUT, rule.origin, text))
            return []
        return [placed(made, rule) for made in rules_of(rule)]
    except SnitchError as error:
        # Skipping a deny is the one way in which an import can let more go than its source.
        lost = "" if rule.action == "allow" else f" (it would {rule.action}: skip it with care)"
        remarks.append(cannot(_place(rule.origin, error.place), f"{error}{lost}"))
        return []


# --- what is to be known --------------------------------------------------------------------


def _notes(rules: Sequence[Placed]) -> Iterable[Remark]:
    for one in rules:
        if one.rule.app and interpreter_name(one.rule.app.rpartition("/")[2]):
            text = "arbiter knows each script by itself, as script:…: those are asked about"
            yield Remark(RemarkKind.WARNING, one.place, text)
        if one.source.duration == "until restart":
            text = "it holds until the machine restarts, counted from the import"
            yield Remark(RemarkKind.WARNING, one.place, text)
    yield from _spellings(rules)
    with_path = sum(1 for one in rules if one.rule.app)
    if with_path:
        text = (
            f"{with_path} rules name a program by its path. A system service is known here as "
            "unit:NAME, whatever it runs, and is asked about: `arbiter pending --json` shows the id"
        )
        yield Remark(RemarkKind.WARNING, rules[0].place.rpartition("/")[0] or ".", text)


def _spellings(rules: Sequence[Placed]) -> Iterable[Remark]:
    """Denies that lose something because paths are compared with their case here.

    What they lose is asked about, unless some allow lets it go: then it is said.
    """
    allows = [one for one in rules if one.rule.decision.action is Action.ALLOW]
    for deny in rules:
        if deny.rule.decision.action is Action.ALLOW or not (deny.rule.app or deny.rule.parent):
            continue
        if not any(
            operator.operand.startswith("process.") and not operator.sensitive
            for operator in deny.source.operators
        ):
            continue
        found = next((allow for allow in allows if _lets_go(allow, deny)), None)
        if found is not None:
            text = (
                "OpenSnitch denies other spellings of its path (/A and /a), too; here they are "
                f"other programs, and {found.place} may allow them. Add a rule for those there are"
            )
            yield Remark(RemarkKind.WARNING, deny.place, text)


def _lets_go(allow: Placed, deny: Placed) -> bool:
    app, mine = allow.rule.app, deny.rule.app
    if app and mine and app.casefold() != mine.casefold():
        return False
    if app and app == mine and not deny.rule.parent:
        return False
    try:
        meet(allow.rule.replace(app="", parent=""), deny.rule.replace(app="", parent=""))
    except ApartError:
        return False
    except NotOneRuleError:
        return True
    return True
