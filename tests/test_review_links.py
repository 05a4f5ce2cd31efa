"""What a review of links, budgets, run-via and contexts found: each must stay mended."""

from __future__ import annotations

from typing import Any

import pytest
from playbook import ALICE, ROOT, Playbook, owner, process, verdict

from arbiter import protocol
from arbiter.events import FindOwner, Notify, Report
from arbiter.model import DENIED, App, AppKind, Link, NoOwner, NoOwnerReason
from arbiter.settings import LinkDown

WIFI, LTE = 2, 3


def wifi(**more: Any) -> Link:
    return Link("wifi", 1, "wlan0", index=WIFI, metered=False, **more)


def lte(**more: Any) -> Link:
    return Link("lte", 2, "wwan0", index=LTE, metered=True, **more)


def scene(*rules: str, links: tuple[Link, ...] = (), **settings: Any) -> Playbook:
    play = Playbook(*rules, **settings)
    play.links(*(links or (wifi(), lte())))
    return play.skip()


def waiting(*rules: str, **settings: Any) -> Playbook:
    """lte is down, and what is routed over it waits for it."""
    links = (wifi(), lte(up=False))
    return scene(*rules, links=links, link_down=LinkDown.WAIT, **settings)


# --- notices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "who",
    [
        NoOwner(NoOwnerReason.NO_SOCKET),
        owner(process("/usr/bin/curl", uid=0), uid=1000),
    ],
    ids=["of nobody", "of more than one user"],
)
def test_what_only_admins_may_answer_is_told_to_admins_only(who: Any) -> None:
    play = waiting("route via=lte host=internet")
    play.queue(1, who) >> FindOwner
    told = play.take(Notify)
    assert told.uid is not None, "None is everybody"
    assert ROOT.may_answer(told.uid)
    assert not ALICE.may_answer(told.uid)


def test_a_notice_holds_nothing_that_a_program_chose_uncleaned() -> None:
    nasty = process()
    name = App("/tmp/\udcff", AppKind.PATH, "\x1b[2J\udcff\u202e" * 100)
    who = owner(nasty.__class__(pid=7, start=7, uid=1000, app=name, exe="/tmp/\udcff"))
    play = waiting("route via=lte host=internet")
    play.queue(1, who) >> FindOwner
    text = play.take(Notify).text
    assert text == protocol.clean(text, 400)
    assert protocol.encode(protocol.Notice(0.0, text))


def test_who_waits_for_a_link_is_told_once_whatever_else_changes() -> None:
    play = waiting("route via=lte app=/usr/bin/curl")
    play.queue(1) >> FindOwner >> Notify
    play.rules("allow app=/usr/bin/ssh")
    play.links(wifi(networks=("ssid:Home",)), lte(up=False)) >> Notify(
        None, "link wifi is on ssid:Home"
    )
    play.queue(2, dport=444) >> FindOwner  # the notice would be the same
    play.end()
    play.wait(31) >> verdict(1, DENIED) >> Report >> verdict(2, DENIED) >> Report
    play.queue(3, sport=3) >> FindOwner >> Notify
    play.end()


def test_what_is_kept_of_who_waits_for_a_link_goes_with_the_last_that_waits() -> None:
    play = waiting("route via=lte app=/usr/bin/curl")
    play.queue(1) >> FindOwner >> Notify
    play.wait(29).queue(2, sport=2) >> FindOwner
    play.wait(2) >> verdict(1, DENIED) >> Report
    play.queue(3, sport=3) >> FindOwner  # 2 still waits
    play.wait(61).skip().queue(4, sport=4) >> FindOwner >> Notify
    play.stop().skip()
    assert not play.pipeline._told
    assert not play.pipeline._for_link
