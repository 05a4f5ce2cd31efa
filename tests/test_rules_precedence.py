"""Which of several rules decides: precedence as a table, ties, and what explain says of it."""

from __future__ import annotations

import pytest
from rulescene import NOW, SIM, entry, naive, query

from arbiter.rules import Index, Layer

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
