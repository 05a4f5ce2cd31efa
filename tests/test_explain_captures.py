"""`arbiter explain` of captures: each connection once, with totals, and what was left out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from explainscene import BROWSE, CAPTURES, Run, explaining, remember

from arbiter.cli import explaincapture
from arbiter.store import Store


@pytest.fixture
def arbiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return explaining(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "a.db")


def test_a_capture_is_a_table_with_totals(arbiter: Run, store: Store) -> None:
    remember(store, "allow app=/usr/bin/curl host=*.example.org port=443")
    remember(store, "deny proto=udp port=443")
    remember(store, "route via=lte,any proto=sctp")
    done = arbiter("explain", "--pcap", BROWSE, "--app", "/usr/bin/curl")
    assert done.code == 1
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["packet", "seconds", "connection", "names", "decision", "why"]
    assert lines[2][:6] == [
        "3", "0.200", "tcp", "192.0.2.10:40000", ">", "198.51.100.7:443",
    ]  # fmt: skip
    assert "rule 1 (remembered rules, by alice, terminal) wins over rule 2" in done.out
    assert "route via=lte,any" in done.out
    assert done.out.splitlines()[-1] == (
        "8 connections in 15 packets: 4 ask, 3 allow, 1 route via=lte,any"
    )


def test_a_capture_that_rules_decide_has_exit_code_0(arbiter: Run, store: Store) -> None:
    remember(store, "allow")
    done = arbiter("explain", "--pcap", BROWSE)
    assert done.code == 0
    assert "no rule for a single app was looked at: say whose it is with --app" in done.out


def test_the_user_parents_and_context_of_a_capture_are_those_of_the_options(
    arbiter: Run, store: Store
) -> None:
    remember(store, "allow app=/a parent=/p user=@root metered=yes network=ssid:Home")
    argv = ["--app", "/a", "--parent", "/p", "--user", "root"]
    argv += ["--metered", "yes", "--network", "ssid:Home"]
    for place in range(0, len(argv), 2):
        left = argv[:place] + argv[place + 2 :]
        assert arbiter("explain", "--pcap", BROWSE, *left).code == 1, left
    assert arbiter("explain", "--pcap", BROWSE, *argv).code == 0


def test_a_capture_in_json_is_an_array_with_each_connection(arbiter: Run, store: Store) -> None:
    done = arbiter("explain", "--pcap", str(CAPTURES / "odd.pcap"), "--json")
    found = json.loads(done.out)
    assert [one["capture"]["packet"] for one in found] == [2, 3, 12, 13, 14]
    assert [one["capture"]["midstream"] for one in found] == [True, True, False, False, False]
    assert found[0]["decision"] == "allow" and "open before arbiter" in found[0]["why"]
    assert found[3]["query"]["names"] == ["elsewhere.example"]
    assert "left out: 1 packet: a later fragment" in done.err
    assert json.loads(arbiter("explain", "--pcap", str(CAPTURES / "wifi.pcap"), "--json").out) == []


def test_only_what_a_host_opened(arbiter: Run, store: Store) -> None:
    path = str(CAPTURES / "odd.pcap")
    done = arbiter("explain", "--pcap", path, "--from", "192.0.2.10", "--from", "2001:db8::10")
    assert "3 connections in 15 packets: 2 allow, 1 ask" in done.out
    assert "left out: 5 connections: opened by another host (the first is packet 6)" in done.out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken-off.pcap", "broken-off.pcap, packet 15: the file breaks off in the middle of it"),
        ("empty.pcap", "empty.pcap is empty"),
        ("make.py", "make.py is neither pcap nor pcapng"),
        ("wifi.pcap", "1 packet, and none that could be read"),
        ("none.pcap", "none.pcap cannot be read: No such file or directory"),
    ],
)
def test_a_capture_that_cannot_be_read_says_where_and_why(
    arbiter: Run, store: Store, name: str, text: str
) -> None:
    remember(store, "allow")
    for more in ((), ("--json",)):
        done = arbiter("explain", "--pcap", str(CAPTURES / name), *more)
        assert done.code == 1 and text in done.err, done
        if more:
            found = json.loads(done.out)
            assert len(found) == (7 if name == "broken-off.pcap" else 0)
        elif name in ("empty.pcap", "make.py", "none.pcap"):
            assert done.out == ""


def test_a_table_has_an_end_and_json_has_all(
    arbiter: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaincapture, "MAX_ROWS", 3)
    done = arbiter("explain", "--pcap", BROWSE)
    assert "and 5 more, which --json lists" in done.out
    assert len(json.loads(arbiter("explain", "--pcap", BROWSE, "--json").out)) == 8


def test_the_clock_of_a_captured_connection_is_that_of_its_packet(
    arbiter: Run, store: Store
) -> None:
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    remember(store, f"allow time={names[time.localtime(1_700_000_000).tm_wday]}")
    assert arbiter("explain", "--pcap", BROWSE).code == 0
