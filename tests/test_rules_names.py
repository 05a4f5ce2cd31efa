"""One spelling for a name, and what of it people are shown."""

from __future__ import annotations

import pytest
import rule_strategies as strategies
from hypothesis import example, given
from hypothesis import strategies as st

from arbiter.rules import canonical_name, format_host, parse, shown_host, shown_name
from arbiter.rules.names import MAX_NAME, name_fault, suffix


@strategies.UNHURRIED
@given(st.text(max_size=80) | strategies.names | st.text("äöß.-_aA0xn", max_size=20))
@example("xn--a")
@example("a\u3002b")
@example("\u00ad")
def test_a_name_has_one_spelling_or_is_refused(text: str) -> None:
    try:
        name = canonical_name(text)
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert name_fault(name) == ""
    assert canonical_name(name) == canonical_name(name.upper() + ".") == name
    shown = shown_name(name)
    assert shown.isprintable()
    assert canonical_name(shown) == name, "what is shown can be typed"


@strategies.UNHURRIED
@given(strategies.names)
def test_every_suffix_of_a_name_is_found_by_its_number_of_labels(name: str) -> None:
    labels = name.split(".")
    for count in range(1, len(labels) + 2):
        whole = ".".join(labels[-count:])
        assert suffix(name, count) == (whole if count < len(labels) else "")


def test_the_longest_name_and_label_are_taken_and_no_longer_ones() -> None:
    longest = "a." * 125 + "bcd"
    assert len(longest) == MAX_NAME
    assert canonical_name(longest + ".") == longest
    assert canonical_name("a" * 63) == "a" * 63
    for text in ("a" + longest, "a" * 64):
        with pytest.raises(ValueError, match="has at most"):
            canonical_name(text)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("example.org", "example.org"),
        ("xn--mnchen-3ya.de", "münchen.de"),
        ("xn--bcher-kva.xn--p1ai", "bücher.рф"),
        ("xn--wgv71a119e.jp", "日本語.jp"),
        ("xn--h1alffa9f.xn--p1ai", "россия.рф"),
        # Cyrillic that reads as "apple", and one letter of it among Latin ones.
        ("xn--80ak6aa92e.com", "xn--80ak6aa92e.com"),
        ("xn--pple-43d.com", "xn--pple-43d.com"),
        # Right to left, not valid, not the label that its text would make.
        ("xn--4dbcagdahymbxekheh6e0a7fei0b.org", "xn--4dbcagdahymbxekheh6e0a7fei0b.org"),
        ("xn--a.org", "xn--a.org"),
        ("xn--mnchen-3ya-.de", "xn--mnchen-3ya-.de"),
        ("xn--example-.org", "xn--example-.org"),
        # A dotless i, a slash of Japanese, an emoji.
        ("xn--facebook-.com", "xn--facebook-.com"),
        (canonical_name("wıkipedia.org"), canonical_name("wıkipedia.org")),  # noqa: RUF001
        (canonical_name("ノ.example"), canonical_name("ノ.example")),  # noqa: RUF001
        ("xn--i-7iq.ws", "xn--i-7iq.ws"),
    ],
)
def test_people_are_shown_letters_only_where_they_deceive_nobody(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_a_host_is_shown_as_people_read_it_and_kept_as_dns_writes_it() -> None:
    host = parse("allow host=*.Bücher.example").host
    assert host is not None
    assert format_host(host) == "*.xn--bcher-kva.example"
    assert shown_host(host) == "*.bücher.example"
