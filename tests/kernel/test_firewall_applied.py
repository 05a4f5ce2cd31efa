"""Rules are put in force and taken away as a whole, and what others have there stays."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from firewallscene import (
    DECIDED,
    KERNEL_ONLY,
    LINKED,
    PLAN,
    QUEUE,
    both,
    empty,
    lacking,
    netfilterqueue,
    served,
    sh,
    udp,
    usable,
    wired,
)

from arbiter.kernel.firewall import apply, installed, probe, remove
from arbiter.kernel.firewall.plan import Plan
from arbiter.kernel.firewall.probe import IPTABLES, NFT, Backend, FirewallError

pytestmark = KERNEL_ONLY


@pytest.fixture(scope="module")
def peer() -> Iterator[None]:
    with served():
        yield


@pytest.fixture
def home() -> Iterator[None]:
    with empty():
        yield


@pytest.fixture
def wire(home: None, peer: None) -> Iterator[None]:
    with wired():
        yield


@pytest.fixture(params=[NFT, *IPTABLES], ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest, home: None) -> Backend:
    return usable(request.param)


def rulesets() -> tuple[str, ...]:
    """All rules of this namespace as the tools print them, without counters, dates, handles."""
    texts = [sh("nft", "list", "ruleset"), sh("iptables-nft-save"), sh("ip6tables-nft-save")]
    texts += [probe.save("ip", "legacy"), probe.save("ip6", "legacy")]
    texts = [re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", text) for text in texts]
    return tuple(re.sub(r"^#.*\n", "", text, flags=re.MULTILINE) for text in texts)


def drop_empty_tables(saved: str) -> str:
    """Without tables of nothing but empty ACCEPT chains: what legacy can never delete."""
    return re.sub(r"\*\w+\n(?::\w+ ACCEPT *\n)*COMMIT\n", "", saved)


USERS = {
    "nothing": (),
    "some chains": (
        "iptables-nft -t mangle -A PREROUTING -j ACCEPT",
        "iptables-nft -A OUTPUT -p tcp -j ACCEPT",
        "ip6tables-nft -A INPUT -m comment --comment ARBITER_OUTPUT -j ACCEPT",
    ),
    "empty chains": (
        "iptables-nft -A OUTPUT -j ACCEPT",
        "iptables-nft -D OUTPUT -j ACCEPT",
        "ip6tables-nft -t mangle -N MINE",
        "ip6tables-nft -P OUTPUT DROP",
        "nft add table inet mine",
    ),
}


@pytest.mark.parametrize("users", USERS)
@pytest.mark.parametrize("plan", [PLAN, LINKED], ids=["plain", "links"])
def test_applying_twice_is_applying_once_and_removing_leaves_what_was_before(
    backend: Backend, plan: Plan, users: str
) -> None:
    for line in USERS[users]:
        sh(*line.split())
    before = rulesets()
    apply(plan, backend)
    once = rulesets()
    assert installed().backends == (backend.name,) and installed().problems == ()
    apply(plan, backend)
    assert rulesets() == once != before
    assert remove() == ()
    assert not installed()
    after = rulesets()
    if backend.variant == "legacy":
        assert [drop_empty_tables(t) for t in after] == [drop_empty_tables(t) for t in before]
    else:
        assert after == before
    assert remove() == ()  # again, with nothing there
    assert rulesets() == after


def test_a_plan_replaces_another_completely(backend: Backend) -> None:
    apply(PLAN, backend)
    plain = rulesets()
    apply(LINKED, backend)
    apply(PLAN, backend)
    stripped = [
        re.sub(r"^:ARBITER_MADE.*\n", "", drop_empty_tables(t), flags=re.M) for t in rulesets()
    ]
    assert stripped[3:] == [drop_empty_tables(t) for t in plain][3:]
    assert not re.search("wlan0|wwan0|wg0", "".join(stripped))
    assert remove() == ()


@both
def test_what_is_held_survives_other_links(backend: Backend, wire: None, address: str) -> None:
    """Each change of links makes a ruleset: one that comes is not paid for by whoever is asked."""
    apply(PLAN, backend)
    held: list[Any] = []
    queue = netfilterqueue.NetfilterQueue()

    def hold(packet: Any) -> None:
        packet.retain()
        held.append(packet)

    queue.bind(QUEUE, hold)
    try:
        with closing(udp(address)) as sock:
            sock.send(b"once")
            select.select([queue.get_fd()], [], [], 5)
            queue.run(block=False)
            for plan in (LINKED, PLAN, LINKED):
                apply(plan, backend)
            (packet,) = held
            packet.set_mark(DECIDED)
            packet.accept()
            assert sock.recv(100) == b"once"
    finally:
        queue.unbind()


def test_users_rules_added_meanwhile_survive_removal(backend: Backend) -> None:
    apply(PLAN, backend)
    sh("iptables-nft", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    sh("ip6tables-nft", "-P", "OUTPUT", "DROP")
    assert remove() == ()
    assert "-A OUTPUT -p udp -j ACCEPT" in sh("iptables-nft-save")
    assert ":OUTPUT DROP" in sh("ip6tables-nft-save")


def test_removal_finds_every_backend_s_leftovers_and_applying_leaves_one(backend: Backend) -> None:
    works = [one for one in (NFT, *IPTABLES) if not lacking.get(one.name, "unknown")]
    for one in works:
        if one == NFT:
            sh("nft", "-f", "-", text="table inet arbiter { chain output { accept; }\n}")
        else:
            tool = probe.tool("ip6", "nft" if one.variant == "nft" else "legacy")
            assert tool is not None
            sh(tool, "-t", "mangle", "-N", "ARBITER_OUTPUT")
            sh(tool, "-t", "mangle", "-A", "OUTPUT", "-j", "ARBITER_OUTPUT")
    assert installed().backends == tuple(one.name for one in works)
    apply(PLAN, backend)
    assert installed().backends == (backend.name,)
    assert remove() == ()
    assert not re.search("arbiter", "".join(rulesets()), re.IGNORECASE)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failing_second_family_brings_the_first_back(
    backend: Backend, earlier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == NFT:
        pytest.skip("nft has both families in one transaction: there is no second")
    if earlier:
        apply(LINKED, backend)
    before = rulesets()
    restore = probe.restore
    failed: list[str] = []

    def failing(family: str, variant: str, text: str) -> None:
        if family == "ip6" and not failed:
            failed.append(text)
            text = text.replace("-j NFQUEUE", "-j NO_SUCH_TARGET")
        restore("ip6" if family == "ip6" else "ip", "nft" if variant == "nft" else "legacy", text)

    monkeypatch.setattr(probe, "restore", failing)
    with pytest.raises(FirewallError, match=r"not in force.*ip6tables"):
        apply(PLAN, backend)
    assert failed
    now = rulesets()
    # nft lists chains in the order of their making; iptables-save compares what they say.
    start = 1 if earlier else 0
    assert [drop_empty_tables(t) for t in now[start:]] == [
        drop_empty_tables(t) for t in before[start:]
    ]
    assert installed().backends == ((backend.name,) if earlier else ())
    assert remove() == ()


def test_a_ruleset_the_kernel_refuses_changes_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rulesets()
    module = "nft" if backend == NFT else "iptables"
    monkeypatch.setattr(f"arbiter.kernel.firewall.{module}.render", lambda *_: "*nonsense\nx\n")
    with pytest.raises(FirewallError, match="failed"):
        apply(PLAN, backend)
    assert [drop_empty_tables(t) for t in rulesets()] == [drop_empty_tables(t) for t in before]


def test_probing_leaves_no_trace(backend: Backend) -> None:
    assert probe.why_not(backend) is None
    texts = rulesets()
    assert texts[0] == "" and not any(drop_empty_tables(t) for t in texts[1:])
    assert probe.probe_backend(backend.name) == backend


def test_without_tools_the_error_names_the_package(
    home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "find_tool", lambda name: None)
    with pytest.raises(FirewallError, match="apt install nftables") as raised:
        probe.probe_backend()
    assert "apt install iptables" in str(raised.value)
