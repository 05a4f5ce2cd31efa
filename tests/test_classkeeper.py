"""What keeps connections from their class is said while it does, and no longer."""

from __future__ import annotations

import errno

from playbook import START, packet

from arbiter.classes import Marking
from arbiter.classkeeper import ClassKeeper
from arbiter.events import Reason, Report
from arbiter.kernel.firewall.probe import NFT
from arbiter.model import ACCEPTED, DENIED, Action, Decision, Flow, TrafficClass, Verdict

BULK = Decision(Action.ALLOW, traffic=TrafficClass.BULK)


class Labels:
    """Conntrack: it refuses a label while `old`."""

    def __init__(self) -> None:
        self.old = False
        self.set_on: list[int] = []

    def set(self, flow: Flow, label: int) -> None:
        if self.old:
            raise OSError(errno.ENOSPC, "label 98: the connection is older than the rules")
        self.set_on.append(label)


def report(verdict: Verdict = ACCEPTED) -> Report:
    return Report(START.wall, packet(1), None, BULK, Reason.RULE, verdict=verdict)


def test_a_refused_label_is_a_problem_until_the_next_one_is_set() -> None:
    keeper = ClassKeeper({TrafficClass.BULK: Marking(98, 10, 2)}, NFT, lambda _: None)
    labels = Labels()
    keeper._labels = labels  # type: ignore[assignment]
    labels.old = True
    keeper.decided(report())
    (problem,) = keeper.problems()
    assert "goes without its class" in problem
    labels.old = False
    keeper.decided(report(DENIED))
    assert keeper.problems(), "nothing was tried"
    keeper.decided(report())
    assert (keeper.problems(), labels.set_on) == ((), [98])
