"""A daemon that is away while connections begin, and what became of them, for the tests of older
connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Arbiter, eventually
from test_faults_ruleset import SETTINGS, VARIANTS, _works, through

from arbiter.kernel.firewall.probe import NFT, why_not
from arbiter.lab import Lab
from arbiter.lab.config import LINKS, SERVER4, SERVER6

both = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["IPv4", "IPv6"])
backends = pytest.mark.parametrize("variant", [*VARIANTS, "table"])
HOST4 = LINKS[0].host4
PORT = 45001


def sh(lab: Lab, line: str) -> str:
    done = lab.run(["sh", "-c", line])
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


@contextmanager
def away(
    lab: Lab, home: Path, *rules: str, variant: str = "nft", tracked: bool = True
) -> Iterator[Arbiter]:
    """A daemon that had these rules and is stopped; the block starts it again. Meanwhile there is
    conntrack or, not `tracked`, none: without a rule of anybody's a network namespace has none."""
    settings = ""
    if variant == "table":
        if why := lab.inside(lambda: why_not(NFT)):
            pytest.skip(f"this kernel lacks nft: {why}")
        settings += 'backend = "nft"\n'
    else:
        if why := _works(lab, variant):
            pytest.skip(f"this kernel or machine lacks iptables-{variant}: {why}")
        settings += SETTINGS
    for tool in ("iptables-nft", "ip6tables-nft") if tracked else ():
        sh(lab, f"{tool} -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    with Arbiter(lab, home, settings=settings, through=through(variant)) as arbiter:
        arbiter.add(*rules)
        assert arbiter.stop() == 0
        yield arbiter


def records(arbiter: Arbiter) -> list[tuple[str, str, str]]:
    """Decision, reason and note of each record of the echo port."""
    found = arbiter.json("audit", "--port", "7")
    return [(one["decision"], one["reason"], one["note"]) for one in found]


def both_recorded(arbiter: Arbiter) -> list[tuple[str, str, str]]:
    """The same, once there is one of each family."""
    return eventually(lambda: found if len(found := records(arbiter)) > 1 else [])


def entries(lab: Lab, port: int = PORT) -> list[str]:
    """Conntrack's lines of what began at that port, without their times."""
    found = []
    for family in ("ipv4", "ipv6"):
        shown = lab.run(["conntrack", "-L", "-f", family]).stdout.splitlines()
        found += [" ".join(line.split()) for line in shown if f" sport={port} " in line]
    return found


def mark(line: str) -> int:
    return int(line.partition(" mark=")[2].split()[0])
