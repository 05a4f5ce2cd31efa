"""Scenes with two links: wifi, and lte which costs money."""

from __future__ import annotations

from typing import Any

from playbook import Playbook

from arbiter.model import MARK_DECIDED, Link, OverBudget, Spent, Verdict, VerdictKind

WIFI, LTE = 2, 3
OVER_LTE = Verdict(VerdictKind.ACCEPT, MARK_DECIDED | 2 << 24)


def wifi(**more: Any) -> Link:
    return Link("wifi", 1, "wlan0", index=WIFI, metered=False, **more)


def lte(**more: Any) -> Link:
    return Link("lte", 2, "wwan0", index=LTE, metered=True, **more)


def lte_over(play: Playbook, then: OverBudget = OverBudget.ASK) -> Link:
    return lte(spent=Spent(play.now.wall, then, "600 MB of 500 MB/month used"))


def scene(*rules: str, links: tuple[Link, ...] = (), **settings: Any) -> Playbook:
    play = Playbook(*rules, **settings)
    play.links(*(links or (wifi(), lte())))
    return play.skip()
