"""A class's text, as the settings have it, and what it becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.classes import DSCP, MAX_PRIORITY, Marking, parse, priority_text


@pytest.mark.parametrize(
    ("text", "dscp", "priority"),
    [
        ("af21 0:6", 18, 6),  # RFC 2597: class 2, drop precedence 1
        ("af43 1:10", 38, 0x10010),
        ("cs1 0:1", 8, 1),
        ("cs7 0:0", 56, 0),
        ("ef ffff:ffff", 46, 0xFFFFFFFF),
        ("le 8001:A", 1, 0x8001000A),
        ("va 0:7", 44, 7),
        ("be 0:0", 0, 0),
        ("63 0:0", 63, 0),
        ("00 1:0010", 0, 0x10010),
    ],
)
def test_a_class_is_a_dscp_by_name_or_number_and_a_priority_in_hexadecimal(
    text: str, dscp: int, priority: int
) -> None:
    assert parse(text, 97) == Marking(97, dscp, priority)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "a DSCP and a priority"),
        ("af21", "a DSCP and a priority"),
        ("af21  0:6", "a DSCP and a priority"),
        ("af21 0:6 ", "a DSCP and a priority"),
        ("af21 0:6 x", "a DSCP and a priority"),
        ("af24 0:6", "'af24' is no DSCP"),
        ("AF21 0:6", "'AF21' is no DSCP"),
        ("cs8 0:6", "'cs8' is no DSCP"),
        ("64 0:6", "'64' is no DSCP"),
        ("-1 0:6", "'-1' is no DSCP"),
        ("0x12 0:6", "'0x12' is no DSCP"),
        ("²0 0:6", "is no DSCP"),
        ("١٢ 0:6", "is no DSCP"),
        ("af21 6", "'6' is no priority"),
        ("af21 0x1:0x10", "is no priority"),
        ("af21 :6", "is no priority"),
        ("af21 1:", "is no priority"),
        ("af21 10000:0", "is no priority"),
        ("af21 0:g", "is no priority"),
        ("af21 0:6\n", "is no priority"),
        ("af21 none", "is no priority"),
        ("af21 -1:0", "is no priority"),
    ],
)
def test_anything_else_is_refused_with_what_would_be_good(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse(text, 97)


@given(st.text(max_size=30))
def test_any_text_is_a_marking_or_a_short_printable_error(text: str) -> None:
    try:
        made = parse(text, 5)
    except ValueError as error:
        assert str(error).isprintable() and len(str(error)) < 200
    else:
        assert 0 <= made.dscp <= 63 and 0 <= made.priority <= MAX_PRIORITY


@given(st.integers(0, 63), st.integers(0, MAX_PRIORITY))
def test_a_priority_is_written_as_it_is_read(dscp: int, priority: int) -> None:
    assert parse(f"{dscp} {priority_text(priority)}", 0) == Marking(0, dscp, priority)


@pytest.mark.parametrize(
    ("label", "dscp", "priority"),
    [(-1, 0, 0), (128, 0, 0), (0, 64, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1 << 32)],
)
def test_a_marking_that_no_packet_could_carry_is_refused(
    label: int, dscp: int, priority: int
) -> None:
    with pytest.raises(ValueError, match="is not in 0-"):
        Marking(label, dscp, priority)


def test_the_names_are_those_of_the_standards() -> None:
    assert len(DSCP) == 2 + 8 + 12 + 2
    assert DSCP["be"] == DSCP["cs0"] == 0
    assert [DSCP[f"af{n}1"] for n in range(1, 5)] == [10, 18, 26, 34]
    assert [DSCP[f"cs{n}"] for n in range(8)] == [0, 8, 16, 24, 32, 40, 48, 56]
