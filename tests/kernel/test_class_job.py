"""`class=`: the real daemon has the packets of a connection marked, once its label is set.

That is right after the verdict; in a lab, whose round trip is shorter than that, a few packets go
before it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Arbiter, eventually
from test_traffic_classes import wire

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.model import address_text

AF11, CS1, BEST_EFFORT = 10, 8, 0
"""DSCP (RFC 2474, RFC 2597, RFC 3662) of bulk, of background, and of what has no class."""


class Sent:
    """DSCP of each packet of a new connection that the lab's machine sent, in order."""

    def __init__(self, lab: Lab, arbiter: Arbiter, server: str, proto: str) -> None:
        self.found: list[int] = []
        with wire(lab) as seen:
            echo = arbiter.echo(server, proto)

            def more() -> int:
                echo.send(100)
                self.found += [
                    dscp
                    for flow, dscp, _ in seen.seen()
                    if flow.dport == 7 and address_text(flow.daddr) == server
                ]
                return len(self.found)

            eventually(lambda: more() > 6)
            echo.end()

    @property
    def begins(self) -> list[int]:
        """The different values, in order: packets on their way before the connection's label was
        set have none."""
        pairs = zip([-1, *self.found], self.found, strict=False)
        return [dscp for before, dscp in pairs if before != dscp]


def works(arbiter: Arbiter) -> None:
    """Skips where this kernel cannot mark: the daemon must say so itself."""
    problems = [text for text in arbiter.status().problems if "class" in text]
    if problems:
        pytest.skip(f"no traffic classes here: {problems[0]}")


def test_packets_of_a_class_carry_its_dscp_in_both_families_over_tcp_and_udp(
    lab: Lab, tmp_path: Path
) -> None:
    arbiter = Arbiter(lab, tmp_path)
    with arbiter:
        arbiter.add("allow host=internet class=bulk")
        arbiter.stop()
        arbiter.start()  # with a rule that is there from the beginning
        works(arbiter)
        for server in (SERVER4, SERVER6):
            for proto in ("tcp", "udp"):
                assert Sent(lab, arbiter, server, proto).begins == [BEST_EFFORT, AF11]
        assert arbiter.status().problems == ()


def test_a_rule_that_is_added_while_it_runs_marks_what_comes_then(lab: Lab, tmp_path: Path) -> None:
    with Arbiter(lab, tmp_path) as arbiter:
        arbiter.add("allow host=internet")
        assert Sent(lab, arbiter, SERVER4, "tcp").begins == [BEST_EFFORT]
        arbiter.add(f"allow host={SERVER4} class=background")
        works(arbiter)
        eventually(lambda: CS1 in Sent(lab, arbiter, SERVER4, "tcp").found)
        assert Sent(lab, arbiter, SERVER4, "udp").begins == [BEST_EFFORT, CS1]
        assert Sent(lab, arbiter, SERVER6, "tcp").begins == [BEST_EFFORT]
        assert arbiter.status().problems == ()
