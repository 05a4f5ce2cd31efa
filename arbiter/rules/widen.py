"""The steps by which a rule about one destination can be made wider, for people to choose. Pure.

None is ever the first proposal. There is no list of the domains that registries keep for
themselves: `choose.parent_domain` says how far `*.` goes.
"""

from __future__ import annotations

from arbiter.rules.choose import parent_domain
from arbiter.rules.relate import scope_around
from arbiter.rules.rule import Address, Domain, Host, Name, Network, Rule, ScopeName
from arbiter.rules.scopes import scope_of

_PREFIX = {4: 24, 16: 64}
"""Bits of the network that an address of so many bytes mostly stands in: what a site is given."""


def widenings(rule: Rule) -> tuple[Rule, ...]:
    """Wider rules, each matching all that the one before matches, and more; () if there is none.

    The last is the app, anywhere, for everybody. A rule without an app stays with its network or
    domain: the next would be for every program and destination.
    """
    steps = [rule.replace(host=host) for host in _hosts(rule.host)]
    if rule.app:
        scopes = (ScopeName.LAN, ScopeName.INTERNET)
        if isinstance(rule.host, Address) and (scope := scope_of(rule.host.packed)) in scopes:
            steps.append(rule.replace(host=scope))
        anywhere = rule.replace(host=None)
        steps += [anywhere, anywhere.replace(ports=(), proto=None)]
        steps.append(steps[-1].replace(user=""))
    out: list[Rule] = []
    for step in steps:
        if step != (out[-1] if out else rule):
            out.append(step)
    return tuple(out)


def _hosts(host: Host | None) -> list[Host]:
    if isinstance(host, Name):
        widest = parent_domain(host.name)
        nearest = host.name.partition(".")[2]
        if not widest:
            return []
        return [Domain(name) for name in dict.fromkeys((nearest, widest))]
    if isinstance(host, Address):
        prefixlen = _PREFIX[len(host.packed)]
        rest = 8 * len(host.packed) - prefixlen
        number = int.from_bytes(host.packed) >> rest << rest
        network = Network(number.to_bytes(len(host.packed)), prefixlen)
        scope = scope_of(host.packed)
        near = scope in (ScopeName.LAN, ScopeName.INTERNET)
        return [network] if near and scope_around(network) is scope else []
    return []
