"""Scenes of a review: each fails while the defect that its comment names is there."""

from __future__ import annotations

import pytest
from playbook import (
    ALICE,
    AS_ROOT,
    BOB,
    ROOT,
    SERVER,
    Playbook,
    deployed,
    owner,
    packet,
    process,
    verdict,
)

from arbiter.answers import offered
from arbiter.events import PacketQueued, Refuse, Remember, Report, SetVerdict, ShowAsk, WithdrawAsk
from arbiter.model import ACCEPTED, DENIED, Peer, Undecodable
from arbiter.protocol import RefusedReason
from arbiter.rules import conditions
from arbiter.settings import Fallback, Mode, WhenUnattended


def scope_shown(play: Playbook, peer: Peer, scope: str) -> object:
    """The rule that the ask means by a scope, as of now."""
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    return offered(ask, peer)[scope]


# --- what is remembered is what was shown ---------------------------------------------------


def test_another_example_is_shown_before_it_can_be_answered() -> None:
    """The prompts show curl from bash (pid 1). It exits, the ask now speaks of curl from
    deploy.sh (pid 2), and nobody is told: an answer for scope `parent` or for=process makes a
    rule that was never on a screen. A change of what is offered must be followed by ShowAsk."""
    play = Playbook()
    play.queue(1, owner(process(pid=1)))
    play.queue(2, deployed(2), sport=2).skip()
    before = scope_shown(play, ALICE, "parent")
    play.exits(1)
    shown = play.all(ShowAsk)
    assert scope_shown(play, ALICE, "parent") == before or shown


def test_another_example_is_shown_even_where_the_count_alone_would_not_be() -> None:
    """The same by a change of rules: 9 wait, 8 was the last count shown, and one goes. The
    example changes, `show` sees the same count, and the prompts keep the old one."""
    play = Playbook()
    play.queue(1)
    for id in range(2, 10):
        play.queue(id, deployed(id), sport=id)
    play.skip()
    before = scope_shown(play, ALICE, "parent")
    play.rules("allow parent=/usr/bin/bash")
    shown = play.all(ShowAsk)
    assert scope_shown(play, ALICE, "parent") == before or shown


def test_an_answer_to_what_is_not_shown_any_more_is_refused() -> None:
    """It was on its way when the example changed."""
    play = Playbook()
    play.queue(1, owner(process(pid=1)))
    play.queue(2, deployed(2), sport=2).skip()
    seen = conditions(offered(play.pipeline.asks.get(1), ALICE)["parent"])  # type: ignore[arg-type]
    play.exits(1).skip()
    play.answer(1, "allow", scope="parent", lifetime="forever", shown=seen)
    refuse = play.take(Refuse)
    assert refuse.message.reason is RefusedReason.INVALID
    assert "has changed" in refuse.message.text
    play.end()


def test_a_shared_socket_is_not_asked_about_again_once_it_is_answered_for_good() -> None:
    """Only the first holder's scopes are offered: the rule for curl is made again and again, one
    for wget never, and every connection asks. What no rule decides yet must be offered."""
    both = owner(process("/usr/bin/curl", 1), process("/usr/bin/wget", 2))
    play = Playbook()
    for id in range(1, 4):  # two apps: two answers are enough
        play.queue(id, both, sport=id).skip()
        if play.pipeline.asks.get(id) is not None:
            play.answer(id, "allow", ROOT, scope="app", lifetime="forever").skip()
    play.queue(9, both, sport=9)
    assert verdict(9, ACCEPTED) in play.effects


# --- rights ---------------------------------------------------------------------------------


def test_an_answer_for_ones_own_process_does_not_let_a_set_uid_one_go() -> None:
    """The ask's key has the socket's uid only: a packet of a process with root's rights joins
    alice's ask, and her answer lets it go. Alone it would be an ask for admins
    (`answerer_uid` is None). The key must hold who may answer."""
    play = Playbook()
    play.queue(1)
    play.queue(2, AS_ROOT, sport=2).skip()
    play.answer(1, "allow", ALICE)
    assert [e.packet_id for e in play.all(SetVerdict)] == [1]


def test_a_set_uid_process_does_not_take_the_place_of_ones_own_in_an_ask() -> None:
    """The other way round: the first packet makes the ask one for admins, and alice is refused
    for her own process."""
    play = Playbook()
    play.queue(1, AS_ROOT)
    play.queue(2, sport=2).skip()
    for ask in play.pipeline.asks:
        play.answer(ask.id, "allow", ALICE)
    assert 2 in [e.packet_id for e in play.all(SetVerdict)]


def test_a_late_answer_for_ones_own_process_does_not_serve_a_set_uid_one() -> None:
    """`GivenOnce` has the same key."""
    play = Playbook(deadline=10.0)
    play.queue(1).wait(11).skip()
    play.answer(1, "allow", ALICE).skip()
    play.queue(2, AS_ROOT, sport=2)
    assert not play.all(SetVerdict)


def test_a_persons_rule_does_not_decide_for_a_set_uid_process() -> None:
    """DESIGN 6: rules of a user apply to that user's processes only. `queries` gives the socket's
    uid and user, whoever the process is: it must give none where the holders differ."""
    play = Playbook()
    play.queue(1).answer(1, "allow", ALICE, scope="app", lifetime="forever").skip()
    play.queue(2, AS_ROOT, sport=2)
    assert not play.all(SetVerdict)


# --- a leak past a deny ---------------------------------------------------------------------


def test_a_deny_for_a_host_holds_where_the_owner_is_not_found_in_time() -> None:
    """With fallback=allow the deadline lets the packet go without asking the rules: whoever keeps
    the one scanning thread busy gets past every deny. At least rules without an app are to be
    asked (as for NoOwner) before the fallback."""
    play = Playbook("deny host=198.51.100.10", fallback=Fallback.ALLOW)
    play.send(PacketQueued(play.now, packet(1))).wait(31)
    assert play.all(SetVerdict) == [verdict(1, DENIED)]


def test_a_deny_rule_made_while_an_answer_is_stored_holds_for_what_waits() -> None:
    """`_retry` passes over an ask that is being stored, and `_settle` does not look at the rules:
    the packet goes although the most specific rule in force says deny."""
    play = Playbook()
    play.store = False
    play.queue(1).skip()
    play.answer(1, "allow", scope="app", lifetime="forever") >> Remember
    play.rules("deny app=/usr/bin/curl host=198.51.100.10 port=443 proto=tcp")
    play.stored()
    assert play.all(SetVerdict) == [verdict(1, DENIED)]


# --- bounds ---------------------------------------------------------------------------------


def test_a_remembered_connection_goes_however_much_is_held() -> None:
    """The bound is looked at before the rules: once one program has filled it, no new connection
    of anybody is made, remembered or not, until the deadline, and then again."""
    play = Playbook("allow app=/usr/bin/wget", packets_held=4)
    for id in range(1, 5):
        play.queue(id, sport=id)
    play.skip()
    play.queue(5, owner(process("/usr/bin/wget", 2)), sport=5)
    assert play.all(SetVerdict) == [verdict(5, ACCEPTED)]


def test_one_user_cannot_take_all_the_room_for_held_packets() -> None:
    """64 asks of one app with 64 packets each are 4096: alice alone stops bob's and root's."""
    play = Playbook(packets_held=8)
    play.prompts(ALICE, BOB, ROOT)
    for id in range(1, 9):
        play.queue(id, sport=id)
    play.skip()
    play.queue(9, owner(process(uid=1001, pid=2), uid=1001), sport=9)
    assert not [e for e in play.all(SetVerdict) if e.packet_id == 9]


def test_another_programs_ask_is_not_given_up_where_that_makes_no_room() -> None:
    """curl has too many asks, none stale; wget's stale one is withdrawn, curl's bound is as full
    as before, and its packet gets the fallback all the same. One program so clears away every
    ask of its user that a late answer could serve."""
    play = Playbook(asks_per_app=1, deadline=10.0)
    play.queue(1, owner(process("/usr/bin/wget", 2)), dport=1).wait(11)
    play.queue(2, dport=2).skip()
    play.queue(3, dport=3)
    assert not play.all(WithdrawAsk)


# --- once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("proto", [1, 17])
def test_a_denied_flow_that_goes_on_sending_is_not_asked_about_again(proto: int) -> None:
    """A denied datagram never confirms its conntrack entry, so each next one is queued. `once` is
    for this flow, but GRACE is counted from the answer: a denied ping asks again every 5 s."""
    play = Playbook()
    port = 443 if proto == 17 else 0
    play.queue(1, proto=proto, dport=port).answer(1, "deny").skip()
    for id in range(2, 12):
        play.wait(1).queue(id, proto=proto, dport=port)
    assert not play.all(ShowAsk)


# --- observe --------------------------------------------------------------------------------


def test_observe_denies_nothing_because_its_owner_is_slow_to_find() -> None:
    """docs/settings.md, observe: a connection without a rule passes and is recorded."""
    play = Playbook(mode=Mode.OBSERVE)
    play.send(PacketQueued(play.now, packet(1))).wait(31)
    assert play.all(SetVerdict) == [verdict(1, ACCEPTED)]


def test_observe_denies_nothing_because_it_cannot_be_decoded() -> None:
    """The same for a packet that no rule can speak of."""
    play = Playbook(mode=Mode.OBSERVE)
    play.send(PacketQueued(play.now, Undecodable(1, "short header")))
    assert play.all(SetVerdict) == [verdict(1, ACCEPTED)]


# --- what is said ---------------------------------------------------------------------------


def test_nobody_is_said_to_have_exited_who_has_not() -> None:
    """An ask made while nobody was there does not watch its process, and who is not watched
    counts as gone: the exit of any other program marks it "curl has exited"."""
    play = Playbook(when_unattended=WhenUnattended.FALLBACK)
    play.prompts(BOB)
    play.queue(1)
    play.prompts(ALICE)
    play.queue(2, owner(process("/usr/bin/wget", 2)), daddr=SERVER, dport=80).skip()
    play.exits(2)
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.note == ""


def test_the_record_of_an_answer_names_no_rule_that_does_not_match() -> None:
    """Every decision carries its why. Both packets are answered, rightly, but the rule is for
    process 1 only: the record of process 2 says that rule decided it."""
    play = Playbook()
    play.queue(1, owner(process(pid=1)))
    play.queue(2, owner(process(pid=2)), sport=2).skip()
    play.answer(1, "allow", lifetime="process")
    reports = {report.packet.id: report.rule for report in play.all(Report)}
    assert reports[1] is not None
    assert reports[2] is None
