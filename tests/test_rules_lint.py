"""Rules that would silently do nothing, or everything, are told when they are made."""

from __future__ import annotations

import pytest

from arbiter.rules import never_decided, never_matches, over_broad, parse


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("deny app=curl", "/usr/bin/curl"),
        ("deny app=foo:bar", "unit:"),
        ("deny app=unit:", "NAME.service"),
        ("deny app=unit:cups", "NAME.service"),
        ("deny app=script:/x", "INTERPRETER"),
        ("deny app=flatpak:", "flatpak:NAME"),
        ("deny app=appimage:Foo", "/FILE"),
        ("deny app=/usr/bin/curl,/usr/bin/wget", "one rule a program"),
        ("deny parent=bash", "/usr/bin/bash"),
        ("deny app=/usr/bin/../bin/curl", "write app=/usr/bin/curl"),
        ("deny app=/usr/./bin/curl", "write app=/usr/bin/curl"),
        ("deny app=//usr/bin//curl", "write app=/usr/bin/curl"),
        ("deny parent=/usr/bin/", "is a folder"),
        ("deny app=/", "is a folder"),
        ("deny app=appimage:/home/u/../u/A", "write app=appimage:/home/u/A"),
        ("deny app=./curl", "begins with /"),
        ("deny app=~/x", "is not expanded"),
        ("deny app=/" + "a" * 4095, "at most 4095 bytes"),
        ("deny parent=/" + "é" * 2048, "at most 4095 bytes"),
        ("deny app=appimage:/" + "a" * 4095, "at most 4095 bytes"),
        ("deny app=script:/usr/bin/python3:/" + "a" * 60000, "at most"),
        ("deny app=foreign:?:/" + "a" * 60000, "at most"),
        ("deny host=2001:db8::/32 proto=icmp", "icmpv6"),
        ("deny host=192.0.2.1 proto=icmpv6", "proto=icmp"),
        ("deny hook=in", "outgoing"),
        ("deny network=gateway:00:00:00:00:00:00", "ip neigh"),
        ("deny network=gateway:ff:ff:ff:ff:ff:ff", "ip neigh"),
    ],
)
def test_a_rule_that_can_never_match_says_why(line: str, word: str) -> None:
    assert word in never_matches(parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "allow",
        "deny app=/usr/bin/curl",
        "deny app=/" + "a" * 4094,
        "deny app=/opt/..x/.y/z...",
        "deny app=script:/usr/bin/python3:/" + "a" * 4094,
        "deny app=script:/usr/bin/python3:/srv/x.py",
        "deny app=unit:wg-quick@wg0.service parent=foreign:?:/x",
        "deny app=snap:firefox",
        "deny app=flatpak:org.x host=lan",
        "deny host=2001:db8::/32 proto=icmpv6",
        "deny host=192.0.2.1 proto=icmp hook=out",
        "deny network=gateway:02:00:5e:10:00:0a",
        "deny network=gateway:03:bf:0a:00:00:01",
        "deny network=ssid:00:00:00:00:00:00",
        # The machine may have two SIMs, and the second one another network.
        "deny network=sim:89430123456789012345 sim=89430123456789099999",
        # Such as a link that roams and costs nothing, or the other way round.
        "deny roaming=yes metered=no",
        "route via=unmetered,any roaming=no metered=yes",
        "route via=metered metered=yes",
    ],
)
def test_other_rules_pass(line: str) -> None:
    assert never_matches(parse(line)) == ""


def test_a_bare_decision_is_said_to_be_for_everything() -> None:
    assert "allows every connection" in over_broad(parse("allow for=1h"))
    assert "denies every connection" in over_broad(parse("deny"))
    assert over_broad(parse("deny proto=udp")) == ""
    assert "allows every connection" in over_broad(parse("allow class=bulk"))
    assert over_broad(parse("deny metered=yes")) == ""


def test_a_host_that_is_every_address_is_said_to_be_broad() -> None:
    assert "allows every IPv4 connection of every program" in over_broad(
        parse("allow host=0.0.0.0/0 for=1h")
    )
    assert "denies every IPv6 connection of every program" in over_broad(parse("deny host=::/0"))
    assert over_broad(parse("allow host=::/0 app=/usr/bin/curl")) == ""
    assert over_broad(parse("allow host=0.0.0.0/1")) == ""
    assert over_broad(parse("deny host=0.0.0.0/0 proto=udp")) == ""


def test_a_whole_top_level_domain_is_said_to_be_broad() -> None:
    assert "every name below" in over_broad(parse("allow app=/usr/bin/curl host=*.com"))
    assert over_broad(parse("allow host=*.example.com")) == ""
    assert over_broad(parse("allow host=nas.")) == ""


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("deny host=loopback", "stays on this machine"),
        ("allow host=127.0.0.0/8 app=/usr/bin/curl", "stays on this machine"),
        ("deny host=127.0.0.53 port=53", "stays on this machine"),
        ("allow host=::1", "stays on this machine"),
        ("deny host=0.0.0.0", "stays on this machine"),
        ("deny host=multicast", "many at once"),
        ("deny host=224.0.0.251 port=5353 proto=udp", "many at once"),
        ("deny host=239.0.0.0/8", "many at once"),
        ("deny host=ff02::/16", "many at once"),
    ],
)
def test_a_rule_about_what_always_passes_says_so(line: str, passes: str) -> None:
    said = never_decided(parse(line))
    assert passes in said
    assert "decides nothing" in said


@pytest.mark.parametrize(
    "line",
    [
        "deny",
        "deny host=lan",
        "deny host=126.0.0.0/7",
        "deny host=128.0.0.1",
        "deny host=::/0",
        "deny host=0.0.0.0/0",
        "deny host=localhost.example.org",
        "deny host=192.168.0.0/16",
    ],
)
def test_a_rule_about_what_is_decided_is_silent(line: str) -> None:
    assert never_decided(parse(line)) == ""
