"""Put a route plan in force, and take everything of arbiter's away, whoever put it there.

What is in the kernel is the only state. The order is the promise: the safety net (rules that say
`unreachable` to any mark with a link number) goes in first and comes out last; a new route stands
before the old one goes (in one step where they have the same key). So there is no moment in which
a connection decided for a link finds table main's default route.

Rules of others that stand before ours and could take what is decided for a link are overtaken: ours
move in front of them, the new ones before the old ones go (`routeconflicts.ahead`).

A program that removes foreign rules (systemd-networkd with ManageForeignRoutingPolicyRules, at its
start) takes ours, too: `rtnl.LinkWatch` hears it, and the plan is to be applied again, which makes
no event where nothing is missing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.routeconflicts import ahead, conflicts, no_room
from arbiter.routeplan import MAIN, PROTOCOL, UNREACHABLE, RoutePlan, Rule, TableRoute

T = TypeVar("T")

_ROUNDS = 3
"""How often removal looks again for what another process added meanwhile."""


class RouteError(RuntimeError):
    """Some of the plan is not in force: each part that is not, why, and the next step."""


class Changes(Struct, frozen=True):
    """How many rules and routes were added and removed; false if all was as it should be."""

    added: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def families() -> tuple[int, ...]:
    """4, and 6 unless this kernel has none (`ipv6.disable=1`, or no module)."""
    return (4, 6) if Path("/proc/sys/net/ipv6").exists() else (4,)


def check(plan: RoutePlan) -> tuple[str, ...]:
    """Who else uses our preferences or tables here (`routeconflicts`). Raises RouteError."""
    try:
        with Rtnetlink() as net:
            rules = [rule for family in families() for rule in net.rules(family)]
            routes = [
                route
                for family in families()
                for t in plan.tables
                for route in net.routes(family, t)
            ]
    except OSError as error:
        raise _failed("look at", [str(error)]) from error
    return conflicts(plan, rules, routes)


def apply(plan: RoutePlan) -> Changes:
    """Make `plan` what rules and tables say; again changes nothing.

    Goes on past a refusal, so that one link's trouble is not another's, and raises RouteError
    with all of them: what could not be put in place is unreachable, not routed elsewhere. If a
    rule of the safety net is refused nothing else is tried.
    """
    try:
        with Rtnetlink() as net:
            return _Work(net).apply(plan)
    except OSError as error:
        raise _failed("put in force", [str(error)]) from error


def remove() -> tuple[str, ...]:
    """Take away every rule and route of arbiter's, of any run with any settings.

    Known by our routing protocol number. May be called at any time; goes on past a failure.
    Returns all failures; () if nothing is left. Sysctls are `linksysctl.restore`'s.
    """
    try:
        with Rtnetlink() as net:
            return _Work(net).remove()
    except OSError as error:
        return (str(_failed("removed", [str(error)])),)


class _Work:
    def __init__(self, net: Rtnetlink) -> None:
        self.net = net
        self.errors: list[str] = []
        self.added = self.removed = 0

    def all_rules(self) -> list[Rule]:
        return [rule for family in families() for rule in self.net.rules(family)]

    def rules(self) -> list[Rule]:
        return [rule for rule in self.all_rules() if rule.ours]

    def routes(self) -> list[TableRoute]:
        found = [r for family in families() for r in self.net.routes(family, protocol=PROTOCOL)]
        return [r for r in found if r.table != MAIN]

    def apply(self, plan: RoutePlan) -> Changes:
        found = self.all_rules()
        present = [rule for rule in found if rule.ours]
        plan = ahead(plan, found)
        wanted = [rule for rule in plan.rules() if rule.family in families()]
        missing = [rule for rule in wanted if rule not in present]
        # Not before the rest where it only moves: it would stand in front of the old ones alone.
        nets = {(rule.family, rule.mark, rule.mask) for rule in present if plan.last(rule)}
        first = [r for r in missing if plan.last(r) and (r.family, r.mark, r.mask) not in nets]
        self._each(first, self._add_rule)
        if self.errors:
            raise _failed("put in force", self.errors)
        there = self.routes()
        keys = {(r.key, r.what) for r in there}
        routes = [r for r in plan.routes() if r.route.family in families()]
        self._each([r for r in routes if (r.key, r.what) not in keys], self._replace_route)
        rest = [rule for rule in missing if rule not in first]
        self._each(sorted(rest, key=plan.last), self._add_rule)

        # Only now what is not wanted any more. A replaced route is gone already: look again.
        wanted_routes = {(r.key, r.what) for r in routes}
        now = self.routes()
        self._each([r for r in now if (r.key, r.what) not in wanted_routes], self._delete_route)
        self._each(_last_out([r for r in present if r not in wanted]), self._delete_rule)
        self.errors += no_room(plan, found)
        if self.errors:
            raise _failed("put in force", self.errors)
        return Changes(self.added, self.removed)

    def remove(self) -> tuple[str, ...]:
        for _ in range(_ROUNDS):
            self.errors = []
            rules, routes = self.rules(), self.routes()
            if not rules and not routes:
                break
            net = [rule for rule in rules if rule.action == UNREACHABLE]
            self._each(_last_out([r for r in rules if r not in net]), self._delete_rule)
            self._each(routes, self._delete_route)
            self._each(net, self._delete_rule)
        else:
            left = len(self.rules()) + len(self.routes())
            if left and not self.errors:
                self.errors.append(f"{left} came back each time; is another arbiter running?")
        return (str(_failed("removed", self.errors)),) if self.errors else ()

    def _each(self, items: Iterable[T], action: Callable[[T], None]) -> None:
        for item in items:
            try:
                action(item)
            except OSError as error:
                self.errors.append(error.strerror or str(error))

    def _add_rule(self, rule: Rule) -> None:
        try:
            self.net.add_rule(rule)
        except FileExistsError:
            return  # another process of ours was quicker
        self.added += 1

    def _replace_route(self, route: TableRoute) -> None:
        self.net.replace_route(route)
        self.added += 1

    def _delete_rule(self, rule: Rule) -> None:
        try:
            self.net.delete_rule(rule)
        except FileNotFoundError:
            return
        self.removed += 1

    def _delete_route(self, route: TableRoute) -> None:
        try:
            self.net.delete_route(route)
        except ProcessLookupError:
            return  # ESRCH: it went with its interface
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return
        self.removed += 1


def _last_out(rules: list[Rule]) -> list[Rule]:
    """In the order to remove them: the safety net last, before it what leads to a table."""
    return sorted(rules, key=lambda rule: (rule.action == UNREACHABLE, -rule.preference))


def _failed(what: str, errors: list[str]) -> RouteError:
    hint = ""
    if any("Operation not permitted" in error for error in errors):
        hint = "; it needs root (CAP_NET_ADMIN)"
    return RouteError(f"routing could not be {what}: {' | '.join(errors)}{hint}")
