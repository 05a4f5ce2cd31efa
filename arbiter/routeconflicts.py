"""Who else uses arbiter's routing tables and rule preferences, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from arbiter.routeplan import LOCAL, MAX_LINK, PROTOCOL, SPAN, RoutePlan, Rule, TableRoute


def conflicts(
    plan: RoutePlan, rules: Iterable[Rule], routes: Iterable[TableRoute]
) -> tuple[str, ...]:
    """Who else uses our preferences or tables, or takes packets before our rules; () if nobody.

    `rules` are all of both families, `routes` those of `plan.tables`. Each text says what, where,
    why and the next step. What an earlier run of arbiter left is no conflict.
    """
    return tuple(dict.fromkeys((*_rule_conflicts(plan, rules), *_route_conflicts(plan, routes))))


def _rule_conflicts(plan: RoutePlan, rules: Iterable[Rule]) -> Iterator[str]:
    for rule in rules:
        if rule.ours:
            continue
        where = f"`ip -{rule.family} rule` preference {rule.preference}"
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
        elif _catches_all(rule) and rule.preference < plan.preference:
            yield (
                f"{where} takes every packet, also those decided for a link, to table {rule.table} "
                f"before arbiter's rules are read; set route_pref in arbiter.toml below "
                f"{rule.preference}, or move that rule"
            )


def _catches_all(rule: Rule) -> bool:
    """A rule without conditions, but for those that only look at LANs."""
    narrow = rule.narrow or rule.mask or rule.dst_len or rule.suppress >= 0
    return not narrow and rule.table != LOCAL


def _route_conflicts(plan: RoutePlan, routes: Iterable[TableRoute]) -> Iterator[str]:
    for found in routes:
        if found.table in plan.tables and found.protocol != PROTOCOL:
            yield (
                f"routing table {found.table} already has routes of another program (`ip "
                f"-{found.route.family} route show table {found.table}`): a connection could leave "
                f"by them; set route_table in arbiter.toml to a number with {MAX_LINK} free tables "
                "behind it"
            )
