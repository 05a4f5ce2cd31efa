"""Scenes of links: down, over budget, run-via, contexts. Nothing hangs, and nothing leaks."""

from __future__ import annotations

import pytest
from linkscene import LTE, OVER_LTE, WIFI, lte, lte_over, scene, wifi
from playbook import ALICE, BOB, ROOT, Playbook, owner, packet, process, verdict

from arbiter import protocol
from arbiter.events import (
    Announce,
    FindOwner,
    Notify,
    Refuse,
    Remember,
    Reply,
    Report,
    RunVia,
    SetVerdict,
    ShowAsk,
    WatchProcess,
    WithdrawAsk,
)
from arbiter.model import (
    ACCEPTED,
    DENIED,
    Link,
    NoOwner,
    NoOwnerReason,
    OverBudget,
    Peer,
)
from arbiter.settings import LinkDown, Mode

# --- a link that is down --------------------------------------------------------------------


def test_refuse_refuses_at_once() -> None:
    play = scene("route via=lte app=/usr/bin/curl", links=(wifi(), lte(up=False)))
    play.queue(1) >> FindOwner >> verdict(1, DENIED)
    why = "no link of lte carries IPv4 there now"
    assert play.take(Report).note == why
    play >> Notify(1000, f"curl was refused: {why}")
    play.end()


def test_a_program_that_tries_on_is_told_of_once_in_a_while() -> None:
    play = scene("route via=lte app=/usr/bin/curl", links=(wifi(), lte(up=False)))
    play.queue(1) >> FindOwner >> verdict(1, DENIED) >> Report >> Notify
    for id in range(2, 6):
        play.wait(7).queue(id, sport=id) >> FindOwner >> verdict(id, DENIED) >> Report
    play.wait(7).queue(6, sport=6) >> FindOwner >> verdict(6, DENIED) >> Report >> Notify
    play.queue(7, owner(process("/usr/bin/wget")), sport=7) >> FindOwner
    play >> WatchProcess >> ShowAsk  # another program is another matter
    play.end()


def test_a_denial_by_rule_is_nobodys_news() -> None:
    play = scene("deny app=/usr/bin/curl")
    play.queue(1) >> FindOwner >> verdict(1, DENIED) >> Report
    play.end()


def test_an_answer_of_allow_over_a_spent_budget_means_that_link() -> None:
    """It is what the prompt asked about; the default route is another thing."""
    play = scene("route via=lte app=/usr/bin/curl")
    play.wait(5).links(wifi(), lte_over(play)).skip()
    play.queue(1, outdev=WIFI).skip()
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.via == ("lte",)
    play.answer(1, "allow", lifetime="15m", scope="app") >> Remember
    play.skip().queue(2, sport=2, outdev=WIFI) >> FindOwner >> verdict(2, OVER_LTE) >> Report
    play.end()


def test_wait_says_so_once_and_goes_on_when_the_link_is_back() -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl",
        links=(wifi(), lte(up=False)),
        link_down=LinkDown.WAIT,
        deadline=20.0,
    )
    play.queue(1) >> FindOwner
    told = play.take(Notify)
    assert told == Notify(
        1000, "curl waits: no link of lte carries IPv4 there now; it is refused in 20 s"
    )
    play.queue(2) >> FindOwner  # its retransmit: nobody is told again
    play.end()
    play.wait(5).links(wifi(), lte())
    play >> Notify(None, "link lte is up") >> verdict(1, OVER_LTE) >> Report
    play >> verdict(2, OVER_LTE) >> Report
    play.end()


def test_wait_ends_at_the_deadline_with_a_refusal() -> None:
    play = scene("route via=lte app=/usr/bin/curl", links=(lte(up=False),), link_down=LinkDown.WAIT)
    play.queue(1) >> FindOwner >> Notify
    play.wait(31) >> verdict(1, DENIED) >> Report
    play.links(lte()) >> Notify(None, "link lte is up")
    play.end()


def test_wait_is_over_when_a_rule_decides_otherwise() -> None:
    play = scene("route via=lte app=/usr/bin/curl", links=(lte(up=False),), link_down=LinkDown.WAIT)
    play.queue(1) >> FindOwner >> Notify
    play.rules("deny app=/usr/bin/curl host=198.51.100.10") >> verdict(1, DENIED) >> Report
    play.end()


def test_waiting_for_a_link_is_bounded_and_what_is_too_much_is_as_if_lost() -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl",
        links=(lte(up=False),),
        link_down=LinkDown.WAIT,
        packets_held=8,
        packets_per_flow=4,
    )
    for id in range(1, 10):
        play.queue(id, sport=id)
    reports = play.all(Report)
    assert len(reports) == 9 - 4, "half of the room is one user's at most"
    assert all("wait for an answer already" in report.note for report in reports)
    play.stop()
    assert len(play.all(SetVerdict)) == 4


def test_ask_asks_and_nobodys_silence_means_elsewhere() -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl",
        links=(wifi(), lte(up=False)),
        link_down=LinkDown.ASK,
        fallback="allow",
    )
    play.queue(1, outdev=WIFI) >> FindOwner >> WatchProcess >> ShowAsk
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.why == "no link of lte carries IPv4 there now"
    play.wait(31) >> verdict(1, DENIED) >> Report >> ShowAsk
    play.queue(2, outdev=WIFI, sport=2) >> FindOwner >> ShowAsk
    play.answer(1, "allow") >> verdict(2, ACCEPTED) >> Report >> Announce
    play.end()


def test_an_ask_about_a_link_is_moot_once_it_is_back() -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl",
        links=(wifi(), lte(up=False)),
        link_down=LinkDown.ASK,
    )
    play.queue(1) >> FindOwner >> WatchProcess >> ShowAsk
    play.links(wifi(), lte()) >> Notify >> verdict(1, OVER_LTE) >> Report >> WithdrawAsk
    play.end()


def test_without_people_to_ask_a_link_that_is_down_refuses() -> None:
    for mode in (Mode.ENFORCE, Mode.OBSERVE):
        play = scene(
            "route via=lte app=/usr/bin/curl",
            links=(wifi(), lte(up=False)),
            link_down=LinkDown.ASK,
            mode=mode,
        )
        play.queue(1) >> FindOwner >> verdict(1, DENIED) >> Report >> Notify
        play.end()


# --- budgets --------------------------------------------------------------------------------


def test_a_rule_from_before_the_budget_was_used_up_asks_and_an_answer_settles_it() -> None:
    play = scene("route via=lte app=/usr/bin/curl")
    play.queue(1) >> FindOwner >> verdict(1, OVER_LTE) >> Report
    play.wait(5).links(wifi(), lte_over(play))
    play >> Notify(None, "link lte is over its budget: 600 MB of 500 MB/month used")
    play.wait(1).queue(2, sport=2) >> FindOwner >> WatchProcess >> ShowAsk
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.why == "lte is over its budget: 600 MB of 500 MB/month used"
    play.answer(1, "route", via=("lte",), lifetime="forever", scope="app").skip()
    play.queue(3, sport=3) >> FindOwner >> verdict(3, OVER_LTE) >> Report
    play.end()


def test_over_budget_by_default_route_is_asked_about_too_and_silence_denies() -> None:
    play = scene("allow app=/usr/bin/curl", fallback="allow")
    play.wait(5).links(wifi(), lte_over(play)).skip()
    play.queue(1, outdev=WIFI) >> FindOwner >> verdict(1, ACCEPTED) >> Report
    play.queue(2, outdev=LTE, sport=2) >> FindOwner >> WatchProcess >> ShowAsk
    play.wait(31) >> verdict(2, DENIED) >> Report >> ShowAsk
    play.end()


def test_an_answer_for_once_pays_for_its_flow_only() -> None:
    play = scene("allow app=/usr/bin/curl")
    play.wait(5).links(lte_over(play)).skip()
    play.queue(1, outdev=LTE) >> FindOwner >> WatchProcess >> ShowAsk
    play.answer(1, "allow") >> verdict(1, ACCEPTED) >> Report >> Announce
    play.queue(2, outdev=LTE, sport=2) >> FindOwner >> ShowAsk
    play.end()


def test_an_answer_does_not_pay_where_the_file_says_deny() -> None:
    play = scene(links=(wifi(),))
    play.links(lte_over(play, OverBudget.DENY)).skip()
    play.queue(1, outdev=LTE) >> FindOwner >> WatchProcess >> ShowAsk
    play.wait(1).answer(1, "allow") >> verdict(1, DENIED)
    assert "over its budget" in play.take(Report).note


def test_a_connection_that_is_open_is_not_cut_by_a_budget() -> None:
    play = scene()
    play.wait(5).links(lte_over(play)).skip()
    play.queue(1, owner(established=True), outdev=LTE, flags=0x10) >> FindOwner
    play >> verdict(1, ACCEPTED) >> Report
    play.end()


def test_the_next_period_needs_no_answer() -> None:
    play = scene("allow app=/usr/bin/curl")
    play.wait(5).links(lte_over(play)).skip()
    play.queue(1, outdev=LTE) >> FindOwner >> WatchProcess >> ShowAsk
    play.links(lte()) >> Notify(None, "link lte is within its budget again")
    play >> verdict(1, ACCEPTED) >> Report >> WithdrawAsk
    play.end()


# --- contexts -------------------------------------------------------------------------------


def test_a_change_of_context_touches_new_connections_and_what_waits() -> None:
    play = scene("deny app=/usr/bin/curl metered=yes", "allow app=/usr/bin/curl network=ssid:Home")
    play.queue(1, outdev=LTE) >> FindOwner >> verdict(1, DENIED) >> Report
    play.queue(2, outdev=WIFI, sport=2) >> FindOwner >> WatchProcess >> ShowAsk
    play.links(wifi(networks=("ssid:Home",)), lte()) >> Notify(None, "link wifi is on ssid:Home")
    play >> verdict(2, ACCEPTED) >> Report >> WithdrawAsk
    play.end()


def test_rules_follow_the_sim() -> None:
    mine, other = "8949012345678901234", "8949012345678905678"
    play = scene(f"allow app=/usr/bin/curl sim={mine}", links=(lte(sim=mine),))
    play.queue(1, outdev=LTE) >> FindOwner >> verdict(1, ACCEPTED) >> Report
    play.links(lte(sim=other)) >> Notify(None, "link lte has the SIM …05678")
    play.queue(2, outdev=LTE, sport=2) >> FindOwner >> WatchProcess >> ShowAsk
    play.links(lte(sim="")) >> Notify(None, "link lte has no SIM") >> ShowAsk
    play.end()


# --- run-via --------------------------------------------------------------------------------


def run(play: Playbook, via: str, pid: int = 100, peer: Peer = ALICE) -> Playbook:
    """Process 100 is the parent of every process of the playbook."""
    return play.send(RunVia(play.now, 77, peer, (pid, pid * 10), via))


def test_run_via_chooses_the_link_and_asks_as_ever() -> None:
    play = scene("allow app=/usr/bin/wget")
    run(play, "lte") >> WatchProcess(100, 1000) >> Reply(77, protocol.Running("lte", True))
    play.queue(1, owner(process("/usr/bin/wget")), outdev=WIFI) >> FindOwner
    play >> verdict(1, OVER_LTE) >> Report
    play.queue(2, sport=2, outdev=WIFI) >> FindOwner >> WatchProcess >> ShowAsk
    play.answer(1, "allow") >> verdict(2, OVER_LTE) >> Report >> Announce
    play.exits(100)
    play.queue(3, owner(process("/usr/bin/wget")), sport=3, outdev=WIFI) >> FindOwner
    play >> verdict(3, ACCEPTED) >> Report
    play.end()


def test_run_via_neither_allows_what_is_denied_nor_leaves_a_strict_route() -> None:
    play = scene("deny app=/usr/bin/wget", "route via=wifi app=/usr/bin/curl")
    run(play, "lte").skip()
    play.queue(1, owner(process("/usr/bin/wget"))) >> FindOwner >> verdict(1, DENIED) >> Report
    play.queue(2, sport=2) >> FindOwner >> verdict(2, DENIED)
    assert play.take(Report).note == "run-via lte asks for another link, and it is routed via=wifi"


def test_run_via_of_one_user_is_not_anothers() -> None:
    play = scene("allow app=/usr/bin/curl")
    run(play, "lte", peer=BOB).skip()
    play.queue(1, outdev=WIFI) >> FindOwner >> verdict(1, ACCEPTED) >> Report
    run(play, "lte", peer=ROOT).skip()
    play.queue(2, sport=2, outdev=WIFI) >> FindOwner >> verdict(2, OVER_LTE) >> Report


@pytest.mark.parametrize("name", ["vpn", "any", "", "lte\x1b[2J"])
def test_run_via_no_link_is_refused_with_the_links_there_are(name: str) -> None:
    play = scene()
    run(play, name)
    refused = play.take(Refuse).message
    assert refused.reason is protocol.RefusedReason.INVALID
    assert "known: wifi, lte" in refused.text
    assert "\x1b" not in refused.text


def test_run_via_holds_from_before_the_links_are_known() -> None:
    """A daemon that was restarted hears of it before its first look at the links is over."""
    play = Playbook("allow app=/usr/bin/curl")
    run(play, "lte") >> WatchProcess(100, 1000) >> Reply(77, protocol.Running("lte", False))
    play.queue(1) >> FindOwner >> verdict(1, DENIED) >> Report >> Notify
    play.links(wifi(), lte())
    play.queue(2, sport=2, outdev=WIFI) >> FindOwner >> verdict(2, OVER_LTE) >> Report
    play.end()


def test_links_that_come_and_go_are_announced_and_shown_in_open_asks() -> None:
    play = scene()
    play.queue(1, outdev=WIFI) >> FindOwner >> WatchProcess >> ShowAsk
    play.links(wifi(up=False), lte(), Link("vpn", 3, "tun0", index=4)) >> Notify(
        None, "link wifi is down"
    )
    play >> Notify(None, "new link: vpn (tun0)") >> ShowAsk
    play.links(wifi(), lte(up6=False)) >> Notify(None, "link wifi is up")
    play >> Notify(None, "link lte is up for IPv4 only") >> Notify(None, "link vpn is gone")
    play >> ShowAsk
    play.end()
    assert packet(1).outdev == 0


def test_what_is_left_of_a_lost_routed_connection_is_reset_and_never_leaves_elsewhere() -> None:
    play = scene("route via=lte app=/usr/bin/curl")
    play.queue(1, outdev=WIFI) >> FindOwner >> verdict(1, OVER_LTE) >> Report
    play.links(wifi(), lte(up=False)).skip()
    orphan = NoOwner(NoOwnerReason.EXITED, established=True)
    play.queue(2, orphan, outdev=WIFI, flags=0x18) >> FindOwner >> verdict(2, DENIED)
    assert play.take(Report).note == "left over of a link that was lost"
    play.queue(3, orphan, outdev=WIFI, flags=0x18, sport=3) >> FindOwner
    play >> verdict(3, ACCEPTED) >> Report  # a connection older than arbiter
    play.end()
