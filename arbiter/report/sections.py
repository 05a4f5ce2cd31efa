"""What the document says of the figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Protocol

from arbiter.budgets import size_text
from arbiter.report.parts import Bars, Cell, Document, Section, Series, Table
from arbiter.report.values import Carried, Day, Report

MAX_DAYS = 92
"""Days that have a bar each; of more, months have one."""
MAX_LINKS = 7
"""Links that have a colour each; those that carried less are one."""
SECONDS = "%Y-%m-%d %H:%M:%S"
"""How strftime(3) writes a time to the second."""


class When(Protocol):
    """Writes an epoch second, to the minute if nothing else is asked for."""

    def __call__(self, epoch: float, form: str = ..., /) -> str:
        """`form` as strftime(3) reads it."""


def document(report: Report, when: When) -> Document:
    """The whole document; `when` writes an epoch second."""
    return Document(
        "What this machine connected to",
        tuple(_opening(report, when)),
        tuple(_tiles(report)),
        tuple(section for make in _SECTIONS if (section := make(report, when)) is not None),
        f"Made by arbiter on {when(report.made)} from {report.database}",
    )


def _opening(report: Report, when: When) -> Iterator[str]:
    yield f"{when(report.since)} to {when(report.until)}."
    if report.recorded is None:
        yield "There are no records in this database."
    elif report.recorded > report.since:
        yield f"Records begin only on {when(report.recorded)}."
    if report.summed is not None:
        yield (
            f"Before {when(report.summed)} only daily sums are kept: their days are those of UTC,"
            " and the first of them is counted whole."
        )
    yield from report.notes


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    totals = report.totals
    yield "connections", _n(totals.connections)
    yield "programs", _n(totals.apps)
    yield "destinations", _n(totals.destinations)
    yield "denied", _n(totals.denied)
    yield "asked", _n(totals.asked)
    yield "answered by people", _n(totals.answered)
    yield "records missing", _missed(report)
    yield "carried", size_text(sum(one.size for one in report.carried))
    currencies: dict[str, Decimal] = {}
    for cost in report.costs:
        if cost.cost:
            amount, _, currency = cost.cost.partition(" ")
            currencies[currency] = currencies.get(currency, Decimal()) + Decimal(amount)
    for currency, value in currencies.items():
        yield "cost", f"{value:.2f} {currency}"


def _missed(report: Report) -> str:
    known = sum(gap.count or 0 for gap in report.gaps)
    if all(gap.count is not None for gap in report.gaps):
        return _n(known)
    return f"{_n(known)} or more" if known else "unknown"


# --- sections -------------------------------------------------------------------------------


def _by_day(report: Report, _: When) -> Section | None:
    if not report.days:
        return None
    word, labels = _periods(one.day for one in report.days)
    sums = {label: [0, 0] for label in labels}
    for one in report.days:
        place = sums[_period(one.day, word)]
        place[0] += one.connections - one.denied
        place[1] += one.denied
    passed = Series("passed", tuple(sums[label][0] for label in labels))
    denied = Series("denied", tuple(sums[label][1] for label in labels), bad=True)
    busiest = max(report.days, key=_connections)
    text = (
        f"{_n(report.totals.connections)} connections, {_n(report.totals.denied)} of them denied;"
        f" the most on {busiest.day}: {_n(busiest.connections)}."
    )
    rows = tuple((label, sum(sums[label]), sums[label][1]) for label in labels)
    table = Table(f"Connections by {word}", (word, "connections", "denied"), rows, folded=True)
    chart = Bars(f"Connections by {word}", text, labels, (passed, denied))
    return Section("days", f"Connections by {word}", (text,), chart, (table,))


def _connections(day: Day) -> int:
    return day.connections


def _links(report: Report, _: When) -> Section | None:
    if not report.carried:
        return None
    word, labels = _periods(one.day for one in report.carried)
    names = _largest(report.carried)
    sums = {(label, name): 0 for label in labels for name in names}
    for one in report.carried:
        name = one.link if one.link in names else OTHERS
        sums[_period(one.day, word), name] += one.size
    series = [
        Series(name or NO_LINK, tuple(sums[label, name] for label in labels)) for name in names
    ]
    text = ", ".join(
        f"{one.name} {size_text(sum(one.values))}" for one in series
    )  # a sentence of figures
    chart = Bars(f"Carried by {word} and link", f"{text}.", labels, tuple(series), bytes=True)
    rows = tuple(
        (label, *(size_text(one.values[place]) for one in series))
        for place, label in enumerate(labels)
    )
    right = frozenset(range(1, len(series) + 1))
    head = (word, *(one.name for one in series))
    folded = Table(f"Carried by {word} and link", head, rows, right, folded=True)
    costs = Table(
        "Links and SIMs, at the prices of now",
        ("link", "SIM", "connections", "sent", "received", "price", "cost"),
        tuple(
            (
                one.link or NO_LINK, one.sim or "none", one.connections, size_text(one.sent),
                size_text(one.received), one.price or "none", one.cost or "none",
            )
            for one in report.costs
        ),
        frozenset({3, 4, 5, 6}),
    )  # fmt: skip
    said = f"{text}. Bytes are those of whole days, headers included, as operators bill them."
    return Section("links", "Links and cost", (said,), chart, (folded, costs))


OTHERS, NO_LINK = "others", "no link"


def _largest(carried: Iterable[Carried]) -> list[str]:
    sums: dict[str, int] = {}
    for one in carried:
        sums[one.link] = sums.get(one.link, 0) + one.size
    names = sorted(sums, key=lambda name: (-sums[name], name))
    return names if len(names) <= MAX_LINKS else [*names[: MAX_LINKS - 1], OTHERS]


def _apps(report: Report, when: When) -> Section | None:
    rows = tuple(
        (
            one.name or NOBODY, one.connections, one.denied, size_text(one.sent),
            size_text(one.received), when(one.last),
        )
        for one in report.apps
    )  # fmt: skip
    head = ("program", "connections", "denied", "sent", "received", "last")
    places = tuple(
        (
            _place(one.host, one.port, one.proto), one.connections, one.denied, one.apps,
            when(one.last),
        )
        for one in report.destinations
    )  # fmt: skip
    return _section(
        "top",
        "Programs and destinations",
        Table("Programs", head, rows, frozenset({3, 4}), 1, report.beyond.get("apps", 0)),
        Table(
            "Destinations, by name where one is known",
            ("destination", "connections", "denied", "programs", "last"),
            places,
            bar=1,
            beyond=report.beyond.get("destinations", 0),
        ),
    )


NOBODY = "(no program known)"


def _denied(report: Report, when: When) -> Section | None:
    rows = tuple(
        (
            one.app or NOBODY, _place(one.host, one.port, one.proto), one.why, one.connections,
            when(one.last),
        )
        for one in report.denied
    )  # fmt: skip
    head = ("program", "destination", "why", "connections", "last")
    table = Table("What was refused", head, rows, beyond=report.beyond.get("denied", 0))
    return _section("denied", "Denied", table)


def _decided(report: Report, _: When) -> Section | None:
    totals = report.totals
    text = (
        f"Rules decided {_n(totals.by_rule)} connections, people {_n(totals.answered)};"
        f" {_n(totals.unanswered)} got the fallback: nobody answered in time, no prompt was there,"
        f" or too much waited. Over a link of choice went {_n(totals.routed)}."
    )
    answers = Table(
        "Answers by person",
        ("who", "frontend", "answer", "times", "seconds on average"),
        tuple(
            (one.by or "?", one.frontend or "?", one.decision, one.count, f"{one.waited:.1f}")
            for one in report.answers
        ),
        frozenset({4}),
        beyond=report.beyond.get("answers", 0),
    )
    reasons = Table("Why it was decided", ("reason", "decision", "connections"), report.reasons)
    tables = tuple(table for table in (answers, reasons) if table.rows)
    return Section("decided", "Who decided", (text,), tables=tables)


def _risks(report: Report, _: When) -> Section | None:
    rows = tuple((one.rule, one.line, one.by, one.why) for one in report.risks)
    beyond = report.beyond.get("risks", 0)
    table = Table("Rules to look at", ("rule", "it says", "by", "why"), rows, beyond=beyond)
    found = _section("risks", "Risky rules", table)
    return found or Section("risks", "Risky rules", ("None was found.",))


def _changes(report: Report, when: When) -> Section | None:
    rows = tuple(
        (when(one.time), one.by, one.frontend or "?", f"{one.change}, {one.reason}",
         f"{one.rule}: {one.line}")
        for one in report.changes
    )  # fmt: skip
    head = ("when", "who", "by way of", "what", "rule")
    table = Table(
        "Each change, the newest first", head, rows, beyond=report.beyond.get("changes", 0)
    )
    return _section("changes", "Changes of rules", table)


def _new(report: Report, when: When) -> Section | None:
    if report.new or report.recorded is None or report.recorded < report.since:
        rows = tuple(
            (
                one.app or NOBODY, "yes" if one.new_app else "no",
                _place(one.host, one.port, one.proto), one.connections, when(one.first),
            )
            for one in report.new
        )  # fmt: skip
        head = ("program", "is new", "destination", "connections", "first")
        beyond = report.beyond.get("new", 0)
        table = Table("Where programs went for the first time", head, rows, beyond=beyond)
        return _section("new", "New destinations", table)
    text = "The records do not reach back beyond this span, so that nothing can be said to be new."
    return Section("new", "New destinations", (text,))


def _executables(report: Report, when: When) -> Section | None:
    rows = tuple(
        (one.app, one.exe, one.connections, when(one.first), when(one.last))
        for one in report.executables
    )
    head = ("program", "executable", "connections", "first", "last")
    beyond = report.beyond.get("executables", 0)
    table = Table("Programs that were more than one executable", head, rows, beyond=beyond)
    return _section("executables", "Changed executables", table)


def _missing(report: Report, when: When) -> Section | None:
    gaps = tuple(
        (
            when(gap.since, SECONDS),
            when(gap.until, SECONDS),
            "unknown" if gap.count is None else gap.count,
            gap.why,
        )
        for gap in report.gaps
    )
    off = tuple((when(since, SECONDS), when(until, SECONDS)) for since, until in report.off)
    found = _section(
        "missing",
        "What is missing",
        Table("Records that could not be written", ("from", "to", "how many", "why"), gaps),
        Table("When arbiter did not run", ("from", "to"), off, beyond=report.beyond.get("off", 0)),
    )
    text = "As far as arbiter knows, every new connection of this span has a record."
    return found or Section("missing", "What is missing", (text,))


_SECTIONS = (
    _by_day,
    _links,
    _apps,
    _denied,
    _decided,
    _risks,
    _changes,
    _new,
    _executables,
    _missing,
)


def _section(id: str, title: str, *tables: Table) -> Section | None:
    """A section with the tables that have rows; None for none."""
    filled = tuple(table for table in tables if table.rows)
    return Section(id, title, tables=filled) if filled else None


# --- words ----------------------------------------------------------------------------------


def _place(host: str, port: int, proto: str) -> str:
    if not proto:
        return "a packet that cannot be read"
    return f"{host}{f' port {port}' if port else ''} {proto}"


def _n(count: int) -> str:
    return f"{count:,}"


def _periods(days: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """`day` or `month`, and each of them."""
    known = sorted(set(days))
    word = "day" if len(known) <= MAX_DAYS else "month"
    return word, tuple(dict.fromkeys(_period(day, word) for day in known))


def _period(day: str, word: str) -> str:
    return day if word == "day" else day[:7]


def text_of(cell: Cell) -> str:
    """A cell as text."""
    return _n(cell) if isinstance(cell, int) else cell
