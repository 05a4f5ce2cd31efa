"""What an ask shows: programs, destinations, rules to choose from, links, advice. Pure."""

from __future__ import annotations

from msgspec import Struct


class AppView(Struct, frozen=True):
    """An app, as shown: `id` is what the rule will say, `name` what people call it."""

    id: str
    kind: str
    name: str


class ProcessView(Struct, frozen=True):
    """A process, as shown. `parents` is nearest first."""

    pid: int
    app: AppView
    exe: str
    argv: tuple[str, ...]
    cwd: str = ""
    parents: tuple[AppView, ...] = ()
    note: str = ""
    """A warning on its identity: replaced executable, another mount namespace."""


class Destination(Struct, frozen=True):
    """Where to. `scope` is lan, internet, multicast or loopback; `port` 0 where there is none."""

    address: str
    proto: str
    port: int = 0
    service: str = ""
    """The port's usual service name, as a hint: https."""
    scope: str = "internet"
    name: str = ""
    """By which it was looked up last, a hint; "" where nobody looked."""
    names: tuple[str, ...] = ()
    """Other names that led to the same address."""


class Scope(Struct, frozen=True):
    """One rule that an answer may make: `conditions` is exactly what will be remembered."""

    id: str
    """connection, host, port, app, parent, destination: narrow ones first in an ask."""
    conditions: str
    """The rule's one-line form without decision and lifetime: `app=/usr/bin/curl port=443`."""


class LinkView(Struct, frozen=True):
    """A link that a route answer may name."""

    name: str
    up: bool
    """Whether it can carry this connection (its family) now."""
    default: bool = False
    """The connection leaves over it if it is allowed, and not routed (`arbiter run-via` too)."""
    metered: bool | None = None
    roaming: bool | None = None
    price: str = ""
    """`0.02 EUR/MB`."""
    budget: str = ""
    """`500 MB/month`."""
    left: int | None = None
    """Bytes left of the budget in this period."""
    used: int = 0
    """Bytes that this program used over it this month."""


class SnoozeView(Struct, frozen=True):
    """For a while, what no rule decides is allowed or denied without a question."""

    uid: int | None
    """Whose processes; None for everybody's."""
    user: str
    """"" for everybody."""
    decision: str
    """`allow` or `deny`."""
    until: float
    """Epoch seconds."""
    by: str


class LinkState(Struct, frozen=True):
    """A link by itself, for whoever follows."""

    name: str
    interface: str
    kind: str
    """ethernet, wifi, cellular, bluetooth, usb, vpn or dialup."""
    up: bool
    default: bool = False
    """The machine's default route goes over it."""
    metered: bool | None = None
    roaming: bool | None = None
    price: str = ""
    budget: str = ""
    left: int | None = None
    """Bytes left of the budget in this period."""
    month: int = 0
    """Bytes over it, or by its SIM, this month."""


class AdviceView(Struct, frozen=True):
    """What the program's own package says of a connection. Its words, not arbiter's."""

    application: str
    purpose: str = ""
    if_denied: str = ""
    """What a denial breaks."""
    essential: bool = False
    suggest: str = ""
    """`allow`, `deny` or `route via=…`; "" for no suggestion."""
    file: str = ""
    """Where it says so."""
