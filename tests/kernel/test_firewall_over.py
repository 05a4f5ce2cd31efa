"""A new nft plan over one that is in force: what waits in a queue goes on waiting.

The text is what `apply` loads. This kernel may have no nft queue expression: it is left out, and
what is held is held by a queue of iptables. `make test-vm` has the whole: test_firewall_applied.
"""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from msgspec import structs
from running import PATIENCE

from arbiter.classes import Marking
from arbiter.kernel.firewall import Plan, nft, probe, remove, shown, whole
from arbiter.kernel.firewall.probe import NFT
from arbiter.kernel.queue import Queue
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.model import ACCEPTED, Packet, Undecodable

PLANS = {
    "bare": Plan(),
    "links": Plan(links=((1, "wlan0"), (2, "wwan0"))),
    "one": Plan(links=((2, "wwan0"),)),
    "tunnel": Plan(links=((1, "wlan0"), (3, "wg0")), tunnels=("wg0",)),
    "classes": Plan(links=((1, "wlan0"),), classes=(Marking(97, 18, 6),)),
    "dns": Plan(links=((1, "wlan0"),), dns_queue=1),
    "mask": Plan(mask=0x7F, when_absent="pass", links=((1, "wlan0"),)),
}
QUEUE = 5


def sh(lab: Lab, line: str, text: str | None = None) -> str:
    done = lab.run(line.split(), input=text)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def load(lab: Lab, text: str) -> None:
    sh(lab, "nft -f -", re.sub(r"queue num \d+( bypass)?", "return", text))


def listed(lab: Lab) -> str:
    return lab.inside(lambda: probe.nft_table(nft.TABLE))


@pytest.fixture
def host(lab: Lab) -> Iterator[Lab]:
    if probe.find_tool("nft") is None:
        pytest.skip("KERNEL TEST NOT RUN: nft is not there: install nftables")
    yield lab
    assert lab.inside(remove) == ()


@pytest.mark.parametrize("before, after", [*itertools.combinations(PLANS, 2)])
def test_over_any_other_plan_it_is_the_same_as_alone(host: Lab, before: str, after: str) -> None:
    def chains() -> dict[str, tuple[str, ...]]:
        return {name: rules for _, name, rules in host.inside(lambda: shown(NFT)).chains}

    load(host, nft.render(PLANS[after]))
    alone = chains()
    load(host, nft.render(PLANS[before]))
    text = nft.render_over(PLANS[after], listed(host))
    assert text is not None
    load(host, text)
    over = chains()
    spare = {name: rules for name, rules in over.items() if name not in alone}
    assert {name: rules for name, rules in over.items() if name in alone} == alone
    assert all(len(rules) == 1 and '"hook"' in rules[0] for rules in spare.values()), spare
    assert host.inside(lambda: whole(PLANS[after], NFT, shown(NFT)))
    again = nft.render_over(PLANS[before], listed(host))
    assert again is not None
    load(host, again)
    assert host.inside(lambda: whole(PLANS[before], NFT, shown(NFT)))


def test_an_empty_chain_that_somebody_fills_is_not_the_plan(host: Lab) -> None:
    load(host, nft.render(PLANS["links"]))
    text = nft.render_over(PLANS["bare"], listed(host))
    assert text is not None
    load(host, text)
    sh(host, "nft add rule inet arbiter input drop")
    assert not host.inside(lambda: whole(PLANS["bare"], NFT, shown(NFT)))
    sh(host, "nft flush chain inet arbiter input")
    sh(host, "nft add chain inet arbiter more")
    assert not host.inside(lambda: whole(PLANS["bare"], NFT, shown(NFT)))


@pytest.mark.parametrize(
    "change",
    [
        "delete table inet arbiter",
        "delete chain inet arbiter deny; "
        "add chain inet arbiter deny { type filter hook output priority 5; }",
        "delete chain inet arbiter deny; "
        "add chain inet arbiter deny { type filter hook input priority -151; }",
        "delete chain inet arbiter deny; add chain inet arbiter deny",
        "chain inet arbiter output { policy drop; }",
        "add chain inet arbiter more { type filter hook input priority 0; policy drop; }",
        "flush chain inet arbiter ask; delete chain inet arbiter ask; "
        "add chain inet arbiter ask { type filter hook output priority 7; }",
        "add table inet arbiter { flags dormant; }",
        "add set inet arbiter more { type ipv4_addr; }",
    ],
)
def test_what_somebody_made_other_than_ours_is_replaced(host: Lab, change: str) -> None:
    """And then it is as it should be: nothing is taken over that only looks like ours."""
    load(host, nft.render(PLANS["links"]))
    if "chain inet arbiter ask;" in change:
        sh(host, "nft flush chain inet arbiter output")
    sh(host, "nft -f -", change.replace("; ", "\n") if "{" not in change else _lines(change))
    assert nft.render_over(PLANS["links"], listed(host)) is None
    load(host, nft.render(PLANS["links"]))
    assert host.inside(lambda: whole(PLANS["links"], NFT, shown(NFT)))
    assert nft.render_over(PLANS["links"], listed(host)) is not None


def _lines(change: str) -> str:
    """Statements in lines of their own; what is in braces is one statement."""
    return re.sub(r"; (?=add|delete|flush)", "\n", change)


@pytest.mark.parametrize("address", [SERVER4, SERVER6])
@pytest.mark.parametrize("how", ["over", "anew"])
def test_what_is_held_survives_new_rules_and_not_a_new_table(
    clean_lab: Lab, address: str, how: str
) -> None:
    """`anew` is why base chains are kept: the kernel drops what is held once one goes."""
    tool = "ip6tables" if ":" in address else "iptables"
    sh(clean_lab, f"{tool} -t mangle -A OUTPUT -p udp -j NFQUEUE --queue-num {QUEUE}")
    load(clean_lab, nft.render(PLANS["links"]))
    came: list[Packet | Undecodable] = []
    queue = clean_lab.inside(lambda: Queue(QUEUE, came.append, length=16, fail_open=False))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(queue), closing(clean_lab.inside(lambda: socket.socket(family, 2))) as sock:
        sock.settimeout(3 * PATIENCE if how == "over" else 1)
        sock.sendto(b"held", (address, 7))
        deadline = time.monotonic() + 5 * PATIENCE
        while not came:
            assert time.monotonic() < deadline, "it is not held"
            queue.handle()
        for name in ("tunnel", "bare", "dns", "links"):
            there, plan = listed(clean_lab), structs.replace(PLANS[name], queue=9)
            text = nft.render_over(plan, there) if how == "over" else nft.render(plan)
            assert text is not None
            load(clean_lab, text)
        queue.set_verdict(came[0].id, ACCEPTED)
        if how == "over":
            assert sock.recv(100).endswith(b"held")
        else:
            with pytest.raises(TimeoutError):
                sock.recv(100)
