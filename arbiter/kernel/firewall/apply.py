"""Put a plan in force, and take everything of arbiter's away, whoever put it there.

What is in the kernel is the only state: nothing is remembered of what was applied. What waits in a
queue goes on waiting, but where somebody made chains of our names other than they are (see nft).
"""

from __future__ import annotations

import contextlib
import json

from msgspec import Struct

from arbiter.kernel.firewall import iptables, nft, probe
from arbiter.kernel.firewall.classes import why_no_classes
from arbiter.kernel.firewall.plan import Family, Plan
from arbiter.kernel.firewall.probe import NFT, VARIANTS, Backend, FirewallError, Variant


class Installed(Struct, frozen=True):
    """What of arbiter's is in this network namespace now; false if nothing."""

    backends: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What was changed by others since, each with its next step."""

    def __bool__(self) -> bool:
        return bool(self.backends)


def apply(plan: Plan, backend: Backend) -> None:
    """Make `plan` the ruleset; again changes nothing. Raises FirewallError, nothing changed.

    One transaction for nft. For iptables one a table: IPv4 first, and if IPv6 then fails IPv4
    is brought back to what it was. Last, what an earlier run left in other backends is removed.
    """
    try:
        if backend.variant == "":
            _apply_nft(plan)
        else:
            _apply_iptables(plan, backend.variant)
    except FirewallError as error:
        why = why_no_classes(backend) if plan.classes else None
        if why is None:
            raise
        raise FirewallError(f"traffic classes do not work here: {why} | {error}") from error
    errors = _remove(keep=backend)
    if errors:
        raise FirewallError(
            f"the rules are in force by {backend.name}, but what an earlier run left in another "
            f"backend could not be removed: {' | '.join(errors)}"
        )


def _apply_nft(plan: Plan) -> None:
    argv = [probe.need_tool("nft"), "-f", "-"]
    # What cannot be shown, or was changed since, is replaced: then that says what is wrong.
    with contextlib.suppress(FirewallError):
        over = nft.render_over(plan, probe.nft_table(nft.TABLE))
        if over is not None:
            probe.run(argv, over)
            return
    probe.run(argv, nft.render(plan))


def _apply_iptables(plan: Plan, variant: Variant) -> None:
    before: dict[Family, str] = {}
    made: dict[Family, probe.Made] = {}
    used = set(iptables.used(plan))
    tables = {name for name, _ in used}
    try:
        there = probe.nft_chains() if variant == "nft" else None
        for family in probe.families():
            before[family] = probe.save(family, variant)
            made[family] = tuple(
                (name, chain)
                for name, chain in probe.missing(family, there)
                if (name, chain) in used or (chain == "TABLE" and name in tables)
            )
            probe.restore(
                family, variant, iptables.render(plan, family, before[family], made[family])
            )
    except FirewallError as error:
        failures = [str(error)]
        for family, previous in reversed(before.items()):
            try:
                now = probe.save(family, variant)
                probe.restore(family, variant, iptables.bring_back(previous, now))
                probe.sweep({family: made.get(family, ())})
            except FirewallError as again:
                failures.append(f"and bringing {family} back failed: {again}")
        raise FirewallError(f"the rules are not in force, {' | '.join(failures)}") from error


def remove() -> tuple[str, ...]:
    """Take away every table, chain and jump of arbiter's from every backend there is.

    Needs no knowledge of what was applied and may be called at any time. Goes on past a
    failure: returns all of them, () if nothing of arbiter's is left.
    """
    return _remove(keep=None)


def _remove(keep: Backend | None) -> tuple[str, ...]:
    errors: list[str] = []
    if keep != NFT:
        try:
            _remove_nft()
        except FirewallError as error:
            errors.append(f"table inet {nft.TABLE}: {error}")
    for variant in VARIANTS:
        if keep is not None and keep.variant == variant:
            continue
        errors += _remove_iptables(variant)
    return tuple(errors)


def _remove_nft() -> None:
    path = probe.find_tool("nft")
    if path is None:
        return  # a table of ours cannot be there: only this tool makes one
    tables = probe.nft_chains()
    for name in (nft.TABLE, nft.PROBE_TABLE):
        if ("inet", name) in tables:
            # Naming it first makes the deletion idempotent: no error if it went meanwhile.
            probe.run([path, "-f", "-"], f"table inet {name}\ndelete table inet {name}\n")


def _remove_iptables(variant: Variant) -> list[str]:
    """What could not be removed, and why."""
    errors: list[str] = []
    made: dict[Family, probe.Made] = {}
    families: tuple[Family, ...] = ("ip6", "ip")
    for family in families:
        try:
            existing = probe.save(family, variant)
            if text := iptables.erase(existing):
                probe.restore(family, variant, text)
            made[family] = iptables.markers(existing)
        except FirewallError as error:
            errors.append(f"{family} rules of iptables-{variant}: {error}")
    try:
        probe.sweep(made)
    except FirewallError as error:
        errors.append(f"chains of iptables-{variant}: {error}")
    return errors


def installed() -> Installed:
    """Which backends carry rules of ours, and whether others got in front of them since."""
    backends: list[str] = []
    problems: list[str] = []
    if ("inet", nft.TABLE) in probe.nft_chains():
        backends.append(NFT.name)
        problems += _nft_problems()
    for variant in VARIANTS:
        shown = {family: probe.save(family, variant) for family in probe.families()}
        if not any(iptables.parse(text) for text in shown.values()):
            continue
        backends.append(f"iptables-{variant}")
        for family, text in shown.items():
            problems += [f"{family} (iptables-{variant}): {p}" for p in iptables.problems(text)]
    if len(backends) > 1:
        problems.append(
            f"rules of ours are in {' and '.join(backends)}; restart arbiter, or run "
            "`arbiter rescue`"
        )
    return Installed(tuple(backends), tuple(problems))


def _nft_problems() -> list[str]:
    text = probe.run([probe.need_tool("nft"), "-j", "list", "table", "inet", nft.TABLE])
    filled = {r["rule"]["chain"] for r in json.loads(text)["nftables"] if "rule" in r}
    return [
        f"chain {chain} of table inet {nft.TABLE} is missing or empty; restart arbiter"
        for chain in ("output", "ask", "save", "deny", "last")
        if chain not in filled
    ]
