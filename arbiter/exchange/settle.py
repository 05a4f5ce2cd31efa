"""Between reading and storing: bind to a place, refuse what cannot be kept, sort out doubles."""

from __future__ import annotations

from collections.abc import Sequence

from arbiter.exchange.items import Batch, Item, Remark, RemarkKind, cannot, unkept
from arbiter.rules import Entry, LifetimeKind, Rule, RuleError, conditions, format_rule, parse
from arbiter.rules.words import quote

BINDABLE = ("profile", "sim", "network")


class Binding(ValueError):  # noqa: N818  # it is the person's word that is wrong, not a state
    """Words that name no profile, no SIM and no network."""


def read_binding(text: str) -> tuple[str, str]:
    """`profile=NAME`, `sim=ICCID` or `network=…` as a person writes it: key and value, canonical.

    Raises Binding.
    """
    key, equals, value = text.partition("=")
    if not equals or key not in BINDABLE:
        raise Binding(
            "it is profile=NAME, sim=ICCID, network=ssid:NAME, network=gateway:MAC or "
            "network=sim:ICCID"
        )
    try:
        rule = parse(f"allow {key}={quote(value)}")
    except RuleError as error:
        hint = f"; did you mean {error.suggestion}?" if error.suggestion else ""
        raise Binding(error.text + hint) from None
    return key, getattr(rule, key)


def settle(batch: Batch, bindings: Sequence[tuple[str, str]] = (), *, now: float) -> Batch:
    """The rules that can be stored, each condition once; everything else is a remark.

    `now` in epoch seconds: what has expired is left out.
    """
    items: dict[str, Item] = {}
    remarks = list(batch.remarks)
    for item in batch.items:
        if item.expires is not None and item.expires <= now:
            remarks.append(Remark(RemarkKind.LEFT_OUT, item.place, "it has expired"))
            continue
        bound, fault = _bound(item.rule, bindings)
        fault = fault or unkept(bound)
        if fault:
            remarks.append(cannot(item.place, fault))
            continue
        item = Item(bound, item.place, item.expires)
        first = items.setdefault(conditions(bound), item)
        if first is not item:
            remarks.append(_double(first, item))
    return Batch(tuple(items.values()), tuple(remarks), batch.policies)


def _bound(rule: Rule, bindings: Sequence[tuple[str, str]]) -> tuple[Rule, str]:
    for key, value in bindings:
        given = getattr(rule, key)
        if given and given != value:
            return rule, f"it has {key}={quote(given)} already, and cannot be bound to another"
        rule = rule.replace(**{key: value})
    return rule, ""


def _double(first: Item, second: Item) -> Remark:
    if first.rule == second.rule and first.expires == second.expires:
        return Remark(RemarkKind.LEFT_OUT, second.place, f"the same rule as at {first.place}")
    text = f"the same conditions as at {first.place}, which says: {format_rule(first.rule)}"
    return cannot(second.place, f"{text}; keep one of them")


# --- what is exported -----------------------------------------------------------------------


def select(
    entries: Sequence[Entry], bindings: Sequence[tuple[str, str]] = (), *, spans: bool
) -> tuple[list[Entry], list[str]]:
    """The rules to export, oldest first, and what is left out with the reason.

    Those bound to all of `bindings` only, as `read_binding` gives them. `spans`: the format says
    when a rule ends. Rules that end with a process, a run of arbiter or the boot mean nothing
    elsewhere.
    """
    kept: list[Entry] = []
    left: list[str] = []
    for entry in sorted(entries, key=lambda entry: (entry.created, entry.id)):
        rule = entry.rule
        if not all(belongs(rule, place) for place in bindings):
            continue
        why = _unexportable(rule.lifetime.kind, spans)
        if why:
            left.append(f"rule {entry.id} ({format_rule(rule)}): {why}")
        else:
            kept.append(entry)
    return kept, left


def of_place(batch: Batch, place: tuple[str, str]) -> Batch:
    """The same, where a rule that is not of `place`, as `read_binding` gives it, is refused."""
    key, value = place
    text = f"it is not of {key}={quote(value)}, whose rules are restored"
    items = tuple(item for item in batch.items if belongs(item.rule, place))
    strange = [cannot(i.place, text) for i in batch.items if not belongs(i.rule, place)]
    return Batch(items, (*batch.remarks, *strange), batch.policies)


def belongs(rule: Rule, place: tuple[str, str]) -> bool:
    """Whether a rule is of a profile, network or SIM, as `read_binding` gives it.

    A SIM's rules are those of its network, too: both say that it is in use.
    """
    key, value = place
    if key == "sim":
        return value == rule.sim or f"sim:{value}" == rule.network
    if value.startswith("sim:") and value.removeprefix("sim:") == rule.sim:
        return True
    return bool(getattr(rule, key) == value)


def _unexportable(kind: LifetimeKind, spans: bool) -> str:
    if kind is LifetimeKind.FOREVER or (kind is LifetimeKind.SPAN and spans):
        return ""
    if kind is LifetimeKind.SPAN:
        return "a line cannot say when it ends; toml and json can"
    end = "boot" if kind is LifetimeKind.BOOT else "run"
    return f"for={kind.value} means nothing after this {end}"
