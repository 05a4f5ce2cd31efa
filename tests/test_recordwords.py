"""Records in words: everything that is known, harmless, whatever the daemon sends."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from auditscene import DAY, FIREFOX
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from arbiter.protocol import Records, Sums
from arbiter.recordwords import KEYS, as_object, why
from prompts import recordwords
from prompts.web import recordviews

RECORDS = [as_object(id, record) for id, record in enumerate(DAY, 1)]


def test_who_where_and_why_are_words() -> None:
    assert [recordwords.program(one) for one in RECORDS] == [
        "curl", "firefox", "firefox", "timesync.service", "(no known program)", "(exited)",
    ]  # fmt: skip
    assert [recordwords.target(one) for one in RECORDS] == [
        "deb.debian.org:443", "a.tracker.example:443", "198.51.100.9:8080", "192.168.1.1:123/udp",
        "a packet that cannot be read", "203.0.113.1 icmp",
    ]  # fmt: skip
    assert [recordwords.why(one) for one in RECORDS] == [
        "no rule; learning: it passes, and is recorded",
        "rule 3 of root",
        "an answer by bob with terminal",
        "the rule at /etc/arbiter/policy.d/x.toml:12",
        "the packet cannot be read",
        "nobody answered in time: the fallback",
    ]
    assert recordwords.target({"proto": "udp", "daddr": "2001:db8::7", "dport": 53}) == (
        "[2001:db8::7]:53/udp"
    )


def test_a_record_that_stands_for_more_packets_says_for_how_many() -> None:
    assert why(structs.replace(DAY[0], count=3)).endswith("was observe; for 3 packets")
    assert "packets" not in why(DAY[0])


def test_the_rule_that_decided_is_what_the_filter_takes() -> None:
    assert [recordwords.rule_filter(one) for one in RECORDS] == [
        "", "3", "", "/etc/arbiter/policy.d/x.toml:12", "", "",
    ]  # fmt: skip


def test_every_key_of_a_record_that_says_something_is_in_its_facts() -> None:
    full: dict[str, Any] = dict.fromkeys(KEYS, "WORD") | {
        "time": 1.0, "waited": 2.0, "replied": 3.0, "closed": 4.0, "metered": True,
        "roaming": False, "count": 5, "out_bytes": 612, "in_bytes": 4200,
        "out_packets": 7, "in_packets": 8,
        "reason": "answer", "by_user": "bob", "frontend": "tui", "sport": 40000, "dport": 443,
        "app": FIREFOX, "uid": 1000, "rule_id": 12,
    }  # fmt: skip
    full |= {key: [f"{key} 1", f"{key} 2"] for key in ("argv", "parents", "names", "sims")}
    full |= {"networks": ["gateway:1"]}
    without = recordwords.facts(full)
    silent = {"outdev", "length", "start", "layer", "rule_id"}
    for key in KEYS:
        less = {name: value for name, value in full.items() if name != key}
        changed = recordwords.facts(less) != without
        assert changed or key in silent, f"{key} is nowhere to be seen"
    assert dict(without)["carried"] == "612 bytes in 7 packets sent, 4.2 kB in 8 packets received"
    assert dict(without)["waited"] == "2 s"


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def texts_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for one in value.values() for text in texts_of(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts_of(one)]
    return []


@given(st.dictionaries(st.sampled_from([*KEYS, "connections", "cost"]), ODD), st.integers())
def test_whatever_is_sent_makes_rows_of_harmless_lines(record: dict[str, Any], id: int) -> None:
    rows = recordviews.record_views(Records(1, (record | {"id": id}, {"id": "x"}), False, 9))
    assert [row["id"] for row in rows] == [id]
    last = Records(1, (record,), True, 9)
    lists = dict.fromkeys(recordviews.APP_SUMS, last.records)
    page = recordviews.app_view(Sums(1, lists), last)
    raw = ("app", "more")
    for row in rows:
        shown = {key: value for key, value in row.items() if key not in raw}
        for text in texts_of(shown):
            assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]
    assert page["more"]


@pytest.mark.parametrize("app", ["/usr/bin/curl", "unit:curl", "flatpak:curl", "curl", "a/"])
def test_an_app_is_called_by_the_last_part_of_its_id(app: str) -> None:
    assert recordwords.called(app) == ("a/" if app == "a/" else "curl")
