"""An Internet Access Policy becomes advice: a policy file, never a rule."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_strategies import UNHURRIED

from arbiter.exchange import Batch, Format, RemarkKind, Source, detect, read

FIXTURES = Path(__file__).parent.parent / "fixtures" / "imports" / "iap"
APP = "/usr/bin/notes"


def imported(data: bytes | dict[str, Any], app: str = APP, origin: str = "f") -> Batch:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return read([Source(origin, raw)], Format.LITTLESNITCH, app)


def connection(**more: Any) -> dict[str, Any]:
    return {"Connections": [{"Host": "a.example.org", "Purpose": "x", **more}]}


def table(batch: Batch) -> Any:
    """The [[connection]] of the one policy file."""
    ((_, text),) = batch.policies
    (one,) = tomllib.loads(text)["connection"]
    return one


@pytest.mark.parametrize(
    "name", ["InternetAccessPolicy.plist", "InternetAccessPolicy.json", "binary.plist"]
)
def test_each_form_becomes_the_same_policy_file(name: str) -> None:
    batch = read([Source(name, (FIXTURES / name).read_bytes())], None, APP)
    assert batch.items == ()
    assert not batch.cannot()
    ((file, text),) = batch.policies
    assert file == "notes.toml"
    data = tomllib.loads(text)
    assert data["application"] == {
        "name": "notes",
        "app": APP,
        "website": "https://notes.example.org",
    }
    assert [one["host"] for one in data["connection"]] == [
        ["sync1.notes.example.org", "sync2.notes.example.org"],
        "*.notes-cdn.example.net",
        "192.0.2.53",
    ]
    assert data["connection"][0] == {
        "host": ["sync1.notes.example.org", "sync2.notes.example.org"],
        "proto": "tcp",
        "port": "443",
        "purpose": "Notes keeps your notes in step with your other computers.",
        "if_denied": "If you deny this, notes stay on this computer only.",
        "relevance": "essential",
    }
    assert "suggest" not in text, "it never decides, and suggests nothing"
    left = [remark.place for remark in batch.remarks if remark.kind is RemarkKind.LEFT_OUT]
    assert left == [f"{name}: connection 4", f"{name}: Services"]


def test_it_does_not_guess_the_executable() -> None:
    (remark,) = imported(connection(), app="").remarks
    assert "give --app" in remark.text


@pytest.mark.parametrize(
    ("more", "place", "why"),
    [
        ({"Host": "myserver*.com"}, "Host", "no equal"),
        ({"Host": "lan"}, "Host", "no equal"),
        ({"Host": "1.2.3"}, "Host", "no equal"),
        ({"Host": "fe80::1%en0"}, "Host", "no equal"),
        ({"Host": "a.example.-org"}, "Host", "the label '-org' is in no host name"),
        ({"Host": "a.0x7f"}, "Host", "taken for an address"),
        ({"Host": "*, a.example.org"}, "Host", "alone"),
        ({"Host": ""}, "Host", "there is none"),
        ({"Host": 5}, "Host", "there is none"),
        ({"Port": "https"}, "Port", "no list of ports"),
        ({"Port": "99999"}, "Port", "no port"),
        ({"Port": "443", "NetworkProtocol": "ICMP"}, "Port", "has no ports"),
        ({"Port": 10**30}, "Port", "0 to 65535"),
        ({"NetworkProtocol": "QUIC"}, "NetworkProtocol", "TCP, UDP or ICMP"),
        ({"Purpose": " \n"}, "Purpose", "there is none"),
        ({"Relevance": "Vital"}, "Relevance", "Essential or Default"),
        ({"IsIncoming": "yes"}, "IsIncoming", "neither true nor false"),
    ],
)
def test_what_has_no_equal_is_said_with_its_place(
    more: dict[str, Any], place: str, why: str
) -> None:
    (remark,) = imported(connection(**more)).cannot()
    assert remark.place == f"f: connection 1, {place}"
    assert why in remark.text


@pytest.mark.parametrize(
    "data",
    [
        {"Connections": [connection()["Connections"][0]] * 257},
        {
            "Connections": [
                connection(Host="a.example,b.example,c.example,d.example,e.example")["Connections"][
                    0
                ]
            ]
            * 256
        },
    ],
)
def test_what_no_policy_file_can_hold_is_refused(data: dict[str, Any]) -> None:
    batch = imported(data)
    assert not batch.policies
    assert len(batch.cannot()) == 1


def test_any_and_nothing_are_no_conditions() -> None:
    one = table(imported(connection(Host="*", Port="any", NetworkProtocol="Any")))
    assert set(one) == {"host", "purpose", "relevance"}


def test_texts_are_made_fit_for_a_prompt() -> None:
    one = table(imported(connection(Purpose='a\n"b"\x1b[31m\u202e' + "c" * 500)))
    assert one["purpose"].startswith('a "b" [31m')
    assert len(one["purpose"]) == 200 and one["purpose"].isprintable()


BOMB = b"""<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><plist><string>&b;</string></plist>"""


@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        BOMB.replace(b'"aaaaaaaaaa"', b'SYSTEM "file:///etc/passwd"'),
        b"<plist>" + b"<array>" * 5000,
        b"<plist>" + b"<array>" * 5000 + b"</array>" * 5000 + b"</plist>",
        b"<plist><integer>" + b"9" * 5000 + b"</integer></plist>",
        b"<plist><date>x</date></plist>",
        b"bplist00",
        b"bplist00" + b"\xff" * 64,
        b"<plist></plist>" + b" " * (1 << 20),
    ],
)
def test_hostile_property_lists_are_refused(data: bytes) -> None:
    assert detect(Source("f", data)) is Format.LITTLESNITCH
    batch = imported(data)
    assert batch.policies == ()
    (remark,) = batch.cannot()
    assert remark.text.isprintable()


def test_a_property_list_that_holds_itself_is_refused() -> None:
    # An array of one element, which is object 0: the array.
    body = b"bplist00" + b"\xa1\x00" + b"\x08"
    trailer = bytes(6) + b"\x01\x01" + (1).to_bytes(8) + (0).to_bytes(8) + (10).to_bytes(8)
    (remark,) = imported(body + trailer).cannot()
    assert "nested too deeply" in remark.text


@pytest.mark.parametrize("often", [2, 3, 1000])
def test_a_list_that_stands_in_itself_many_times_takes_no_memory(often: int) -> None:
    """Written out it would have `often` values at each level, to the power of its depth."""
    body = b"bplist00" + b"\xaf\x11" + often.to_bytes(2) + bytes(often)
    trailer = bytes(6) + b"\x01\x01" + (1).to_bytes(8) + (0).to_bytes(8) + len(body).to_bytes(8)
    (remark,) = imported(body + b"\x08" + trailer).cannot()
    assert "more values than bytes" in remark.text


@UNHURRIED
@given(st.binary(max_size=200), st.sampled_from([b"", b"bplist00", b"<plist>", b"{"]))
def test_whatever_the_bytes_there_is_a_batch(data: bytes, start: bytes) -> None:
    for remark in imported(start + data).remarks:
        assert (remark.place + remark.text).isprintable()


SOUND = (FIXTURES / "binary.plist").read_bytes()


@UNHURRIED
@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255), st.integers(0, len(SOUND)))
def test_a_damaged_property_list_is_never_a_crash(at: int, byte: int, end: int) -> None:
    for data in (SOUND[:at] + bytes([byte]) + SOUND[at + 1 :], SOUND[:end]):
        for _, text in imported(data).policies:
            tomllib.loads(text)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = ("Port", "NetworkProtocol", "Relevance", "DenyConsequences", "IsIncoming")
connections = st.fixed_dictionaries(
    {
        "Host": st.sampled_from(["a.example.org", "::1", "*"]) | values,
        "Purpose": st.text() | values,
    },
    optional=dict.fromkeys(KEYS, values),
)


@UNHURRIED
@given(
    st.dictionaries(st.sampled_from(["Website", "DeveloperName", "Services"]), values),
    st.lists(connections | values, max_size=3),
    st.sampled_from([APP, "unit:x.service", 'snap:"\\', "/usr/bin/../../etc"]),
)
def test_every_policy_file_is_toml_with_a_plain_name(
    top: dict[str, Any], inner: list[Any], app: str
) -> None:
    batch = imported({**top, "Connections": inner}, app)
    for name, text in batch.policies:
        assert "/" not in name and name.isprintable() and not name.startswith(".")
        assert tomllib.loads(text)["application"]["app"] == app
        assert all(char.isprintable() or char == "\n" for char in text)


def test_an_app_that_is_no_text_is_refused() -> None:
    for app in ("/a\udc80", "/a\u202e"):
        assert "not printable" in imported(connection(), app).cannot()[0].text
