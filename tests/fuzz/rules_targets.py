"""Fuzzed: rules as lines and as JSON. A rule is never wider than it is written."""

from __future__ import annotations

from collections.abc import Mapping

import written

from arbiter.exchange.jsontext import JsonError, load_json
from arbiter.rules import (
    FieldError,
    Rule,
    RuleError,
    format_rule,
    from_json,
    parse,
    to_json,
    why_not,
)


def text_of(data: bytes) -> str:
    """Bytes as the commands get them: what is no UTF-8 is lone surrogates (PEP 383)."""
    return data.decode("utf-8", "surrogateescape")


def line(data: bytes) -> None:
    """One line: a rule, or an error with its place."""
    text = text_of(data)
    try:
        rule = parse(text)
    except RuleError as error:
        assert str(error).isprintable() and 0 <= error.position <= len(text)
        assert error.pretty(text).replace("\n", "").isprintable()
        assert error.word.isprintable()
        return
    judge(rule, written.words_of(text))


def rule_json(data: bytes) -> None:
    """One object: a rule, or an error with its key."""
    try:
        value = load_json(text_of(data))
    except JsonError as error:
        assert str(error).isprintable()
        return
    try:
        rule = from_json(value)
    except FieldError as error:
        assert str(error).isprintable()
        return
    judge(rule, written.words_of_table(value))


def judge(rule: Rule, words: Mapping[str, str]) -> None:
    """It can be written and read again, and matches what `words` say and nothing else."""
    formatted = format_rule(rule)
    assert formatted.isprintable()
    assert parse(formatted) == rule
    assert from_json(to_json(rule)) == rule
    decision = rule.decision
    assert words["decision"] == decision.action.value
    assert words.get("via", "") == ",".join(decision.via)
    assert words.get("class", "") == (decision.traffic or "")
    assert ("for" in words) or rule.lifetime.kind.value == "forever"
    all_known = words.keys() <= written.KNOWN | written.DECISION
    for query, minute in written.edges(rule, words.get("port", "")):
        here = why_not(rule, query, (minute - 3 * 1440) * 60.0 + 7 * 86400) is None
        there = written.matches(words, query, minute)
        assert there or not here, f"wider than written: {formatted} for {query}"
        assert here or not (there and all_known), f"narrower than written: {formatted} for {query}"
