"""Hypothesis strategies for rules, entries and queries: all of them, and small colliding ones."""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from arbiter.model import ALLOW, DENY, PORT_PROTOS, Action, Decision, Hook, TrafficClass
from arbiter.rules import (
    FOREVER,
    Address,
    Domain,
    Entry,
    Host,
    Layer,
    Lifetime,
    LifetimeKind,
    Name,
    Network,
    Query,
    Rule,
    ScopeName,
)
from arbiter.rules.names import name_fault
from arbiter.rules.rule import MAX_SPAN, MAX_UID, is_number, merged, plain
from arbiter.rules.week import DAY, WEEK, joined, times_fault

UNHURRIED = settings(deadline=None)
"""For machines that are busy: the properties are about what, not how fast."""

# --- everything that can be said ------------------------------------------------------------

texts = st.text(st.characters(), max_size=40)  # surrogates and control characters included
links = st.text("abcXYZ019_.-", min_size=1, max_size=15)


def _route(names: list[str], any_last: bool, traffic: TrafficClass | None) -> Decision:
    via = [name for name in dict.fromkeys(names) if name != "any"]
    return Decision(Action.ROUTE, (*via, "any") if any_last or not via else tuple(via), traffic)


classes = st.none() | st.sampled_from(TrafficClass)
decisions = (
    st.sampled_from([ALLOW, DENY])
    | st.builds(Decision, st.just(Action.ALLOW), st.just(()), classes)
    | st.builds(
        _route,
        st.lists(links | st.sampled_from(["metered", "unmetered"]), max_size=4),
        st.booleans(),
        classes,
    )
)


def network(packed: bytes, prefixlen: int) -> Host:
    """The network that `packed` lies in; an Address for a full prefix."""
    packed = plain(packed)
    width = 8 * len(packed)
    if prefixlen >= width:
        return Address(packed)
    keep = ((1 << prefixlen) - 1) << (width - prefixlen)
    return Network((int.from_bytes(packed) & keep).to_bytes(len(packed)), prefixlen)


packed = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
_labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)
names = (
    st.lists(_labels, min_size=1, max_size=8)
    .map(".".join)
    .filter(lambda name: not name_fault(name))
)
hosts: st.SearchStrategy[Host] = (
    st.builds(network, packed, st.integers(0, 128))
    | st.sampled_from(ScopeName)
    | st.builds(Name, names | st.sampled_from(["lan", "xn--mnchen-3ya.de"]))
    | st.builds(Domain, names)
)
port_pairs = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(
    lambda pair: (min(pair), max(pair))
)
ports = st.lists(port_pairs, min_size=1, max_size=5).map(lambda pairs: merged(tuple(pairs)))
lifetimes = st.sampled_from(
    [Lifetime(kind) for kind in LifetimeKind if kind is not LifetimeKind.SPAN]
) | st.builds(Lifetime, st.just(LifetimeKind.SPAN), st.integers(1, MAX_SPAN))
profiles = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", fullmatch=True).filter(
    lambda name: name != "none"
)
sims = st.text("0123456789", min_size=18, max_size=20)
networks = (
    st.binary(min_size=6, max_size=6).map(lambda mac: f"gateway:{mac.hex(':')}")
    | st.binary(min_size=1, max_size=32).map(
        lambda raw: f"ssid:{raw.decode('utf-8', 'surrogateescape')}"
    )
    | st.text(min_size=1, max_size=8).map(lambda text: f"ssid:{text}")
    | sims.map("sim:{}".format)
)
_windows = st.tuples(
    st.integers(0, WEEK - 1) | st.sampled_from(range(0, WEEK, DAY)), st.integers(1, 3000)
)
times = (
    st.lists(_windows, min_size=1, max_size=6)
    .map(lambda windows: joined((start, start + length) for start, length in windows))
    .filter(lambda spans: not times_fault(spans))
)
flags = st.none() | st.booleans()
_ids = st.integers(0, MAX_UID).map(str)
_user_names = texts.filter(lambda text: not is_number(text) and text[:1] not in ("", "@"))
users = _user_names | _ids | (_user_names | _ids).map("@{}".format)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any rule at all."""
    with_ports = draw(st.booleans())
    protos = st.sampled_from(sorted(PORT_PROTOS)) if with_ports else st.integers(0, 255)
    return Rule(
        draw(decisions),
        app=draw(texts),
        parent=draw(st.just("") | texts),
        user=draw(st.just("") | users),
        host=draw(st.none() | hosts),
        ports=draw(ports) if with_ports else (),
        proto=draw(st.none() | protos),
        hook=draw(st.none() | st.sampled_from(Hook)),
        profile=draw(st.just("") | profiles),
        network=draw(st.just("") | networks),
        sim=draw(st.just("") | sims),
        roaming=draw(flags),
        metered=draw(flags),
        times=draw(st.just(()) | times),
        lifetime=draw(lifetimes),
    )


# --- few values, so that rules and queries meet ---------------------------------------------

APPS = ("/a", "/b")
PARENTS = ("/p", "/q", "/a")
USERS = ("alice", "bob", "1000", "1001")
GROUPS = ("wheel", "users", "10")
GIDS = (10, 1000)
ADDRESSES = tuple(
    socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    for text in ("10.0.0.1", "10.0.1.1", "93.184.216.34", "127.0.0.1", "fd00::1", "2001:db8::1")
)
NAMES = ("a.example", "b.a.example", "c.b.a.example", "xa.example", "example", "other")
PORTS = (53, 54, 443)
PROTOS = (6, 17, 1)
RANGES: tuple[tuple[tuple[int, int], ...], ...] = (
    (),
    (),
    ((53, 53),),
    ((443, 443),),
    ((53, 54),),
    ((53, 53), (443, 443)),
    ((1, 1023),),
)
PROCESSES = ((7, 70), (8, 80))
SIMS = ("8943000000000000001", "8943000000000000002")
PROFILES = ("home", "travel")
NETWORKS = ("ssid:Home", "gateway:02:00:00:00:00:01", f"sim:{SIMS[0]}")
TIMES = (100.0, 200.0, 300.0)
WEEKLY = (((4319, 4323),), ((0, 4320),), ((4322, 4326), (5000, WEEK)))
"""Around Thursday 00:02, where TIMES are in UTC."""
SMALL_DECISIONS = (
    ALLOW,
    DENY,
    Decision(Action.ROUTE, ("lte",)),
    Decision(Action.ROUTE, ("unmetered", "any"), TrafficClass.BULK),
)


def _maybe(draw: st.DrawFn, values: Any, none: Any) -> Any:
    return draw(st.sampled_from((none, *values)))


def _seldom(draw: st.DrawFn, values: Any, none: Any) -> Any:
    """Mostly `none`: with every condition set, no rule would ever match."""
    return draw(st.sampled_from((*[none] * 4, *values)))


@st.composite
def small_entries(draw: st.DrawFn, ids: st.SearchStrategy[int]) -> Entry:
    """Entries over the small alphabets above."""
    kind = draw(st.sampled_from([FOREVER, FOREVER, FOREVER, "span", "process"]))
    lifetime = FOREVER
    if kind == "span":
        lifetime = Lifetime(LifetimeKind.SPAN, 60)
    elif kind == "process":
        lifetime = Lifetime(LifetimeKind.PROCESS)
    ranges = draw(st.sampled_from(RANGES))
    host: Host | None = draw(
        st.none()
        | st.sampled_from(ScopeName)
        | st.builds(
            network, st.sampled_from(ADDRESSES), st.sampled_from([0, 1, 8, 23, 24, 32, 64, 128])
        )
        | st.builds(Name, st.sampled_from(NAMES))
        | st.builds(Domain, st.sampled_from(NAMES))
    )
    rule = Rule(
        draw(st.sampled_from(SMALL_DECISIONS)),
        app=_maybe(draw, APPS, ""),
        parent=_maybe(draw, PARENTS, ""),
        user=_maybe(draw, (*USERS, "@wheel", "@users", "@10", "@1000"), ""),
        host=host,
        ports=ranges,
        proto=draw(st.sampled_from([None, 6, 17] if ranges else [None, *PROTOS])),
        hook=_maybe(draw, (Hook.OUT, Hook.IN), None),
        profile=_seldom(draw, PROFILES, ""),
        network=_seldom(draw, NETWORKS, ""),
        sim=_seldom(draw, SIMS, ""),
        roaming=_seldom(draw, (True, False), None),
        metered=_seldom(draw, (True, False), None),
        times=_seldom(draw, WEEKLY, ()),
        lifetime=lifetime,
    )
    return Entry(
        draw(ids),
        rule,
        draw(st.sampled_from(Layer)),
        draw(st.sampled_from(TIMES)),
        "alice",
        expires=draw(st.sampled_from(TIMES)) if kind == "span" else None,
        process=draw(st.sampled_from(PROCESSES)) if kind == "process" else None,
    )


@st.composite
def small_queries(draw: st.DrawFn) -> Query:
    """Queries over the same alphabets."""
    address = draw(st.sampled_from(ADDRESSES))
    if len(address) == 4 and draw(st.booleans()):
        address = bytes(10) + b"\xff\xff" + address
    return Query(
        app=_maybe(draw, APPS, ""),
        parents=tuple(draw(st.lists(st.sampled_from(PARENTS), max_size=3))),
        uid=draw(st.sampled_from([None, 1000, 1001])),
        user=_maybe(draw, USERS, ""),
        daddr=address,
        dport=draw(st.sampled_from((0, *PORTS))),
        proto=draw(st.sampled_from(PROTOS)),
        hook=draw(st.sampled_from([Hook.OUT, Hook.IN])),
        processes=tuple(draw(st.lists(st.sampled_from(PROCESSES), max_size=2))),
        profile=_maybe(draw, PROFILES, ""),
        sims=tuple(draw(st.lists(st.sampled_from(SIMS), max_size=2))),
        networks=tuple(draw(st.lists(st.sampled_from(NETWORKS), max_size=3))),
        metered=draw(st.sampled_from([None, True, False])),
        roaming=draw(st.sampled_from([None, True, False])),
        groups=tuple(draw(st.lists(st.sampled_from(GROUPS), max_size=2))),
        gids=tuple(draw(st.lists(st.sampled_from(GIDS), max_size=2))),
        names=tuple(draw(st.lists(st.sampled_from(NAMES), max_size=3))),
    )
