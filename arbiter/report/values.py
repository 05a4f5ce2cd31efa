"""The figures of a report. Times are epoch seconds, days local dates (2026-07-31), sizes bytes.

Texts are cleaned (`protocol.clean`): what is in a report can be shown, and is still to be escaped.
"""

from __future__ import annotations

from msgspec import Struct


class Totals(Struct, frozen=True):
    """All connections of the span."""

    connections: int = 0
    denied: int = 0
    routed: int = 0
    """Over a link that a rule or a person named."""
    by_rule: int = 0
    answered: int = 0
    """By a person, each by itself."""
    unanswered: int = 0
    """Nobody answered in time, or no prompt was there, or too much waited already."""
    asked: int = 0
    """A person was asked, and answered or not."""
    apps: int = 0
    destinations: int = 0
    """Names, and addresses without one."""


class Day(Struct, frozen=True):
    """One day."""

    day: str
    connections: int
    denied: int


class Carried(Struct, frozen=True):
    """What a link carried on a day, both ways."""

    day: str
    link: str
    size: int


class Group(Struct, frozen=True):
    """Connections of one app."""

    name: str
    connections: int
    denied: int
    sent: int
    received: int
    last: float


class Destination(Struct, frozen=True):
    """Connections to one place: a name, or an address without one."""

    host: str
    port: int
    proto: str
    apps: int
    """How many different ones went there."""
    connections: int
    denied: int
    last: float


class Cost(Struct, frozen=True):
    """What went over a link with a SIM in it, and what that costs at the price of now."""

    link: str
    sim: str
    sent: int
    received: int
    connections: int
    price: str = ""
    """As the link file says it: `0.02 EUR/MB`; "" for none."""
    cost: str = ""
    """`12.34 EUR`; "" where there is no price."""


class Denied(Struct, frozen=True):
    """What was refused, and why."""

    app: str
    host: str
    port: int
    proto: str
    why: str
    connections: int
    last: float


class Answers(Struct, frozen=True):
    """What a person answered through one frontend."""

    by: str
    frontend: str
    decision: str
    count: int
    waited: float
    """Seconds, on average."""


class Risk(Struct, frozen=True):
    """A rule in force that should be looked at."""

    rule: str
    """`rule 7`, `the rule at FILE:LINE`."""
    line: str
    by: str
    kind: str
    """As `arbiter rules check` calls it, or any-program, anywhere, changed-executable."""
    why: str


class RuleChange(Struct, frozen=True):
    """One rule that came into force, or was taken out."""

    time: float
    by: str
    frontend: str
    change: str
    """added | retired."""
    reason: str
    rule: int
    line: str


class NewDestination(Struct, frozen=True):
    """Where a program went that had not gone there before the span."""

    app: str
    host: str
    port: int
    proto: str
    first: float
    connections: int
    new_app: bool
    """The program was not there before, either."""


class Executable(Struct, frozen=True):
    """One of several executables that an app was."""

    app: str
    exe: str
    first: float
    last: float
    connections: int


class Gap(Struct, frozen=True):
    """Records that are missing; `count` None where nobody knows how many."""

    since: float
    until: float
    count: int | None
    why: str


class Report(Struct, frozen=True):
    """All of it. Lists are cut at `top` rows; `beyond` says how many more there are of each."""

    since: float
    until: float
    made: float
    database: str
    top: int
    recorded: float | None
    """From when on there are records, or what they added up to; None for none."""
    summed: float | None = None
    """Before this epoch second only sums by day are kept, in days of UTC; None where the span does
    not reach there."""
    totals: Totals = Totals()
    days: tuple[Day, ...] = ()
    carried: tuple[Carried, ...] = ()
    apps: tuple[Group, ...] = ()
    destinations: tuple[Destination, ...] = ()
    costs: tuple[Cost, ...] = ()
    denied: tuple[Denied, ...] = ()
    reasons: tuple[tuple[str, str, int], ...] = ()
    """Reason, decision, connections."""
    answers: tuple[Answers, ...] = ()
    risks: tuple[Risk, ...] = ()
    changes: tuple[RuleChange, ...] = ()
    new: tuple[NewDestination, ...] = ()
    executables: tuple[Executable, ...] = ()
    gaps: tuple[Gap, ...] = ()
    off: tuple[tuple[float, float], ...] = ()
    """When arbiter did not run."""
    beyond: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    """What could not be looked at."""
