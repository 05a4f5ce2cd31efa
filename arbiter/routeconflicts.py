"""Who else uses arbiter's routing tables and rule preferences, and who stands before them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import structs

from arbiter.routeplan import (
    LOCAL,
    MAIN,
    MAX_LINK,
    PROTOCOL,
    SPAN,
    SUPPRESS,
    TO_TABLE,
    RoutePlan,
    Rule,
    TableRoute,
)


def ahead(plan: RoutePlan, rules: Iterable[Rule]) -> RoutePlan:
    """The plan with its rules before every other that could take what is decided for a link.

    A rule that is added without a preference, as wg-quick(8) and most scripts do, gets the one
    before the first there is (fib_default_rule_pref, net/core/fib_rules.c): that is before ours,
    if we were there first. `rules` are all of both families. Where there is no room in front the
    plan stays as it is: see `conflicts`.
    """
    first = min((r.preference for r in rules if _in_front(plan, r)), default=0) - SPAN - 1
    return structs.replace(plan, preference=first) if first >= 1 else plan


def _in_front(plan: RoutePlan, rule: Rule) -> bool:
    return rule.preference <= plan.preference + SPAN and _takes(plan, rule)


def _takes(plan: RoutePlan, rule: Rule) -> bool:
    """Whether a rule of others may lead packets decided for a link to another table.

    One for a destination is passed over: it is a more specific way than any link's. So is one for
    what comes in from elsewhere, one that leaves out default routes, and one for marks that no
    packet of ours has.
    """
    if rule.ours or rule.action != TO_TABLE or rule.table == LOCAL:
        return False
    if rule.dst_len or rule.inbound:
        return False
    if rule.table == MAIN and rule.suppress >= SUPPRESS[rule.family]:
        return False
    return rule.inverted or any(
        plan.mark(number) & rule.mask == rule.mark for number in range(1, MAX_LINK + 1)
    )


def conflicts(
    plan: RoutePlan, rules: Iterable[Rule], routes: Iterable[TableRoute]
) -> tuple[str, ...]:
    """Who else uses our preferences or tables, or takes packets before our rules; () if nobody.

    `rules` are all of both families, `routes` those of `plan.tables`. Each text says what, where,
    why and the next step. What an earlier run of arbiter left is no conflict.
    """
    rules = tuple(rules)
    plan = ahead(plan, rules)
    found = (*_rule_conflicts(plan, rules), *no_room(plan, rules), *_route_conflicts(plan, routes))
    return tuple(dict.fromkeys(found))


def no_room(plan: RoutePlan, rules: Iterable[Rule]) -> tuple[str, ...]:
    """Whose rules stand before ours all the same, after `ahead`."""
    return tuple(
        f"{_where(rule)} takes packets to table {rule.table}, also those decided for a link, and "
        f"leaves no room for arbiter's rules in front of it: they need {SPAN + 1} preferences; "
        "move that rule (`ip rule add ... pref 1000`, then delete this one)"
        for rule in rules
        if _in_front(plan, rule)
    )


def _where(rule: Rule) -> str:
    return f"`ip -{rule.family} rule` preference {rule.preference}"


def _rule_conflicts(plan: RoutePlan, rules: Iterable[Rule]) -> Iterator[str]:
    for rule in rules:
        if rule.ours:
            continue
        where = _where(rule)
        if rule.table in plan.tables:
            yield (
                f"{where} looks up table {rule.table}, which is to be arbiter's: its packets would "
                f"take a link's routes; set route_table in arbiter.toml to a number with "
                f"{MAX_LINK} free tables behind it"
            )
        if rule.preference in plan.preferences:
            yield (
                f"{where} is in use by another program, and arbiter's rules are to stand there: "
                f"which comes first would be chance; set route_pref in arbiter.toml to a number "
                f"with {SPAN} free preferences behind it"
            )


def _route_conflicts(plan: RoutePlan, routes: Iterable[TableRoute]) -> Iterator[str]:
    for found in routes:
        if found.table in plan.tables and found.protocol != PROTOCOL:
            yield (
                f"routing table {found.table} already has routes of another program (`ip "
                f"-{found.route.family} route show table {found.table}`): a connection could leave "
                f"by them; set route_table in arbiter.toml to a number with {MAX_LINK} free tables "
                "behind it"
            )
