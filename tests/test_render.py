"""The wording of asks: what people read is true, whole and harmless."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import example_ask

from arbiter.protocol import (
    AppView,
    Ask,
    Choice,
    Decided,
    Destination,
    ProcessView,
    Scope,
    Withdraw,
    WithdrawReason,
)
from prompts import render

EVIL = "\x1b[2J\x1b]0;x\x07evil\u202e\u2066\r\n\x9b31m\u200b\u3164"
NASTY = st.text(alphabet=st.characters() | st.sampled_from("\x1b\x9b\r\n\u202e\u0301"), max_size=40)


def destination(**changes: object) -> Destination:
    return msgspec.structs.replace(example_ask().destination, **changes)


def process(**changes: object) -> ProcessView:
    return msgspec.structs.replace(example_ask().processes[0], **changes)


def test_the_question_names_program_parent_address_port_and_scope() -> None:
    assert render.title(example_ask()) == (
        "curl, from deploy.sh, wants to connect to 192.0.2.7, port 443 (https), tcp, internet"
    )


def test_a_parent_that_is_the_same_program_is_not_named_as_its_starter() -> None:
    curl = example_ask().processes[0].app
    bash = AppView("/usr/bin/bash", "path", "bash")
    assert render.who(example_ask(processes=(process(parents=(curl, bash)),))) == "curl, from bash"
    assert render.who(example_ask(processes=(process(parents=(curl,)),))) == "curl"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("apt, from systemd", '"apt, from systemd"'),
        ('apt", from "systemd', "\"apt', from 'systemd\""),
        ("apt wants to connect to 192.0.2.1", '"apt wants to connect to 192.0.2.1"'),
        ("apt < systemd", '"apt < systemd"'),
        (" ", '" "'),
        ("", '""'),
        ("apt\u3000x", '"apt x"'),
        ("python3.11", "python3.11"),
        ("漢字", "漢字"),
    ],
)
def test_what_a_program_is_called_cannot_pass_for_words_of_the_sentence(
    name: str, shown: str
) -> None:
    app, bash = AppView("/tmp/x", "path", name), AppView("/usr/bin/bash", "path", "bash")
    ask = example_ask(processes=(process(app=app, parents=(bash,)),))
    assert render.who(ask) == f"{shown}, from bash"
    assert render.app_name(ask) == shown
    ask = example_ask(processes=(process(parents=(app, bash)),))
    assert render.who(ask) == f"curl, from {shown}"
    assert ("from", f"{shown} < bash") in render.facts(ask)


def test_no_owner_is_said_with_its_reason() -> None:
    ask = example_ask(processes=(), no_owner="exited", user="", uid=None)
    assert render.title(ask).startswith("an unknown program wants to connect to")
    assert render.warnings(ask) == ["no program is known for it: exited"]
    assert ("user", "unknown user") in render.facts(ask)


def test_replaced_executables_and_shared_sockets_are_warned_of() -> None:
    other = process(
        pid=9, app=AppView("/usr/bin/nc", "path", "nc"), note="its executable was replaced"
    )
    ask = example_ask(processes=(process(), other))
    assert render.warnings(ask) == [
        "nc (pid 9): its executable was replaced",
        "several programs hold this socket: curl, nc",
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "192.0.2.7:443 (https)"),
        ({"address": "2001:db8::1"}, "[2001:db8::1]:443 (https)"),
        ({"proto": "udp", "port": 53, "service": "domain"}, "192.0.2.7:53/udp (domain)"),
        ({"proto": "icmp", "port": 0, "service": ""}, "192.0.2.7 icmp"),
        ({"name": "example.org"}, "192.0.2.7:443 (https, example.org)"),
    ],
)
def test_endpoints(changes: dict[str, object], text: str) -> None:
    assert render.endpoint(example_ask(destination=destination(**changes))) == text


CONNECTION = example_ask().scopes[0]


@pytest.mark.parametrize(
    ("lifetime", "decision", "via", "line"),
    [
        ("15m", Choice.ALLOW, (), f"allow {CONNECTION.conditions} for=15m"),
        ("forever", Choice.DENY, (), f"deny {CONNECTION.conditions}"),
        (
            "boot",
            Choice.ROUTE,
            ("lte", "any"),
            f"route via=lte,any {CONNECTION.conditions} for=boot",
        ),
        ("once", Choice.ALLOW, (), ""),
    ],
)
def test_rule_lines(lifetime: str, decision: Choice, via: tuple[str, ...], line: str) -> None:
    assert render.rule_line(CONNECTION, lifetime, decision, via) == line


@pytest.mark.parametrize(
    ("conditions", "lifetime", "decision", "text"),
    [
        (CONNECTION.conditions, "15m", Choice.ALLOW,
         "curl may connect to 192.0.2.7, port 443, by tcp, for 15 minutes"),
        ("app=/usr/bin/curl", "forever", Choice.DENY, "curl may not connect to anywhere, forever"),
        ("host=lan", "boot", Choice.ALLOW,
         "every program may connect to any address of the local network, "
         "until this machine restarts"),
        ("app=/usr/bin/curl parent=script:/bin/bash:/home/alice/deploy.sh user=alice", "process",
         Choice.ALLOW, "curl started by deploy.sh of alice may connect to anywhere, "
         "until this program exits"),
        ('app="/a b" hook=in', "1h", Choice.ALLOW,
         '"/a b" may connect to anywhere, where hook=in, for 1 hour'),
        ('app=/usr/bin/curl network="ssid:My Home" metered=no', "forever", Choice.ALLOW,
         'curl may connect to anywhere, where network="ssid:My Home", where metered=no, forever'),
        (CONNECTION.conditions, "once", Choice.ALLOW,
         "curl may connect to 192.0.2.7:443 (https), this time only"),
    ],
)  # fmt: skip
def test_meaning(conditions: str, lifetime: str, decision: Choice, text: str) -> None:
    assert render.means(example_ask(), Scope("x", conditions), lifetime, decision) == text


def test_route_says_whether_the_default_route_is_left_open() -> None:
    strict = render.means(example_ask(), CONNECTION, "forever", Choice.ROUTE, ("lte",))
    open_ = render.means(example_ask(), CONNECTION, "forever", Choice.ROUTE, ("lte", "any"))
    assert "over lte only" in strict
    assert "over lte, else the default route," in open_
    classes = render.means(example_ask(), CONNECTION, "boot", Choice.ROUTE, ("unmetered", "any"))
    assert "over an unmetered link, else the default route," in classes


@pytest.mark.parametrize(
    ("now", "changes", "text"),
    [
        (1700000005.5, {}, "deny for 2 packets in 25 s"),
        (1700000029.5, {"waiting": 1, "fallback": Choice.ALLOW}, "allow in 1 s"),
        (1700000030.0, {}, "deny by now; an answer serves the next try"),
        (0.0, {}, "deny for 2 packets in more than a day"),
        (1700000005.0, {"stale": True}, "nothing waits now; an answer serves the next try"),
        (1700000005.0, {"waiting": 0}, "nothing waits now; an answer serves the next try"),
    ],
)
def test_countdown(now: float, changes: dict[str, Any], text: str) -> None:
    assert render.countdown(example_ask(**changes), now) == text


def test_process_is_no_lifetime_without_a_process_and_only_once_without_scopes() -> None:
    assert "process" in render.lifetimes(example_ask())
    assert "process" not in render.lifetimes(example_ask(processes=()))
    assert render.lifetimes(example_ask(scopes=())) == ("once",)


RULE = "allow app=/usr/bin/curl for=15m"


@pytest.mark.parametrize(
    ("decided", "text"),
    [
        (Decided(7, "allow", "a", "t", 1, RULE, 12),
         f"allowed curl; rule 12: {RULE}"),
        (Decided(7, "deny", "a", "t", 1), "denied curl → 192.0.2.7:443 (https) once"),
        (Decided(7, "route via=lte", "a", "t", 1, "route via=lte app=x", 3),
         "routed curl; rule 3: route via=lte app=x"),
        (Decided(7, "allow", "a", "t", 1, problem="the disk is full"),
         "allowed curl → 192.0.2.7:443 (https) once; not remembered: the disk is full"),
    ],
)  # fmt: skip
def test_results(decided: Decided, text: str) -> None:
    assert render.result(example_ask(), decided) == text


@pytest.mark.parametrize("reason", WithdrawReason)
def test_every_withdrawal_has_its_words(reason: WithdrawReason) -> None:
    assert "withdrawn: " in render.withdrawn(Withdraw(7, reason))


# --- hostile text ---------------------------------------------------------------------------


def evil_ask(text: str) -> Ask:
    app = AppView(text, text, text)
    one = ProcessView(1, app, text, (text, text), text, (AppView(text + "p", text, text),), text)
    to = Destination(text, text, 443, text, text, text)
    scopes = (Scope(text, text),)
    return example_ask(
        user=text, processes=(one,), destination=to, why=text, scopes=scopes, no_owner=text
    )


def all_text(ask: Ask) -> list[str]:
    scope = render.scopes(ask)[0]
    pairs = [*render.facts(ask), *render.details(ask)]
    return [
        render.title(ask), render.endpoint(ask), *render.warnings(ask), *(t for _, t in pairs),
        render.scope_words(scope), render.rule_line(scope, "15m", Choice.ROUTE, (ask.user,)),
        render.means(ask, scope, "15m", Choice.ROUTE, (ask.user,)),
        render.result(ask, Decided(7, ask.why, ask.why, ask.why, 1, ask.why, 1, ask.why)),
        render.answered_by(Decided(7, ask.why, ask.why, ask.why, 1)),
        render.withdrawn(Withdraw(7, WithdrawReason.EXITED, ask.why)),
    ]  # fmt: skip


@given(NASTY)
def test_no_text_has_an_escape_a_line_break_or_an_invisible_character(text: str) -> None:
    for line in all_text(evil_ask(text + EVIL)):
        assert line.isprintable(), ascii(line)
        assert not set(line) & set("\u3164\u2800\u115f")


def test_stacked_accents_are_cut_to_three() -> None:
    assert render.tidy("a" + "\u0301" * 50) == "a" + "\u0301" * 3


def test_a_long_name_does_not_push_the_address_away() -> None:
    long = process(app=AppView("/x", "path", "n" * 4000))
    ask = example_ask(processes=(long,), destination=destination(name="d" * 4000))
    assert len(render.title(ask)) < 300
    assert "192.0.2.7" in render.title(ask)


@given(st.text(alphabet='a= "\\', max_size=30))
def test_words_of_a_rule_lose_nothing_but_blanks(line: str) -> None:
    assert "".join(render.words(line)).replace(" ", "") == line.replace(" ", "")


# --- walls ----------------------------------------------------------------------------------


OWN = {"notify": {"dbus_fast"}, "tui": {"textual"}, "web": {"starlette", "uvicorn"}}
"""What one frontend alone may import, by its folder."""


def test_frontends_import_the_protocol_and_the_model_and_nothing_else_of_arbiter() -> None:
    everybody = {"arbiter.protocol", "arbiter.model", "click", "msgspec", "rich", "prompts"}
    files = sorted((Path(render.__file__).parent).glob("**/*.py"))
    assert len(files) >= 6
    for path in files:
        allowed = everybody | OWN.get(path.parent.name, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                known = {*sys.stdlib_module_names, *allowed}
                assert name in allowed or top in known, f"{path}:{node.lineno} imports {name}"
