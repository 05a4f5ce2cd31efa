"""Whether traffic classes work here: asked apart from the backend, which is of use without them.

Each rule's part is tried on its own, so that the answer names what is missing. Leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from arbiter.kernel.ctlabel import Labels
from arbiter.kernel.firewall import nft, probe
from arbiter.kernel.firewall.probe import Backend, FirewallError, Variant
from arbiter.model import Flow

_LABEL = 0
_CHAIN = "ARBITER_PROBE"
_NOBODY = Flow(255, bytes(4), 0, bytes(4), 0)
"""No connection has this tuple: 0.0.0.0 is an address of no packet that is sent."""


class _Part(Struct, frozen=True):
    needs: str
    rules: tuple[str, ...]


_NFT = (
    _Part(
        "connection labels (CONFIG_NF_CONNTRACK_LABELS, module nft_ct)",
        (f"ct label set {_LABEL}", f"ct label {_LABEL} return", "ct direction reply return"),
    ),
    _Part("setting a DSCP (CONFIG_NF_TABLES_INET)", ("ip dscp set 0x12", "ip6 dscp set 0x12")),
    _Part("setting the priority (CONFIG_NF_TABLES)", ("meta priority set 0x00000006",)),
)
_IPTABLES = (
    _Part(
        "the connlabel match (xt_connlabel, CONFIG_NETFILTER_XT_MATCH_CONNLABEL)",
        (f"-m connlabel --label {_LABEL}",),
    ),
    _Part(
        "the conntrack match (xt_conntrack, CONFIG_NETFILTER_XT_MATCH_CONNTRACK)",
        ("-m conntrack --ctdir ORIGINAL",),
    ),
    _Part("the DSCP target (xt_DSCP, CONFIG_NETFILTER_XT_TARGET_DSCP)", ("-j DSCP --set-dscp 18",)),
    _Part(
        "the CLASSIFY target (xt_CLASSIFY, CONFIG_NETFILTER_XT_TARGET_CLASSIFY)",
        ("-j CLASSIFY --set-class 0:6",),
    ),
)


def why_no_classes(backend: Backend) -> str | None:
    """Why `Plan.classes` cannot be carried out by this backend, None if they can.

    Names what to install or load. The backend itself may work all the same.
    """
    try:
        if backend.variant == "":
            path = probe.need_tool("nft")
            lacking = _lacking(_NFT, lambda part: _try_nft(path, part))
        else:
            variant = backend.variant
            lacking = _lacking(_IPTABLES, lambda part: _try_iptables(variant, part))
    except FirewallError as error:
        return str(error)
    if lacking:
        return (
            f"{backend.name} does not take {'; nor '.join(lacking)}. Load the module, or use a "
            "kernel that has it; for the tools: apt install iptables nftables"
        )
    return _why_not_netlink()


def _lacking(parts: tuple[_Part, ...], attempt: Callable[[_Part], None]) -> list[str]:
    """What each refused part needs, and how it was refused; all at once first, which is quick."""
    try:
        attempt(_Part("", tuple(rule for part in parts for rule in part.rules)))
        return []
    except FirewallError as error:
        found, whole = [], error
    for part in parts:
        try:
            attempt(part)
        except FirewallError as error:
            found.append(f"{part.needs}: {error}")
    return found or [f"the rules of classes together: {whole}"]


def _try_nft(path: str, part: _Part) -> None:
    rules = "".join(f"  {rule}\n" for rule in part.rules)
    table = f"table inet {nft.PROBE_TABLE} {{\n chain c {{\n{rules} }}\n}}\n"
    probe.run([path, "-f", "-"], f"{table}delete table inet {nft.PROBE_TABLE}\n")


def _try_iptables(variant: Variant, part: _Part) -> None:
    rules = "".join(f"-A {_CHAIN} {rule}\n" for rule in part.rules)
    text = f"*mangle\n:{_CHAIN} - [0:0]\n{rules}-F {_CHAIN}\n-X {_CHAIN}\nCOMMIT\n"
    with probe.leaving_none(variant):
        for family in probe.families():
            probe.restore(family, variant, text)


def _why_not_netlink() -> str | None:
    """Labels come to connections by ctnetlink, a part of the kernel of its own."""
    try:
        labels = Labels((_LABEL,))
        try:
            labels.set(_NOBODY, _LABEL)
        finally:
            labels.close()
    except OSError as error:
        return (
            f"the kernel takes no labels over netlink ({error}): modprobe nf_conntrack_netlink; if "
            "there is none, use a kernel with CONFIG_NF_CT_NETLINK; run as root"
        )
    return None
