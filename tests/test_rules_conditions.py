"""What each condition of a rule matches, and what is said of the first that does not."""

from __future__ import annotations

import itertools
from datetime import timedelta, timezone

import pytest
from rulescene import GATEWAY, NOW, OTHER_SIM, SIM, entry, naive, query

from arbiter.model import Hook
from arbiter.rules import Entry, Index, Layer, Query, parse, why_not

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


# --- why a rule does not match ----------------------------------------------------------------


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
