"""A plan as input for iptables-restore and ip6tables-restore --noflush, nft-backed or legacy.

Own chains (ARBITER_*), reached by jumps that go in front of everything in the built-in chains,
so that no ACCEPT of others there skips them. Same meaning as `nft`, with these differences:

- NFQUEUE ends mangle OUTPUT for a queued packet, so `save` stands in mangle POSTROUTING, before
  conntrack confirms the connection.
- The reject is in filter OUTPUT, the only table that may reject. A rule put in front of it
  later could skip it: mangle POSTROUTING drops what is denied as the last line.
- DNS answers are queued in mangle INPUT, before others' filters, and an answer that comes back
  from the queue goes on behind that table: rules of others there do not see it.
- Tables are committed one by one, in the file's order: filter (deny), nat, then mangle, whose
  one transaction has save and queue. No packet is queued that could not be denied.

`existing` is what `iptables-save` printed: the render replaces what it finds there of
arbiter's, in the same transactions. ARBITER_MADE_* chains are empty; each remembers, in the
kernel and for as long as we are there, that a built-in chain or table was made by our use of
iptables-nft and is to be taken away with us.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Collection, Iterator

from msgspec import Struct, field

from arbiter.classes import priority_text
from arbiter.kernel.firewall.plan import WORD, Family, Plan

PREFIX = "ARBITER_"
MADE = PREFIX + "MADE_"
TABLES = ("filter", "nat", "mangle")
"""In the order in which they are put in force; they are removed in the reverse order."""

BUILTIN = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
"""Chains of others that lead to ours."""


class Table(Struct):
    """Arbiter's part of one table: its chains, and the rules elsewhere that lead to them."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    """Name to rules, each without its leading `-A NAME`."""
    jumps: list[tuple[str, str]] = field(default_factory=list)
    """(chain of others, rule)."""


def render(
    plan: Plan, family: Family, existing: str = "", made: Collection[tuple[str, str]] = ()
) -> str:
    """Restore input that puts the plan in force. `made`: see `markers`."""
    wanted = tables(plan, family)
    for name, chain in (*made, *markers(existing)):
        wanted.setdefault(name, Table()).chains.setdefault(MADE + chain, [])
    return _text(wanted, parse(existing), TABLES)


def erase(existing: str) -> str:
    """Restore input that removes everything of arbiter's that `existing` shows; "" if nothing."""
    return _text({}, parse(existing), tuple(reversed(TABLES)))


def bring_back(previous: str, existing: str) -> str:
    """Restore input that makes arbiter's part what it was in `previous`; "" if it is nothing."""
    return _text(parse(previous), parse(existing), TABLES)


def render_probe(plan: Plan, family: Family) -> str:
    """The plan's rules in chains no packet reaches, added and deleted in one transaction."""
    lines = []
    for name, table in tables(plan, family).items():
        chains = {f"{PREFIX}PROBE_{n}": r for n, r in enumerate(table.chains.values())}
        lines += [f"*{name}", *(f":{chain} - [0:0]" for chain in chains)]
        for chain, rules in chains.items():
            lines += [f"-A {chain} {rule}" for rule in rules if PREFIX not in rule]
        lines += [f"-F {chain}" for chain in chains]
        lines += [f"-X {chain}" for chain in chains]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def parse(save: str) -> dict[str, Table]:
    """Arbiter's part of an `iptables-save` text, by table; tables without any are left out."""
    tables: dict[str, Table] = {}
    name = ""
    for line in save.splitlines():
        if line.startswith("*"):
            name = line[1:].strip()
        elif line.startswith(":" + PREFIX):
            tables.setdefault(name, Table()).chains[line[1:].split()[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = (line + " ").split(" ", 2)
            if chain.startswith(PREFIX):
                tables.setdefault(name, Table()).chains.setdefault(chain, []).append(rule.strip())
            elif _leads_to_us(rule):
                tables.setdefault(name, Table()).jumps.append((chain, rule.strip()))
    return tables


def markers(save: str) -> tuple[tuple[str, str], ...]:
    """(table, built-in chain) of each MADE_ chain in the text; chain TABLE is the table."""
    return tuple(
        (name, chain.removeprefix(MADE))
        for name, table in parse(save).items()
        for chain in table.chains
        if chain.startswith(MADE)
    )


def concerns(table: str, chain: str) -> bool:
    """Whether a change there may be one of arbiter's part: "" is the whole table. Others change
    chains of their own all the time (kube-proxy)."""
    ours = not chain or chain in BUILTIN or chain.startswith(PREFIX)
    return table in TABLES and ours


def first_rule(save: str, table: str, chain: str) -> str:
    """The first rule of that chain, without its `-A NAME`; "" where it has none."""
    return next(iter(_rules_of(save, table, chain)), "")


def used(plan: Plan) -> tuple[tuple[str, str], ...]:
    """(table, built-in chain) of every jump the plan needs."""
    return tuple((name, chain) for name, t in tables(plan, "ip").items() for chain, _ in t.jumps)


def problems(save: str) -> list[str]:
    """What is wrong with arbiter's rules in the text, each with its next step."""
    found = []
    chains = tables(Plan(), "ip")
    for name, table in chains.items():
        for builtin, jump in table.jumps:
            rules = _rules_of(save, name, builtin)
            if jump not in rules:
                found.append(f"{name} {builtin} no longer leads to arbiter; restart arbiter")
            elif rules[0] != jump:
                found.append(
                    f"{name} {builtin} has `{rules[0]}` in front of arbiter, which may bypass "
                    "it; restart arbiter to be first again"
                )
        there = parse(save).get(name, Table()).chains
        found += [
            f"chain {chain} in {name} is missing or empty; restart arbiter"
            for chain in table.chains
            if not there.get(chain)
        ]
    return found


def _rules_of(save: str, table: str, chain: str) -> list[str]:
    name, rules = "", []
    for line in save.splitlines():
        if line.startswith("*"):
            name = line[1:].strip()
        elif name == table and line.startswith(f"-A {chain} "):
            rules.append(line.removeprefix(f"-A {chain} ").strip())
    return rules


def _leads_to_us(rule: str) -> bool:
    """Whether its target is ours; a comment that only says so is not."""
    try:
        words = shlex.split(rule)
    except ValueError:  # not a rule that iptables-save quotes: nobody's jump to us
        return False
    return any(
        flag in ("-j", "-g") and to.startswith(PREFIX) for flag, to in itertools.pairwise(words)
    )


def _text(wanted: dict[str, Table], before: dict[str, Table], order: tuple[str, ...]) -> str:
    lines: list[str] = []
    others = sorted({*wanted, *before} - set(order))  # security, raw: a user's jump to our chain
    for name in (*others, *order):
        new, old = wanted.get(name), before.get(name)
        if new is None and old is None:
            continue
        new, old = new or Table(), old or Table()
        gone = [chain for chain in old.chains if chain not in new.chains]
        lines.append(f"*{name}")
        # Declaring a chain under --noflush makes it, or flushes it.
        lines += [f":{chain} - [0:0]" for chain in new.chains]
        lines += [f"-D {chain} {rule}" for chain, rule in old.jumps]
        lines += [f"-F {chain}" for chain in gone]
        lines += [f"-X {chain}" for chain in gone]
        lines += [f"-A {chain} {rule}" for chain, rules in new.chains.items() for rule in rules]
        lines += [f"-I {chain} 1 {rule}" for chain, rule in new.jumps]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""


def tables(plan: Plan, family: Family) -> dict[str, Table]:
    """What the plan needs in each table."""
    filter_ = Table()
    filter_.chains = {"ARBITER_DENY": list(_deny(plan)), "ARBITER_REFUSE": list(_refuse(family))}
    filter_.jumps = [("OUTPUT", "-j ARBITER_DENY")]
    mangle = Table()
    mangle.chains = {
        "ARBITER_OUTPUT": list(_output(plan, family)),
        "ARBITER_RESTORE": [f"-j CONNMARK --restore-mark {_masks(plan)}"],
        "ARBITER_ASK": [
            f"-j NFQUEUE --queue-num {plan.queue}"
            + (" --queue-bypass" if plan.when_absent == "pass" else "")
        ],
        "ARBITER_POST": list(_post(plan)),
    }
    for marking in plan.classes:
        mangle.chains[f"ARBITER_CLASS{marking.label}"] = [
            f"-j DSCP --set-dscp {marking.dscp:#04x}",
            f"-j CLASSIFY --set-class {priority_text(marking.priority)}",
        ]
    mangle.jumps = [("OUTPUT", "-j ARBITER_OUTPUT"), ("POSTROUTING", "-j ARBITER_POST")]
    if plan.links or plan.tunnels:
        mangle.chains["ARBITER_PRE"] = list(_pre(plan))
        mangle.jumps.append(("PREROUTING", "-j ARBITER_PRE"))
    if plan.links or plan.dns_queue is not None:
        mangle.chains["ARBITER_IN"] = list(_in(plan))
        mangle.jumps.append(("INPUT", "-j ARBITER_IN"))
    tables = {"filter": filter_, "mangle": mangle}
    if plan.links:
        nat = Table(jumps=[("POSTROUTING", "-j ARBITER_SOURCE")])
        nat.chains["ARBITER_SOURCE"] = [
            f"-o {name} -m connmark --mark {plan.decided:#x}/{plan.decided:#x} "
            f"-m connmark ! --mark 0x0/{plan.link_bits:#x} -j MASQUERADE"
            for _, name in plan.links
        ]
        tables["nat"] = nat
    return tables


def _masks(plan: Plan) -> str:
    return f"--nfmask {plan.mask:#x} --ctmask {plan.mask:#x}"


def _is(plan: Plan, mark: int) -> str:
    return f"--mark {mark:#x}/{plan.mask:#x}"


def _output(plan: Plan, family: Family) -> Iterator[str]:
    yield "-o lo -j RETURN"
    # One look for both: somebody else's bits (a VPN's own packets), or decided already.
    yield f"-m mark ! --mark 0x0/{(plan.keep | plan.decided) & WORD:#x} -j RETURN"
    for mark in (*plan.accepted, plan.denied):
        yield f"-m connmark {_is(plan, mark)} -g ARBITER_RESTORE"
    # A settled connection on a link that is no longer in the plan is refused.
    yield (
        "-m conntrack --ctstate ESTABLISHED,RELATED,INVALID "
        f"-m connmark --mark {plan.decided:#x}/{plan.decided:#x} "
        f"-j MARK --set-xmark {plan.denied:#x}/{plan.mask:#x}"
    )
    # What conntrack calls invalid has no entry, and so no link: a reset or FIN of a connection that
    # it forgot, with its link, would leave by the default route. Lost, it does no harm.
    yield "-p tcp -m conntrack --ctstate INVALID -j DROP"
    yield "-m conntrack --ctstate ESTABLISHED,RELATED,INVALID -j RETURN"
    if family == "ip":
        yield "-m addrtype --dst-type LOCAL,BROADCAST,ANYCAST,MULTICAST -j RETURN"
        yield "-p udp -m udp --sport 68 --dport 67 -j RETURN"
    else:
        yield "-d fe80::/10 -j RETURN"
        # xt_addrtype wants MULTICAST *and* the others here, unlike for IPv4 (match_type6).
        yield "-d ff00::/8 -j RETURN"
        yield "-m addrtype --dst-type LOCAL,ANYCAST -j RETURN"
        yield "-p udp -m udp --sport 546 --dport 547 -j RETURN"
        # MLD and neighbour discovery (RFC 3810, 4861).
        for kind in (130, 131, 132, 133, 134, 135, 136, 137, 143):
            yield f"-p icmpv6 -m icmp6 --icmpv6-type {kind} -j RETURN"
    yield "-m conntrack --ctstate NEW -g ARBITER_ASK"
    yield ("-p tcp -m tcp --tcp-flags SYN,ACK SYN -m conntrack --ctstate UNTRACKED -g ARBITER_ASK")
    yield "! -p tcp -m conntrack --ctstate UNTRACKED -g ARBITER_ASK"


def _deny(plan: Plan) -> Iterator[str]:
    yield "-o lo -j RETURN"  # the reset on its way to the program
    yield f"-m mark --mark {plan.denied:#x}/{plan.denied:#x} -g ARBITER_REFUSE"
    yield f"-m connmark --mark {plan.denied:#x}/{plan.denied:#x} -g ARBITER_REFUSE"


def _refuse(family: Family) -> Iterator[str]:
    yield "-p tcp -j REJECT --reject-with tcp-reset"
    kind = "icmp-admin-prohibited" if family == "ip" else "icmp6-adm-prohibited"
    yield f"-j REJECT --reject-with {kind}"
    yield "-j DROP"


def _post(plan: Plan) -> Iterator[str]:
    yield "-o lo -j RETURN"
    yield f"-m mark --mark {plan.denied:#x}/{plan.denied:#x} -j DROP"
    yield f"-m connmark --mark {plan.denied:#x}/{plan.denied:#x} -j DROP"
    for mark in plan.accepted:
        yield (
            f"-m mark {_is(plan, mark)} -m conntrack --ctstate NEW "
            f"-j CONNMARK --save-mark {_masks(plan)}"
        )
    # The tunnels of ip_tunnel_core.c send the outer packet with the inner one's mark: it would pass
    # undecided, or be routed into the tunnel itself. The connection's mark does the rest.
    for name in plan.tunnels:
        yield f"-o {name} -j MARK --set-xmark 0x0/{plan.mask:#x}"
    for _, name in plan.links:
        yield f"-o {name} -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
    for marking in plan.classes:
        # By number: a name would need /etc/xtables/connlabel.conf, which need not be there.
        yield (
            f"-m conntrack --ctdir ORIGINAL -m connlabel --label {marking.label} "
            f"-g ARBITER_CLASS{marking.label}"
        )


def _pre(plan: Plan) -> Iterator[str]:
    """Replies are restored for rp_filter with src_valid_mark; an outer packet's bits cleared."""
    for name in plan.tunnels:
        yield f"-i {name} -j MARK --set-xmark 0x0/{plan.mask:#x}"
    for number, _ in plan.links:
        yield f"-m connmark {_is(plan, plan.link(number))} -g ARBITER_RESTORE"


def _in(plan: Plan) -> Iterator[str]:
    """Who comes in over a link is answered over it. In INPUT, because what is only forwarded has
    its way already; its reply is not masqueraded: NAT looks at a connection's first packet.
    DNS answers: replies only, of a connection that conntrack saw this host begin."""
    for number, name in plan.links:
        yield (
            f"-i {name} -m conntrack --ctstate NEW -m connmark --mark 0x0/{plan.mask:#x} "
            f"-j CONNMARK --set-xmark {plan.link(number):#x}/{plan.mask:#x}"
        )
    if plan.dns_queue is not None:
        for proto in ("udp", "tcp"):
            yield (
                f"-p {proto} -m {proto} --sport 53 "
                "-m conntrack --ctstate ESTABLISHED --ctdir REPLY "
                f"-j NFQUEUE --queue-num {plan.dns_queue} --queue-bypass"
            )
