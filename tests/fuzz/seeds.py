"""The seed corpus: other fixtures as they are (OTHERS), and fixtures/fuzz/TARGET/NAME.

    python tests/fuzz/seeds.py      writes it anew; files that begin with `found-` stay

These are made by hand, and of other fixtures, scapy and dnspython. What the fuzzer once found stays
as `found-…`: such an input is a test of its own.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures"
CORPUS = FIXTURES / "fuzz"
OTHERS = {
    "policy": ("policies/good", "policies/bad"),
    "link": ("links/good", "links/bad"),
    "lines": ("imports",),
    "toml": ("imports",),
    "opensnitch": ("imports/opensnitch",),
    "littlesnitch": ("imports/iap",),
    "anything": ("imports", "imports/opensnitch", "imports/iap"),
    "protocol": ("messages",),
}
"""Folders of fixtures that are seeds of a target."""
LINES = (
    "allow app=/usr/bin/curl host=*.debian.org port=443 proto=tcp",
    "allow host=192.0.2.0/24 port=443,445,8000-8080 proto=tcp for=15m",
    "route via=wifi,unmetered,any class=bulk app=/usr/bin/rsync network=ssid:Home",
    'allow app="/opt/with \\"space\\"\\u{202e}/x" user=@netdev # a comment',
    "deny host=2001:db8::/32 metered=yes sim=89430123456789012345 roaming=no",
    "deny host=münchen.a_b.example time=mon-fri@18:00-24:00+sat-sun hook=out parent=/bin/sh",
    "allow network=gateway:02:00:5E:10:00:0a user=1000 proto=132 host=::ffff:10.0.0.0/104",
    "deny app=script:/usr/bin/python3:/srv/x.py host=lan profile=home for=boot",
)
OBJECTS: tuple[dict[str, Any], ...] = (
    {"decision": "allow", "app": "/usr/bin/curl", "host": "lan", "port": [443, "8000-8080"]},
    {"decision": "route", "via": ["lte", "any"], "class": "bulk", "roaming": False, "proto": 6},
    {"decision": "deny", "user": "@netdev", "time": "sat,sun", "for": "15m", "proto": "tcp"},
)


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """(target, name, bytes) of the whole corpus."""
    yield from _rules()
    yield from _files()
    yield from _imports()
    yield from _wire()
    yield from _netlink()


def _rules() -> Iterator[tuple[str, str, bytes]]:
    for number, line in enumerate(LINES):
        yield "line", str(number), line.encode()
    for number, value in enumerate(OBJECTS):
        yield "rule-json", str(number), json.dumps(value).encode()


def _files() -> Iterator[tuple[str, str, bytes]]:
    table = '[[rule]]\ndecision = "allow"\nhost = "10.0.0.0/8"\nport = [22, "80-90"]\nuser = 1000\n'
    yield "policy", "table", table.encode() + b'time = "sat"\nmetered = true\n'
    settings = (
        b'mode = "ask"\nfallback = "deny"\ndeadline = 20\nmark_base = 0x7F000000\n'
        b'queue_num = 7\nlink_down = "wait"\nclass_bulk = "dscp=cs1 priority=2"\n'
    )
    yield "settings", "some", settings


def _imports() -> Iterator[tuple[str, str, bytes]]:
    listed = [*OBJECTS, {"rule": LINES[1], "id": 7, "expires": 2e9, "by": "alice"}, LINES[0]]
    yield "json", "objects", json.dumps(listed).encode()
    iap = json.loads((FIXTURES / "imports" / "iap" / "InternetAccessPolicy.json").read_text())
    yield "plist", "iap", json.dumps(iap).encode()
    yield "anything", "line", LINES[0].encode()
    yield "anything", "json", json.dumps(OBJECTS[:1]).encode()


def _wire() -> Iterator[tuple[str, str, bytes]]:
    from queuemessages import queued, usual  # a folder above, see the end

    messages = {
        "a": _message("www.example.org. A", "www.example.org. 60 A 192.0.2.1"),
        "chain": _message(
            "www.example.org. AAAA",
            "www.example.org. 60 CNAME a.cdn.example.",
            "a.cdn.example. 9 AAAA 2001:db8::1",
        ),
        "https": _message(
            "example.org. HTTPS", "example.org. 60 HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1"
        ),
    }
    # The same answer, of class CH.
    owner = b"\xc0\x0c\x00\x01\x00"
    messages["other-class"] = messages["a"].replace(owner + b"\x01", owner + b"\x03")
    for name, wire in messages.items():
        yield "dns", name, wire
    for name, packets in _streams(messages["a"], messages["chain"]).items():
        framed = b"".join(struct.pack("!H", len(one)) + one for one in packets)
        yield "dns-stream", name, framed
    wanted = ("tcp", "udp", "icmp", "frag", "sctp", "hop", "options")
    rows = map(json.loads, (FIXTURES / "packets" / "packets.jsonl").read_text().splitlines())
    for number, row in enumerate(row for row in rows if any(w in row["name"] for w in wanted)):
        if number % 4 == 0:
            yield "packet", row["name"].replace(" ", "-"), bytes.fromhex(row["hex"])
        if usual(bytes.fromhex(row["hex"])):
            yield "queue-message", row["name"].replace(" ", "-"), queued(bytes.fromhex(row["hex"]))
    yield "protocol", "two", b'{"type":"changed"}\n{"type":"query","what":"status"}\n'
    hosts = b"127.0.0.1 localhost\n::1 ip6-localhost # x\n10.0.0.1 nas nas.example\n"
    yield "hosts", "hosts", hosts
    yield "hosts", "resolv", b"nameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch example\n"


def _netlink() -> Iterator[tuple[str, str, bytes]]:
    rows = map(json.loads, (FIXTURES / "rtnetlink" / "debian-12.jsonl").read_text().splitlines())
    payloads = [(row["list"], bytes.fromhex(row["hex"])) for row in rows]
    by_size = {(name, len(payload)): payload for name, payload in payloads}
    for name, size in sorted(by_size)[::2]:
        yield "rtnetlink", f"{name}-{size}", by_size[name, size]
    kinds = {"links": 16, "addresses": 20, "routes": 24}  # RTM_NEWLINK, NEWADDR, NEWROUTE
    some = [(kinds[name], payload) for name, payload in payloads[::40]]
    yield (
        "rtnetlink",
        "datagram",
        b"".join(
            struct.pack("=IHHII", 16 + len(payload), kind, 2, 1, 0) + payload
            for kind, payload in some
        ),
    )
    rows = map(json.loads, (FIXTURES / "netlink" / "others.jsonl").read_text().splitlines())
    seen: dict[str, int] = {}
    for row in rows:
        name = f"{row['what']}-{seen.setdefault(row['target'] + row['what'], 0)}"
        seen[row["target"] + row["what"]] += 1
        yield row["target"], name, bytes.fromhex(row["hex"])
    for name, events in (("some", b"\0\1\2\0\2\3\1\3\0\2\2\0\0\3\4\2\1\0"), ("one", b"\0\1\2")):
        yield "processes", name, events


def _message(question: str, *records: str) -> bytes:
    name, asked = question.split()
    query = dns.message.make_query(name, asked)
    query.id = 7
    made = dns.message.make_response(query)
    for line in records:
        owner, ttl, kind, data = line.split(" ", 3)
        made.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return made.to_wire()


def _streams(one: bytes, other: bytes) -> dict[str, list[bytes]]:
    ends4 = IP(src="192.0.2.53", dst="10.0.0.2", id=1)
    ends6 = IPv6(src="2001:db8::53", dst="2001:db8::2")
    framed = struct.pack("!H", len(one)) + one + struct.pack("!H", len(other)) + other
    tcp = [TCP(sport=53, dport=4000, flags="SA", seq=9)]
    for start in range(0, len(framed), 40):
        part = Raw(framed[start : start + 40])
        tcp.append(TCP(sport=53, dport=4000, flags="A", seq=10 + start) / part)
    tcp[2], tcp[3] = tcp[3], tcp[2]  # late
    return {
        "udp": [bytes(ends / UDP(sport=53, dport=4000) / Raw(one)) for ends in (ends4, ends6)],
        "tcp4": [bytes(ends4 / segment) for segment in tcp],
        "tcp6": [bytes(ends6 / segment) for segment in tcp],
    }


def folders(target: str) -> list[Path]:
    """Where the seeds of a target are."""
    own = CORPUS / target
    others = [FIXTURES / other for other in OTHERS.get(target, ())]
    return [own, *others] if own.is_dir() else others


def write() -> None:
    """Write every seed, and remove what is none any more."""
    wanted = {CORPUS / target / name: data for target, name, data in seeds()}
    for path in CORPUS.glob("*/*"):
        if path not in wanted and not path.name.startswith("found-"):
            path.unlink()
    for path, data in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[1]))
    write()
