"""arbiter.toml, decoded strictly: every key has a default, and an unknown one is an error. Pure.

docs/settings.md describes each key; tests/test_settings.py fails on one that is not there.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from arbiter import classes
from arbiter.auditsettings import Audit, fault
from arbiter.model import MARK_MASK, PREFERENCE, TABLE, TrafficClass
from arbiter.tomlfile import FileError, line_of, nearest, parse, shown, shown_value, unknown

MAX_TEXT = 65_536
"""Characters of a settings file; more is refused unread."""
MOST_WRITING = 5.0
"""Seconds that the disk has at most for a record with `audit.sync`."""
MARK_BITS = 0x7F
"""The shape of a mark mask: seven bits in a row (decided, denied, five for the link)."""


class Mode(enum.StrEnum):
    """What happens to a connection without a rule."""

    ASK = "ask"
    OBSERVE = "observe"
    ENFORCE = "enforce"


class Fallback(enum.StrEnum):
    """What happens where no rule matches and nobody answers."""

    DENY = "deny"
    ALLOW = "allow"


class WhenAbsent(enum.StrEnum):
    """What the kernel does with new connections while no daemon runs."""

    BLOCK = "block"
    PASS = "pass"  # noqa: S105  # the word of the settings file


class WhenUnattended(enum.StrEnum):
    """What happens to a new connection while no prompt is connected."""

    HOLD = "hold"
    FALLBACK = "fallback"
    OBSERVE = "observe"


class LinkDown(enum.StrEnum):
    """What happens to a new connection that a rule routes over a link that is down."""

    REFUSE = "refuse"
    WAIT = "wait"
    ASK = "ask"


class ShippedPolicies(enum.StrEnum):
    """What packages' policy files do by themselves."""

    ADVISE = "advise"
    DECIDE = "decide"


class Backend(enum.StrEnum):
    """Which program carries the ruleset to the kernel."""

    AUTO = "auto"
    NFT = "nft"
    IPTABLES = "iptables"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """What an administrator may choose. Times are in seconds; ranges are in RANGES."""

    mode: Mode = Mode.ASK
    fallback: Fallback = Fallback.DENY
    deadline: float = 30.0
    """How long a packet is held for an answer, before the fallback."""
    when_absent: WhenAbsent = WhenAbsent.BLOCK
    when_unattended: WhenUnattended = WhenUnattended.HOLD
    link_down: LinkDown = LinkDown.REFUSE
    shipped_policies: ShippedPolicies = ShippedPolicies.ADVISE
    queue_num: int = 10
    dns_queue_num: int = 11
    """The queue that DNS answers pass through; never that of new connections."""
    queue_length: int = 8192
    """Packets that the kernel keeps for us; more are dropped or pass, as `when_absent` says."""
    backend: Backend = Backend.AUTO
    mark_base: int = MARK_MASK
    """Mask of the bits in packet and conntrack marks that are ours: seven in a row."""
    route_table: int = TABLE
    """Link n has this routing table + n."""
    route_pref: int = PREFERENCE
    """Preference of the first `ip rule`; the last is 20 behind."""
    asks_per_app: int = 64
    asks_per_user: int = 512
    asks_total: int = 2048
    packets_per_flow: int = 16
    packets_held: int = 4096
    ask_ttl: float = 600.0
    """How long an ask stays open after the last packet that wanted it."""
    class_interactive: str = "af21 0:6"
    """What packets of a class get: `DSCP MAJOR:MINOR`, see `classes.parse`."""
    class_bulk: str = "af11 0:2"
    class_background: str = "cs1 0:1"
    class_labels: int = 97
    """The first of three numbers in a row: the conntrack labels of the three classes."""
    audit: Audit = Audit()

    @property
    def writing(self) -> float:
        """Seconds of `deadline` that belong to the disk: for `audit.sync` only."""
        return min(MOST_WRITING, self.deadline / 2) if self.audit.sync else 0.0

    @property
    def waiting(self) -> float:
        """Seconds that a packet waits for its decision at most."""
        return self.deadline - self.writing

    @property
    def markings(self) -> Mapping[TrafficClass, classes.Marking]:
        """What each class puts on its packets. ValueError only for a value that `load` refuses."""
        return MappingProxyType(
            {
                kind: classes.parse(getattr(self, f"class_{kind.value}"), self.class_labels + n)
                for n, kind in enumerate(TrafficClass)
            }
        )


AT_START = frozenset(
    {
        "when_absent",
        "queue_num",
        "dns_queue_num",
        "queue_length",
        "backend",
        "mark_base",
        "route_table",
        "route_pref",
        "packets_per_flow",
        "packets_held",
        "class_interactive",
        "class_bulk",
        "class_background",
        "class_labels",
        "audit.sync",
        "audit.when_unwritten",
        "audit.json_lines",
        "audit.journald",
        "audit.syslog",
    }
)
"""The settings that count from the next start: what is in the kernel, and its bounds, is made of
them. SIGHUP puts the others in force."""

CLASSES = frozenset(f"class_{kind.value}" for kind in TrafficClass)
"""The settings that say what packets of a class get."""

RANGES = MappingProxyType(
    {
        "deadline": (0.1, 3600.0),
        "queue_num": (0, 65_535),
        "dns_queue_num": (0, 65_535),
        "queue_length": (1, 1_048_576),
        "route_table": (255, 4_294_967_264),
        "route_pref": (1, 32_745),
        "asks_per_app": (1, 100_000),
        "asks_per_user": (1, 100_000),
        "asks_total": (1, 100_000),
        "packets_per_flow": (1, 10_000),
        "packets_held": (1, 1_048_576),
        "ask_ttl": (1.0, 604_800.0),
        "keep_days": (0, 36_500),
        "keep_megabytes": (0, 100_000_000),
        "keep_sums_days": (0, 36_500),
        "keep_rules_days": (0, 36_500),
        "keep_usage_months": (0, 1200),
        "keep_destinations_days": (0, 36_500),
        "class_labels": (0, classes.MAX_LABEL - len(TrafficClass) + 1),
    }
)
"""The lowest and the highest value of each number."""

ORDERED = (
    ("asks_per_app", "asks_per_user"),
    ("asks_per_user", "asks_total"),
    ("packets_per_flow", "packets_held"),
    ("packets_held", "queue_length"),
    ("deadline", "ask_ttl"),
)
"""Pairs where the first may not be above the second, or one of them would have no effect."""


_KINDS = {float: "a number", str: "a text", bool: "true or false", Audit: "a table"}


class SettingsError(FileError):
    """The settings cannot be used; none of them are. `line` counts from 1, 0 for the whole file."""

    docs = "docs/settings.md"


def load(text: str, origin: str) -> Settings:
    """The settings in a TOML text; `origin` is its file, for messages. Raises SettingsError."""
    data = parse(text, origin, SettingsError, MAX_TEXT)
    known = Settings.__struct_fields__
    for key, value in data.items():
        if key == "audit" and isinstance(value, dict):
            _check_audit(value, text, origin)
            continue
        why = _wrong(key, value) if key in known else unknown(key, known)
        if why:
            raise SettingsError(origin, line_of(text, key), key, why)
    settings = msgspec.convert(data, Settings)
    for low, high in ORDERED:
        if getattr(settings, low) > getattr(settings, high):
            key = low if low in data else high
            why = (
                f"{low} ({getattr(settings, low)}) may not be above"
                f" {high} ({getattr(settings, high)}): change one of them"
            )
            raise SettingsError(origin, line_of(text, key), key, why)
    if settings.queue_num == settings.dns_queue_num:
        key = "dns_queue_num" if "dns_queue_num" in data else "queue_num"
        why = f"queue_num and dns_queue_num are both {settings.queue_num}: change one of them"
        raise SettingsError(origin, line_of(text, key), key, why)
    return settings


def _check_audit(table: dict[str, Any], text: str, origin: str) -> None:
    """Raises SettingsError where the table `[audit]` cannot be."""
    known = Audit.__struct_fields__
    for key, value in table.items():
        why = _wrong(key, value, Audit) if key in known else unknown(key, known)
        if not why:
            bad, why = fault(msgspec.convert({key: value}, Audit))
            why = f"{bad} = {shown_value(value)}: {why}" if why else ""
        if why:
            raise SettingsError(origin, line_of(text, "audit", key), f"audit.{key}", why)


def _wrong(key: str, value: Any, kind: type[Settings] | type[Audit] = Settings) -> str:
    """Why `value` cannot be the value of `key` in a table of this kind; "" if it can."""
    try:
        made = getattr(msgspec.convert({key: value}, kind), key)
    except (msgspec.ValidationError, OverflowError):
        default = getattr(kind(), key)
        if not isinstance(default, enum.StrEnum):
            good = _KINDS.get(type(default), "a whole number")
            return f"{key} = {shown_value(value)}: it must be {good}"
        words = [member.value for member in type(default)]
        hint = nearest(value, words) if isinstance(value, str) else ""
        good = f"{', '.join(words)}: {hint}" if hint else ", ".join(words)
        return f"{key} = {shown_value(value)}: it must be one of {good}"
    if key == "mark_base":
        # A mark is 32 bits wide; isolating the lowest set bit gives the shift.
        if not 0 < made < 1 << 32 or made // (made & -made) != MARK_BITS:
            why = f"it must be seven bits in a row of 32, as {MARK_MASK:#x}"
            return f"mark_base = {shown(hex(made))}: {why}"
        return ""
    if key in CLASSES:
        try:
            classes.parse(made, 0)
        except ValueError as error:
            return f"{key} = {shown_value(made)}: {error}"
    if key in RANGES:
        low, high = RANGES[key]
        if not low <= made <= high:  # so written, NaN is out of range too
            return f"{key} = {shown_value(made)}: it must be from {low} to {high}"
    return ""
