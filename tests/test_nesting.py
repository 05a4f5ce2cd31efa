"""Which tunnel carries which: none ever carries itself, whatever is decided and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arbiter.model import Link
from arbiter.nesting import MAX_CARRIED, Nesting, named_before

A, B, C, WIFI = 5, 6, 7, 2
FAR, OTHER = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"


def tunnel(name: str, index: int) -> Link:
    return Link(name, index, f"{name}0", index=index, tunnel=True)


LINKS = {
    "a": tunnel("a", A),
    "b": tunnel("b", B),
    "c": tunnel("c", C),
    "wifi": Link("wifi", 1, "wlan0", index=WIFI),
}


def test_a_tunnel_is_on_top_of_itself_and_of_what_carries_it_however_deep() -> None:
    nesting = Nesting()
    assert nesting.on_top_of((A,)) == {A}
    nesting.carried((A,), FAR, B)
    nesting.carried((B,), FAR, C)
    nesting.carried((C,), FAR, WIFI)
    assert nesting.on_top_of((C,)) == {A, B, C}
    assert nesting.on_top_of((A,)) == {A}
    assert nesting.on_top_of((A, C)) == {A, B, C}


def test_each_far_end_counts_and_the_last_word_on_it() -> None:
    nesting = Nesting()
    nesting.carried((A,), FAR, B)
    nesting.carried((A,), OTHER, WIFI)
    assert nesting.on_top_of((B,)) == {A, B}, "one of its peers is reached through b"
    nesting.carried((A,), FAR, WIFI)
    assert nesting.on_top_of((B,)) == {B}


def test_what_is_gone_carries_nothing() -> None:
    for gone in ("a", "b"):
        nesting = Nesting()
        nesting.carried((A,), FAR, B)
        nesting.change(link for name, link in LINKS.items() if name != gone)
        assert nesting.on_top_of((B,)) == {B}
    nesting.carried((A,), FAR, B)
    nesting.change(LINKS.values())
    assert nesting.on_top_of((B,)) == {A, B}


def test_it_remembers_within_a_bound() -> None:
    nesting = Nesting()
    for number in range(MAX_CARRIED + 10):
        nesting.carried((A,), number.to_bytes(4), B)
    assert len(nesting._under) == MAX_CARRIED
    assert nesting.on_top_of((B,)) == {A, B}


def test_of_two_tunnels_in_a_list_the_first_is_on_top() -> None:
    via = ("a", "wifi", "b", "c")
    assert named_before(via, frozenset({"a"}), LINKS) == frozenset()
    assert named_before(via, frozenset({"b"}), LINKS) == {A}
    assert named_before(via, frozenset({"c"}), LINKS) == {A, B}
    assert named_before(via, frozenset({"d"}), LINKS) == frozenset(), "it is not in the list"
    assert named_before(("any", "unmetered", "gone", "b"), frozenset({"b"}), LINKS) == frozenset()


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.sampled_from([A, B, C, WIFI]))))
def test_whoever_heeds_it_never_makes_a_circle(tries: list[tuple[int, int]]) -> None:
    nesting = Nesting()
    below: dict[int, int] = {}
    for who, link in tries:
        if link not in nesting.on_top_of((who,)):
            nesting.carried((who,), FAR, link)
            below[who] = link
    for start in below:
        at, steps = start, 0
        while at in below:
            at, steps = below[at], steps + 1
            assert steps <= len(below), below
