"""What the ruleset must do, as one pure value; `nft` and `iptables` render it, `apply` loads it.

Seven adjacent mark bits are arbiter's: from the lowest, five of link number, decided, denied.
Their place is the plan's `mask`; `model` speaks of the default place, and `Plan.place` moves a
verdict's mark from there. Bits outside the mask are other people's, and survive everywhere.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from arbiter.classes import MAX_LABEL, Marking, priority_text
from arbiter.model import MARK_DECIDED, MARK_DENIED, MARK_LINK, MARK_LINK_SHIFT, MARK_MASK

WORD = 0xFFFFFFFF
"""All 32 bits of a mark."""
WhenAbsent = Literal["block", "pass"]
Family = Literal["ip", "ip6"]

_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}", re.ASCII)
_COMPACT = MARK_MASK >> MARK_LINK_SHIFT


class Plan(Struct, frozen=True):
    """The whole ruleset. Raises ValueError on a value no kernel or ruleset could take."""

    queue: int = 0
    """NFQUEUE number, 0-65535."""
    when_absent: WhenAbsent = "block"
    """What becomes of new connections while nobody listens on the queue."""
    mask: int = MARK_MASK
    links: tuple[tuple[int, str], ...] = ()
    """(number 1-31, interface) of each link that a decision may name."""
    tunnels: tuple[str, ...] = ()
    """Interfaces where a packet may get the mark of what it is wrapped in, and the other way."""
    classes: tuple[Marking, ...] = ()
    """What packets of a connection with such a label get on their way out; () for no classes."""
    dns_queue: int | None = None
    """NFQUEUE number for DNS answers to this host's own queries, on their way in; None for none.
    They pass where nobody listens, whatever `when_absent` says: names are hints."""

    def __post_init__(self) -> None:
        if not 0 <= self.queue <= 0xFFFF:
            raise ValueError(f"queue number {self.queue} is not in 0-65535; choose another")
        if self.dns_queue is not None:
            if not 0 <= self.dns_queue <= 0xFFFF:
                raise ValueError(
                    f"queue number {self.dns_queue} for DNS answers is not in 0-65535; "
                    "choose another"
                )
            if self.dns_queue == self.queue:
                raise ValueError(
                    f"queue {self.queue} cannot be for new connections and for DNS answers: "
                    "choose another number for one of them"
                )
        if self.when_absent not in ("block", "pass"):
            raise ValueError(f'when_absent is {self.when_absent!r}; it must be "block" or "pass"')
        if self.mask not in (_COMPACT << n for n in range(26)):
            raise ValueError(
                f"mark mask {self.mask:#x} is not seven adjacent bits of a 32-bit mark; "
                f"write one such as {MARK_MASK:#010x}"
            )
        numbers = [number for number, _ in self.links]
        if any(not 1 <= number <= MARK_LINK >> MARK_LINK_SHIFT for number in numbers):
            raise ValueError(f"link numbers {numbers} must be in 1-31: the mark has room for 31")
        names = [name for _, name in self.links]
        for name in (*names, *self.tunnels):
            check_interface(name)
        if len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
            raise ValueError(f"links {self.links} name a number or an interface twice")
        labels = [marking.label for marking in self.classes]
        if len(set(labels)) < len(labels):
            raise ValueError(f"traffic classes have a label twice: {labels} (0-{MAX_LABEL})")

    @property
    def shift(self) -> int:
        """The lowest of our bits."""
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def keep(self) -> int:
        """Everybody else's bits."""
        return WORD & ~self.mask

    @property
    def decided(self) -> int:
        """The decided bit, at this plan's place."""
        return self.place(MARK_DECIDED)

    @property
    def denied(self) -> int:
        """Decided and denied together: what a denied packet carries."""
        return self.place(MARK_DECIDED | MARK_DENIED)

    @property
    def link_bits(self) -> int:
        """The five bits of the link number."""
        return self.place(MARK_LINK)

    def link(self, number: int) -> int:
        """The mark of a packet decided to leave by link `number`; 0 is the default route."""
        return self.decided | number << self.shift

    def place(self, mark: int) -> int:
        """A `model.Verdict.mark` (default place) as bits at this plan's place."""
        return (mark & MARK_MASK) >> MARK_LINK_SHIFT << self.shift

    def unplace(self, mark: int) -> int:
        """A kernel's mark as `model` bits: ours only, at the default place."""
        return (mark & self.mask) >> self.shift << MARK_LINK_SHIFT

    @property
    def accepted(self) -> tuple[int, ...]:
        """Every mark of a decided, not denied packet: the default route, then each link."""
        return tuple(self.link(number) for number in (0, *(n for n, _ in self.links)))


def check_interface(name: str) -> None:
    """Raises ValueError unless `name` is safe in both rulesets' syntax and a real link's name.

    Stricter than the kernel (dev_valid_name, net/core/dev.c): no `+` and `*`, which the tools
    read as wildcards, nor quotes, braces, `!` or a leading `-`; 15 bytes (IFNAMSIZ) at most.
    """
    if not _INTERFACE.fullmatch(name) or name == "lo":
        raise ValueError(
            f"interface name {name[:40]!a} cannot be put into a ruleset: it needs 1-15 of "
            "A-Z a-z 0-9 _ . @ -, not starting with . @ -, and not lo; rename the interface "
            "(ip link set dev OLD name NEW) or leave it out of the links"
        )


def describe(plan: Plan) -> str:
    """One line for `status` and the log."""
    links = ", ".join(f"{number} {name}" for number, name in plan.links) or "none"
    classes = "".join(
        f", label {m.label}: DSCP {m.dscp} priority {priority_text(m.priority)}"
        for m in plan.classes
    )
    dns = "" if plan.dns_queue is None else f", DNS answers to queue {plan.dns_queue}"
    return (
        f"queue {plan.queue}{dns}, mark mask {plan.mask:#010x}, links: {links}{classes}; "
        f"new connections {plan.when_absent} while arbiter is absent"
    )
