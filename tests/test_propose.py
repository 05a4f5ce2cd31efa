"""Proposed rules: they cover what was seen, no other program's, and no more of them than needed."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_strategies import UNHURRIED, names, packed

from arbiter.model import ALLOW, Hook
from arbiter.rules import (
    Domain,
    Name,
    Query,
    Rule,
    ScopeName,
    format_rule,
    parse,
    why_not,
)
from arbiter.rules.propose import MANY_HOSTS, MANY_RULES, Proposal, propose
from arbiter.rules.rule import plain
from arbiter.rules.seen import Program, Seen, Sighting, matches, programs, tally
from arbiter.rules.widen import widenings

CURL = "/usr/bin/curl"


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def seen(to: str, port: int = 443, proto: int = 6, *names: str, count: int = 1) -> Seen:
    return Seen(address(to), port, proto, Hook.OUT, names, count)


def program(*found: Seen, app: str = CURL, user: str = "") -> Program:
    return Program(app, user, (), (), found)


def lines(found: Sequence[Proposal]) -> list[str]:
    return [format_rule(proposal.rule) for proposal in found]


def short(*found: Seen, each: bool = False) -> list[str]:
    """The proposals for curl, without what they all begin with."""
    return [
        line.removeprefix(f"allow app={CURL}").strip()
        for line in lines(propose(program(*found), each=each))
    ]


# --- one by one -----------------------------------------------------------------------------


def test_a_destination_is_proposed_by_its_newest_name_else_by_its_address() -> None:
    found = (
        seen("203.0.113.1", 443, 6, "www.example.org", "cdn.example", count=3),
        seen("203.0.113.2", 80, count=2),
        seen("2001:db8::1", 443),
    )
    assert short(*found) == [
        "host=www.example.org port=443 proto=tcp",
        "host=203.0.113.2 port=80 proto=tcp",
        "host=2001:db8::1 port=443 proto=tcp",
    ]


def test_ports_and_protocols_of_a_destination_are_joined() -> None:
    a, b = "203.0.113.1", "192.168.1.1"
    assert short(seen(a), seen(a, 80), seen(a, 81)) == ["host=203.0.113.1 port=80-81,443 proto=tcp"]
    assert short(seen(b, 53), seen(b, 53, 17)) == ["host=192.168.1.1 port=53"]
    assert short(seen(b, 53, 17, count=2), seen(b, 53), seen(b, 80)) == [
        "host=192.168.1.1 port=53 proto=udp",
        "host=192.168.1.1 port=53,80 proto=tcp",
    ]
    assert short(seen(b, 0, 1)) == ["host=192.168.1.1 proto=icmp"]


def test_one_name_with_many_addresses_is_one_rule() -> None:
    found = [seen(f"203.0.113.{n}", 443, 6, "cdn.example") for n in range(200)]
    assert short(*found) == ["host=cdn.example port=443 proto=tcp"]


def test_an_address_with_a_name_and_without_is_proposed_by_both() -> None:
    """The address of a name changes: only to allow the address would break it tomorrow."""
    found = (seen("203.0.113.1", 443, 6, "a.example", count=9), seen("203.0.113.1"))
    assert len(short(*found)) == 2


def test_a_name_that_cannot_be_matched_is_passed_over() -> None:
    assert short(seen("203.0.113.1", 443, 6, "bad name\x1b[31m", "good.example")) == [
        "host=good.example port=443 proto=tcp"
    ]


def test_another_hook_is_kept() -> None:
    one = Seen(address("203.0.113.1"), 443, 6, Hook.FORWARD, ())
    assert lines(propose(program(one))) == [
        f"allow app={CURL} host=203.0.113.1 port=443 proto=tcp hook=forward"
    ]


# --- too many to be read --------------------------------------------------------------------


def browser(count: int) -> list[Seen]:
    return [
        seen(f"203.0.{n // 250}.{n % 250 + 1}", 443, 6 if n % 3 else 17, f"h{n}.example")
        for n in range(count)
    ]


def test_a_browser_is_summed_up_by_its_ports_and_keeps_to_the_internet() -> None:
    printer = seen("192.168.1.9", 631)
    odd = seen("203.0.113.77", 8443)
    assert short(*browser(3000), printer, odd) == [
        "host=internet port=443",
        "host=192.168.1.9 port=631 proto=tcp",
        "host=203.0.113.77 port=8443 proto=tcp",
    ]
    (first, *others) = propose(program(*browser(3000), printer, odd))
    assert first.summary and not any(other.summary for other in others)
    assert len(tally(first.seen).destinations) == 3000


def test_a_few_more_destinations_than_a_card_shows_are_still_said_one_by_one() -> None:
    tcp = [one for one in browser(60) if one.proto == 6]
    assert len(short(*tcp[:MANY_HOSTS])) == MANY_HOSTS
    assert short(*tcp[: MANY_HOSTS + 1]) == ["host=internet port=443 proto=tcp"]


def test_a_peer_to_peer_program_is_summed_up_whole() -> None:
    found = [seen(f"198.{n % 200}.{n // 200}.7", 6881 + n, 17) for n in range(5000)]
    assert short(*found) == ["host=internet proto=udp"]
    assert short(*found, seen("203.0.113.1", 80)) == ["host=internet"]


def test_a_mail_program_keeps_what_can_be_said() -> None:
    """More rules than a card shows: its busiest port goes first, not everything at once."""
    found = [seen(f"203.0.113.{n}", 443, 6, f"h{n}.example") for n in range(9)]
    found += [seen(f"203.0.113.{n}", 993, 6, f"imap{n}.example") for n in range(3)]
    found += [seen(f"203.0.113.{n}", 465, 6, f"smtp{n}.example") for n in range(3)]
    said = short(*found)
    assert "host=internet port=443 proto=tcp" in said
    assert "host=imap0.example port=993 proto=tcp" in said
    assert len(said) == 7


def test_many_ports_of_one_destination_are_summed_up() -> None:
    found = [seen("203.0.113.1", 40000 + 7 * n) for n in range(30)]
    (proposal,) = propose(program(*found))
    assert format_rule(proposal.rule) == f"allow app={CURL} host=203.0.113.1 proto=tcp"
    assert proposal.summary
    assert len(short(*found, each=True)[0]) > 100, "each port, if that is asked for"


def test_nothing_is_summed_up_if_that_is_asked_for() -> None:
    assert len(short(*browser(300), each=True)) == 300


def test_what_has_no_known_program_is_never_summed_up() -> None:
    """A rule without app= is for every program."""
    found = propose(program(*browser(300), app=""))
    assert len(found) == 300
    assert all(p.rule.host is not None for p in found)
    assert all(wider.host is not None for p in found for wider in p.wider)


# --- wider ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("narrow", "wider"),
    [
        ("host=a.b.example.org port=443", "*.b.example.org *.example.org"),
        ("host=www.example.org port=443", "*.example.org"),
        ("host=example.org port=443", ""),
        ("host=www.example.co.uk port=443", "*.example.co.uk"),
        ("host=example.co.uk port=443", ""),
        ("host=nas. port=443", ""),
        ("host=192.168.1.9 port=443", "192.168.1.0/24 lan"),
        ("host=203.0.113.9 port=443", "203.0.113.0/24 internet"),
        ("host=2001:db8:1:2:3::9 port=443", "2001:db8:1:2::/64 internet"),
        ("host=fe80::9 port=443", "fe80::/64 lan"),
        ("host=239.1.1.1 port=443", ""),
        ("host=255.255.255.255 port=443", "lan"),
        ("host=internet port=443", ""),
    ],
)
def test_a_rule_is_widened_by_label_or_network_and_never_to_a_registrys_domain(
    narrow: str, wider: str
) -> None:
    steps = widenings(parse(f"allow app={CURL} {narrow} user=alice"))
    assert [format_rule(step) for step in steps] == [
        *(f"allow app={CURL} user=alice host={host} port=443" for host in wider.split()),
        f"allow app={CURL} user=alice port=443",
        f"allow app={CURL} user=alice",
        f"allow app={CURL}",
    ]


def test_a_rule_for_every_program_is_widened_to_its_network_at_most() -> None:
    steps = widenings(parse("allow host=192.168.1.9 port=443"))
    assert [format_rule(step) for step in steps] == ["allow host=192.168.1.0/24 port=443"]


# --- whose ----------------------------------------------------------------------------------


def sighting(user: str, uid: int | None, app: str = CURL, to: str = "203.0.113.1") -> Sighting:
    query = Query(app, ("/usr/bin/bash",), uid, user, address(to), 443, 6)
    return Sighting(query, 2, 1, 10.0, 20.0)


def nothing(_: Query, __: float) -> bool:
    return False


def test_the_rules_of_a_machine_with_one_person_are_for_everybody() -> None:
    (found,) = programs([sighting("root", 0), sighting("alice", 1000)], nothing, [1000])
    assert (found.user, found.users) == ("", ("alice", "root"))
    assert found.seen == (Seen(address("203.0.113.1"), 443, 6, Hook.OUT, (), 4, 2, 10.0, 20.0),)
    assert found.parents == (("/usr/bin/bash", 4),)


@pytest.mark.parametrize("people", [(1000, 1001), (1000,)], ids=["known", "seen"])
def test_with_several_persons_a_rule_is_for_whom_it_was_seen_of(people: tuple[int, ...]) -> None:
    sightings = [sighting("alice", 1000), sighting("", 1001), sighting("root", 0)]
    found = programs(sightings, nothing, people)
    assert [p.user for p in found] == ["1001", "alice", "root"]
    assert [format_rule(propose(p)[0].rule) for p in found][1] == (
        f"allow app={CURL} user=alice host=203.0.113.1 port=443 proto=tcp"
    )


def test_accounts_of_services_are_no_persons() -> None:
    (found,) = programs([sighting("alice", 1000)], nothing, [0, 998, 1000, 65534])
    assert found.user == ""


def test_the_busiest_program_comes_first() -> None:
    sightings = [sighting("root", 0, app=app) for app in ("/a", "/b", "/b", "/c")]
    assert [p.app for p in programs(sightings, nothing)] == ["/b", "/a", "/c"]


def test_a_person_who_is_seen_but_decided_counts_as_one() -> None:
    sightings = [sighting("alice", 1000), sighting("bob", 1001, app="/b")]
    (found,) = programs(sightings, lambda query, _: query.app == "/b")
    assert found.user == "alice"


def test_what_is_decided_is_asked_as_of_when_it_was_seen_last() -> None:
    asked: list[float] = []

    def decided(_: Query, at: float) -> bool:
        asked.append(at)
        return True

    assert programs([sighting("alice", 1000)], decided) == []
    assert asked == [20.0]


def test_an_ipv4_mapped_address_is_its_ipv4_address() -> None:
    both = [sighting("a", 1, to="203.0.113.1"), sighting("a", 1, to="::ffff:203.0.113.1")]
    (found,) = programs(both, nothing)
    assert [one.count for one in found.seen] == [4]


# --- always ---------------------------------------------------------------------------------

few_names = st.lists(
    st.sampled_from(["a.example", "b.a.example", "c.a.example", "x.co.uk", "nas", "bad name"])
    | names,
    max_size=3,
).map(tuple)
few_addresses = st.sampled_from(
    [address(text) for text in ("10.0.0.1", "10.0.0.2", "203.0.113.1", "fd00::1", "2001:db8::1")]
)
sights = st.builds(
    Seen,
    daddr=(few_addresses | packed).map(plain),
    dport=st.sampled_from([53, 80, 443]) | st.integers(0, 65535),
    proto=st.sampled_from([6, 17, 1, 58, 132]),
    hook=st.sampled_from([Hook.OUT, Hook.OUT, Hook.IN]),
    names=st.just(()) | few_names,
    count=st.integers(1, 5),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Seen, ...]:
    """A few that collide, or a crowd of destinations or ports."""
    found = draw(st.lists(sights, min_size=1, max_size=30))
    if draw(st.booleans()):
        port = draw(st.none() | st.sampled_from([443]))
        count = draw(st.integers(1, 60))
        found += [
            seen(f"203.0.{n}.1", port or 1000 + n, draw(st.sampled_from([6, 17])))
            for n in range(count)
        ]
    if draw(st.booleans()):
        found += [seen("10.0.0.1", 5000 + 2 * n, 17) for n in range(draw(st.integers(1, 20)))]
    unique = {(s.daddr, s.dport, s.proto, s.hook, s.names): s for s in found}
    return tuple(unique.values())


def query(one: Seen, app: str = CURL, user: str = "alice") -> Query:
    return Query(app, (), 1000, user, one.daddr, one.dport, one.proto, one.hook, names=one.names)


@UNHURRIED
@given(worlds(), st.booleans())
def test_all_that_was_seen_is_covered_by_its_own_proposal(
    world: tuple[Seen, ...], each: bool
) -> None:
    found = propose(program(*world, user="alice"), each=each)
    for proposal in found:
        assert proposal.seen, "it was made from something"
        for one in proposal.seen:
            assert why_not(proposal.rule, query(one)) is None
    owned = [one for proposal in found for one in proposal.seen]
    assert len(owned) == len(world)
    assert set(owned) == set(world), "each belongs to exactly one"
    assert len({p.rule for p in found}) == len(found)
    assert each or len(found) <= MANY_RULES


@UNHURRIED
@given(worlds())
def test_no_proposal_is_about_another_program_or_user(world: tuple[Seen, ...]) -> None:
    for proposal in propose(program(*world, user="alice")):
        for rule in (proposal.rule, *proposal.wider):
            assert parse(format_rule(rule)) == rule
            for one in world:
                assert why_not(rule, query(one, app="/usr/bin/wget")) is not None
        for one in world:
            assert why_not(proposal.rule, query(one, user="bob")) is not None


def plainly_named(world: Sequence[Seen]) -> list[Seen]:
    """With one name for each address, as else both may cover a connection; and all outgoing."""
    named: dict[bytes, tuple[str, ...]] = {}
    out = []
    for one in world:
        names = named.setdefault(one.daddr, one.names[:1])
        out.append(Seen(one.daddr, one.dport, one.proto, Hook.OUT, names, one.count))
    unique = {(s.daddr, s.dport, s.proto): s for s in out}
    return list(unique.values())


@UNHURRIED
@given(worlds())
def test_without_any_one_proposal_something_would_not_be_covered(world: tuple[Seen, ...]) -> None:
    found = propose(program(*plainly_named(world)), each=True)
    for proposal in found:
        others = [other.rule for other in found if other is not proposal]
        assert any(
            not any(why_not(rule, query(one)) is None for rule in others) for one in proposal.seen
        ), format_rule(proposal.rule)


@UNHURRIED
@given(worlds())
def test_each_step_is_wider_than_the_one_before(world: tuple[Seen, ...]) -> None:
    for proposal in propose(program(*world, user="alice")):
        assert proposal.rule not in proposal.wider
        for narrow, wide in itertools.pairwise((proposal.rule, *proposal.wider)):
            assert narrow != wide
            for one in world:
                if why_not(narrow, query(one)) is None:
                    assert why_not(wide, query(one)) is None, (format_rule(wide), one)


@UNHURRIED
@given(st.permutations(range(40)), worlds())
def test_the_order_in_which_it_was_seen_does_not_matter(
    order: list[int], world: tuple[Seen, ...]
) -> None:
    shuffled = [world[n] for n in order if n < len(world)] + list(world[40:])
    one, other = (propose(program(*found)) for found in (world, shuffled))
    assert lines(one) == lines(other)
    assert [set(p.seen) for p in one] == [set(p.seen) for p in other]


@UNHURRIED
@given(worlds())
def test_the_quick_match_is_the_matching_of_rules(world: tuple[Seen, ...]) -> None:
    for proposal in propose(program(*world)):
        for rule in (proposal.rule, *proposal.wider):
            for one in world:
                assert matches(rule, one) == (why_not(rule, query(one)) is None)


@UNHURRIED
@given(worlds())
def test_a_first_proposal_names_no_domain_and_no_network(world: tuple[Seen, ...]) -> None:
    for proposal in propose(program(*world)):
        host = proposal.rule.host
        assert not isinstance(host, Domain)
        assert proposal.summary or host in {one.host for one in proposal.seen}
        assert isinstance(host, ScopeName | Name) or host is not None
        assert proposal.rule.decision == ALLOW
        assert isinstance(proposal.rule, Rule)
