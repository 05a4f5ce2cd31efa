"""Rules on one machine: what they name is looked for, and what is not known is not said."""

from __future__ import annotations

from arbiter.rules import Entry, Here, Layer, Uses, dead, parse, unused
from arbiter.rules.stale import DAY

NOW = 100 * DAY
HERE = Here(
    app="no {}".format, user="nobody {}".format, link="nowhere {}".format, profile="none {}".format
)


def entry(id: int, line: str, layer: Layer = Layer.REMEMBERED) -> Entry:
    return Entry(id, parse(line), layer, 0.0, "alice")


def test_everything_that_a_rule_names_is_looked_for_once() -> None:
    line = "route via=lte,unmetered,any app=/a parent=/b user=@c profile=d"
    assert [found.text for found in dead([entry(1, line)], HERE)] == [
        "rule 1: no /a",
        "rule 1: no /b",
        "rule 1: nobody @c",
        "rule 1: nowhere lte",
        "rule 1: none d",
    ]
    assert len(dead([entry(1, "deny app=/a parent=/a")], HERE)) == 1
    assert dead([entry(1, "allow host=lan")], HERE) == []


def test_only_remembered_rules_are_said_to_be_unused() -> None:
    uses = Uses(recorded=0.0, since={1: 0.0, 2: 0.0, 3: 71 * DAY}, last={})
    rules = [entry(1, "deny app=/a"), entry(2, "deny app=/b", Layer.ADMIN), entry(3, "deny")]
    assert [found.entry.id for found in unused(rules, uses, 30, NOW)] == [1]


def test_a_day_is_said_as_one() -> None:
    uses = Uses(recorded=0.0, since={1: 0.0}, last={1: NOW - 1.5 * DAY})
    (found,) = unused([entry(1, "deny app=/a")], uses, 1, NOW)
    assert found.text == "rule 1 (deny app=/a) decided a connection last 1 day ago"
