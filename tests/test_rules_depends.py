"""What answers depend on: where it is said that they do not, they are the same."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from rulescene import NOW, entry, query

from arbiter.rules import Index
from arbiter.rules.areas import MOST, Area
from arbiter.rules.scopes import LAN, LOOPBACK, MULTICAST

APPS = ("/bin/a", "/bin/b")
WHO = st.sampled_from(["", *(f" app={app}" for app in APPS)])
HOSTS = ("10.1.2.3", "10.0.0.0/8", "www.example.org", "lan", "fd00::/8")
WHERE = st.sampled_from(
    [
        "",
        " host=10.1.2.3",
        " host=10.0.0.0/8",
        " host=www.example.org",
        " host=lan",
        " host=fd00::/8",
    ]
)
PORTS = st.sampled_from(["", " port=443", " port=53", " port=53,443", " port=1-1000"])
MORE = st.sampled_from(["", " parent=/bin/sh", " parent=/bin/x", " proto=udp", " user=bob"])
LINES = st.tuples(st.sampled_from(["allow", "deny"]), WHO, WHERE, PORTS, MORE).map("".join)
PLACES = (
    "93.184.216.34",
    "10.1.2.3",
    "10.9.9.9",
    "192.168.1.7",
    "127.0.0.1",
    "224.0.0.1",
    "fd00::1",
    "2001:db8::1",
)
NAMES = ((), ("www.example.org",))


def within(place: str, areas: list[Area]) -> bool:
    """Whether it is in one of them."""
    return any(ip_address(place) in ip_network(area) for area in areas)


@settings(max_examples=examples(500))
@given(
    lines=st.lists(LINES, max_size=8),
    removed=st.sets(st.integers(0, 7)),
    app=st.sampled_from(APPS),
    port=st.sampled_from([53, 443]),
    proto=st.sampled_from([6, 17]),
)
def test_an_answer_that_does_not_depend_is_the_same(
    lines: list[str], removed: set[int], app: str, port: int, proto: int
) -> None:
    index = Index(entry(number, line) for number, line in enumerate(lines))
    for number in removed:
        index.remove(number)
    depends = index.depends
    first = index.lookup(query(app, PLACES[0], port, proto, parents=()), NOW)
    for parents in ((), ("/bin/sh",), ("/bin/y", "/bin/x")):
        for place in PLACES:
            for names in NAMES:
                asked = query(app, place, port, proto, parents=parents, names=names)
                areas = depends.on_areas(app, port)
                if areas is None or within(place, areas) or within(PLACES[0], areas):
                    continue
                if depends.on_names(app, port) and names:
                    continue
                if depends.on_parents(app) and parents:
                    continue
                assert index.lookup(asked, NOW) == first


def test_it_knows_for_whom_an_answer_depends_on_who_started_it() -> None:
    index = Index([entry(1, "allow app=/bin/a"), entry(2, "deny app=/bin/a parent=/bin/sh")])
    assert (index.depends.on_parents("/bin/a"), index.depends.on_parents("/bin/b")) == (True, False)
    index.add(entry(3, "allow parent=/bin/sh"))
    assert index.depends.on_parents("/bin/b")
    index.remove(3)
    index.add(entry(2, "deny app=/bin/b parent=/bin/sh"))
    assert (index.depends.on_parents("/bin/a"), index.depends.on_parents("/bin/b")) == (False, True)
    index.remove(2)
    index.remove(2)
    assert not index.depends.on_parents("/bin/b")


def test_it_knows_where_an_answer_depends_on_names() -> None:
    index = Index([entry(1, "allow app=/bin/a"), entry(2, "deny host=*.example.org port=80")])
    assert [index.depends.on_names("/bin/a", port) for port in (80, 443)] == [True, False]
    assert not index.depends.on_areas("/bin/a", 80)
    index.add(entry(3, "deny app=/bin/b host=www.example.org"))
    assert [index.depends.on_names(app, 443) for app in ("/bin/a", "/bin/b")] == [False, True]
    index.remove(2)
    index.remove(3)
    assert not index.depends.on_names("/bin/b", 80)


def test_it_knows_where_an_answer_depends_on_the_address() -> None:
    index = Index([entry(1, "allow app=/bin/a"), entry(2, "deny app=/bin/a host=10.1.2.3 port=80")])
    on_areas = index.depends.on_areas
    host, net = (bytes((10, 1, 2, 3)), 32), (bytes((10, 0, 0, 0)), 8)
    assert [on_areas("/bin/a", port) for port in (80, 443)] == [[host], []]
    index.add(entry(3, "deny app=/bin/b host=10.0.0.0/8 port=80,443"))
    assert [on_areas("/bin/b", port) for port in (80, 22)] == [[net], [net]]
    index.add(entry(4, "deny host=lan port=22"))
    assert [on_areas("/bin/c", port) for port in (22, 443)] == [sorted(LAN), []]
    index.add(entry(5, "deny host=multicast"))
    assert on_areas("/bin/c", 443) == sorted(MULTICAST)
    index.add(entry(6, "deny host=internet"))
    assert on_areas("/bin/c", 443) == sorted((*LAN, *LOOPBACK, *MULTICAST))
    index.add(entry(7, "allow app=/bin/a host=10.1.2.3 port=80"))
    index.remove(2)
    assert host in (on_areas("/bin/a", 80) or [])
    for number in range(1, 8):
        index.remove(number)
    assert not any(on_areas(app, port) for app in ("/bin/a", "/bin/b") for port in (22, 80))


@pytest.mark.parametrize("app", ["", "app=/bin/a "])
def test_of_too_many_places_it_says_that_any_may_matter(app: str) -> None:
    def line(number: int) -> str:
        return f"deny {app}host=10.1.{number >> 8}.{number & 255}"

    index = Index(entry(number, line(number)) for number in range(MOST + 2))
    index.add(entry(MOST + 2, line(MOST)))
    for number in range(MOST, MOST + 3):
        assert index.depends.on_areas("/bin/a", 443) is None
        assert (index.depends.on_areas("/bin/b", 443) is None) is (not app)
        index.remove(number)
    assert len(index.depends.on_areas("/bin/a", 443) or []) == MOST
    index.add(entry(MOST, "deny host=10.2.3.4"))
    assert (index.depends.on_areas("/bin/b", 443) is None) is (not app)
    for number in range(MOST + 1):
        index.remove(number)
    assert index.depends.on_areas("/bin/a", 443) == []
    index.add(entry(1, line(1)))
    assert index.depends.on_areas("/bin/a", 443) == [(bytes((10, 1, 0, 1)), 32)]


def test_it_knows_when_answers_depend_on_the_process() -> None:
    index = Index([entry(1, "allow for=process", process=(7, 70))])
    assert index.depends.on_process
    index.remove(1)
    assert not index.depends.on_process
