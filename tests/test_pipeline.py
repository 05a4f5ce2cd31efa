"""Scenes: what the pipeline does, told in the order it happens."""

from __future__ import annotations

import pytest
from msgspec import structs
from playbook import (
    ALICE,
    BOB,
    NOBODY,
    ROOT,
    SERVER,
    SERVER6,
    Playbook,
    owner,
    packet,
    process,
    verdict,
)

from arbiter.events import (
    Announce,
    FindOwner,
    Notify,
    OwnerFound,
    PacketQueued,
    Reason,
    Refuse,
    Remember,
    Report,
    Retire,
    SetVerdict,
    ShowAsk,
    WatchProcess,
    WithdrawAsk,
)
from arbiter.model import (
    ACCEPTED,
    DENIED,
    DROPPED,
    MARK_DECIDED,
    Link,
    NoOwner,
    NoOwnerReason,
    Undecodable,
    Verdict,
    VerdictKind,
)
from arbiter.protocol import RefusedReason, WithdrawReason
from arbiter.settings import Fallback, Mode, WhenAbsent, WhenUnattended

CURL = "allow app=/usr/bin/curl host=198.51.100.10 port=443 proto=tcp"


# --- asking and remembering -----------------------------------------------------------------


def test_a_new_connection_is_held_and_asked_once() -> None:
    play = Playbook()
    play.queue(1)
    play >> FindOwner >> WatchProcess(4242, 42420) >> ShowAsk(1)
    play.end()


def test_allow_once_lets_it_go_and_remembers_nothing() -> None:
    play = Playbook()
    play.queue(1).skip()
    play.answer(1, "allow")
    play >> verdict(1, ACCEPTED) >> Report
    announce = play.take(Announce)
    assert (announce.message.decision, announce.message.released) == ("allow", 1)
    assert announce.message.rule_id is None
    play.end()
    play.wait(60).skip()
    play.queue(2) >> FindOwner >> ShowAsk(2)


def test_a_remembered_answer_is_on_disk_before_its_verdict() -> None:
    play = Playbook()
    play.store = False
    play.queue(1).skip()
    play.answer(1, "allow", lifetime="forever")
    remember = play.take(Remember)
    assert remember.ask == 1
    play.end()  # no verdict yet
    play.stored() >> verdict(1, ACCEPTED) >> Report
    assert play.take(Announce).message.rule.startswith("allow app=/usr/bin/curl")


def test_the_second_connection_is_not_asked() -> None:
    play = Playbook()
    play.queue(1).answer(1, "allow", lifetime="forever").skip()
    play.queue(2, sport=40001) >> FindOwner >> verdict(2, ACCEPTED)
    report = play.take(Report)
    assert report.reason is Reason.RULE
    assert report.rule.id == 1
    play.end()


def test_deny_is_accepted_with_the_denied_bit_for_the_ruleset_to_reject() -> None:
    play = Playbook("deny app=/usr/bin/curl")
    play.queue(1) >> FindOwner >> verdict(1, DENIED) >> Report
    play.end()


@pytest.mark.parametrize("proto", [6, 17, 1, 132, 47])
@pytest.mark.parametrize("daddr", [SERVER, SERVER6])
def test_every_protocol_of_both_families_is_denied_alike(proto: int, daddr: bytes) -> None:
    play = Playbook("deny app=/usr/bin/curl")
    port = 443 if proto in (6, 17, 132) else 0
    play.queue(1, proto=proto, daddr=daddr, dport=port) >> FindOwner >> verdict(1, DENIED)


def test_one_question_for_one_app_and_destination() -> None:
    play = Playbook()
    for id in range(1, 6):
        play.queue(id, sport=40000 + id)
    assert [e.ask for e in play.all(ShowAsk)] == [1] * 4  # more count, told while it is small
    play.answer(1, "allow")
    assert [e.packet_id for e in play.all(SetVerdict)] == [1, 2, 3, 4, 5]


def test_other_destination_port_user_or_app_is_another_question() -> None:
    play = Playbook()
    play.queue(1)
    play.queue(2, dport=80)
    play.queue(3, daddr=SERVER6)
    play.queue(4, owner(process("/usr/bin/wget", 4300)))
    play.queue(5, owner(process(uid=0), uid=0))
    play.queue(6, proto=17)
    assert [e.ask for e in play.all(ShowAsk)] == [1, 2, 3, 4, 5, 6]


def test_after_an_answer_everything_held_is_tried_again() -> None:
    play = Playbook()
    play.queue(1)
    play.queue(2, dport=80)
    play.queue(3, owner(process("/usr/bin/wget", 4300))).skip()
    play.answer(1, "allow", scope="app", lifetime="15m") >> Remember >> verdict(1, ACCEPTED)
    play >> Report >> Announce >> verdict(2, ACCEPTED) >> Report
    withdrawn = play.take(WithdrawAsk)
    assert (withdrawn.ask, withdrawn.reason) == (2, WithdrawReason.RULE)
    play.end()
    assert [ask.id for ask in play.pipeline.asks] == [3]


def test_a_rule_added_by_command_answers_what_waits() -> None:
    play = Playbook()
    play.queue(1).skip()
    play.rules("deny app=/usr/bin/curl") >> verdict(1, DENIED) >> Report >> WithdrawAsk
    play.end()


# --- retransmits and flows ------------------------------------------------------------------


def test_retransmits_share_the_first_ones_deadline_and_verdict() -> None:
    play = Playbook(deadline=30.0)
    play.queue(1)
    play.wait(3)
    play.queue(2)  # same flow: the SYN again
    play.skip()
    play.wait(27)
    assert play.all(SetVerdict) == [verdict(1, DENIED), verdict(2, DENIED)]


def test_a_flow_that_floods_while_it_waits_loses_packets_and_nothing_else() -> None:
    play = Playbook(packets_per_flow=4)
    for id in range(1, 7):
        play.queue(id, proto=17)
    assert play.all(SetVerdict) == [verdict(5, DROPPED), verdict(6, DROPPED)]
    play.answer(1, "allow")
    assert [e.packet_id for e in play.all(SetVerdict)] == [1, 2, 3, 4]


def test_once_also_serves_what_of_its_flow_was_on_the_way() -> None:
    """Until conntrack confirms the first packet, the kernel queues the next datagram too."""
    play = Playbook()
    play.queue(1, proto=17).answer(1, "deny").skip()
    play.wait(1)
    play.queue(2, proto=17) >> FindOwner >> verdict(2, DENIED) >> Report
    play.wait(10)
    play.queue(3, proto=17) >> FindOwner >> ShowAsk(2)


# --- deadlines and late answers -------------------------------------------------------------


@pytest.mark.parametrize(("fallback", "given"), [("deny", DENIED), ("allow", ACCEPTED)])
def test_at_the_deadline_the_fallback_without_a_rule_and_the_ask_lives_on(
    fallback: str, given: Verdict
) -> None:
    play = Playbook(deadline=10.0, fallback=Fallback(fallback))
    play.queue(1).skip()
    play.wait(9.9).end()
    play.wait(0.2) >> verdict(1, given)
    assert play.take(Report).reason is Reason.DEADLINE
    play >> ShowAsk(1)
    play.end()
    assert len(play.pipeline.rules.index) == 0
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.stale


def test_a_late_answer_serves_the_retry() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(11).skip()
    play.answer(1, "allow", lifetime="once") >> Announce
    play.queue(2, sport=40009) >> FindOwner >> verdict(2, ACCEPTED) >> Report
    play.wait(10).skip()
    play.queue(3, sport=40010) >> FindOwner >> ShowAsk(2)  # once was once


def test_a_late_rule_serves_every_retry() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(11).skip()
    play.answer(1, "allow", lifetime="forever") >> Remember >> Announce
    play.queue(2, sport=40009) >> FindOwner >> verdict(2, ACCEPTED)


def test_a_retry_joins_the_ask_that_is_still_open() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(11).skip()
    play.queue(2, sport=40009) >> FindOwner >> ShowAsk(1)
    assert play.pipeline.asks.get(1).waiting == {2: None}  # type: ignore[union-attr]


def test_an_ask_nobody_cares_about_ends() -> None:
    play = Playbook(deadline=10.0, ask_ttl=100.0)
    play.queue(1).wait(11).skip()
    play.wait(100)
    assert play.take(WithdrawAsk).reason is WithdrawReason.EXPIRED
    play.answer(1, "allow")
    assert play.take(Refuse).message.reason is RefusedReason.GONE


def test_an_owner_found_after_the_deadline_changes_nothing() -> None:
    play = Playbook(deadline=1.0)
    play.send(PacketQueued(play.now, packet(1))).wait(2)
    assert play.all(SetVerdict) == [verdict(1, DENIED)]
    play.send(OwnerFound(play.now, 1, owner())).end()


# --- who may answer -------------------------------------------------------------------------


def test_only_the_user_whose_process_it_is_and_admins_may_answer() -> None:
    play = Playbook()
    play.queue(1).skip()
    play.answer(1, "allow", BOB)
    refuse = play.take(Refuse)
    assert refuse.message.reason is RefusedReason.RIGHT
    assert "alice" in refuse.message.text
    play.end()
    play.answer(1, "allow", ROOT) >> verdict(1, ACCEPTED)


def test_only_admins_answer_for_what_nobody_owns_and_for_mixed_users() -> None:
    play = Playbook()
    play.queue(1, NOBODY, dport=1)
    play.queue(2, owner(process(uid=0, pid=900), uid=1000), dport=2).skip()
    for ask in (1, 2):
        play.answer(ask, "allow", ALICE)
        assert play.take(Refuse).message.reason is RefusedReason.RIGHT
    play.answer(1, "allow", ROOT, scope="destination") >> verdict(1, ACCEPTED)


def test_a_persons_rule_is_for_their_own_processes() -> None:
    play = Playbook()
    play.queue(1).skip()
    play.answer(1, "allow", ALICE, scope="app", lifetime="forever")
    assert play.take(Remember).rule.user == "alice"
    play.queue(2, owner(process("/usr/bin/wget", 4300))).skip()
    play.answer(2, "allow", ROOT, scope="app", lifetime="forever")
    assert play.take(Remember).rule.user == ""


def test_the_first_answer_wins_and_the_second_is_told_who_was_first() -> None:
    play = Playbook()
    play.store = False
    play.queue(1).skip()
    play.answer(1, "allow", ALICE, lifetime="forever") >> Remember
    play.answer(1, "deny", ROOT)
    refuse = play.take(Refuse)
    assert refuse.message.reason is RefusedReason.ANSWERED
    assert "alice" in refuse.message.text
    play.stored().skip()
    play.answer(1, "deny", ROOT)
    refuse = play.take(Refuse)
    assert refuse.message.reason is RefusedReason.ANSWERED
    assert "alice" in refuse.message.text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"scope": "everything"}, "connection"),
        ({"lifetime": "forevr"}, "forever"),
        ({"lifetime": "-5m"}, "lifetime"),
        ({"decision": "route"}, "via"),
        ({"decision": "route", "via": ("lte",)}, "lte"),
        ({"decision": "route", "via": ("any", "any")}, "once"),
        ({"decision": "allow", "via": ("lte",)}, "takes no links"),
    ],
)
def test_what_was_not_offered_is_refused_and_the_ask_stays(
    change: dict[str, object], word: str
) -> None:
    play = Playbook()
    play.queue(1).skip()
    decision = str(change.pop("decision", "allow"))
    play.answer(1, decision, **change)  # type: ignore[arg-type]
    refuse = play.take(Refuse)
    assert refuse.message.reason is RefusedReason.INVALID
    assert word in refuse.message.text
    play.end()
    assert play.pipeline.asks.get(1) is not None


def test_until_the_process_exits_needs_a_process() -> None:
    play = Playbook()
    play.queue(1, NOBODY).skip()
    play.answer(1, "allow", ROOT, scope="destination", lifetime="process")
    assert play.take(Refuse).message.reason is RefusedReason.INVALID


# --- the disk fails -------------------------------------------------------------------------


def test_what_cannot_be_remembered_is_decided_all_the_same_and_said() -> None:
    play = Playbook()
    play.store = False
    play.queue(1).skip()
    play.answer(1, "allow", lifetime="forever") >> Remember
    play.store_fails("no space left") >> verdict(1, ACCEPTED) >> Report
    message = play.take(Announce).message
    assert message.problem == "no space left"
    assert message.rule_id is None


def test_a_disk_that_never_answers_does_not_keep_the_packet_past_its_deadline() -> None:
    play = Playbook(deadline=10.0)
    play.store = False
    play.queue(1).skip()
    play.answer(1, "allow", lifetime="forever") >> Remember
    play.wait(11)
    assert play.all(SetVerdict) == [verdict(1, DENIED)]
    play.stored()
    assert play.take(Announce).message.released == 0


# --- processes ------------------------------------------------------------------------------


def test_a_handshake_whose_program_exits_is_dropped_and_its_ask_says_so() -> None:
    play = Playbook()
    play.queue(1).skip()
    play.exits(4242) >> verdict(1, DROPPED)
    assert play.take(Report).reason is Reason.EXITED
    play >> ShowAsk(1)
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.note == "curl has exited"
    play.answer(1, "allow", lifetime="forever") >> Remember >> Announce


def test_a_datagram_of_a_program_that_exited_still_may_go() -> None:
    play = Playbook()
    play.queue(1, proto=17).skip()
    play.exits(4242) >> ShowAsk(1)
    play.end()
    play.answer(1, "allow") >> verdict(1, ACCEPTED)


def test_a_rule_for_a_process_ends_with_it() -> None:
    play = Playbook()
    play.queue(1).answer(1, "allow", lifetime="process").skip()
    play.queue(2, sport=2) >> FindOwner >> verdict(2, ACCEPTED) >> Report
    other = owner(process(pid=5000))
    play.queue(3, other, sport=3) >> FindOwner >> WatchProcess(5000, 50000) >> ShowAsk(2)
    play.exits(4242)
    assert play.take(Retire).ids == (1,)
    assert len(play.pipeline.rules.index) == 0


def test_a_rule_whose_time_is_over_is_retired_and_named_in_the_next_ask() -> None:
    play = Playbook()
    play.queue(1).answer(1, "allow", lifetime="15m").skip()
    play.wait(899).end()
    play.wait(2)
    assert play.take(Retire).ids == (1,)
    play.queue(2, sport=2) >> FindOwner >> ShowAsk(2)
    ask = play.pipeline.asks.get(2)
    assert ask is not None
    assert "rule 1" in ask.why


# --- shared sockets, no owner, older connections --------------------------------------------


def test_a_shared_socket_goes_only_where_each_of_its_apps_may() -> None:
    both = owner(process("/usr/bin/curl", 1), process("/usr/bin/wget", 2))
    play = Playbook("allow app=/usr/bin/curl")
    play.queue(1, both) >> FindOwner >> WatchProcess >> WatchProcess >> ShowAsk(1)
    play.rules("deny app=/usr/bin/wget") >> verdict(1, DENIED)
    play.skip()
    play.rules("allow app=/usr/bin/wget", removed=(2,)).skip()
    play.queue(2, both, sport=2) >> FindOwner >> verdict(2, ACCEPTED)


def test_no_owner_matches_only_rules_without_an_app() -> None:
    play = Playbook("allow app=/usr/bin/curl")
    play.queue(1, NOBODY) >> FindOwner >> ShowAsk(1)
    play.rules("allow host=198.51.100.10") >> verdict(1, ACCEPTED)


def test_a_connection_older_than_arbiter_is_not_cut() -> None:
    play = Playbook()
    play.queue(1, owner(established=True), flags=0x10) >> FindOwner >> verdict(1, ACCEPTED)
    assert play.take(Report).reason is Reason.OLDER
    gone = NoOwner(NoOwnerReason.EXITED, established=True)
    play.queue(2, gone, flags=0x11, sport=2) >> FindOwner >> verdict(2, ACCEPTED)


def test_a_deny_rule_holds_for_older_connections_too() -> None:
    play = Playbook("deny app=/usr/bin/curl")
    play.queue(1, owner(established=True), flags=0x10) >> FindOwner >> verdict(1, DENIED)


def test_what_came_in_before_arbiter_passes_whatever_a_rule_says() -> None:
    play = Playbook("deny app=/usr/bin/curl")
    came_in = structs.replace(owner(established=True), came_in=True)
    play.queue(1, came_in, flags=0x10) >> FindOwner >> verdict(1, ACCEPTED)
    assert play.take(Report).reason is Reason.OLDER


def test_a_stray_segment_without_a_connection_is_asked_like_any_other() -> None:
    play = Playbook()
    play.queue(1, owner(established=False), flags=0x10) >> FindOwner >> WatchProcess >> ShowAsk


def test_a_new_connection_is_asked_even_if_the_socket_claims_to_be_open() -> None:
    play = Playbook()
    play.queue(1, owner(established=True), flags=0x02) >> FindOwner >> WatchProcess >> ShowAsk


def test_an_undecodable_packet_gets_the_fallback_and_a_record() -> None:
    play = Playbook()
    play.send(PacketQueued(play.now, Undecodable(1, "short header"))) >> verdict(1, DENIED)
    report = play.take(Report)
    assert (report.reason, report.note) == (Reason.UNDECODABLE, "short header")


# --- modes and bounds -----------------------------------------------------------------------


def test_enforce_never_asks() -> None:
    play = Playbook(CURL, mode=Mode.ENFORCE)
    play.queue(1) >> FindOwner >> verdict(1, ACCEPTED) >> Report
    play.queue(2, dport=80) >> FindOwner >> verdict(2, DENIED)
    assert play.take(Report).reason is Reason.ENFORCE


def test_observe_passes_what_no_rule_denies() -> None:
    play = Playbook("deny app=/usr/bin/wget", mode=Mode.OBSERVE)
    play.queue(1) >> FindOwner >> verdict(1, ACCEPTED)
    assert play.take(Report).reason is Reason.OBSERVE
    play.queue(2, owner(process("/usr/bin/wget", 2))) >> FindOwner >> verdict(2, DENIED)


def test_with_nobody_there_the_setting_decides_and_the_ask_is_kept() -> None:
    play = Playbook(when_unattended=WhenUnattended.FALLBACK)
    play.prompts(BOB)
    play.queue(1) >> FindOwner >> WatchProcess >> verdict(1, DENIED)
    assert play.take(Report).reason is Reason.UNATTENDED
    play >> ShowAsk(1)
    play.prompts(ALICE)
    play.answer(1, "allow", lifetime="forever") >> Remember >> Announce
    play.queue(2, sport=2) >> FindOwner >> verdict(2, ACCEPTED)


def test_one_app_cannot_flood_the_person_with_questions() -> None:
    play = Playbook(asks_per_app=3)
    for port in range(1, 6):
        play.queue(port, dport=port)
    assert play.all(SetVerdict) == [verdict(4, DENIED), verdict(5, DENIED)]
    play.queue(6, owner(process("/usr/bin/wget", 9)))
    assert len(play.all(ShowAsk)) == 1


def test_asks_that_nothing_waits_for_give_way_to_new_ones() -> None:
    play = Playbook(asks_per_app=2, deadline=10.0)
    play.queue(1, dport=1)
    play.queue(2, dport=2).wait(11).skip()
    play.queue(3, dport=3) >> FindOwner
    assert play.take(WithdrawAsk).ask == 1
    play >> ShowAsk(3)


def test_when_too_much_waits_the_rest_is_dropped_not_denied() -> None:
    play = Playbook(packets_held=4)
    for id in range(1, 4):
        play.queue(id, sport=id)
    assert play.all(SetVerdict) == [verdict(3, DROPPED)]  # half of it for one user
    for id in range(4, 8):
        play.queue(id, owner(process(uid=id * 100, pid=id), uid=1001 if id < 6 else 0), sport=id)
    assert len(play.all(SetVerdict)) == 2


# --- routes ---------------------------------------------------------------------------------


def test_a_route_takes_the_first_link_that_is_up() -> None:
    play = Playbook("route via=wifi,lte,any app=/usr/bin/curl")
    play.links(Link("wifi", 1, "wlan0", up=False), Link("lte", 2, "wwan0"))
    lte = Verdict(VerdictKind.ACCEPT, MARK_DECIDED | 2 << 24)
    play.queue(1) >> FindOwner >> verdict(1, lte) >> Report
    play.links() >> Notify(None, "link wifi is gone") >> Notify(None, "link lte is gone")
    play.queue(2, sport=2) >> FindOwner >> verdict(2, ACCEPTED)


def test_a_strict_route_without_its_link_is_denied_and_says_why() -> None:
    play = Playbook("route via=lte app=/usr/bin/curl")
    play.queue(1) >> FindOwner >> verdict(1, DENIED)
    assert "no link of lte" in play.take(Report).note


# --- the end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("absent", "given"), [(WhenAbsent.BLOCK, DENIED), (WhenAbsent.PASS, ACCEPTED)]
)
def test_at_the_end_nothing_stays_held(absent: WhenAbsent, given: Verdict) -> None:
    play = Playbook(when_absent=absent)
    play.queue(1)
    play.send(PacketQueued(play.now, packet(2, dport=9))).skip()
    play.stop() >> verdict(1, given) >> Report >> verdict(2, given) >> Report >> WithdrawAsk
    play.end()
    play.queue(3, dport=10) >> FindOwner >> verdict(3, given) >> Report
    play.end()


def test_rules_hold_to_the_end() -> None:
    """The ruleset goes a moment after what was held: what is allowed must not fail meanwhile."""
    play = Playbook(
        "allow app=/usr/bin/curl", "deny app=/usr/bin/wget", when_absent=WhenAbsent.PASS
    )
    play.stop()
    play.queue(1) >> FindOwner >> verdict(1, ACCEPTED) >> Report
    play.queue(2, owner(process("/usr/bin/wget", 2)), sport=2) >> FindOwner >> verdict(2, DENIED)


def test_counts_say_what_was_done() -> None:
    play = Playbook("deny app=/usr/bin/wget")
    play.queue(1)
    play.queue(2, owner(process("/usr/bin/wget", 2)))
    counters = play.pipeline.counters
    assert (counters["packets"], counters["asks"], counters["deny"]) == (2, 1, 1)
