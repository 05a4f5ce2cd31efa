"""Our own forms: what is exported and imported decides the same, and nothing is ever widened."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_strategies import UNHURRIED, rules, small_entries, small_queries

from arbiter.exchange import (
    WRITERS,
    Batch,
    Binding,
    Format,
    RemarkKind,
    Source,
    detect,
    read,
    read_binding,
    select,
    settle,
)
from arbiter.rules import (
    Entry,
    Index,
    LifetimeKind,
    Query,
    Rule,
    conditions,
    format_rule,
    never_matches,
    parse,
)
from arbiter.rules.rule import Layer

OWN = (Format.LINES, Format.TOML, Format.JSON)


def read_text(text: str, format: Format | None = None, origin: str = "f") -> Batch:
    return read([Source(origin, text.encode())], format)


def lines(batch: Batch) -> list[str]:
    return [format_rule(item.rule) for item in batch.items]


def remembered(entries: list[Entry]) -> list[Entry]:
    """As a database holds them: one layer, each condition once."""
    seen: dict[str, Entry] = {}
    for number, entry in enumerate(entries):
        if entry.process is None:
            fixed = Entry(
                number + 1,
                entry.rule,
                Layer.REMEMBERED,
                entry.created,
                "alice",
                expires=entry.expires,
            )
            seen.setdefault(conditions(entry.rule), fixed)
    return list(seen.values())


def imported(batch: Batch, created: float) -> list[Entry]:
    """As `Store.import_rules` would keep them."""
    return [
        Entry(
            number,
            item.rule,
            Layer.REMEMBERED,
            created,
            "root",
            expires=created + item.rule.lifetime.seconds
            if item.rule.lifetime.kind is LifetimeKind.SPAN and item.expires is None
            else item.expires,
        )
        for number, item in enumerate(batch.items, 1)
    ]


# --- round trips ----------------------------------------------------------------------------


@UNHURRIED
@given(
    st.lists(small_entries(st.just(1)), max_size=12),
    st.lists(small_queries(), min_size=1, max_size=8),
    st.sampled_from(OWN),
    st.sampled_from([50.0, 150.0, 400.0]),
)
def test_what_is_exported_and_imported_decides_the_same(
    drawn: list[Entry], queries: list[Query], format: Format, now: float
) -> None:
    entries = [e for e in remembered(drawn) if e.expires is None or e.expires > now]
    kept, left = select(entries, spans=format is not Format.LINES)
    assert len(kept) + len(left) == len(entries)
    text = WRITERS[format.value](kept, "for a test")
    batch = settle(read_text(text), now=now)
    # A rule that can never match is refused, aloud; it decides nothing.
    kept = [entry for entry in kept if not never_matches(entry.rule)]
    assert len(batch.items) == len(kept)
    assert all("never match" in remark.text for remark in batch.remarks)
    before, after = Index(kept), Index(imported(batch, now))
    for query in queries:
        old, new = before.lookup(query, now), after.lookup(query, now)
        assert (old and old.rule) == (new and new.rule), text


@UNHURRIED
@given(rules(), st.sampled_from(OWN))
def test_every_rule_is_read_back_as_it_was_written(rule: Rule, format: Format) -> None:
    if rule.lifetime.kind in (LifetimeKind.ONCE, LifetimeKind.PROCESS, LifetimeKind.SPAN):
        rule = rule.replace(lifetime=parse("allow").lifetime)
    entry = Entry(1, rule, Layer.REMEMBERED, 1.0, "x")
    text = WRITERS[format.value]([entry], "\ud800\n[[rule]]\ndeny\x1b")
    batch = read_text(text)
    assert batch.remarks == ()
    assert [item.rule for item in batch.items] == [rule]
    assert text.isascii() or all(c.isprintable() or c == "\n" for c in text)


@UNHURRIED
@given(st.floats(0, 1e12), st.sampled_from((Format.TOML, Format.JSON)))
def test_an_end_is_kept_to_the_microsecond(expires: float, format: Format) -> None:
    entry = Entry(1, parse("allow app=/a for=1h"), Layer.REMEMBERED, 1.0, "x", expires=expires)
    (item,) = read_text(WRITERS[format.value]([entry], "")).items
    assert item.expires == expires


def test_rules_that_mean_nothing_elsewhere_are_left_out_and_said() -> None:
    entries = [
        Entry(1, parse("allow app=/a for=boot"), Layer.REMEMBERED, 1.0, "x"),
        Entry(2, parse("allow app=/b for=session"), Layer.REMEMBERED, 1.0, "x"),
        Entry(3, parse("allow app=/c for=1h"), Layer.REMEMBERED, 1.0, "x", expires=9.0),
        Entry(4, parse("allow app=/d"), Layer.REMEMBERED, 1.0, "x"),
    ]
    kept, left = select(entries, spans=False)
    assert [entry.id for entry in kept] == [4]
    assert len(left) == 3
    assert "for=boot means nothing after this boot" in left[0]
    kept, left = select(entries, spans=True)
    assert [entry.id for entry in kept] == [3, 4]


def test_the_order_is_by_age_whatever_order_they_come_in() -> None:
    entries = [
        Entry(id, parse(f"allow app=/{id}"), Layer.REMEMBERED, created, "x")
        for id, created in ((3, 2.0), (1, 3.0), (2, 2.0))
    ]
    assert [entry.id for entry in select(entries, spans=True)[0]] == [2, 3, 1]


# --- reading --------------------------------------------------------------------------------


def test_lines_have_comments_and_windows_ends() -> None:
    batch = read_text("# mine\r\n\r\n  allow app=/a # why\r\n\tdeny host=lan")
    assert lines(batch) == ["allow app=/a", "deny host=lan"]
    assert [item.place for item in batch.items] == ["f:3", "f:4"]
    assert batch.remarks == ()


def test_toml_takes_tables_and_lines() -> None:
    text = """
    format = 1
    rules = ["deny host=lan"]
    [[rule]]
    decision = "route"
    via = ["lte", "any"]
    port = [443, "8000-8080"]
    roaming = false
    user = 1000
    for = "1h"
    expires = 2030-01-01T00:00:00Z
    [[rule]]
    rule = "allow app=/a"
    """
    batch = read_text(text)
    assert batch.remarks == ()
    assert lines(batch) == [
        "deny host=lan",
        "route via=lte,any user=1000 port=443,8000-8080 roaming=no for=1h",
        "allow app=/a",
    ]
    assert batch.items[1].expires == 1893456000.0


def test_json_takes_what_rules_list_prints() -> None:
    listed = [
        {
            "id": 1,
            "rule": "allow app=/a",
            "layer": "remembered",
            "by": "alice",
            "frontend": "cli",
            "created": 1.5,
            "expires": None,
            "process": None,
        },
        "deny app=/b",
        {"decision": "deny", "app": "/c", "metered": True},
    ]
    batch = read_text(json.dumps(listed))
    assert batch.remarks == ()
    assert lines(batch) == ["allow app=/a", "deny app=/b", "deny app=/c metered=yes"]


BAD = [
    ("allow app=/a\nallw app=/b\n", Format.LINES, "f:2", "did you mean allow"),
    ("allow host=lan port=99999", Format.LINES, "f:1", "no port"),
    ("allow app=/a\x00", Format.LINES, "f:1", "U+0000"),
    ("[[rule]]\ndecision = 'allow'\nprt = 1", Format.TOML, "rule 1, prt", "did you mean 'port'"),
    ("[[rule]]\nport = 1", Format.TOML, "rule 1, decision", "allow, deny or route"),
    ("[[rule]]\ndecision='allow'\nport = 1.5", Format.TOML, "rule 1, port", "no value of port"),
    ("[[rule]]\ndecision='allow'\nport = true", Format.TOML, "rule 1, port", "no value of port"),
    ("[[rule]]\ndecision='allow'\nport = []", Format.TOML, "rule 1, port", "empty list"),
    ("[[rule]]\ndecision='allow'\nhost = 'lam'", Format.TOML, "rule 1, host", "did you mean lan"),
    ("[[rule]]\ndecision='allow'\napp = ''", Format.TOML, "rule 1, app", "has no value"),
    ("[[rule]]\ndecision='allow app=/x'", Format.TOML, "rule 1, decision", "allow, deny or route"),
    ("[[rule]]\nrule='allow'\nexpires=1", Format.TOML, "rule 1, expires", "time span"),
    ("[[rule]]\nrule='allow'\nport=1", Format.TOML, "rule 1, port", "beside a whole rule"),
    ("[[rule]]\nrule='allow for=1h'\nexpires=2030-01-01T00:00:00", Format.TOML, "expires", "zone"),
    ("[rule]\ndecision='allow'", Format.TOML, "f: rule", "[[rule]]"),
    ("rule = [1]", Format.TOML, "rule 1", "table of words"),
    ("ruel = 1", Format.TOML, "f", "did you mean 'rule'"),
    ("format = 2", Format.TOML, "format", "reads format = 1"),
    ("format = true", Format.TOML, "format", "reads format = 1"),
    ("x = = 1", Format.TOML, "f:1", "not TOML"),
    ("{", Format.JSON, "f", "line 1: not JSON"),
    ("{}", Format.JSON, "f", "an array"),
    ("[" * 100_000, Format.JSON, "f", "nested too deeply"),
    ('[{"rule": "allow", "rule": "deny"}]', Format.JSON, "f", "'rule' stands twice"),
    ("[NaN]", Format.JSON, "f", "NaN is no number"),
    ("[" + "9" * 5000 + "]", Format.JSON, "f", "not JSON"),
    ('[{"rule": 1}]', Format.JSON, "rule 1, rule", "is no text"),
    ('[{"rule": "allow", "layer": "admin"}]', Format.JSON, "rule 1, layer", "policy file"),
    ('[{"rule": "allow", "process": [1, 2]}]', Format.JSON, "rule 1, process", "one process"),
    ('[{"rule": "allow for=1h", "expires": "soon"}]', Format.JSON, "expires", "is no time"),
    ('[{"rule": "allow for=1h", "expires": 1e999}]', Format.JSON, "expires", "is no time"),
]


@pytest.mark.parametrize(("text", "format", "place", "why"), BAD)
def test_what_is_wrong_is_said_with_its_place(
    text: str, format: Format, place: str, why: str
) -> None:
    (remark,) = read_text(text, format).remarks
    assert remark.kind is RemarkKind.CANNOT
    assert place in remark.place and why in remark.text, remark


def test_text_that_is_not_utf_8_is_refused_with_its_line() -> None:
    batch = read([Source("f", b"allow app=/a\nallow app=/\xff")], None)
    assert [(r.place, r.text) for r in batch.remarks] == [("f", "line 2: it is not UTF-8 text")]
    assert batch.items == ()


@pytest.mark.parametrize(
    ("origin", "text", "format"),
    [
        ("-", "allow app=/a", Format.LINES),
        ("-", "# x\n[[rule]]\n", Format.TOML),
        ("-", "# x\nformat = 1\n", Format.TOML),
        ("-", "\ufeff\n [ {}]", Format.JSON),
        ("-", "[]", Format.JSON),
        ("a.toml", "", Format.TOML),
        ("a.json", "", Format.JSON),
        ("a.txt", "", Format.LINES),
    ],
)
def test_a_format_is_seen(origin: str, text: str, format: Format) -> None:
    assert detect(Source(origin, text.encode())) is format


WORDS = (
    *("allow", "deny", " ", "app=", "/a", '"', "\\", "\n", "[[rule]]", "=", "{", "}", "[", "]"),
    *("decision", "'allow'", "port", "443", ":", ",", "rule", "expires", "for=1h", "null"),
)
texts = st.text() | st.lists(st.sampled_from(WORDS), max_size=30).map("".join)


@UNHURRIED
@given(
    st.binary() | texts.map(lambda text: text.encode("utf-8", "replace")),
    st.none() | st.sampled_from(Format),
)
def test_whatever_the_bytes_there_is_a_batch(data: bytes, format: Format | None) -> None:
    batch = settle(read([Source("f", data)], format), now=0.0)
    for remark in batch.remarks:
        assert remark.place.startswith("f")
        assert (remark.text + remark.place).isprintable()
        assert len(remark.text) < 1000


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
tables = st.dictionaries(
    st.sampled_from(
        ["decision", "rule", "app", "port", "via", "host", "expires", "for", "layer", "x"]
    ),
    values | st.sampled_from(["allow", "route", "/a", 443, "lan", "1h", ["lte"], [1, "2-3"]]),
    max_size=5,
)


@UNHURRIED
@given(st.lists(tables | values, max_size=4))
def test_every_object_is_a_rule_or_a_remark(objects: list[Any]) -> None:
    try:
        text = json.dumps(objects, allow_nan=False)
    except ValueError:
        return
    batch = read_text(text, Format.JSON)
    assert len(batch.items) + len(batch.remarks) == len(objects)
    for item in batch.items:
        given_keys = objects[int(item.place.rpartition(" ")[2]) - 1]
        if isinstance(given_keys, dict) and "rule" not in given_keys:
            written = format_rule(item.rule)
            for key in set(given_keys) & {"app", "host", "port"}:
                assert f"{key}=" in written, "no condition is lost"


def test_toml_that_is_written_is_toml() -> None:
    entry = Entry(
        1, parse('allow app="/a\\"\\n\\x1b" port=443 roaming=no'), Layer.REMEMBERED, 1.0, "x"
    )
    data = tomllib.loads(WRITERS["toml"]([entry], ""))
    assert data == {
        "format": 1,
        "rule": [{"decision": "allow", "app": '/a"\n\x1b', "port": 443, "roaming": False}],
    }


# --- settling -------------------------------------------------------------------------------


def test_doubles_are_sorted_out_and_contradictions_refused() -> None:
    batch = settle(
        read_text("allow app=/a\nallow app=/a\ndeny app=/a\nallow app=/a for=1h"), now=0.0
    )
    assert lines(batch) == ["allow app=/a"]
    kinds = [remark.kind for remark in batch.remarks]
    assert kinds == [RemarkKind.LEFT_OUT, RemarkKind.CANNOT, RemarkKind.CANNOT]
    assert "at f:1, which says: allow app=/a" in batch.remarks[1].text


@pytest.mark.parametrize("line", ["allow for=once", "allow for=session", "allow hook=in"])
def test_what_is_no_rule_to_keep_is_refused(line: str) -> None:
    batch = settle(read_text(line), now=0.0)
    assert batch.items == ()
    assert batch.cannot()


def test_what_has_expired_is_left_out() -> None:
    text = '[{"rule": "allow for=1h", "expires": 10}]'
    assert settle(read_text(text), now=9.0).items
    batch = settle(read_text(text), now=10.0)
    assert batch.items == () and not batch.cannot()


def test_rules_are_bound_to_a_place_and_never_moved_from_another() -> None:
    sim = "89430123456789012345"
    bindings = [read_binding(f"sim={sim}F"), read_binding("network=ssid:My Home")]
    batch = settle(read_text("allow app=/a\nallow network=ssid:Other"), bindings, now=0.0)
    assert lines(batch) == [f'allow app=/a network="ssid:My Home" sim={sim}']
    (remark,) = batch.cannot()
    assert remark.place == "f:2" and "network=ssid:Other already" in remark.text


@pytest.mark.parametrize("text", ["sim", "sim=", "sim=1", "app=/a", "network=x", "sim=1 app=/x"])
def test_a_binding_is_one_sim_or_network(text: str) -> None:
    with pytest.raises(Binding):
        read_binding(text)


def test_rules_of_one_place_are_selected() -> None:
    entries = [
        Entry(n, parse(line), Layer.REMEMBERED, 1.0, "x")
        for n, line in enumerate(("allow app=/a", "allow network=ssid:H", "deny network=ssid:I"))
    ]
    assert [e.id for e in select(entries, [("network", "ssid:H")], spans=True)[0]] == [1]


def test_the_example_of_the_docs_is_imported() -> None:
    text = (Path(__file__).parent.parent / "docs" / "import.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    batch = settle(read_text(block, Format.TOML), now=0.0)
    assert batch.remarks == ()
    assert lines(batch)[1] == "allow app=/usr/bin/curl port=443,8000-8080 for=1w"
