"""Cases asked again: how they compare, what cannot be told, and that a memo changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from auditscene import BEGAN, CURL, FIREFOX, record
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_questions import contexts, owners, packets
from test_questions import entries as scene_entries

from arbiter import replay
from arbiter.cases import ASK, COLUMNS, PROCESS_COLUMNS, Case, of_row
from arbiter.events import Reason, Report
from arbiter.judge import Context, judge
from arbiter.model import DENY, NoOwner, Owner, Packet
from arbiter.questions import answer, of_record
from arbiter.records import Record, json_list
from arbiter.replay import EXAMPLES, Kind, Outcome, Replay
from arbiter.rules import FOREVER, Entry, Index, Layer, LifetimeKind, format_decision, parse
from arbiter.views import record_of


def groups(uid: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return (("staff",), (50,)) if uid == 1000 else ((), ())


def row(record: Record, *more: str) -> tuple[object, ...]:
    columns = (*COLUMNS, *more)
    return tuple(getattr(record, "by" if c == "by_user" else c) for c in columns)


def case(at: float = 0, *decided: Any, **fields: Any) -> Case:
    return of_row(row(record(at, *decided, **fields)), groups)


def entries(*lines: str, **more: Any) -> list[Entry]:
    return [
        Entry(-1 - n, parse(line), Layer.REMEMBERED, 0.0, f"file:new:{n + 1}", **more)
        for n, line in enumerate(lines)
    ]


def told(case: Case, *lines: str, undecided: str = ASK) -> Outcome:
    return Replay(entries(*lines), UTC, undecided).outcome(case, BEGAN)


RULED = {"rule_id": 3, "layer": 2, "by": "root"}


@pytest.mark.parametrize(
    ("decided", "more", "line", "undecided", "kind"),
    [
        (("allow", "rule"), RULED, "allow app=/usr/bin/curl", ASK, Kind.SAME),
        (("allow", "rule"), RULED, "deny app=/usr/bin/curl", ASK, Kind.DENIED),
        (("deny", "rule"), RULED, "allow port=443", ASK, Kind.ALLOWED),
        (("deny", "rule"), RULED, "route via=lte", ASK, Kind.ALLOWED),
        (("deny", "rule"), RULED, "deny user=@staff", ASK, Kind.SAME),
        (("deny", "rule"), RULED, "deny user=@other", ASK, Kind.ASKED),
        (("allow", "rule"), RULED, "allow port=1", ASK, Kind.ASKED),
        (("allow", "rule"), RULED, "allow port=1", "deny", Kind.DENIED),
        (("deny", "rule"), RULED, "allow port=1", "allow", Kind.ALLOWED),
        (("allow", "rule"), RULED, "allow port=1", "allow", Kind.SAME),
        (("route via=lte", "rule"), RULED, "allow port=1", "allow", Kind.LINK),
        (("allow", "rule"), {**RULED, "link": "wifi"}, "route via=lte,any", ASK, Kind.LINK),
        (("allow", "rule"), {**RULED, "link": "lte"}, "route via=lte,any", ASK, Kind.SAME),
        (("route via=lte", "rule"), {**RULED, "link": "lte"}, "allow", ASK, Kind.LINK),
        (("route via=lte", "rule"), RULED, "route via=lte", ASK, Kind.SAME),
        (("allow", "rule"), RULED, "allow class=bulk", ASK, Kind.CLASS),
        (("allow", "answer"), {}, "allow port=1", ASK, Kind.SAME),
        (("deny", "deadline"), {}, "allow port=1", ASK, Kind.SAME),
        (("deny", "deadline"), {}, "allow", ASK, Kind.ALLOWED),
        (("allow", "observe"), {}, "deny host=203.0.113.0/24", ASK, Kind.DENIED),
        (("allow", "older"), {}, "allow port=1", ASK, Kind.SAME),
        (("allow", "older"), {}, "deny", ASK, Kind.DENIED),
    ],
)  # fmt: skip
def test_how_now_compares_with_then(
    decided: tuple[str, str], more: dict[str, Any], line: str, undecided: str, kind: Kind
) -> None:
    assert told(case(0, *decided, **more), line, undecided=undecided).kind is kind


def test_the_context_of_then_counts() -> None:
    then = case(
        0, "allow", "rule", **RULED, names=json_list(["a.example.org"]),
        sims=json_list(["8943000000000000001"]),
        networks=json_list(["ssid:Home"]), metered=True, roaming=False, profile="home",
    )  # fmt: skip
    for line in (
        "host=*.example.org", "sim=8943000000000000001", "network=ssid:Home", "metered=yes",
        "roaming=no", "profile=home", "parent=/usr/bin/bash", "user=alice", "user=@50",
    ):  # fmt: skip
        assert told(then, f"deny {line}").kind is Kind.DENIED, line
    for line in ("host=*.example.com", "metered=no", "profile=work", "user=bob", "parent=/bin/x"):
        assert told(then, f"deny {line}").kind is Kind.ASKED, line


def test_the_time_of_then_counts_for_each_record_by_itself() -> None:
    made = Replay(entries("deny time=09:00-17:00"), UTC)
    key = row(record(0, "allow", "rule", **RULED))
    times = [datetime(2026, 11, day, hour, tzinfo=UTC) for day in (2, 3) for hour in (8, 9, 16, 17)]
    kinds = [made.feed(n, t.timestamp(), key, lambda: of_row(key, groups)).kind
             for n, t in enumerate(times)]  # fmt: skip
    assert kinds == [Kind.ASKED, Kind.DENIED, Kind.DENIED, Kind.ASKED] * 2
    assert made.result().totals[Kind.DENIED] == 4


def test_who_was_asked_and_would_not_be_is_counted() -> None:
    made = Replay(entries("allow app=/usr/bin/curl"), UTC)
    for id, reason in enumerate(("answer", "answer", "observe", "rule")):
        key = row(record(id, "allow", reason))
        made.feed(id, BEGAN, key, lambda key=key: of_row(key, groups))  # type: ignore[misc]
    found = made.result()
    assert (found.totals[Kind.SAME], found.unasked) == (4, 2)


# --- what cannot be told --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"daddr": "", "proto": "", "note": "too short"}, "could not be read (too short)"),
        ({"proto": "x"}, "'x' is no protocol"),
        ({"dport": 70000}, "70000 is no port"),
        ({"daddr": "x"}, "does not appear to be an IPv4 or IPv6 address"),
        ({"names": "{}"}, "it is no list of texts"),
        ({"parents": "[" * 100_000}, ""),
        ({"hook": "x"}, "'x' is not a valid Hook"),
        ({"decision": "maybe"}, "its decision 'maybe' is none"),
        ({"note": "socket shared with /usr/bin/other (pid 7)"}, "others held its socket"),
        ({"note": f"socket shared with {CURL} (pid 7), /x (pid 8)"}, "others held"),
    ],
)
def test_what_cannot_be_asked_is_said_to_be_so(fields: dict[str, Any], why: str) -> None:
    decision = fields.pop("decision", "allow")
    found = told(case(0, decision, "rule", **fields), "allow")
    assert found.kind is Kind.UNDECIDABLE
    assert why in found.why
    assert found.why


def test_a_socket_that_others_held_is_surely_denied_and_one_of_the_same_app_surely_told() -> None:
    shared = case(0, "allow", "rule", note="socket shared with /x (pid 7)")
    assert told(shared, "deny").kind is Kind.DENIED
    same = case(0, "allow", "rule", note=f"it waited; socket shared with {CURL} (pid 7)")
    assert told(same, "allow").kind is Kind.SAME
    assert told(same, "allow", "deny parent=/x").kind is Kind.UNDECIDABLE
    assert told(same, "deny", "deny parent=/x").kind is Kind.DENIED


def test_of_several_users_no_rule_for_a_user_counts() -> None:
    note = "its socket and its processes are of several users: no rule for a user counts"
    assert told(case(0, "allow", "rule", note=note), "deny user=alice").kind is Kind.ASKED


@pytest.mark.parametrize("word", ["1h", "boot", "session"])
def test_a_rule_for_a_while_decides_nothing_surely(word: str) -> None:
    line = f"allow app=/usr/bin/curl for={word}"
    expires = BEGAN - 9 if word == "1h" else None
    found = Replay(entries(line, expires=expires), UTC).outcome(case(0, "deny", "rule"), BEGAN)
    assert found.kind is Kind.UNDECIDABLE
    assert f"the rule at new:1 holds for a while only (for={word})" in found.why


def test_a_rule_for_a_process_decides_for_that_process() -> None:
    made = Replay(entries("deny for=process", process=(42, 4242)), UTC)
    assert made.by_process
    this, other = record(0, "allow", "rule"), record(0, "allow", "rule", pid=43)
    kinds = [
        made.outcome(of_row(row(one, *PROCESS_COLUMNS), groups), BEGAN).kind
        for one in (this, other)
    ]
    assert kinds == [Kind.DENIED, Kind.ASKED]
    assert not Replay(entries("deny"), UTC).by_process


# --- sums -----------------------------------------------------------------------------------


def feed(made: Replay, records: list[Record]) -> None:
    for id, one in enumerate(records, 1):
        key = row(one)
        made.feed(id, one.time, key, lambda key=key: of_row(key, groups))  # type: ignore[misc]


def test_a_difference_names_its_records_and_both_rules() -> None:
    made = Replay(entries("deny app=/usr/bin/curl", "allow app=/none"), UTC)
    records = [record(n, "allow", "rule", **RULED, sport=n) for n in range(EXAMPLES + 5)]
    feed(made, [*records, record(99, "allow", "rule", app=FIREFOX, **RULED)])
    found = made.result()
    first, second = found.differences
    assert (first.kind, first.app, first.host, first.count) == (
        Kind.DENIED,
        CURL,
        "203.0.113.1",
        15,
    )
    assert (first.was, first.was_by, first.would) == ("allow", "rule 3", "deny")
    assert first.rule is not None
    assert first.rule.called == "the rule at new:1"
    assert (first.first, first.last) == (BEGAN, BEGAN + 14)
    assert first.examples == tuple(range(1, EXAMPLES + 1))
    assert (second.kind, second.rule, second.would, second.examples) == (
        Kind.ASKED, None, ASK, (16,),
    )  # fmt: skip
    assert [entry.id for entry in found.idle] == [-2]


def test_what_has_no_name_is_counted_where_rules_go_by_names() -> None:
    records = [record(0), record(1, names=json_list(["x.example"]))]
    for line, count in (("deny host=x.example", 1), ("deny host=*.example", 1), ("deny", 0)):
        made = Replay(entries(line), UTC)
        feed(made, records)
        assert made.result().nameless == count


def test_more_differences_than_there_is_room_for_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "MAX_DIFFERENCES", 2)
    monkeypatch.setattr(replay, "MAX_DOUBTS", 1)
    made = Replay(entries("deny"), UTC)
    feed(made, [record(n, dport=n) for n in (1, 2, 3, 4, 1)])
    feed(made, [record(n, proto=f"x{n}") for n in range(3)])
    found = made.result()
    assert (len(found.differences), found.untold, found.totals[Kind.DENIED]) == (2, 2, 5)
    assert sorted(doubt.count for doubt in found.doubts) == [1, 2]


LINES = (
    "allow", "deny app=/usr/bin/curl", "allow app=/usr/bin/curl host=203.0.113.1",
    "deny host=*.example.org", "route via=lte port=443", "allow time=09:00-17:00",
    "deny user=alice", "deny metered=yes", "allow parent=/usr/bin/bash port=80", "deny for=process",
    "allow app=/usr/lib/firefox/firefox for=2h",
)  # fmt: skip
RECORDS = st.builds(
    lambda at, decided, daddr, **more: record(
        at, *decided, daddr=daddr, saddr="::1" if ":" in daddr else "10.1.0.2", **more
    ),
    st.integers(0, 86400),
    st.sampled_from(
        [("allow", "rule"), ("deny", "rule"), ("allow", "answer"), ("allow", "older"),
         ("route via=lte", "rule"), ("deny", "deadline")]
    ),
    app=st.sampled_from([CURL, FIREFOX, ""]),
    daddr=st.sampled_from(["203.0.113.1", "2001:db8::7"]),
    dport=st.sampled_from([80, 443]),
    names=st.sampled_from(["[]", '["a.example.org"]']),
    metered=st.sampled_from([None, True, False]),
    pid=st.sampled_from([42, 43]),
    sport=st.integers(1, 3),
)  # fmt: skip


@given(st.lists(st.sampled_from(LINES), unique=True), st.lists(RECORDS, max_size=30),
       st.integers(1, 5))  # fmt: skip
def test_each_record_is_told_as_if_it_were_asked_alone(
    lines: list[str], records: list[Record], memo: int
) -> None:
    rules = [
        Entry(
            -1 - n, rule := parse(line), Layer.REMEMBERED, 0.0, f"file:new:{n}",
            expires=5.0 if rule.lifetime.kind is LifetimeKind.SPAN else None,
            process=(42, 4242) if rule.lifetime.kind is LifetimeKind.PROCESS else None,
        )
        for n, line in enumerate(lines)
    ]  # fmt: skip
    made = Replay(rules, UTC, memo=memo)
    lasting = Index([e if e.expires is None else _endless(e) for e in rules], UTC)
    more = PROCESS_COLUMNS if made.by_process else ()
    for id, one in enumerate(records):
        key = row(one, *more)
        found = made.feed(id, one.time, key, lambda key=key: of_row(key, groups))  # type: ignore[misc]
        alone = answer(lasting, of_record(one, *groups(1000)), one.time).judgement
        if found.kind is Kind.UNDECIDABLE:
            assert alone is not None and alone.entry is not None
            assert "for=2h" in lines[-1 - alone.entry.id]
            continue
        would = format_decision(alone.decision) if alone is not None else ASK
        assert found.would == would
        assert found.rule is (rules[-1 - alone.entry.id] if alone and alone.entry else None)
    result = made.result()
    assert result.count == sum(result.totals.values()) == len(records)
    told = sum(one.count for one in result.differences) + sum(d.count for d in result.doubts)
    assert told + result.totals[Kind.SAME] == len(records)


def _endless(entry: Entry) -> Entry:
    line = "allow app=/usr/lib/firefox/firefox"
    return Entry(entry.id, parse(line), entry.layer, 0.0, entry.by)


@settings(deadline=None, max_examples=examples(300))
@given(rules=scene_entries, who=owners(3), sent=packets(), context=contexts)
def test_the_rules_that_decided_decide_the_same(
    rules: list[Entry], who: Owner | NoOwner, sent: Packet, context: Context
) -> None:
    """From the packet to its record, and back: a replay differs only where it says that it cannot
    tell."""
    judged = judge(Index(rules), sent, who, BEGAN, context)
    reason = Reason.DEADLINE if judged is None else Reason.RULE if judged.entry else Reason.OLDER
    decision = judged.decision if judged is not None else DENY
    rule = judged.entry if judged is not None else None
    made = record_of(Report(BEGAN, sent, who, decision, reason, rule, context=context))
    asked = Replay(rules, UTC)
    own = (who.groups, who.gids) if isinstance(who, Owner) else ((), ())
    more = PROCESS_COLUMNS if asked.by_process else ()
    found = asked.outcome(of_row(row(made, *more), lambda _: own), BEGAN)
    assert found.kind in (Kind.SAME, Kind.UNDECIDABLE)
    simple = isinstance(who, NoOwner) or len(who.processes) == 1
    if simple and all(e.rule.lifetime.kind in (FOREVER.kind, LifetimeKind.PROCESS) for e in rules):
        assert found.kind is Kind.SAME
        assert found.rule == rule
