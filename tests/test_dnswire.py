"""DNS messages: what is learned of them, and that no bytes raise."""

from __future__ import annotations

import ipaddress
import itertools
import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.dnswire import MAX_CHAIN, MAX_RECORDS, Answers, Unread, answers
from arbiter.hostname import host_name


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(ipaddress.ip_address(address).packed for address in addresses)


def message(
    question: str, *records: str, flags: int = 0, rcode: int = 0, additional: tuple[str, ...] = ()
) -> bytes:
    """`question` is `NAME TYPE`, each record `OWNER TTL TYPE DATA`; CLASS is IN."""
    name, kind = question.split()
    made = dns.message.make_response(dns.message.make_query(name, kind))
    made.flags |= flags
    made.set_rcode(dns.rcode.Rcode(rcode))
    for section, lines in ((made.answer, records), (made.additional, additional)):
        for line in lines:
            owner, ttl, of_type, data = line.split(" ", 3)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", of_type, data))
    return made.to_wire()


def learned(wire: bytes, cut: bool = False) -> Answers:
    found = answers(wire, cut)
    assert isinstance(found, Answers), found
    return found


def why(wire: bytes, cut: bool = False) -> str:
    found = answers(wire, cut)
    assert isinstance(found, Unread), found
    return found.reason


def head(records: int, kind: int = 1) -> bytes:
    """Header and question of an answer about example.org, 29 bytes, with so many records."""
    asked = b"\x07example\x03org\0" + struct.pack("!HH", kind, 1)
    return b"\0\1\x81\x80" + struct.pack("!4H", 1, records, 0, 0) + asked


# --- what is learned -------------------------------------------------------------------------


def test_addresses_of_both_families_are_learned_for_the_asked_name() -> None:
    wire = message("Example.ORG. A", "example.org. 60 A 192.0.2.1", "example.org. 9 A 192.0.2.2")
    assert learned(wire) == Answers("example.org", packed("192.0.2.1", "192.0.2.2"), 9)
    wire = message("example.org. AAAA", "example.org. 60 AAAA 2001:db8::1")
    assert learned(wire).addresses == packed("2001:db8::1")


def test_along_a_chain_the_asked_name_counts_and_no_other() -> None:
    wire = message(
        "www.example.org. A",
        "edge.cdn.example. 30 A 192.0.2.7",  # in any order
        "www.example.org. 300 CNAME www.cdn.example.",
        "www.cdn.example. 20 CNAME edge.cdn.example.",
    )
    assert learned(wire) == Answers("www.example.org", packed("192.0.2.7"), 20)


@pytest.mark.parametrize(
    "record",
    [
        "bank.example. 60 A 192.0.2.66",
        "ample.org. 60 A 192.0.2.66",
        "sub.example.org. 60 A 192.0.2.66",
    ],
)
def test_an_address_of_a_name_that_was_not_asked_for_is_not_learned(record: str) -> None:
    wire = message("example.org. A", "example.org. 60 A 192.0.2.1", record)
    assert learned(wire).addresses == packed("192.0.2.1")


def test_a_record_of_another_class_is_not_learned() -> None:
    wire = message("example.org. A", "example.org. 60 A 192.0.2.1")
    owner = b"\xc0\x0c" + struct.pack("!H", 1)
    assert wire.count(owner + b"\0\1") == 1
    assert learned(wire.replace(owner + b"\0\1", owner + b"\0\3")).addresses == ()


def test_an_alias_of_another_name_leads_nowhere() -> None:
    wire = message(
        "evil.example. A", "bank.example. 60 CNAME evil.example.", "evil.example. 60 A 192.0.2.66"
    )
    assert learned(wire) == Answers("evil.example", packed("192.0.2.66"), 60)


def test_what_is_only_additional_to_an_address_question_is_not_learned() -> None:
    extra = ("example.org. 60 A 192.0.2.66",)
    wire = message("example.org. A", "example.org. 60 A 192.0.2.1", additional=extra)
    assert learned(wire).addresses == packed("192.0.2.1")


def test_a_circle_of_aliases_ends_and_a_chain_is_followed_to_its_bound() -> None:
    circle = message(
        "a.example. A", "a.example. 60 CNAME b.example.", "b.example. 60 CNAME a.example."
    )
    assert learned(circle) == Answers("a.example", (), 60)
    links = [f"n{n}.example. 60 CNAME n{n + 1}.example." for n in range(MAX_CHAIN + 4)]
    for length, known in ((MAX_CHAIN, True), (MAX_CHAIN + 1, False)):
        end = f"n{length}.example. 60 A 192.0.2.1"
        found = learned(message("n0.example. A", *links[:length], end))
        assert bool(found.addresses) is known


def test_a_mapped_address_is_learned_as_packets_show_it() -> None:
    wire = message("example.org. AAAA", "example.org. 60 AAAA ::ffff:192.0.2.1")
    assert learned(wire).addresses == packed("192.0.2.1")


def test_a_service_s_hints_and_targets_belong_to_the_asked_name() -> None:
    wire = message(
        "example.org. HTTPS",
        "example.org. 300 HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1",
        "example.org. 300 HTTPS 2 Pool.cdn.example. ipv4hint=192.0.2.3",
        additional=("pool.cdn.example. 60 A 192.0.2.4", "other.example. 60 A 192.0.2.66"),
    )
    found = learned(wire)
    assert sorted(found.addresses) == sorted(
        packed("192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3", "192.0.2.4")
    )
    assert (found.name, found.ttl, found.targets) == ("example.org", 60, ("pool.cdn.example",))


def test_authority_is_not_read_even_of_a_service() -> None:
    made = dns.message.from_wire(message("example.org. HTTPS"))
    made.authority.append(dns.rrset.from_text("example.org.", 60, "IN", "A", "192.0.2.66"))
    made.additional.append(dns.rrset.from_text("example.org.", 60, "IN", "A", "192.0.2.1"))
    assert learned(made.to_wire()).addresses == packed("192.0.2.1")


def test_a_service_s_alias_names_its_target_and_no_address() -> None:
    wire = message("example.org. HTTPS", "example.org. 300 HTTPS 0 svc.example.net.")
    assert learned(wire) == Answers("example.org", (), 300, ("svc.example.net",))
    none = message("example.org. HTTPS", "example.org. 300 HTTPS 0 .")
    assert learned(none).targets == ()


def test_a_service_on_another_port_is_the_host_s() -> None:
    wire = message(
        "_8443._https.example.org. HTTPS",
        "_8443._https.example.org. 60 HTTPS 1 example.org. ipv4hint=192.0.2.1",
    )
    assert learned(wire) == Answers("example.org", packed("192.0.2.1"), 60)
    assert learned(message("_dmarc.example.org. A")).name == "_dmarc.example.org"


def test_what_is_there_of_a_truncated_answer_counts() -> None:
    records = [f"example.org. 60 A 192.0.2.{n}" for n in range(1, 9)]
    wire = message("example.org. A", *records)
    half = learned(wire[:-20], cut=True)
    assert half.truncated and half.addresses == packed(*(f"192.0.2.{n}" for n in range(1, 7)))
    assert why(wire[:-20]) == "a record is malformed"
    told = message("example.org. A", records[0], flags=dns.flags.TC)
    assert learned(told).truncated and learned(told).addresses == packed("192.0.2.1")
    assert not learned(wire).truncated


def test_a_ttl_with_the_highest_bit_is_none() -> None:
    wire = message("example.org. A", "example.org. 60 A 192.0.2.1")
    at = wire.index(struct.pack("!I", 60), 12)
    assert learned(wire[:at] + struct.pack("!I", 1 << 31) + wire[at + 4 :]).ttl == 0


def test_more_records_than_the_bound_are_not_read() -> None:
    body = b"".join(
        struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + struct.pack("!I", n) for n in range(1000)
    )
    found = learned(head(1000) + body)
    assert len(found.addresses) == MAX_RECORDS and found.truncated


# --- what is not -----------------------------------------------------------------------------


def test_only_an_answer_without_an_error_to_one_question_of_the_internet_counts() -> None:
    good = message("example.org. A", "example.org. 60 A 192.0.2.1")
    assert why(good[:11]) == "shorter than a header"
    assert why(good[:2] + bytes([good[2] & 0x7F]) + good[3:]) == "a question"
    assert "or an error" in why(message("example.org. A", rcode=3))
    assert "or an error" in why(good[:2] + bytes([good[2] | 0x10]) + good[3:])
    assert "one question" in why(good[:4] + b"\0\0" + good[6:])
    assert "one question" in why(good[:4] + b"\0\2" + good[6:])
    at = 12 + 15
    assert "class" in why(good[:at] + b"\0\3" + good[at + 2 :])
    assert "cut short" in why(good[:20], cut=True)


@pytest.mark.parametrize(
    "label",
    [b"a.b", b"a b", b"a\0b", b"a\x1b[31m", b"\xc3\xa9", b"a*", b"a/b", b'a"', b"\\", b"a,b"],
)  # fmt: skip
def test_a_name_that_no_rule_could_match_is_dropped(label: bytes) -> None:
    made = dns.message.make_response(
        dns.message.make_query(dns.name.Name([label, b"org", b""]), "A")
    )
    made.answer.append(
        dns.rrset.from_rdata(made.question[0].name, 60, dns.rdata.from_text("IN", "A", "192.0.2.1"))
    )
    assert why(made.to_wire()) == "the asked name is no host name"


def test_an_alias_that_no_rule_could_match_is_followed() -> None:
    wire = message(
        "a.example. A", "a.example. 60 CNAME x/y.example.", "x/y.example. 60 A 192.0.2.1"
    )
    assert learned(wire) == Answers("a.example", packed("192.0.2.1"), 60)


@pytest.mark.parametrize("name", [b"", b"192.0.2.1", b"a.0x7f", b"7", b"0x", b"a..b", b"a" * 254])
def test_a_name_that_looks_like_an_address_or_is_none_has_no_text(name: bytes) -> None:
    assert host_name(name) is None


@pytest.mark.parametrize("name", ["xn--bcher-kva.example", "a_b.c-d", "1.example", "nas", "a.1x"])
def test_usual_names_have_their_text(name: str) -> None:
    assert host_name(name.encode()) == name


@pytest.mark.parametrize(
    "owner",
    [
        b"\xc0\x1d",  # itself
        b"\xc0\xff",  # forwards
        b"\x01a\xc0\x1d",  # around
        b"\x41" + b"a" * 65,  # a label of an unknown type
        b"\x80\x0c",
        b"\xc0",
        b"\x3fa",
    ],
)
def test_a_name_that_is_no_name_makes_the_message_malformed(owner: bytes) -> None:
    wire = head(1) + owner + struct.pack("!HHIH", 1, 1, 60, 4) + b"abcd"
    assert why(wire) == "a record is malformed"


def test_a_long_chain_of_pointers_is_given_up() -> None:
    before = head(2)
    chain = b"".join(struct.pack("!H", 0xC000 | (len(before) + 12 + 2 * n)) for n in range(300))
    data = b"\xc0\x0c" + chain
    first = b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 60, len(data)) + data
    last = struct.pack("!H", 0xC000 | (len(before) + len(first) - 2))
    wire = before + first + last + struct.pack("!HHIH", 1, 1, 60, 4) + b"abcd"
    assert why(wire) == "a record is malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0\1", b"\0\1\0\0\4\0\3abc", b"\0\1\0\0\4\0\0", b"\0\1\0\0\4\0\x09abcd",
        b"\0\1\0\0\6\0\4abcd", b"\0\1\0\0\4\0", b"\0\1\x05abc",
    ],
)  # fmt: skip
def test_a_malformed_service_makes_the_message_malformed(data: bytes) -> None:
    wire = head(1, 65) + b"\xc0\x0c" + struct.pack("!HHIH", 65, 1, 60, len(data)) + data
    assert why(wire) == "a record is malformed"


# --- properties ------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "B", "www", "xn--p1ai", "Ex-1", "_x", "a" * 63])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join(labels) + ".test.")
ADDRESS = st.one_of(
    st.ip_addresses(v=4).map(lambda a: f"A {a}"),
    # Not the mapped ones, which we learn as IPv4.
    st.integers(1 << 64, (1 << 128) - 1).map(lambda n: f"AAAA {ipaddress.IPv6Address(n)}"),
)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A question, and records some of which answer it."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.lower))
    records = []
    for here, there in itertools.pairwise(names):
        if draw(st.booleans()):
            records.append(f"{here} {draw(st.integers(0, 99999))} CNAME {there}")
    kind = draw(st.sampled_from(["A", "AAAA"]))
    aliases = {record.split()[0].lower() for record in records}
    for name in names:
        if name.lower() not in aliases:  # a CNAME stands alone (RFC 1034 3.6.2)
            ttl = draw(st.integers(0, 99999))
            data = [d for d in draw(st.lists(ADDRESS, max_size=4)) if d.split()[0] == kind]
            records += [f"{name} {ttl} {one}" for one in dict.fromkeys(data)]
    return f"{names[0]} {kind}", records


@given(exchanges())
def test_valid_messages_say_what_dnspython_reads_in_them(exchange: tuple[str, list[str]]) -> None:
    question, records = exchange
    wire = message(question, *records)
    chain = dns.message.from_wire(wire).resolve_chaining()  # type: ignore[attr-defined]
    found = learned(wire)
    assert found.name == question.split()[0].lower().rstrip(".")
    wanted = [ipaddress.ip_address(r.address).packed for r in chain.answer or ()]
    assert sorted(found.addresses) == sorted(wanted)
    if wanted:
        assert found.ttl == min([chain.answer.ttl, *(c.ttl for c in chain.cnames)])


HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda counts, body: b"\0\1\x81\x80" + struct.pack("!4H", 1, *counts) + body,
        st.tuples(*[st.integers(0, 65535)] * 3),
        st.binary(max_size=300),
    ),
    st.builds(
        lambda kind, count, parts: (
            b"\0\1\x81\x80"
            + struct.pack("!4H", 1, count, 0, 9)
            + b"\x01a\x00"
            + struct.pack("!HH", kind, 1)
            + b"".join(parts)
        ),
        st.sampled_from([1, 28, 64, 65]),
        st.integers(0, 9),
        st.lists(
            st.one_of(
                st.just(b"\xc0\x0c"),
                st.just(b"\x01a\x00"),
                st.integers(0, 0x3FFF).map(lambda n: struct.pack("!H", 0xC000 | n)),
                st.builds(
                    lambda kind, length: struct.pack("!HHIH", kind, 1, 7, length),
                    st.sampled_from([1, 5, 28, 64, 65]),
                    st.integers(0, 40),
                ),
                st.binary(max_size=24),
            ),
            max_size=30,
        ),
    ),
)


@given(HOSTILE, st.booleans())
def test_any_bytes_give_a_value_with_plain_names_and_packed_addresses(
    data: bytes, cut: bool
) -> None:
    found = answers(data, cut)
    if isinstance(found, Unread):
        assert found.reason.isascii()
        return
    for name in (found.name, *found.targets):
        assert host_name(name.encode()) == name
    assert all(len(address) in (4, 16) for address in found.addresses)
    assert 0 <= found.ttl <= 0x7FFFFFFF


@given(exchanges(), st.data())
def test_a_damaged_message_gives_a_value(
    exchange: tuple[str, list[str]], data: st.DataObject
) -> None:
    wire = bytearray(message(exchange[0], *exchange[1]))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(wire)))
    assert isinstance(answers(bytes(wire[:end]), data.draw(st.booleans())), Answers | Unread)


@given(exchanges())
def test_dnspython_takes_what_we_take(exchange: tuple[str, list[str]]) -> None:
    """Cut anywhere: what we call an answer is one for the program's library as well."""
    wire = message(exchange[0], *exchange[1])
    for end in range(12, len(wire)):
        if isinstance(answers(wire[:end]), Answers):
            # The OPT record at the end is not an answer: it is not read here.
            dns.message.from_wire(wire[:end], ignore_trailing=True, continue_on_error=True)
            assert end >= len(wire) - 11
