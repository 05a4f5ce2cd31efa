"""What of arbiter's the kernel shows now, as a value: equal values are the same ruleset.

`apply` leaves it as the plan says; whoever keeps what was shown then can see by a look whether
others changed it since. Handles, counters and the rules of others are left out.
"""

from __future__ import annotations

import json

from msgspec import Struct

from arbiter.kernel.firewall import iptables, nft, probe
from arbiter.kernel.firewall.plan import Family, Plan
from arbiter.kernel.firewall.probe import Backend


class Shown(Struct, frozen=True):
    """Arbiter's part of what a backend carries; () and () if it is not there."""

    chains: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    """(place, chain, its rules), sorted. The place is a table, of iptables with its family."""
    leads: tuple[tuple[str, str], ...] = ()
    """(place, chain of others) of each jump of ours that is the first rule there."""

    def __bool__(self) -> bool:
        return bool(self.chains)


def shown(backend: Backend) -> Shown:
    """A look: 5 to 10 ms, in other processes. Raises FirewallError."""
    if backend.variant == "":
        return _of_nft(probe.nft_table(nft.TABLE))
    found = {family: probe.save(family, backend.variant) for family in probe.families()}
    return _of_iptables(found)


def whole(plan: Plan, backend: Backend, there: Shown) -> bool:
    """Whether each chain has as many rules as the plan has, and each jump is the first.

    What was shown right after `apply` may show somebody's change already: this tells."""
    counts = {(place, chain): len(rules) for place, chain, rules in there.chains}
    if backend.variant == "":
        sizes = {(nft.TABLE, chain): size for chain, size in nft.sizes(plan).items()}
        empty = {(place, chain) for place, chain, rules in there.chains if _only_hooked(rules)}
        return {key: n for key, n in counts.items() if key in sizes or key not in empty} == sizes
    places = [
        (f"{family} {table}", part)
        for family in probe.families()
        for table, part in iptables.tables(plan, family).items()
    ]
    chains = {(place, name): len(r) for place, part in places for name, r in part.chains.items()}
    leads = {(place, builtin) for place, part in places for builtin, _ in part.jumps}
    return {key: counts.get(key) for key in chains} == chains and leads == set(there.leads)


def _only_hooked(rules: tuple[str, ...]) -> bool:
    """A base chain without rules does nothing: one that a plan before had use for."""
    return len(rules) == 1 and "hook" in json.loads(rules[0])


def _of_nft(text: str) -> Shown:
    """Of `nft -j list table`. A chain's own words (hook, priority) are its first rule."""
    chains: dict[str, list[str]] = {}
    for item in json.loads(text)["nftables"]:
        if chain := item.get("chain"):
            words = {key: value for key, value in chain.items() if key != "handle"}
            hook = [json.dumps(words, sort_keys=True)] if "hook" in words else []
            chains.setdefault(chain["name"], [])[:0] = hook
        elif item.get("table", {}).get("flags"):
            chains[""] = [json.dumps(item["table"]["flags"])]  # dormant: it is there, and asleep
        elif rule := item.get("rule"):
            expressions = [part for part in rule["expr"] if "counter" not in part]
            chains.setdefault(rule["chain"], []).append(json.dumps(expressions, sort_keys=True))
    return Shown(tuple((nft.TABLE, name, tuple(rules)) for name, rules in sorted(chains.items())))


def _of_iptables(saves: dict[Family, str]) -> Shown:
    """Of `iptables-save` texts."""
    chains: list[tuple[str, str, tuple[str, ...]]] = []
    leads: list[tuple[str, str]] = []
    for family, text in saves.items():
        for table, part in iptables.parse(text).items():
            place = f"{family} {table}"
            chains += [(place, chain, tuple(rules)) for chain, rules in part.chains.items()]
            leads += [
                (place, builtin)
                for builtin, jump in part.jumps
                if iptables.first_rule(text, table, builtin) == jump
            ]
    return Shown(tuple(sorted(chains)), tuple(sorted(leads)))
