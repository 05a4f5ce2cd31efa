"""The words that the commands about rules share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from arbiter.protocol import clean
from arbiter.rules import Entry, Rule, format_host, format_rule, shown_host


def instant(epoch: float) -> str:
    """The same to the second: for evidence."""
    return when(epoch, "%Y-%m-%d %H:%M:%S")


def when(epoch: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """A time of the calendar, local."""
    try:
        return datetime.fromtimestamp(epoch).astimezone().strftime(form)
    except (ValueError, OverflowError, OSError):  # no day of the calendar: show what is stored
        return f"{epoch:g}"


def letters(rule: Rule) -> str:
    """The host of a rule in its own letters, where its line has A-labels (`xn--...`) for them; ""
    where it has none, or where they may deceive."""
    if rule.host is None or shown_host(rule.host) == format_host(rule.host):
        return ""
    return clean(shown_host(rule.host))


def beside(rule: Rule) -> str:
    """`letters` as it stands after the line of a rule; "" where there are none."""
    shown = letters(rule)
    return f"  ({shown})" if shown else ""


def with_letters(
    rules: Sequence[Rule], rows: Iterable[Sequence[str]]
) -> tuple[tuple[str, ...], list[Sequence[str]]]:
    """The rows of a table of rules, with a column for `letters` where one of them has any; and
    the head of that column. A column, so that the line beside it can be copied as it is."""
    names = [letters(rule) for rule in rules]
    if not any(names):
        return (), list(rows)
    return ("that is",), [(*row, name) for row, name in zip(rows, names, strict=True)]


def rule_object(entry: Entry) -> dict[str, object]:
    """A rule in force as JSON: stable keys, epoch seconds."""
    return {
        "id": entry.id,
        "rule": format_rule(entry.rule),
        "layer": entry.layer.name.lower(),
        "by": entry.by,
        "frontend": entry.frontend,
        "created": entry.created,
        "expires": entry.expires,
        "process": list(entry.process) if entry.process else None,
    }
