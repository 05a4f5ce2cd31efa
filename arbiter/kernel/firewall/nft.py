"""A plan as one nftables table, put in force in one transaction (`nft -f -`).

When a base chain goes the kernel drops whatever waits in any queue of the network namespace, other
programs' packets too (nf_queue_nf_hook_drop, net/netfilter/nf_queue.c). So a base chain stays once
it is there: it gets new rules, or is left empty where a plan has no use for it.

Why each chain stands where it does (kernel files as of 6.1):

- `output` is of type route, so that a mark set here or at reinjection reroutes the packet
  (nf_reinject, net/netfilter/nf_queue.c). Reinjection goes on at the *next* base chain, so
  `save` and `deny` are chains of their own, straight after: nothing of others comes between.
- They stand before mangle (-150), as the iptables rendering stands first in it: whoever marks
  packets there for his own ends (mwan3 marks all) must not take them out of our sight.
- An `accept` ends its own base chain only: none of another table can skip `deny` or `last`.
- `deny` and `last` look at the conntrack mark too: a whole-word `meta mark set` of somebody's
  in between cannot wash a denial off, and a running connection is cut by marking it denied.
- They leave lo alone: the reset that `reject` sends to the program carries that same
  connection (nf_send_reset attaches it, nf_reject_ipv4.c) and would be rejected in turn.
- nft before 1.1 cannot merge two mark registers: each value is a chain with its constant.
- UNTRACKED packets (somebody's notrack) have no connection to remember a decision: TCP is
  asked at its SYN, everything else packet by packet. Silently passing would be a hole.
- `classes` looks at packets that this host's side sent first, and stands in front of mangle: who
  sets a DSCP there for reasons of his own has the last word.
- A settled connection on a link that is no longer in the plan is refused, not sent elsewhere.
- `dns` stands behind everybody's filter: an answer that somebody drops teaches no name. It takes
  replies only, of a connection that conntrack saw this host begin: nobody else's word counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from arbiter.kernel.firewall.plan import Plan

TABLE = "arbiter"
PROBE_TABLE = "arbiter_probe"
_HOOK = re.compile(r"type (\w+) hook (\w+) priority (-?\d+);")
_LISTED = {"metainfo", "table", "chain", "rule"}
"""What a table of ours consists of. Anonymous sets are part of their rule."""


def render(plan: Plan) -> str:
    """Input for `nft -f -` that puts the plan in force, whatever was there before."""
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n{_table(plan)}"


def render_over(plan: Plan, there: str) -> str | None:
    """The same over the table that `nft -j list table` shows, whose base chains stay.

    None where a base chain or the table is not as ours are: then `render` replaces it.
    """
    chains = dict(_chains(plan))
    hooks = {name: found.groups() for name, rules in chains.items() if (found := _hook(rules))}
    is_there, gone = False, []
    for item in json.loads(there)["nftables"]:
        if not item.keys() <= _LISTED or item.get("table", {}).get("flags"):
            return None
        is_there |= "table" in item
        chain = item.get("chain", {})
        name, hooked = chain.get("name"), "hook" in chain
        if hooked and chain.get("policy") != "accept":
            return None
        words = (chain["type"], chain["hook"], str(chain["prio"])) if hooked else None
        if name in chains:
            if words != hooks.get(name):
                return None
        elif chain and not hooked:
            gone.append(f"delete chain inet {TABLE} {name}\n")
    if not is_there:
        return None
    return f"flush table inet {TABLE}\n{''.join(gone)}{_table(plan)}"


def render_probe(plan: Plan) -> str:
    """The same rules without hooks, made and deleted in one transaction: asks the kernel only."""
    body = [line for line in _table(plan).splitlines() if "type filter hook" not in line]
    rules = "\n".join(line for line in body if "type route hook" not in line)
    rules = rules.replace(f"table inet {TABLE} ", f"table inet {PROBE_TABLE} ", 1)
    return f"{rules}\ndelete table inet {PROBE_TABLE}\n"


def concerns(table: str, chain: str) -> bool:
    """Whether a change there may be one of arbiter's part."""
    return table == TABLE


def sizes(plan: Plan) -> dict[str, int]:
    """How many rules each chain has; a base chain's `type` line counts as one."""
    return {name: len(rules) for name, rules in _chains(plan)}


def _hook(rules: list[str]) -> re.Match[str] | None:
    """How a base chain is hooked; None for another chain."""
    return _HOOK.fullmatch(rules[0])


def _table(plan: Plan) -> str:
    chains = "\n".join(
        f"  chain {name} {{\n" + "".join(f"    {rule}\n" for rule in rules) + "  }"
        for name, rules in _chains(plan)
    )
    return f"table inet {TABLE} {{\n{chains}\n}}\n"


def _chains(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    names = {plan.decided: "0", plan.denied: "_denied"}
    names |= {plan.link(number): str(number) for number, _ in plan.links}
    for mark, name in names.items():
        yield f"restore{name}", [_set("meta", plan, mark)]
    for mark, name in names.items():
        yield f"save{name}", [_set("ct", plan, mark)]
    yield (
        "refuse",
        [
            "meta l4proto tcp reject with tcp reset",
            "reject with icmpx type admin-prohibited",
            "drop",
        ],
    )
    yield "ask", [f"queue num {plan.queue}{' bypass' if plan.when_absent == 'pass' else ''}"]
    yield "settled", [f"ct mark & {plan.decided:#010x} != 0 goto restore_denied"]
    if plan.links or plan.tunnels:
        yield "prerouting", ["type filter hook prerouting priority -160;", *_prerouting(plan)]
    yield "output", ["type route hook output priority -153;", *_output(plan, names)]
    save = ", ".join(f"{mark:#010x} : goto save{name}" for mark, name in names.items())
    yield (
        "save",
        [
            "type filter hook output priority -152;",
            f"ct state new meta mark & {plan.mask:#010x} vmap {{ {save} }}",
        ],
    )
    denied = f"& {plan.denied:#010x} == {plan.denied:#010x}"
    for name, hook, priority, end in (
        ("deny", "output", -151, "goto refuse"),
        ("last", "postrouting", -150, "drop"),
    ):
        yield (
            name,
            [
                f"type filter hook {hook} priority {priority};",
                'oifname "lo" return',
                f"meta mark {denied} {end}",
                f"ct mark {denied} {end}",
            ],
        )
    if plan.tunnels:
        # The tunnels of ip_tunnel_core.c send the outer packet with the inner one's mark: it would
        # pass undecided, or be routed into the tunnel itself. After everything that looks at it.
        yield (
            "enter",
            [
                "type filter hook postrouting priority 290;",
                f"oifname {_tunnels(plan)} {_bare(plan)}",
            ],
        )
    if plan.classes:
        yield from _classes(plan)
    if plan.dns_queue is not None:
        answer = "ct state established ct direction reply"
        yield (
            "dns",
            [
                "type filter hook input priority 50;",
                *(
                    f"{proto} sport 53 {answer} queue num {plan.dns_queue} bypass"
                    for proto in ("udp", "tcp")
                ),
            ],
        )
    if plan.links:
        # Who comes in over a link is answered over it. In input, because what is only forwarded has
        # its way already; its reply is not masqueraded: NAT looks at a connection's first packet.
        arrived = ", ".join(f'"{name}" : goto save{number}' for number, name in plan.links)
        yield (
            "input",
            [
                "type filter hook input priority -150;",
                f"ct state new ct mark & {plan.mask:#010x} == 0 iifname vmap {{ {arrived} }}",
            ],
        )
        routed = f"ct mark & {plan.mask:#010x} {_set_of([hex(m) for m in plan.accepted[1:]])}"
        links = _set_of([f'"{name}"' for _, name in plan.links])
        yield (
            "clamp",
            [
                "type filter hook postrouting priority -149;",
                f"oifname {links} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu",
            ],
        )
        yield (
            "source",
            [
                "type nat hook postrouting priority 95;",
                f"oifname {links} {routed} masquerade",
            ],
        )


def _classes(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    # Never reached. Before Linux 6.18 a rule that only looks at labels did not make new entries
    # have room for them, only one that sets them did (nft_ct_get_init and nft_ct_set_init).
    yield "label_room", [f"ct label set {plan.classes[0].label}"]
    for marking in plan.classes:
        yield (
            f"class{marking.label}",
            [
                f"ip dscp set {marking.dscp:#04x}",
                f"ip6 dscp set {marking.dscp:#04x}",
                f"meta priority set {marking.priority:#010x}",
            ],
        )
    yield (
        "classes",
        [
            "type filter hook postrouting priority -151;",
            'oifname "lo" return',
            "ct direction reply return",
            *(f"ct label {m.label} goto class{m.label}" for m in plan.classes),
        ],
    )


def _prerouting(plan: Plan) -> Iterator[str]:
    """Replies are restored for rp_filter with src_valid_mark; an outer packet's bits cleared."""
    if plan.tunnels:
        yield f"iifname {_tunnels(plan)} {_bare(plan)}"
    if plan.links:
        restore = ", ".join(f"{plan.link(n):#010x} : goto restore{n}" for n, _ in plan.links)
        yield f"ct mark & {plan.mask:#010x} vmap {{ {restore} }}"


def _output(plan: Plan, names: dict[int, str]) -> Iterator[str]:
    """Decided connections leave first: they are nearly all packets."""
    restore = ", ".join(f"{mark:#010x} : goto restore{name}" for mark, name in names.items())
    yield 'oifname "lo" return'
    # One look for both: somebody else's bits (a VPN's own packets), or decided already.
    yield f"meta mark & {plan.keep | plan.decided:#010x} != 0 return"
    yield f"ct mark & {plan.mask:#010x} vmap {{ {restore} }}"
    # What conntrack calls invalid has no entry, and so no link: a reset or FIN of a connection that
    # it forgot, with its link, would leave by the default route. Lost, it does no harm.
    yield "meta l4proto tcp ct state invalid drop"
    yield "ct state established,related,invalid goto settled"
    yield "ip6 daddr fe80::/10 return"
    yield "fib daddr type { local, broadcast, anycast, multicast } return"
    yield "udp sport . udp dport { 68 . 67, 546 . 547 } return"
    # MLD and neighbour discovery (RFC 3810, 4861); the kernel leaves these untracked as well.
    yield "icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 137, 143 } return"
    yield "ct state new goto ask"
    yield "ct state untracked tcp flags & (syn | ack) == syn goto ask"
    yield "ct state untracked meta l4proto != tcp goto ask"


def _tunnels(plan: Plan) -> str:
    return _set_of([f'"{name}"' for name in plan.tunnels])


def _bare(plan: Plan) -> str:
    return f"meta mark set meta mark & {plan.keep:#010x}"


def _set(key: str, plan: Plan, mark: int) -> str:
    return f"{key} mark set {key} mark & {plan.keep:#010x} | {mark:#010x}"


def _set_of(items: list[str]) -> str:
    return "{ " + ", ".join(items) + " }"
