"""Other programs at the ruleset of a running daemon: whatever they do to it, within a second it is
what it was, their own rules are as they left them, and what was denied stays denied."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
from running import PATIENCE, Arbiter, Prompt, eventually

from arbiter.kernel.firewall import probe_backend
from arbiter.kernel.firewall.probe import NFT, FirewallError, why_not
from arbiter.lab import Lab
from arbiter.lab.config import LINKS, SERVER4, SERVER6

LTE = LINKS[1]
SOON = 1.0 * PATIENCE
"""Seconds in which it must be repaired."""
CURL = ("curl", "-sS", "-m", "8")
VARIANTS = ("nft", "legacy")
SETTINGS = 'backend = "iptables"\n'
UFW = """*filter
:ufw-before-output - [0:0]
:ufw-user-output - [0:0]
-F OUTPUT
-A OUTPUT -j ufw-before-output
-A ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-output -j ufw-user-output
-A ufw-user-output -p tcp -m tcp --dport 9 -j DROP
COMMIT
"""
"""What `ufw reload` does to a table: it flushes the built-in chain and writes its own."""
FIREWALLD = """table inet firewalld
delete table inet firewalld
table inet firewalld {
  chain mangle_OUTPUT { type route hook output priority -140; policy accept; }
  chain filter_OUTPUT {
    type filter hook output priority 10; policy accept;
    ct state { established, related } accept
    tcp dport 9 reject with icmpx type admin-prohibited
  }
}
"""
FOREIGN = """*mangle
-A OUTPUT -p udp -m udp --dport 5999 -j MARK --set-xmark 0x8/0x8
-A OUTPUT -p udp -m udp --dport 5998 -j MARK --set-xmark 0x8/0x8
COMMIT
*filter
-A OUTPUT -p udp -m udp --dport 5997 -j DROP
COMMIT
"""


LEGACY = (
    *("unshare", "-m", "sh", "-c"),
    *('mount --bind /dev/null /usr/sbin/xtables-nft-multi && exec "$@"', "sh"),
)
"""A daemon that has no iptables-nft takes iptables-legacy."""


def through(variant: str) -> tuple[str, ...]:
    return LEGACY if variant == "legacy" else ()


def _works(lab: Lab, variant: str) -> str:
    def why() -> str:
        try:
            probe_backend(f"iptables-{variant}")
        except FirewallError as error:
            return str(error)
        return ""

    return lab.inside(why)


def sh(lab: Lab, line: str, text: str | None = None) -> str:
    done = lab.run(["sh", "-c", line], input=text)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def ours(lab: Lab, variant: str) -> list[str]:
    """Both families' rules of arbiter's and their place, without what others have behind them."""
    found = []
    for tool in (f"iptables-{variant}-save", f"ip6tables-{variant}-save"):
        first: set[str] = set()
        table = ""
        for line in sh(lab, tool).splitlines():
            line = re.sub(r"\[\d+:\d+\]", "", line)
            table = line if line.startswith("*") else table
            place = table + " ".join(line.split()[:2])
            if "ARBITER_MADE" in line:
                continue  # who made a built-in chain first is no part of what it does
            if "ARBITER" in line:
                behind = line.startswith("-A ") and "-A ARBITER" not in line and place in first
                found.append(f"{tool} {table} {line}{' (not first)' if behind else ''}")
            first.add(place)
    return found


def others(lab: Lab, variant: str) -> list[str]:
    """Everybody else's rules, in their order."""
    lines = sh(lab, f"iptables-{variant}-save").splitlines()
    return [line for line in lines if line.startswith("-A ") and "ARBITER" not in line]


def back_in(arbiter: Arbiter, variant: str, before: list[str]) -> float:
    """Seconds until it is what it was."""
    began = time.monotonic()
    while (now := ours(arbiter.lab, variant)) != before:
        assert time.monotonic() - began < 5 * PATIENCE, set(before) ^ set(now)
    return time.monotonic() - began


def nobody_passes(arbiter: Arbiter) -> None:
    for server in (SERVER4, f"[{SERVER6}]"):
        assert arbiter.run(*CURL, f"http://{server}:80/")[0] == 7


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_others_do_to_the_ruleset_it_is_back_within_a_second(
    clean_lab: Lab, tmp_path: Path, variant: str
) -> None:
    if why := _works(clean_lab, variant):
        pytest.skip(f"this kernel or machine lacks iptables-{variant}: {why}")
    damages = [
        *(f"iptables-{variant} -t mangle -F", f"ip6tables-{variant} -t mangle -F"),
        f"iptables-{variant} -F",
        f"iptables-{variant} -t mangle -D OUTPUT -j ARBITER_OUTPUT",
        f"ip6tables-{variant} -D OUTPUT -j ARBITER_DENY",
        f"iptables-{variant} -t mangle -D ARBITER_OUTPUT 1",
        f"iptables-{variant} -t mangle -R OUTPUT 1 -j ACCEPT",
        f"iptables-{variant} -t mangle -R ARBITER_ASK 1 -j ACCEPT",
        f"iptables-{variant} -t mangle -I OUTPUT -j ACCEPT",
        f"iptables-{variant} -t nat -F; iptables-{variant} -t nat -X; true",
        # What is put back before the second command is in use again: the kernel refuses that one.
        f"for t in filter nat mangle; do iptables-{variant} -t $t -F; iptables-{variant} -t $t -X;"
        " done; true",
    ]
    if variant == "nft":
        damages += [
            "nft flush ruleset",
            "nft delete table ip mangle",
            "nft flush chain ip6 filter OUTPUT",
        ]
    slowest = 0.0
    with Arbiter(clean_lab, tmp_path, settings=SETTINGS, through=through(variant)) as arbiter:
        assert arbiter.status().backend == f"iptables-{variant}"
        arbiter.add("deny port=80")
        arbiter.add("route via=lte port=7")
        echo = arbiter.echo(SERVER4)
        echo.send(1000)
        before = eventually(lambda: ours(clean_lab, variant))
        nobody_passes(arbiter)
        for number, damage in enumerate(damages, 1):
            if number % 4 == 0:  # nobody is as busy as this, unless he fights: another test
                assert arbiter.process is not None
                assert arbiter.stop() == 0
                arbiter.start()
                assert ours(clean_lab, variant) == before
            repairs = arbiter.counter("repairs")
            sh(clean_lab, damage)
            slowest = max(slowest, took := back_in(arbiter, variant, before))
            assert took < SOON, f"{damage}: {took:.2f} s"
            eventually(lambda n=repairs: arbiter.counter("repairs") > n)  # type: ignore[misc]
            nobody_passes(arbiter)
            echo.send(1000)
        assert arbiter.status().problems == ()
        log = (tmp_path / "log").read_text()
        assert log.count("it was put back") >= len(damages)
        assert "internal error" not in log
    assert ours(clean_lab, variant) == []
    sys.stdout.write(
        f"iptables-{variant}: {len(damages)} kinds of damage, {slowest:.2f} s at most\n"
    )


def test_the_nft_table_is_back_within_a_second_too(clean_lab: Lab, tmp_path: Path) -> None:
    if why := clean_lab.inside(lambda: why_not(NFT)):
        pytest.skip(f"this kernel lacks nft: {why}")
    damages = (
        *("nft flush ruleset", "nft delete table inet arbiter", "nft flush chain inet arbiter ask"),
        *("nft insert rule inet arbiter output accept", "nft flush chain inet arbiter last"),
        "nft add table inet arbiter '{ flags dormant; }'",
        "nft delete chain inet arbiter deny",
    )

    def table() -> list[str]:
        """Its chains, whatever their order, and what else it has."""
        text = clean_lab.run(["nft", "-s", "list", "table", "inet", "arbiter"]).stdout
        parts = re.split(r"\n(?=\tchain )", text.removesuffix("}\n"))
        return sorted(part.strip() for part in parts if part)

    with Arbiter(clean_lab, tmp_path, settings='backend = "nft"\n') as arbiter:
        arbiter.add("deny port=80")
        arbiter.add("route via=lte port=7")
        echo = arbiter.echo(SERVER4)
        echo.send(1000)
        before = table()
        assert len(before) > 10 and "queue" in "".join(before)
        nobody_passes(arbiter)
        for number, damage in enumerate(damages, 1):
            if number % 4 == 0:
                assert arbiter.stop() == 0
                arbiter.start()
                assert table() == before
            sh(clean_lab, damage)
            began = time.monotonic()
            eventually(lambda: table() == before)
            assert time.monotonic() - began < SOON, damage
            eventually(lambda n=number: arbiter.counter("repairs") >= n % 4)  # type: ignore[misc]
            nobody_passes(arbiter)
            echo.send(1000)
        sh(clean_lab, "nft -f -", FIREWALLD)
        time.sleep(0.3)
        assert (table(), arbiter.status().problems) == (before, ())
    assert table() == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_repair_keeps_the_order_of_others_and_the_marks_of_what_is_open(
    clean_lab: Lab, tmp_path: Path, variant: str
) -> None:
    if why := _works(clean_lab, variant):
        pytest.skip(f"this kernel or machine lacks iptables-{variant}: {why}")
    sh(clean_lab, f"iptables-{variant}-restore --noflush", FOREIGN)
    theirs = others(clean_lab, variant)
    assert len(theirs) == 3
    with Arbiter(clean_lab, tmp_path, settings=SETTINGS, through=through(variant)) as arbiter:
        arbiter.add("route via=lte port=7")
        echo = arbiter.echo(SERVER4)
        echo.send(1000)
        # Its last acknowledgement may be late (TCP_DELACK_MAX, 0.2 s): in the moment without our
        # chain it would leave by the default route, and the server there would reset it.
        time.sleep(0.5)
        before = ours(clean_lab, variant)
        asked = arbiter.counter("queued")
        sh(clean_lab, f"iptables-{variant} -t mangle -D OUTPUT -j ARBITER_OUTPUT")
        assert back_in(arbiter, variant, before) < SOON
        assert others(clean_lab, variant) == theirs
        sh(clean_lab, f"iptables-{variant} -t mangle -I OUTPUT 2 -p udp --dport 5996 -j ACCEPT")
        time.sleep(SOON)
        assert len(others(clean_lab, variant)) == 4
        assert arbiter.counter("repairs") == 1, "what is behind ours is nobody's business"
        echo.send(1000)
        assert arbiter.counter("queued") == asked, "its mark was kept: nothing was asked again"
    assert len(others(clean_lab, variant)) == 4


def test_reloads_like_those_of_ufw_and_firewalld_are_survived(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """The one flushes the chain that leads to us, the other has tables of its own."""
    with Arbiter(clean_lab, tmp_path, settings=SETTINGS) as arbiter, Prompt(arbiter) as prompt:
        arbiter.add("deny port=80")
        before = ours(clean_lab, "nft")
        for turn in (1, 2):
            sh(clean_lab, "iptables-nft-restore --noflush", UFW)
            assert back_in(arbiter, "nft", before) < SOON
            eventually(lambda turn=turn: arbiter.counter("repairs") == turn)  # type: ignore[misc]
        theirs = [line for line in others(clean_lab, "nft") if "ufw" in line]
        assert [line for line in UFW.splitlines() if line.startswith("-A ")] == theirs
        assert "changed arbiter's part of the ruleset" in prompt.told("put back")
        for _ in range(3):
            sh(clean_lab, "nft -f -", FIREWALLD)
        time.sleep(0.3)
        assert ours(clean_lab, "nft") == before
        assert arbiter.counter("repairs") == 2, "nothing of ours was touched"
        nobody_passes(arbiter)
        assert "put back 2 times after" in arbiter.ran("status").stdout
        log = (tmp_path / "log").read_text()
        assert "another program (iptables-nft-re" in log, "who did it is said"


def test_who_fights_for_the_ruleset_is_answered_ever_more_slowly_and_named(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path, settings=SETTINGS) as arbiter, Prompt(arbiter) as prompt:
        line = "while :; do iptables-nft -t mangle -F OUTPUT; sleep 0.05; done"
        foe = arbiter.program("sh", "-c", line)
        assert "nft monitor" in prompt.told("5 times within 60 s", "put back later each time")
        repairs, began = arbiter.counter("repairs"), time.monotonic()
        time.sleep(4)
        more = arbiter.counter("repairs") - repairs
        assert 1 <= more <= 3, f"{more} repairs in {time.monotonic() - began:.1f} s"
        (problem,) = arbiter.status().problems[-1:]
        assert any("put back later" in problem for problem in arbiter.status().problems), problem
        foe.kill()
        foe.wait()
        # It gives in: then the last word is ours, at the next turn.
        eventually(lambda: "-A OUTPUT -j ARBITER_OUTPUT" in sh(clean_lab, "iptables-save"), 15)


def test_routing_that_others_flush_is_back_within_a_second(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte port=80")
        table = 7000 + int(arbiter.links()["lte"]["number"])

        def routing() -> str:
            rules = sh(clean_lab, "{ ip rule; ip -6 rule; } | grep 'proto 65' || true")
            routes = [
                clean_lab.run(["ip", family, "route", "show", "table", str(table)]).stdout
                for family in ("-4", "-6")
            ]
            return rules + "".join(routes)

        before = routing()
        assert "unreachable" in before and "default via" in before
        for damage in (
            "ip rule flush; ip rule add pref 32766 lookup main",
            f"ip route flush table {table}",
            f"ip -6 route flush table {table}",
            "ip -6 rule flush; ip -6 rule add pref 32766 lookup main",
        ):
            sh(clean_lab, damage)
            began = time.monotonic()
            eventually(lambda: routing() == before)
            assert time.monotonic() - began < SOON, damage
            assert "link=lte" in arbiter.run(*CURL, f"http://{SERVER4}/")[1]
            assert "link=lte" in arbiter.run(*CURL, f"http://[{SERVER6}]/")[1]
            time.sleep(0.5)  # routing has its own pace (REPAIR_EVERY)


def test_the_whole_ruleset_flushed_with_its_routing_is_no_rescue_and_a_rescue_is_none_of_that(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Prompt(arbiter) as prompt:
        arbiter.add("route via=lte port=80")
        before = ours(clean_lab, "nft")
        rules = sh(clean_lab, "ip rule").count("proto 65")
        assert rules > 1
        sh(clean_lab, "ip rule flush; ip rule add pref 32766 lookup main; nft flush ruleset")
        assert back_in(arbiter, "nft", before) < SOON
        eventually(lambda: sh(clean_lab, "ip rule").count("proto 65") == rules, 2)
        assert "link=lte" in arbiter.run(*CURL, f"http://{SERVER4}/")[1]
        assert arbiter.command("rescue").returncode == 0
        prompt.told("taken away by `arbiter rescue`")
        sh(clean_lab, "iptables-nft -t mangle -A OUTPUT -j ACCEPT")  # and an event more
        time.sleep(1)  # what must not happen
        assert "ARBITER" not in sh(clean_lab, "iptables-save; ip6tables-save")
        assert "proto 65" not in sh(clean_lab, "ip rule; ip -6 rule")
        assert arbiter.run(*CURL, f"http://{SERVER4}/")[0] == 0, "it passes undecided"
        assert any("restart arbiter" in problem for problem in arbiter.status().problems)
        assert arbiter.stop() == 0
        arbiter.start()
        assert ours(clean_lab, "nft") == before, "a new start is a new word"
        sh(clean_lab, "nft flush ruleset")
        assert back_in(arbiter, "nft", before) < SOON
