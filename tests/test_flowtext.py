"""A flow as people write it: what is written reads back, what ss prints is read."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.flowtext import MAX_TEXT, Named, destination, flow_text, read_flow
from arbiter.model import PORT_PROTOS, PROTO_NAMES, Flow


def flow(proto: int, here: str, sport: int, there: str, dport: int) -> Flow:
    saddr, daddr = (ipaddress.ip_address(text).packed for text in (here, there))
    return Flow(proto, saddr, sport, daddr, dport)


WANTED = flow(6, "192.0.2.1", 40000, "192.0.2.7", 443)
WANTED6 = flow(6, "2001:db8::1", 40000, "2001:db8::7", 443)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tcp 192.0.2.1:40000 > 192.0.2.7:443", WANTED),
        ("192.0.2.1:40000 192.0.2.7:443", WANTED),
        ("192.0.2.1:40000 -> 192.0.2.7:443", WANTED),
        ("tcp [2001:db8::1]:40000 → [2001:db8::7]:443", WANTED6),
        ("ESTAB 0      0      192.0.2.1:40000    192.0.2.7:443", WANTED),
        ("tcp   ESTAB 0 0 [2001:db8::1]:40000 [2001:db8::7]:443", WANTED6),
        (
            'ESTAB 0 0 192.0.2.1:40000 192.0.2.7:443 users:(("curl",pid=1,fd=5)) timer:(on,2s,0)',
            WANTED,
        ),
        ("SYN-SENT 0 1 [::ffff:192.0.2.1]:40000 [::ffff:192.0.2.7]:443", WANTED),
        ("udp UNCONN 0 0 192.0.2.1:5 192.0.2.7:53", flow(17, "192.0.2.1", 5, "192.0.2.7", 53)),
        ("icmp 192.0.2.1:77 > 192.0.2.7", flow(1, "192.0.2.1", 77, "192.0.2.7", 0)),
        ("icmp6 [2001:db8::1]:77 > 2001:db8::7", flow(58, "2001:db8::1", 77, "2001:db8::7", 0)),
        ("gre 192.0.2.1 > 192.0.2.7", flow(47, "192.0.2.1", 0, "192.0.2.7", 0)),
    ],
)
def test_what_people_and_ss_write_is_read(text: str, wanted: Flow) -> None:
    assert read_flow(text) == Named(wanted)


@pytest.mark.parametrize(
    "local", ["192.0.2.1%wlan0:68", "[fe80::1]%wlan0:68", "[fe80::1%wlan0]:68"]
)
def test_the_interface_that_a_socket_is_bound_to_is_kept(local: str) -> None:
    peer = "[2001:db8::7]:67" if "[" in local else "192.0.2.7:67"
    assert read_flow(f"udp {local} {peer}").device == "wlan0"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has 0 addresses"),
        ("tcp 192.0.2.7:443", "it has 1 addresses, and needs two"),
        ("LISTEN 0 128 0.0.0.0:22 0.0.0.0:*", "no peer yet"),
        ("udp UNCONN 0 0 *:68 192.0.2.7:67", "no local address yet"),
        ("tcp 192.0.2.1:40000 > 192.0.2.7:https", "have ss show numbers, with -n"),
        ("tcp 192.0.2.1:40000 > 192.0.2.7:65536", "no port, 0 to 65535"),
        ("tcp 192.0.2.1:40000 > 192.0.2.7:²", "no port"),
        ("tcp 192.0.2.1 > 192.0.2.7", "'' is no address|no peer|no local|lacks its port"),
        ("tcp 2001:db8::1:40000 > 2001:db8::7", "is no address|lacks its port|is no port"),
        ("tcp example.org:40000 > 192.0.2.7:443", "'example.org' is no address"),
        ("tcp [2001:db8::1:40000 > 192.0.2.7:443", "lacks its closing bracket"),
        ("tcp [2001:db8::1]:4 > 192.0.2.7:443", "one address is IPv4, the other IPv6"),
        ("tpc 192.0.2.1:40000 > 192.0.2.7:443", "'tpc' is neither a protocol nor an address"),
        ("u_str ESTAB 0 0 * 5 * 6", "u_str is no internet socket"),
        ("tcp 192.0.2.1:1 > 192.0.2.7:2 192.0.2.9:3", "is neither a protocol nor an address"),
        ("x" * (MAX_TEXT + 1), "it is longer than"),
    ],
)
def test_what_is_no_connection_is_refused_with_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_flow(text)


v4 = st.binary(min_size=4, max_size=4)
v6 = st.binary(min_size=16, max_size=16).filter(lambda b: not b.startswith(bytes(10) + b"\xff\xff"))
ports = st.integers(0, 65535)


@given(
    st.sampled_from(sorted(PROTO_NAMES)),
    st.one_of(st.tuples(v4, v4), st.tuples(v6, v6)),
    ports,
    ports,
)
def test_what_is_written_reads_back(
    proto: int, ends: tuple[bytes, bytes], sport: int, dport: int
) -> None:
    if proto not in PORT_PROTOS:
        dport = 0
    one = Flow(proto, ends[0], sport, ends[1], dport)
    assert read_flow(flow_text(one)).flow == one


@given(st.text(max_size=60) | st.text("tcpudp0123456789.:[]%*> \u200f", max_size=60))
def test_no_text_does_anything_but_read_or_be_refused(text: str) -> None:
    try:
        found = read_flow(text)
    except ValueError as error:
        assert str(error)
    else:
        assert len(found.flow.saddr) == len(found.flow.daddr)


def test_a_destination_has_a_port_where_its_protocol_has() -> None:
    assert destination(WANTED) == "tcp 192.0.2.7 port 443"
    assert destination(flow(1, "192.0.2.1", 7, "192.0.2.7", 0)) == "icmp 192.0.2.7"
    assert flow_text(Flow(6, b"", 0, WANTED.daddr, 443)) == "tcp 192.0.2.7:443"
