"""Which rule decides: precedence as a table, and the index against the definition."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterable
from datetime import timedelta, timezone

import pytest
import rule_strategies as strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arbiter.model import Hook
from arbiter.rules import (
    Entry,
    Index,
    Layer,
    LifetimeKind,
    Query,
    parse,
    rank,
    why_not,
)
from arbiter.rules.index import MEMO

NOW = 150.0
SIM, OTHER_SIM = "89430123456789012345", "89430123456789099999"
GATEWAY = "gateway:02:00:5e:10:00:0a"


def entry(
    id: int,
    line: str,
    layer: Layer = Layer.REMEMBERED,
    created: float = 1.0,
    process: tuple[int, int] | None = None,
) -> Entry:
    """An entry from its line; a span counts from `created`."""
    parsed = parse(line)
    span = parsed.lifetime.kind is LifetimeKind.SPAN
    expires = created + parsed.lifetime.seconds if span else None
    return Entry(id, parsed, layer, created, "alice", "cli", expires=expires, process=process)


def query(
    app: str = "/usr/bin/curl",
    host: str = "10.1.2.3",
    port: int = 443,
    proto: int = 6,
    *,
    parents: tuple[str, ...] = ("/bin/sh", "/bin/login"),
    uid: int | None = 1000,
    user: str = "alice",
    hook: Hook = Hook.OUT,
    processes: tuple[tuple[int, int], ...] = ((7, 70),),
    sims: tuple[str, ...] = (SIM,),
    networks: tuple[str, ...] = ("ssid:Home", f"sim:{SIM}"),
    metered: bool | None = True,
    roaming: bool | None = False,
    profile: str = "home",
    names: tuple[str, ...] = ("www.deb.example.org", "mirror.example.net"),
) -> Query:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    return Query(
        *(app, parents, uid, user, packed, port, proto, hook, processes),
        sims=sims,
        networks=networks,
        metered=metered,
        roaming=roaming,
        profile=profile,
        names=names,
        groups=("netdev", "alice"),
        gids=(108, 1000),
    )


def naive(entries: Iterable[Entry], asked: Query, now: float) -> list[Entry]:
    """The definition: all that match, by rank."""
    return sorted((each for each in entries if why_not(each, asked, now) is None), key=rank)


# --- precedence, as a table -----------------------------------------------------------------

# Each line wins over all that follow it, in whatever order they were added.
PRECEDENCE = [
    "deny app=/usr/bin/curl parent=/bin/sh host=10.1.2.3",
    "deny app=/usr/bin/curl parent=/bin/sh",
    "deny app=/usr/bin/curl host=10.1.2.3 port=443 proto=tcp user=alice hook=out",
    "deny app=/usr/bin/curl host=10.1.2.3 port=443 proto=tcp user=alice",
    "allow app=/usr/bin/curl host=10.1.2.3 port=443 proto=tcp user=1000",
    "deny app=/usr/bin/curl host=10.1.2.3 port=443 proto=tcp",
    "deny app=/usr/bin/curl host=10.1.2.3 port=443 user=alice",
    "deny app=/usr/bin/curl host=10.1.2.3 port=443",
    "deny app=/usr/bin/curl host=10.1.2.3 port=80,443",
    "deny app=/usr/bin/curl host=10.1.2.3 port=443-445",
    "deny app=/usr/bin/curl host=10.1.2.3 port=1-1023",
    "deny app=/usr/bin/curl host=10.1.2.3 port=0-65535",
    "deny app=/usr/bin/curl host=10.1.2.3 proto=tcp",
    "deny app=/usr/bin/curl host=10.1.2.3",
    "deny app=/usr/bin/curl host=mirror.example.net port=443",
    "allow app=/usr/bin/curl host=www.deb.example.org",
    "deny app=/usr/bin/curl host=*.deb.example.org port=1-1023",
    "allow app=/usr/bin/curl host=*.example.org port=443 proto=tcp",
    "deny app=/usr/bin/curl host=*.example.net port=443",
    "allow app=/usr/bin/curl host=*.org port=443",
    "deny app=/usr/bin/curl host=*.net",
    "deny app=/usr/bin/curl host=10.1.2.2/31 port=443",
    "deny app=/usr/bin/curl host=10.1.2.0/24 port=443",
    "deny app=/usr/bin/curl host=10.0.0.0/8",
    "deny app=/usr/bin/curl host=0.0.0.0/1",
    "deny app=/usr/bin/curl host=lan",
    "deny app=/usr/bin/curl host=0.0.0.0/0",
    "deny app=/usr/bin/curl port=443",
    "deny app=/usr/bin/curl proto=tcp",
    "deny app=/usr/bin/curl user=alice",
    "deny app=/usr/bin/curl user=@netdev hook=out",
    "deny app=/usr/bin/curl user=@108",
    f"deny app=/usr/bin/curl hook=out profile=home network=ssid:Home sim={SIM} roaming=no "
    "metered=yes time=thu",
    f"deny app=/usr/bin/curl hook=out network=ssid:Home sim={SIM} roaming=no metered=yes time=thu",
    f"deny app=/usr/bin/curl hook=out network=ssid:Home sim={SIM} roaming=no metered=yes",
    "deny app=/usr/bin/curl hook=out metered=yes",
    "deny app=/usr/bin/curl hook=out",
    f"allow app=/usr/bin/curl network=ssid:Home sim={SIM} roaming=no metered=yes",
    f"allow app=/usr/bin/curl network=sim:{SIM} roaming=no metered=yes",
    f"deny app=/usr/bin/curl sim={SIM} roaming=no",
    "route via=lte app=/usr/bin/curl roaming=no metered=yes",
    "allow app=/usr/bin/curl network=ssid:Home metered=yes",
    f"deny app=/usr/bin/curl sim={SIM}",
    "route via=unmetered,any app=/usr/bin/curl metered=yes",
    "allow class=bulk app=/usr/bin/curl profile=home",
    "deny app=/usr/bin/curl",
    "route via=lte app=/usr/bin/curl",
    "allow app=/usr/bin/curl",
    "deny parent=/bin/sh",
    "deny host=10.1.2.3",
    "deny port=443",
    "deny proto=tcp",
    "deny user=alice",
    "deny hook=out",
    "allow metered=yes",
    "deny",
]


def test_each_line_of_the_precedence_table_beats_all_below_it() -> None:
    for first in range(len(PRECEDENCE)):
        below = [entry(id, line) for id, line in enumerate(PRECEDENCE) if id >= first]
        for entries in (below, below[::-1]):
            winner = Index(entries).lookup(query(), NOW)
            assert winner is not None
            assert winner.id == first


def test_explain_lists_the_whole_table_in_order() -> None:
    match = Index(entry(id, line) for id, line in enumerate(PRECEDENCE)).explain(query(), NOW)
    assert match is not None
    assert [each.id for each in (match.entry, *match.beaten)] == list(range(len(PRECEDENCE)))


A6 = "2001:db8::5"


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("host=2001:db8::5", "host=2001:db8::/127"),
        ("host=2001:db8::4/127", "host=2001:db8::/64"),
        ("host=2001:db8::/64", "host=2001:db8::/32"),
        ("host=2000::/3", "host=internet"),
        ("host=internet", "host=::/0"),
        ("host=::/0", "port=443"),
    ],
)
def test_ipv6_hosts_have_the_same_order(narrow: str, wide: str) -> None:
    if narrow.endswith("/127"):
        narrow, wide = narrow, wide
    else:
        wide = wide.replace("::/127", "::4/127")
    index = Index([entry(1, f"allow {narrow}"), entry(2, f"deny {wide}")])
    assert len(naive(index, query(host=A6), NOW)) == 2
    winner = index.lookup(query(host=A6), NOW)
    assert winner is not None
    assert winner.id == 1


def test_a_lower_layer_wins_before_anything_else_counts() -> None:
    admin = entry(1, "allow", Layer.ADMIN)
    remembered = entry(2, PRECEDENCE[0], Layer.REMEMBERED, created=9.0)
    shipped = entry(3, PRECEDENCE[0], Layer.SHIPPED, created=99.0)
    index = Index([shipped, remembered, admin])
    match = index.explain(query(), NOW)
    assert match is not None
    assert (match.entry, match.beaten) == (admin, (remembered, shipped))
    assert "admin files come before remembered rules" in match.why


# --- ties -----------------------------------------------------------------------------------


def test_on_a_tie_deny_beats_route_beats_allow_even_if_older() -> None:
    index = Index(
        [
            entry(1, "deny app=/usr/bin/curl", created=1.0),
            entry(2, "route via=lte app=/usr/bin/curl", created=2.0),
            entry(3, "allow app=/usr/bin/curl", created=3.0),
        ]
    )
    for winner in (1, 2, 3):
        found = index.lookup(query(), NOW)
        assert found is not None
        assert found.id == winner
        index.remove(winner)
    assert index.lookup(query(), NOW) is None


def test_on_a_full_tie_the_newer_wins_then_the_higher_id() -> None:
    old, new = entry(9, "allow", created=1.0), entry(1, "allow", created=2.0)
    same = entry(2, "allow", created=2.0)
    match = Index([old, new, same]).explain(query(), NOW)
    assert match is not None
    assert [each.id for each in (match.entry, *match.beaten)] == [2, 1, 9]
    assert "its number is higher" in match.why
    match = Index([old, new]).explain(query(), NOW)
    assert match is not None
    assert match.why.endswith("equally specific, and it is newer")


# --- single conditions ----------------------------------------------------------------------

MATCHING = [
    # line, query, does it match
    ("allow app=/usr/bin/curl", query(), True),
    ("allow app=/usr/bin/cur", query(), False),
    ("allow", query(app=""), True),
    ("allow app=/usr/bin/curl", query(app=""), False),
    ("allow parent=/bin/sh", query(app=""), False),
    ("allow parent=/bin/login", query(), True),
    ("allow parent=/usr/bin/curl", query(), False),
    ("allow user=alice", query(), True),
    ("allow user=1000", query(), True),
    ("allow user=1000", query(user="1000", uid=1001), False),
    ("allow user=1000", query(uid=None), False),
    ("allow user=alice", query(user="bob"), False),
    ("allow user=@netdev", query(), True),
    ("allow user=@alice", query(user="bob"), True),
    ("allow user=@netdev", query(app=""), True),
    ("allow user=netdev", query(), False),
    ("allow user=@wheel", query(), False),
    ("allow user=@108", query(), True),
    ("allow user=@1001", query(uid=1001), False),
    ("allow user=0", query(uid=None, user=""), False),
    ("allow host=10.1.2.3", query(host="::ffff:10.1.2.3"), True),
    ("allow host=lan", query(host="::ffff:10.1.2.3"), True),
    ("allow host=10.0.0.0/8", query(host="::ffff:10.1.2.3"), True),
    ("allow host=::/0", query(), False),
    ("allow host=0.0.0.0/0", query(host="2001:db8::1"), False),
    ("allow host=0.0.0.0/0", query(), True),
    ("allow host=::/0", query(host="2001:db8::1"), True),
    ("allow host=10.1.2.2/31", query(), True),
    ("allow host=10.1.2.0/31", query(), False),
    ("allow host=internet", query(), False),
    ("allow host=www.deb.example.org", query(), True),
    ("allow host=WWW.Deb.example.org.", query(), True),
    ("allow host=mirror.example.net", query(), True),
    ("allow host=www.deb.example.org", query(names=()), False),
    ("allow host=deb.example.org", query(), False),
    ("allow host=w.deb.example.org", query(), False),
    ("allow host=*.deb.example.org", query(), True),
    ("allow host=*.example.org", query(), True),
    ("allow host=*.org", query(), True),
    ("allow host=*.www.deb.example.org", query(), False),
    ("allow host=*.b.example.org", query(), False),
    ("allow host=*.example.org", query(names=("example.org", "badexample.org")), False),
    ("allow host=*.example.org", query(names=("example.org.evil.net",)), False),
    ("allow host=*.example.org", query(names=("a.example.org",), host="2001:db8::1"), True),
    ("allow host=lan.", query(names=("lan",)), True),
    ("allow host=lan.", query(), False),
    ("allow host=*.example.org", query(names=("", ".example.org", "..", "\udcff")), True),
    ("allow host=münchen.example", query(names=("xn--mnchen-3ya.example",)), True),
    ("allow port=443", query(proto=17), True),
    ("allow port=443", query(proto=1), False),
    ("allow port=0-65535", query(proto=1, port=0), False),
    ("allow port=0", query(port=0), True),
    ("allow port=1-65535", query(port=0), False),
    ("allow port=442-443", query(), True),
    ("allow port=444-445,442", query(), False),
    ("allow proto=udp", query(), False),
    ("allow hook=in", query(), False),
    ("allow hook=in", query(hook=Hook.IN), True),
    (f"allow sim={SIM}", query(), True),
    (f"allow sim={SIM}", query(sims=(OTHER_SIM, SIM)), True),
    (f"allow sim={SIM}", query(sims=(OTHER_SIM,)), False),
    (f"allow sim={SIM}", query(sims=()), False),
    (f"allow sim={SIM}", query(sims=("",)), False),
    (f"allow sim={SIM}", query(app=""), True),
    ("allow network=ssid:Home", query(), True),
    ("allow network=ssid:home", query(), False),
    ("allow network=ssid:Home", query(networks=()), False),
    (f"allow network={GATEWAY}", query(), False),
    (f"allow network={GATEWAY}", query(networks=("ssid:Home", GATEWAY)), True),
    (f"allow network=sim:{SIM}", query(sims=()), True),
    (f"allow network=sim:{SIM}", query(networks=()), False),
    (f"allow network=sim:{OTHER_SIM} sim={SIM}", query(), False),
    (
        f"allow network=sim:{OTHER_SIM} sim={SIM}",
        query(networks=(f"sim:{SIM}", f"sim:{OTHER_SIM}")),
        True,
    ),
    ("allow profile=home", query(), True),
    ("allow profile=Home", query(), False),
    ("allow profile=travel", query(), False),
    ("allow profile=home", query(profile=""), False),
    ("allow profile=home network=ssid:Home", query(), True),
    ("allow profile=home network=ssid:Home", query(networks=()), False),
    ("allow profile=home network=ssid:Home", query(profile="travel"), False),
    ("allow profile=home", query(app=""), True),
    ("allow metered=yes", query(metered=True), True),
    ("allow metered=no", query(metered=True), False),
    ("allow metered=yes", query(metered=False), False),
    ("allow metered=no", query(metered=False), True),
    ("allow metered=yes", query(metered=None), False),
    ("allow metered=no", query(metered=None), False),
    ("allow roaming=yes", query(roaming=True), True),
    ("allow roaming=no", query(roaming=True), False),
    ("allow roaming=yes", query(roaming=False), False),
    ("allow roaming=no", query(roaming=False), True),
    ("allow roaming=yes", query(roaming=None), False),
    ("allow roaming=no", query(roaming=None), False),
    ("allow roaming=yes metered=no", query(roaming=True, metered=False), True),
    ("allow roaming=yes metered=no", query(roaming=False, metered=True), False),
    ("allow", query(sims=(), networks=(), profile="", metered=None, roaming=None), True),
]


@pytest.mark.parametrize(("line", "asked", "matches"), MATCHING)
def test_a_condition_matches_exactly_what_it_says(line: str, asked: Query, matches: bool) -> None:
    made = entry(1, line)
    index = Index([made])
    assert index.lookup(asked, NOW) == (made if matches else None)
    assert (why_not(made.rule, asked) is None) is matches


def test_a_span_ends_at_its_second_and_not_before() -> None:
    made = entry(1, "allow for=1m", created=100.0)
    index = Index([made, entry(2, "deny for=2h", created=100.0), entry(3, "allow")])
    index.remove(2)
    assert index.lookup(query(), 159.9) == made
    assert index.expired(159.9) == []
    assert index.next_expiry() == 160.0
    found = index.lookup(query(), 160.0)
    assert found is not None
    assert found.id == 3
    assert index.expired(160.0) == [made]
    assert why_not(made, query(), 159.9) is None
    assert why_not(made, query(), 160.0) == "it expired 0 s ago"
    assert why_not(made, query(), 163.0) == "it expired 3 s ago"
    assert why_not(made, query()) is None
    index.remove(1)
    assert (index.next_expiry(), index.expired(1e9)) == (None, [])


def test_a_rule_with_a_time_holds_in_its_minutes_of_the_local_week_only() -> None:
    made = entry(1, "deny time=thu@00:02-00:04")
    index = Index([made, entry(2, "allow")])
    for now, id in ((119.9, 2), (120.0, 1), (239.9, 1), (240.0, 2), (120.0 + 7 * 86400, 1)):
        found = index.lookup(query(), now)
        assert found is not None
        assert found.id == id
        assert (why_not(made, query(), now) is None) is (id == 1)
    assert why_not(made, query(), 240.0) == "it holds thu@00:02-00:04, and here it is thu 00:04"
    assert why_not(made, query()) is None, "without a clock, a time is not looked at"
    index.zone = timezone(timedelta(minutes=-3))
    for now, id in ((120.0, 2), (300.0, 1)):
        found = index.lookup(query(), now)
        assert found is not None
        assert found.id == id
    why = why_not(made, query(), 120.0, index.zone)
    assert why == "it holds thu@00:02-00:04, and here it is wed 23:59"


def test_expired_entries_come_in_the_order_they_ended() -> None:
    spans = [entry(id, f"allow for={4 - id}m", created=0.0) for id in (1, 2, 3)]
    index = Index(spans)
    assert [each.id for each in index.expired(120.0)] == [3, 2]
    assert [each.id for each in index.expired(500.0)] == [3, 2, 1]


def test_a_process_rule_serves_that_process_only() -> None:
    made = entry(1, "allow app=/usr/bin/curl for=process", process=(7, 70))
    index = Index([made])
    assert index.lookup(query(processes=((8, 80), (7, 70))), NOW) == made
    child = entry(2, "deny parent=/bin/login for=process", process=(7, 70))
    for processes in (((8, 80), (7, 70)), ((7, 70), (8, 80))):
        assert Index([child]).lookup(query(processes=processes), NOW) == child
    for others in ((), ((7, 71),), ((8, 70),)):
        assert index.lookup(query(processes=others), NOW) is None
        assert "process 7" in (why_not(made, query(processes=others), NOW) or "")


def test_each_of_several_parents_processes_networks_and_sims_is_tried_with_each_other() -> None:
    made = [
        entry(
            id,
            f"allow parent={parent} network={network} sim={sim} for=process",
            process=process,
        )
        for id, (parent, network, sim, process) in enumerate(
            itertools.product(
                ("/bin/sh", "/bin/login", "/none"),
                ("ssid:Home", GATEWAY, "ssid:Work"),
                (SIM, OTHER_SIM, "8" * 19),
                ((7, 70), (8, 80), (9, 90)),
            )
        )
    ]
    asked = query(
        parents=("/bin/sh", "/bin/login", "/bin/sh"),
        networks=("ssid:Home", GATEWAY),
        sims=(OTHER_SIM, SIM),
        processes=((8, 80), (7, 70)),
    )
    index = Index(made)
    match = index.explain(asked, NOW)
    assert match is not None
    assert [match.entry, *match.beaten] == naive(made, asked, NOW)
    assert len(match.beaten) == 2**4 - 1
    assert index.lookup(asked, NOW) == match.entry


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("allow for=once", {}),
        ("allow for=15m", {}),
        ("allow for=process", {}),
        ("allow", {"expires": 5.0}),
        ("allow", {"process": (1, 1)}),
    ],
)
def test_an_entry_that_would_outlive_its_rule_cannot_be_made(
    line: str, fields: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="rule 1"):
        Entry(1, parse(line), Layer.ADMIN, 1.0, "alice", **fields)  # type: ignore[arg-type]


def test_an_address_of_another_length_is_refused_aloud() -> None:
    asked = Query("", (), None, "", b"abc", 0, 6)
    with pytest.raises(ValueError, match="4 or 16 bytes, not 3"):
        Index().lookup(asked, NOW)


# --- explain --------------------------------------------------------------------------------

WHY = [
    ("app=/usr/bin/curl parent=/bin/sh", "app=/usr/bin/curl", "names the app and a parent, the"),
    ("app=/usr/bin/curl", "host=lan", "it names the app, the other no app"),
    ("host=10.1.2.3", "host=10.0.0.0/8", "it names one address, the other a network of /8"),
    ("host=10.1.2.3", "host=mirror.example.net", "it names one address, the other a name"),
    (
        "host=mirror.example.net",
        "host=*.example.net",
        "it names a name, the other the domain *.example.net",
    ),
    ("host=*.net", "host=10.1.2.2/31", "it names the domain *.net, the other a network of /31"),
    ("host=lan", "host=0.0.0.0/0", "it names a scope, the other only an address family"),
    ("host=lan", "port=443", "it names a scope, the other no host"),
    ("port=443", "port=443-445", "it names one port, the other 3 ports"),
    ("port=443-445", "proto=tcp", "it names 3 ports, the other no port"),
    ("proto=tcp", "user=alice", "it names the protocol, the other does not"),
    ("user=alice", "user=@netdev", "it names the user, the other a group"),
    ("user=@netdev", "hook=out", "it names a group, the other no user"),
    ("hook=out", "metered=yes", "it names the hook, the other does not"),
    ("metered=yes", "", "it names one condition of context, the other none"),
    (
        f"network=ssid:Home sim={SIM} metered=yes",
        "roaming=no metered=yes",
        "it names three conditions of context, the other two",
    ),
    (
        f"network=ssid:Home sim={SIM} roaming=no metered=yes",
        "roaming=no",
        "it names four conditions of context, the other one",
    ),
    (
        f"profile=home network=ssid:Home sim={SIM} roaming=no metered=yes time=thu",
        f"network=ssid:Home sim={SIM} roaming=no metered=yes time=thu",
        "it names six conditions of context, the other five",
    ),
    ("roaming=no time=thu", "time=thu", "it names two conditions of context, the other one"),
]


@pytest.mark.parametrize(("winner", "loser", "why"), WHY)
def test_explain_says_what_decided(winner: str, loser: str, why: str) -> None:
    match = Index([entry(1, f"allow {winner}"), entry(2, f"deny {loser}")]).explain(query(), NOW)
    assert match is not None
    start = "rule 1 (remembered rules, by alice, cli) wins over rule 2 "
    assert match.why.startswith(start)
    assert why in match.why


def test_explain_says_deny_wins_and_names_a_lone_winner() -> None:
    index = Index([entry(1, "allow"), entry(2, "deny")])
    match = index.explain(query(), NOW)
    assert match is not None
    assert match.why.endswith("they are equally specific, and deny wins over allow")
    index.remove(2)
    match = index.explain(query(), NOW)
    assert match is not None
    assert match.why == "rule 1 (remembered rules, by alice, cli) is the only rule that matches"
    index.remove(1)
    assert index.explain(query(), NOW) is None


@pytest.mark.parametrize(
    ("line", "asked", "why"),
    [
        ("allow app=/a", query(), "its app is /a, not /usr/bin/curl"),
        ("allow app=/a", query(app=""), "it names the app /a, the flow has no owner"),
        ("allow parent=/a", query(app=""), "it names the parent /a, the flow has no owner"),
        ("allow parent=/a", query(), "its parent /a is none of the program's ancestors"),
        ("allow user=bob", query(), "its user is bob, the process's is alice"),
        ("allow user=bob", query(user="", uid=5), "its user is bob, the process's is 5"),
        ("allow user=bob", query(user="", uid=None), "its user is bob, the process's is unknown"),
        ("allow user=@wheel", query(), "it is for group wheel, and the user alice is not in it"),
        ("allow user=@7", query(user=""), "it is for group 7, and the user 1000 is not in it"),
        (
            "allow user=@7",
            query(user="", uid=None),
            "it is for group 7, and whose process it is, nobody knows",
        ),
        ("allow host=::1", query(), "its host is ::1, the destination 10.1.2.3"),
        (
            "allow host=a.example",
            query(),
            "its host is a.example, 10.1.2.3 was looked up as www.deb.example.org, "
            "mirror.example.net",
        ),
        (
            "allow host=*.bücher.example",
            query(names=("xn--mnchen-3ya.de", "xn--80ak6aa92e.com")),
            "its host is *.bücher.example, 10.1.2.3 was looked up as münchen.de, "
            "xn--80ak6aa92e.com",
        ),
        (
            "allow host=*.a.example",
            query(names=()),
            "its host is *.a.example, 10.1.2.3 was not looked up by any name",
        ),
        (
            "allow host=*.a.example",
            query(names=("b", "\x1b[2J", "d", "e", "f")),
            r'its host is *.a.example, 10.1.2.3 was looked up as b, "\x1b[2J", d and 2 more',
        ),
        ("allow port=1-2", query(), "its port is 1-2, not 443"),
        ("allow port=1-2", query(proto=1), "it names ports, icmp has none"),
        ("allow proto=udp", query(), "its protocol is udp, not tcp"),
        ("allow hook=in", query(), "its hook is in, not out"),
        (r'allow app="\x1b[2J"', query(), r'its app is "\x1b[2J", not /usr/bin/curl'),
        (f"allow sim={OTHER_SIM}", query(), f"the SIM {OTHER_SIM} is not in use"),
        ("allow network=ssid:Work", query(), "this machine is not on network ssid:Work"),
        (
            r'allow network="ssid:\x1b[2J"',
            query(),
            r'this machine is not on network "ssid:\x1b[2J"',
        ),
        (
            "allow profile=travel",
            query(),
            "it is of profile travel, and profile home is active",
        ),
        (
            "allow profile=travel",
            query(profile=""),
            "it is of profile travel, and no profile is active",
        ),
        ("allow metered=no", query(), "it would leave over a metered link"),
        ("allow metered=yes", query(metered=False), "it would not leave over a metered link"),
        (
            "allow metered=yes",
            query(metered=None),
            "nobody knows whether the link it would leave over is metered",
        ),
        ("allow roaming=yes", query(), "the link it would leave over is not roaming"),
        (
            "allow roaming=no",
            query(roaming=True),
            "the link it would leave over is roaming",
        ),
        (
            "allow roaming=no",
            query(roaming=None),
            "nobody knows whether the link it would leave over is roaming",
        ),
    ],
)
def test_why_not_names_the_first_condition_that_fails(line: str, asked: Query, why: str) -> None:
    assert why_not(entry(1, line), asked, NOW) == why


# --- the index against the definition -------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(strategies.small_entries(st.integers(1, 60)), max_size=30),
    st.lists(strategies.small_queries(), min_size=1, max_size=6),
    st.sampled_from([50.0, 150.0, 200.0, 250.0, 350.0]),
)
def test_the_index_finds_what_the_definition_finds(
    entries: list[Entry], queries: list[Query], now: float
) -> None:
    index = Index(entries)
    last = {each.id: each for each in entries}
    assert len(index) == len(last)
    for asked in queries:
        expected = naive(last.values(), asked, now)
        assert index.lookup(asked, now) == (expected[0] if expected else None)
        match = index.explain(asked, now)
        assert ([match.entry, *match.beaten] if match else []) == expected
        assert match is None or match.why.isprintable()
    for asked in queries:
        # Forwards and, as when a clock is set, backwards: what is remembered must not be old.
        for later in (now, 50.0, 350.0, 200.0, now):
            expected = naive(last.values(), asked, later)
            assert index.lookup(asked, later) == (expected[0] if expected else None)


class ChangedIndex(RuleBasedStateMachine):
    """An index that is changed in place, beside a plain dict of what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.held: dict[int, Entry] = {}
        self.asked: tuple[Query, ...] = ()

    @rule(made=strategies.small_entries(st.integers(1, 12)))
    def add(self, made: Entry) -> None:
        self.look_again(200.0)
        self.index.add(made)
        self.held[made.id] = made
        self.look_again(200.0)

    @rule(id=st.integers(1, 13))
    def remove(self, id: int) -> None:
        self.look_again(50.0)
        self.index.remove(id)
        self.held.pop(id, None)
        self.look_again(50.0)

    @rule(asked=strategies.small_queries(), now=st.sampled_from([50.0, 200.0, 350.0]))
    def look(self, asked: Query, now: float) -> None:
        self.asked = (*self.asked[-4:], asked)
        self.looked(asked, now)

    def look_again(self, now: float) -> None:
        for asked in self.asked:
            self.looked(asked, now)

    def looked(self, asked: Query, now: float) -> None:
        expected = naive(self.held.values(), asked, now)
        assert self.index.lookup(asked, now) == (expected[0] if expected else None)
        match = self.index.explain(asked, now)
        assert ([match.entry, *match.beaten] if match else []) == expected

    @invariant()
    def holds_what_was_put_in(self) -> None:
        assert {each.id: each for each in self.index} == self.held
        times = sorted(each.expires for each in self.index if each.expires is not None)
        assert self.index.next_expiry() == (times[0] if times else None)
        assert [each.expires for each in self.index.expired(200.0)] == [
            t for t in times if t <= 200
        ]

    def teardown(self) -> None:
        for id in self.held:
            assert self.index.get(id) == self.held[id]
            assert id in self.index
            self.index.remove(id)
            assert id not in self.index
        assert len(self.index) == 0
        assert not self.index._shapes, "an empty shape would slow down every look-up"
        assert not any(family.shapes for family in self.index._slots.families.values())


TestChangedIndex = ChangedIndex.TestCase
TestChangedIndex.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


def test_a_change_is_in_the_next_answer() -> None:
    index = Index()
    for made in (entry(1, "allow"), entry(2, "deny app=/usr/bin/curl")):
        index.lookup(query(), NOW)
        index.add(made)
        assert index.lookup(query(), NOW) == made
    index.remove(2)
    assert index.lookup(query(), NOW) == entry(1, "allow")
    index.remove(1)
    assert index.lookup(query(), NOW) is None


def test_the_memo_answers_again_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index([entry(1, "allow app=/usr/bin/curl"), entry(2, "deny for=1h", created=NOW)])
    searched: list[Query] = []
    search = index._search

    def counted(asked: Query, now: float) -> Entry | None:
        searched.append(asked)
        return search(asked, now)

    monkeypatch.setattr(index, "_search", counted)
    for _ in range(3):
        index.lookup(query(), NOW)
        index.lookup(query(app=""), NOW)
    none = query(app="", processes=())
    assert searched == [query(processes=()), none, none, none]
    index.lookup(query(processes=((8, 80),)), NOW)
    assert len(searched) == 4, "another process of the same program asks the same"
    index.remove(2)
    index.lookup(query(), NOW)
    assert len(searched) == 5
    index.add(entry(3, "deny app=/usr/bin/curl for=process", process=(8, 80)))
    for process in ((7, 70), (8, 80)):
        index.lookup(query(processes=(process,)), NOW)
    assert searched[5:] == [query(), query(processes=((8, 80),))], "until a rule is one process's"
    index.remove(3)
    for port in range(3 * MEMO):
        index.lookup(query(port=port), NOW)
        assert len(index._memo) <= MEMO


def test_a_narrow_range_wins_over_a_wide_one_of_a_shape_that_is_asked_first() -> None:
    wide, narrow = entry(1, "allow port=1-1023 proto=tcp"), entry(2, "deny port=443-444")
    assert Index([wide, narrow]).lookup(query(), NOW) == narrow


def test_ranges_of_any_size_cost_one_shape() -> None:
    index = Index(entry(i, f"allow app=/bin/{i} port=1-{i}") for i in range(2, 200))
    assert len(index._shapes) == 1


class CountedKeys(str):
    """An app that counts how often a dict asks for its hash."""

    hashed = 0

    def __hash__(self) -> int:
        type(self).hashed += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def test_a_lookup_asks_as_often_for_ten_thousand_rules_as_for_ten() -> None:
    asked_for = []
    for count in (10, 10_000):
        lines = (
            f"allow app=/bin/{i // 2}" + (" host=10.1.2.3 port=443 proto=tcp" if i % 2 else "")
            for i in range(count)
        )
        index = Index(entry(id, line) for id, line in enumerate(lines, 1))
        for app in ("/bin/3", "/bin/none"):
            CountedKeys.hashed = 0
            index.lookup(query(app=CountedKeys(app)), NOW)
            asked_for.append(CountedKeys.hashed)
    # The memo asks twice; a shape once, and the second is not asked where the first has it.
    assert asked_for == [3, 4, 3, 4]
