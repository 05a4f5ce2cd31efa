"""What packages and administrators say of connections: destinations, the look-up of advice, and the
rules that come of it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policyscene import APPLICATION, ETC, SHARE, connection, fails, good

from arbiter.model import DENY
from arbiter.policyfiles import (
    Advice,
    AdviceBook,
    Name,
    PolicyFile,
    PolicyFileError,
    as_rule,
    entries,
    hosts,
    load,
)
from arbiter.rules import Index, Layer, Query, RuleError, format_rule, parse


def advice(*lines: str, host: str = '"a.example"') -> Advice:
    return load(connection(*lines, host=host), "x", shipped=True).advice[0]


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


# --- destinations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "",
        "exa mple.org",
        "*",
        "*.",
        "**.example.org",
        "*.*.org",
        "a.*",
        "-a.example",
        "a-.example",
        "a..example",
        ".example.org",
        "a" * 64 + ".example",
        "a." * 130 + "example",
        "münchen.example",
        "localhost",
        "lann",
        "example.1",
        "1.2.3.4.5",
        "1.2.3",
        "0x7f.0x1",
        "192.0.2.1/24",
        "192.0.2.0/33",
        "fe80::1%eth0",
        "[2001:db8::1]",
        "http://a.example/",
        "a.example:443",
        "a\\u0000.example",
    ],
)
def test_what_is_no_destination_is_refused(host: str) -> None:
    given_as = f'["{host}", "b.example"]'
    assert fails(connection(host=given_as)).key == "connection.host"


def test_names_are_compared_by_label_and_never_by_their_end() -> None:
    below = hosts.read("*.Example.ORG.")
    assert below == Name("example.org", below=True)
    for name, met in (
        ("a.example.org", True),
        ("b.a.example.org", True),
        ("example.org", False),
        ("badexample.org", False),
        ("example.org.evil.example", False),
    ):
        assert hosts.meets(below, (name,), packed("192.0.2.1")) is met
        assert hosts.meets(below, ("other.example", name), packed("192.0.2.1")) is met
    exact = hosts.read("example.org")
    assert hosts.meets(exact, ("example.org",), packed("192.0.2.1"))
    assert not hosts.meets(exact, ("a.example.org",), packed("192.0.2.1"))
    assert not hosts.meets(exact, (), packed("192.0.2.1"))


@pytest.mark.parametrize(
    ("host", "address", "met"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "::ffff:192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "192.0.2.1", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("lan", "10.1.2.3", True),
        ("lan", "fd00::1", True),
        ("internet", "10.1.2.3", False),
        ("*", "2001:db8::1", True),
    ],
)
def test_addresses_are_met_by_what_they_are(host: str, address: str, met: bool) -> None:
    assert hosts.meets(hosts.read(host), (), packed(address)) is met


@given(st.text("ab.*-_:/0129x", max_size=12) | st.text(max_size=12))
def test_a_destination_that_is_read_is_written_as_the_same(text: str) -> None:
    try:
        host = hosts.read(text)
    except ValueError:
        return
    assert hosts.read(hosts.text_of(host)) == host
    hosts.rank(host)
    hosts.meets(host, ("a.b",), bytes(16))


# --- the look-up ----------------------------------------------------------------------------


def book(*connections: str) -> AdviceBook:
    text = APPLICATION + "".join(
        f'[[connection]]\npurpose = "{line}"\n' + line.replace("; ", "\n") + "\n"
        for line in (c.replace('"', "'") for c in connections)
    )
    return AdviceBook([load(text, "x", shipped=True)])


def test_the_most_specific_advice_is_found() -> None:
    order = [
        "host = '192.0.2.1'",
        "host = 'a.b.example'",
        "host = '*.b.example'",
        "host = '*.example'",
        "host = '192.0.2.0/28'",
        "host = '192.0.2.0/24'",
        "host = 'internet'",
        "host = '0.0.0.0/0'",
        "host = '*'; port = 443; proto = 'tcp'",
        "host = '*'; port = 443",
        "host = '*'; port = '400-500'",
        "host = '*'; proto = 'tcp'",
        "host = '*'",
    ]
    for first in range(len(order)):
        for some in (order[first:], [*order[:first:-1], order[first]]):
            found = book(*some).advice_for(
                "/usr/bin/x", ("a.b.example",), packed("192.0.2.1"), 443, 6
            )
            assert found is not None
            assert found.purpose == order[first]


def test_advice_is_about_its_own_app_ports_and_protocol_only() -> None:
    one = book("host = '*'; port = 443; proto = 'tcp'")
    where = packed("192.0.2.1")
    assert one.advice_for("/usr/bin/x", (), where, 443, 6)
    assert not one.advice_for("/usr/bin/y", (), where, 443, 6)
    assert not one.advice_for("", (), where, 443, 6)
    assert not one.advice_for("/usr/bin/x", (), where, 444, 6)
    assert not one.advice_for("/usr/bin/x", (), where, 443, 17)
    ported = book("host = '*'; port = '0-65535'")
    assert ported.advice_for("/usr/bin/x", (), where, 0, 132)
    assert not ported.advice_for("/usr/bin/x", (), where, 0, 1)  # ICMP has no port 0


def test_an_administrators_advice_comes_before_a_packages() -> None:
    text = connection('suggest = "allow"')
    files = [
        load(text, "a.toml", shipped=True),
        load(text.replace('"allow"', '"deny"'), "b.toml"),
    ]
    for some in (files, files[::-1]):
        found = AdviceBook(some).advice_for("/usr/bin/x", ("a.example",), packed("::1"), 1, 6)
        assert found is not None
        assert found.suggest == DENY


def test_an_app_is_found_by_the_name_that_survives_updates() -> None:
    text = connection().replace("/usr/bin/x", "/usr/lib/x-1.2.3/x")
    file = load(text, "x", shipped=True)
    assert file.application is not None
    assert file.application.path == "/usr/lib/x-1.2.3/x"
    assert AdviceBook([file]).advice_for("/usr/lib/x-*/x", ("a.example",), bytes(4), 1, 6)


def naive(files: list[PolicyFile], names: tuple[str, ...], address: bytes, port: int) -> set[str]:
    """Purposes of all advice that a TCP connection meets."""
    return {
        a.purpose
        for file in files
        for a in file.advice
        if hosts.meets(a.host, names, address)
        and a.proto in (None, 6)
        and (not a.ports or any(low <= port <= high for low, high in a.ports))
    }


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["*", "a.example", "*.example", "lan", "10.0.0.0/8", "10.0.0.1"]),
            st.sampled_from(["", "port = 443", "port = '1-1023'"]),
            st.sampled_from(["", "proto = 'tcp'", "proto = 'udp'"]),
        ),
        max_size=6,
    ),
    st.sampled_from([(), ("a.example",), ("b.a.example",)]),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1"]),
    st.sampled_from([80, 443, 8080]),
)
def test_a_look_up_finds_something_exactly_where_something_is_meant(
    said: list[tuple[str, str, str]], names: tuple[str, ...], address: str, port: int
) -> None:
    text = APPLICATION + "".join(
        f'[[connection]]\npurpose = "{n}"\nhost = "{host}"\n{ports}\n{proto}\n'
        for n, (host, ports, proto) in enumerate(said)
    )
    file = load(text, "x", shipped=True)
    found = AdviceBook([file]).advice_for("/usr/bin/x", names, packed(address), port, 6)
    meant = naive([file], names, packed(address), port)
    assert found.purpose in meant if found else not meant


# --- rules in force -------------------------------------------------------------------------


def test_advice_decides_only_where_an_administrator_adopts_it() -> None:
    files = [good("telegram"), good("firefox")]
    assert entries(files) == ((), ())
    admin = load('adopt = ["/usr/bin/telegram-desktop"]', ETC + "a.toml")
    made, unsaid = entries([*files, admin])
    assert {e.layer for e in made} == {Layer.SHIPPED}
    assert {e.rule.app for e in made} == {"/usr/bin/telegram-desktop"}
    said = [a for a in files[0].advice if as_rule(a) is not None]
    assert len(made) == len(said)
    assert len(made) + len(unsaid) == len(files[0].advice)
    everything, _ = entries(files, decide=True)
    assert len(everything) >= len(made)
    with pytest.raises(PolicyFileError):
        load('adopt = ["/usr/bin/x"]\n' + APPLICATION, SHARE + "x.toml", shipped=True)


def test_no_opinion_decides_nothing() -> None:
    assert as_rule(advice()) is None
    assert entries([load(connection(), "x", shipped=True)], decide=True) == ((), ())


def test_the_rule_of_a_suggestion_is_no_wider_than_it() -> None:
    made = as_rule(advice("port = 443", "proto = 'tcp'", "suggest = 'allow'", host="'10.0.0.0/8'"))
    assert made is not None
    assert format_rule(made) == "allow app=/usr/bin/x host=10.0.0.0/8 port=443 proto=tcp"
    named = as_rule(advice("suggest = 'allow'", host="'*.a.example'"))
    try:
        assert named == parse("allow app=/usr/bin/x host=*.a.example")
    except RuleError:
        assert named is None, "a name that rules cannot say must not become any host"


def test_entries_say_where_they_come_from_and_layers_keep_their_order() -> None:
    admin = load('rules = ["deny app=/usr/bin/x"]', ETC + "a.toml")
    files = [load(connection('suggest = "allow"', host='"10.0.0.1"'), "b", shipped=True), admin]
    made, _ = entries(files, decide=True)
    assert len({e.id for e in made}) == len(made) == 2
    assert max(e.id for e in made) < 0
    assert {e.by for e in made} == {f"file:{ETC}a.toml:1", "file:b:5"}
    index = Index(made)
    query = Query("/usr/bin/x", (), 0, "root", packed("10.0.0.1"), 80, 6)
    found = index.lookup(query, 0.0)
    assert found is not None
    assert found.layer is Layer.ADMIN
