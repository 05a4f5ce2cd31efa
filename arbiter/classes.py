"""How a traffic class shows on packets: the DSCP in the IP header, and the kernel's own priority.

Floor 0: imports nothing of arbiter. docs/classes.md says which class gets what, and why.
"""

from __future__ import annotations

import re
from types import MappingProxyType

from msgspec import Struct

MAX_LABEL = 127
"""Conntrack has 128 label bits (XT_CONNLABEL_MAXBIT, linux/netfilter/xt_connlabel.h)."""
MAX_DSCP = 63
MAX_PRIORITY = 0xFFFFFFFF

DSCP = MappingProxyType(
    {
        "be": 0,  # RFC 2474: best effort, the same as cs0
        "le": 1,  # RFC 8622: lower effort
        **{f"cs{n}": n << 3 for n in range(8)},  # RFC 2474 4.2.2: class selectors
        **{f"af{c}{d}": c << 3 | d << 1 for c in range(1, 5) for d in range(1, 4)},  # RFC 2597 6
        "va": 44,  # RFC 5865: voice admit
        "ef": 46,  # RFC 3246: expedited forwarding
    }
)
"""The code points that have a name, as tc, iptables and nft write them."""

_NUMBER = re.compile(r"[0-9]{1,2}", re.ASCII)
_PRIORITY = re.compile(r"([0-9a-f]{1,4}):([0-9a-f]{1,4})", re.ASCII | re.IGNORECASE)


class Marking(Struct, frozen=True):
    """What the packets of one class get. ValueError for a value that no kernel could take."""

    label: int
    """The bit (0-127) of the connection that says that it is of this class."""
    dscp: int
    """Six bits (RFC 2474); the other two of that byte are congestion's (ECN) and stay."""
    priority: int
    """skb->priority: a TC_PRIO_* (linux/pkt_sched.h), or MAJOR << 16 | MINOR of a tc class."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("label", self.label, MAX_LABEL),
            ("DSCP", self.dscp, MAX_DSCP),
            ("priority", self.priority, MAX_PRIORITY),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} {value} of a traffic class is not in 0-{most}")


def parse(text: str, label: int) -> Marking:
    """The marking that `DSCP MAJOR:MINOR` says, such as `af21 0:6`. ValueError says what is wrong.

    A DSCP is one of the names above or a decimal number; the priority is as tc(8) writes a class,
    in hexadecimal.
    """
    words = text.split(" ")
    if len(words) != 2:
        raise ValueError("it must be a DSCP and a priority with a space between, as in 'af21 0:6'")
    name, priority = words
    dscp = DSCP.get(name, int(name) if _NUMBER.fullmatch(name) else -1)
    if not 0 <= dscp <= MAX_DSCP:
        raise ValueError(
            f"{name[:20]!a} is no DSCP: write a number from 0 to {MAX_DSCP}, or be, le, "
            "cs0 to cs7, af11 to af43, va or ef"
        )
    found = _PRIORITY.fullmatch(priority)
    if found is None:
        raise ValueError(
            f"{priority[:20]!a} is no priority: write MAJOR:MINOR, each 0 to ffff, as tc shows a "
            "class: 0:6, or 1:10"
        )
    return Marking(label, dscp, int(found[1], 16) << 16 | int(found[2], 16))


def priority_text(priority: int) -> str:
    """`1:10` for 0x10010: as tc, iptables and the settings write it."""
    return f"{priority >> 16:x}:{priority & 0xFFFF:x}"
