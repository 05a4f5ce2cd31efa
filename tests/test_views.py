"""What leaves the core as text: nothing hostile in an ask, each fits its line, records whole."""

from __future__ import annotations

import json
import os
import unicodedata
from typing import Any

import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import ALICE, BOB, HERE6, ROOT, SERVER6, START, example, owner, packet, process

from arbiter import protocol
from arbiter.answers import offered
from arbiter.asks import OpenAsk
from arbiter.events import Reason, Report
from arbiter.judge import Context
from arbiter.model import (
    ALLOW,
    DENY,
    Action,
    Ancestor,
    App,
    AppKind,
    Decision,
    Link,
    NoOwner,
    NoOwnerReason,
    Owner,
    Peer,
    Process,
    Undecodable,
)
from arbiter.protocol import Choice
from arbiter.records import read_list
from arbiter.rules import Entry, Layer, conditions, parse
from arbiter.views import ask_message, link_views, record_of
from arbiter.ways import Run, Ways

LINKS = (protocol.LinkView("wifi", True), protocol.LinkView("lte", False))


def open_ask(who: Owner | NoOwner | None = None, /, why: str = "no rule", **where: Any) -> OpenAsk:
    held = example(packet(1, **where), who or owner())
    return OpenAsk(7, *held, created=START.wall, expires=START.mono + 9, why=why)


def shown(ask: OpenAsk, peer: Peer = ALICE, cwd: str = "") -> protocol.Ask:
    return ask_message(ask, peer, LINKS, cwd)


# --- asks -----------------------------------------------------------------------------------


def test_an_ask_says_who_where_why_and_what_may_be_chosen() -> None:
    ask = open_ask()
    ask.waiting = {1: None, 2: None}
    ask.deadline = START.wall + 30
    message = shown(ask, cwd="/home/alice")
    curl = protocol.AppView("/usr/bin/curl", "path", "curl")
    bash = protocol.AppView("/usr/bin/bash", "path", "bash")
    assert message == protocol.Ask(
        id=7,
        user="alice",
        uid=1000,
        processes=(
            protocol.ProcessView(
                4242, curl, "/usr/bin/curl", ("/usr/bin/curl",), "/home/alice", (bash,)
            ),
        ),
        destination=protocol.Destination("198.51.100.10", "tcp", 443, "https", "internet"),
        why="no rule",
        scopes=message.scopes,
        created=START.wall,
        deadline=START.wall + 30,
        fallback=Choice.DENY,
        waiting=2,
        links=LINKS,
    )
    assert [scope.id for scope in message.scopes] == ["connection", "host", "port", "parent", "app"]


def test_the_scopes_are_worded_for_the_rights_of_who_sees_them() -> None:
    ask = open_ask()
    for peer in (ALICE, ROOT):
        rules = offered(ask, peer)
        assert {s.id: s.conditions for s in shown(ask, peer).scopes} == {
            id: conditions(rule) for id, rule in rules.items()
        }
    assert all("user=alice" in scope.conditions for scope in shown(ask, ALICE).scopes)
    assert not any("user=" in scope.conditions for scope in shown(ask, ROOT).scopes)


def test_an_ipv6_destination_is_shown_as_people_write_it() -> None:
    message = shown(open_ask(daddr=SERVER6, dport=53, proto=17))
    assert message.destination == protocol.Destination(
        "2001:db8:100::a", "udp", 53, "domain", "internet"
    )
    ping = shown(open_ask(daddr=HERE6, dport=0, proto=58))
    assert (ping.destination.proto, ping.destination.port, ping.destination.service) == (
        "icmpv6",
        0,
        "",
    )


def test_without_an_owner_the_ask_says_why_there_is_none() -> None:
    message = shown(open_ask(NoOwner(NoOwnerReason.KERNEL, detail="NFS\x1b[2J")), ROOT)
    assert message.processes == ()
    assert message.no_owner == "kernel socket (NFS\ufffd[2J)"
    assert (message.user, message.uid) == ("", None)
    assert [scope.id for scope in message.scopes] == ["destination"]


def test_stale_and_noted_asks_say_so() -> None:
    ask = open_ask()
    ask.note = "curl has exited"
    message = shown(ask)
    assert message.stale and message.waiting == 0
    assert message.why == "curl has exited. no rule"


def test_processes_that_are_not_shown_are_counted_aloud() -> None:
    many = owner(*(process(pid=pid) for pid in range(100, 130)))
    message = shown(open_ask(many, why="no rule " + "x" * 5000))
    assert len(message.processes) == 8
    assert message.why.startswith("22 more processes hold this socket. no rule")
    assert "more processes" not in shown(open_ask(owner(*many.processes[:8]))).why


# --- hostile words --------------------------------------------------------------------------

HOSTILE_CHARS = (
    "ab/ \"'\\[]=#\x00\x07\x1b\n\r\t\x7f\x9b\u200b\u202e\u2066\u2028\ufeff"
    "\udc80\ud800\U0001f600\U000e0041\uffff"
)
hostile = st.text(st.sampled_from(HOSTILE_CHARS), max_size=40)
long_hostile = st.builds(
    lambda text, times: (text * times)[:4096], hostile, st.sampled_from((1, 20, 200, 4096))
)
apps = st.builds(App, long_hostile, st.sampled_from(AppKind), long_hostile)
processes = st.builds(
    Process,
    pid=st.integers(1, 1 << 22),
    start=st.integers(0, 1 << 60),
    uid=st.just(1000),
    app=apps,
    exe=long_hostile,
    argv=st.lists(long_hostile, max_size=40).map(tuple),
    ancestors=st.lists(st.builds(Ancestor, st.integers(2, 99), apps), max_size=20).map(tuple),
    note=long_hostile,
)
owners = st.one_of(
    st.builds(
        lambda held, user: Owner(1000, user, tuple(held)),
        st.lists(processes, min_size=1, max_size=20),
        hostile.filter(bool),
    ),
    st.builds(
        NoOwner,
        st.sampled_from(NoOwnerReason),
        uid=st.just(1000),
        user=hostile,
        detail=long_hostile,
    ),
)


def texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return []


@settings(deadline=None, max_examples=examples(60))
@given(owners, long_hostile, long_hostile, long_hostile, st.sampled_from((ALICE, ROOT)))
def test_whatever_a_process_calls_itself_the_ask_is_printable_and_fits_its_line(
    who: Owner | NoOwner, why: str, note: str, cwd: str, peer: Peer
) -> None:
    ask = open_ask(who, why=why)
    ask.note = note
    message = shown(ask, peer, cwd)
    line = protocol.encode(message)
    assert len(line) <= protocol.MAX_MESSAGE
    assert protocol.daemon_decoder().feed(line) == [message]
    for text in texts(msgspec.to_builtins(message)):
        bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert not bad, bad


WORST = ("\U0001f600", '"', "\\", "\udcff", "\n", "\u202e")


@pytest.mark.parametrize("char", WORST)
def test_the_worst_that_the_kernel_lets_a_process_say_fits_its_line(char: str) -> None:
    """4096 bytes a path (PATH_MAX), here even 4096 characters; arguments without end."""
    path = "/" + char * 4095
    one = App(f"script:{path}:{path}", AppKind.SCRIPT, char * 64)
    ancestors = tuple(Ancestor(pid, one) for pid in range(2, 66))
    worst = Process(
        10, 100, 1000, one, path, argv=(char * 131072,) * 500, ancestors=ancestors, note=char * 5000
    )
    name, text = "l" * 15, "999999999.123456789012 EUR/MB"
    links = (protocol.LinkView(name, True, True, True, True, text, text, 10**18, 10**18),) * 31
    for peer in (ALICE, ROOT):
        ask = open_ask(Owner(1000, char * 300, (worst,) * 300), why=char * 9999)
        line = protocol.encode(ask_message(ask, peer, links, path))
        assert len(line) <= protocol.MAX_MESSAGE


@pytest.mark.parametrize("length", [100, 400, 640, 850])
def test_scopes_at_their_bound_leave_room_for_the_rest(length: int) -> None:
    """Just short enough to be offered, with everything else as long as it can be."""
    path = "/" + "\udcff" * length
    one = App(path, AppKind.PATH, "\U0001f600" * 64)
    parent = App("/" + "\udcfe" * length, AppKind.PATH, "x")
    text = "\U0001f600" * 4096
    worst = Process(
        pid=10,
        start=1,
        uid=1000,
        app=one,
        exe=text,
        argv=(text,) * 99,
        ancestors=(Ancestor(2, parent),) * 64,
        note=text,
    )
    message = ask_message(
        open_ask(Owner(1000, "alice", (worst,) * 9), why=text * 9), ROOT, LINKS, text
    )
    assert len(protocol.encode(message)) <= protocol.MAX_MESSAGE
    if length <= 640:
        assert "app" in [scope.id for scope in message.scopes]


def test_the_active_profile_is_shown() -> None:
    assert shown(open_ask()).profile == ""
    assert ask_message(open_ask(), ROOT, LINKS, profile="home").profile == "home"


def test_an_ordinary_command_line_is_shown_whole() -> None:
    argv = ("curl", "-sS", "--data", "x" * 400, *(f"http://host{n}/" for n in range(28)))
    plain = msgspec.structs.replace(process(), argv=argv)
    assert shown(open_ask(owner(plain))).processes[0].argv == argv
    longer = msgspec.structs.replace(process(), argv=(*argv, "1"))
    assert shown(open_ask(owner(longer))).processes[0].argv == (*argv, "…")


# --- records --------------------------------------------------------------------------------


def report(**fields: Any) -> Report:
    values: dict[str, Any] = {
        "wall": START.wall,
        "packet": packet(1, daddr=SERVER6),
        "owner": owner(),
        "decision": DENY,
        "reason": Reason.ANSWER,
    } | fields
    return Report(**values)


def test_a_record_keeps_the_flow_the_owner_and_who_decided() -> None:
    record = record_of(report(by=BOB, waited=2.5, note="late"))
    assert (record.time, record.decision, record.reason) == (START.wall, "deny", "answer")
    assert (record.proto, record.saddr, record.sport) == ("tcp", "2001:db8:1::2", 40000)
    assert (record.daddr, record.dport, record.length) == ("2001:db8:100::a", 443, 60)
    assert (record.uid, record.user, record.app, record.app_kind) == (
        1000,
        "alice",
        "/usr/bin/curl",
        "path",
    )
    assert (record.pid, record.start, record.exe) == (4242, 42420, "/usr/bin/curl")
    assert (record.argv, record.parents) == ('["/usr/bin/curl"]', '["/usr/bin/bash"]')
    assert (record.by, record.frontend, record.waited, record.note) == ("bob", "tui", 2.5, "late")


def test_a_record_names_the_rule_and_whose_it_is() -> None:
    entry = Entry(9, parse("allow"), Layer.ADMIN, 0.0, "root", frontend="file:/etc/x")
    record = record_of(report(decision=ALLOW, reason=Reason.RULE, rule=entry))
    assert (record.rule_id, record.layer, record.by, record.frontend) == (
        9,
        1,
        "root",
        "file:/etc/x",
    )
    routed = record_of(report(decision=Decision(Action.ROUTE, ("lte", "any"))))
    assert routed.decision == "route via=lte,any"


def test_a_record_keeps_the_link_and_what_the_rules_were_held_against() -> None:
    context = Context(
        ("8943",), ("ssid:Home", "sim:8943"), True, None, ("deb.example", "cdn.example"), "home"
    )
    record = record_of(report(decision=ALLOW, context=context), "lte")
    assert (record.link, record.names) == ("lte", '["deb.example", "cdn.example"]')
    assert (record.sims, record.networks) == ('["8943"]', '["ssid:Home", "sim:8943"]')
    assert (record.metered, record.roaming, record.profile) == (True, None, "home")


def test_a_record_of_a_shared_socket_names_the_other_holders() -> None:
    shared = owner(process(), process("/usr/bin/wget", 77))
    record = record_of(report(owner=shared, note="x"))
    assert record.note == "x; socket shared with /usr/bin/wget (pid 77)"


def test_what_could_not_be_decoded_or_owned_has_a_record_too() -> None:
    record = record_of(report(packet=Undecodable(1, "short header"), owner=None))
    assert (record.proto, record.daddr, record.uid, record.app) == ("", "", None, "")
    nobody = NoOwner(NoOwnerReason.EXITED, 1000, "alice", "pid 5")
    record = record_of(report(owner=nobody))
    assert (record.no_owner, record.uid, record.user) == ("exited (pid 5)", 1000, "alice")
    assert record.daddr == "2001:db8:100::a"


@given(st.lists(st.binary(max_size=50).map(os.fsdecode)).map(tuple))
def test_a_record_keeps_a_command_line_without_loss(argv: tuple[str, ...]) -> None:
    one = msgspec.structs.replace(process(), argv=argv)
    record = record_of(report(owner=owner(one)))
    assert record.argv.isascii()
    assert read_list(record.argv) == argv
    "".join(json.loads(record.argv)).encode()  # any program can read it


def test_links_are_shown_with_their_state_for_this_connection_and_its_program() -> None:
    ways = Ways()
    ways.change(
        (
            Link("wifi", 1, "wlan0", index=2, metered=False, up6=False),
            Link("lte", 2, "wwan0", index=3, metered=True, price="0.02 EUR/MB", budget="1 GB/day"),
        )
    )
    ask = open_ask(daddr=SERVER6, outdev=2)
    views = link_views(ways, ask.example, {"lte": 7}, {"lte": 0})
    assert views == (
        protocol.LinkView("wifi", False, True, False),
        protocol.LinkView("lte", True, False, True, None, "0.02 EUR/MB", "1 GB/day", 0, 7),
    )
    ways.start_run(Run((100, 1000), 1000, "lte"))
    views = link_views(ways, ask.example, {}, {})
    assert [view.default for view in views] == [False, True], "it is run-via lte"
