"""`arbiter explain` by parts: the winner, why, and what it beat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Done, within


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    return within(tmp_path)


def test_explain_names_the_winner_why_and_what_it_beat_over_ipv6_too(
    arbiter: Callable[..., Done],
) -> None:
    for line in ("allow app=/usr/bin/curl", "deny host=2001:db8::/32", "deny port=25"):
        assert arbiter("rules", "add", line).code == 0
    query = ("explain", "--app", "/usr/bin/curl", "--port", "443")
    for host in ("2001:db8::7", "[2001:db8::7]"):
        done = arbiter(*query, "--host", host)
        assert done.code == 0 and done.out.startswith("allow app=/usr/bin/curl\n")
        assert "beats rule 2: deny host=2001:db8::/32" in done.out
        assert "rule 3 does not match (deny port=25)" in done.out
    (shown,) = json.loads(arbiter(*query, "--host", "2001:db8::7", "--json").out)
    assert shown["query"]["host"] == "2001:db8::7" and shown["query"]["port"] == 443
    assert (shown["decision"], shown["rule"]["id"]) == ("allow", 1)
    assert [entry["id"] for entry in shown["beaten"]] == [2]
    assert shown["not_matching"][0]["why_not"]


def test_explain_says_by_exit_code_1_that_a_person_would_be_asked(
    arbiter: Callable[..., Done],
) -> None:
    arbiter("rules", "add", "allow host=192.0.2.7 proto=udp user=root")
    done = arbiter("explain", "--host", "192.0.2.7", "--proto", "udp", "--user", "nobody")
    assert done.code == 1 and "you are asked" in done.out
    (shown,) = json.loads(arbiter("explain", "--host", "192.0.2.7", "--json").out)
    assert shown["decision"] is None and shown["rule"] is None
    for user in ("root", "0"):
        done = arbiter("explain", "--host", "192.0.2.7", "--proto", "17", "--user", user)
        assert done.code == 0, done


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--host", "example.org"), "'example.org' is not an address"),
        (("--host", "example.org"), "of a name: --host ADDRESS --name example.org"),
        (("--host", "1.2.3.4.5"), "is not an address"),
        (("--host", "1.2.3.4", "--port", "65536"), "65536 is not in the range"),
        (("--host", "1.2.3.4", "--proto", "tcpp"), "'tcpp' is none of"),
        (("--host", "1.2.3.4", "--proto", "256"), "'256' is none of"),
        (("--host", "1.2.3.4", "--proto", "\u00b2"), "is none of"),
        (("--host", "1.2.3.4", "--hook", "sideways"), "sideways"),
        (("--host", "1.2.3.4", "--user", "4294967295"), "a uid is 0 to"),
        (("--host", "1.2.3.4", "--user", "007"), "leading zeros"),
        (("--host", "1.2.3.4", "--sim", "1234"), "18 to 20 digits"),
        (("--host", "1.2.3.4", "--sim", ""), "18 to 20 digits"),
        (("--host", "1.2.3.4", "--network", "Home"), "did you mean ssid:Home?"),
        (("--host", "1.2.3.4", "--network", "\udcff\x1b"), "is no network"),
        (("--host", "1.2.3.4", "--metered", "maybe"), "maybe"),
        (("--host", "1.2.3.4", "--roaming", ""), "--roaming"),
        ((), "--host"),
    ],
)
def test_a_question_that_makes_no_sense_is_a_usage_error(
    arbiter: Callable[..., Done], argv: tuple[str, ...], text: str
) -> None:
    done = arbiter("explain", *argv)
    assert done.code == 2 and text in done.err


SIM = "89430123456789012345"


@pytest.mark.parametrize(
    ("conditions", "context"),
    [
        ("network=ssid:Home", ("--network", "ssid:Home", "--network", "ssid:Work")),
        ("network=gateway:02:00:5e:10:00:0a", ("--network", "gateway:02-00-5E-10-00-0A")),
        (f"sim={SIM}", ("--sim", f"{SIM}F")),
        (f"network=sim:{SIM} sim={SIM}", ("--sim", SIM)),
        (f"network=sim:{SIM} sim={SIM}", ("--network", f"sim:{SIM}")),
        ("roaming=no", ("--roaming", "no")),
        ("metered=yes", ("--metered", "yes")),
        ("metered=no", ("--metered", "no")),
        ("roaming=yes metered=no", ("--metered", "no", "--roaming", "yes")),
    ],
)
def test_explain_knows_of_the_context_what_it_is_told(
    arbiter: Callable[..., Done], conditions: str, context: tuple[str, ...]
) -> None:
    line = f"route via=unmetered,any class=bulk {conditions}"
    assert arbiter("rules", "add", line).code == 0
    query = ("explain", "--host", "192.0.2.7")
    done = arbiter(*query, *context)
    assert done.code == 0 and done.out.startswith(f"{line}\n"), done
    done = arbiter(*query)
    assert done.code == 1 and f"rule 1 does not match ({line})" in done.out


@pytest.mark.parametrize("user", ["no-such-user", "\u00b2", "\u0661\u0662", "\udcff", "4000001"])
def test_a_user_nobody_knows_is_no_error(arbiter: Callable[..., Done], user: str) -> None:
    arbiter("rules", "add", "allow")
    assert arbiter("explain", "--host", "::1", "--user", user).code == 0
