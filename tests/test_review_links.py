"""What a review of links, budgets, run-via and contexts found: each must stay mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from linkscene import LTE, OVER_LTE, WIFI, lte, scene, wifi
from msgspec import structs
from playbook import ALICE, BOB, ROOT, SERVER6, START, Playbook, owner, packet, process, verdict
from scripted_daemon import example_ask
from test_review_budgets import found

from arbiter import protocol
from arbiter.cli.common import show_json
from arbiter.cli.linklook import Money, link_object
from arbiter.cli.linkusage import usage
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
    ALLOW,
    DENIED,
    DENY,
    MARK_DECIDED,
    Action,
    Ancestor,
    App,
    AppKind,
    Decision,
    Link,
    NoOwner,
    NoOwnerReason,
    Now,
    OverBudget,
    Peer,
    Spent,
)
from arbiter.protocol import LinkView
from arbiter.settings import LinkDown
from arbiter.ways import JUST_NOW, MAX_RUNS, NEVER, Run, Ways
from prompts.cards import Send
from prompts.machine import Machine
from prompts.screen import draw


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


# --- a strict flow never leaves elsewhere -----------------------------------------------------


def test_what_waits_for_a_link_is_refused_even_if_its_rule_ends_first() -> None:
    for line in ("route via=lte proto=udp for=5s", "route via=lte proto=udp"):
        play = waiting(line, fallback="allow")
        play.queue(1, proto=17) >> FindOwner >> Notify
        if "for=" not in line:
            play.pipeline.rules.change((), (1,))  # as a rule that ends with its process
        play.wait(31)
        assert play.all(SetVerdict) == [verdict(1, DENIED)]


def test_an_ask_about_a_link_falls_back_to_what_it_said() -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl for=5s",
        links=(wifi(), lte(up=False)),
        link_down=LinkDown.ASK,
        fallback="allow",
    )
    play.queue(1, outdev=WIFI)
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.fallback == DENY
    play.wait(31)
    assert play.all(SetVerdict) == [verdict(1, DENIED)]


def test_an_ask_says_what_it_is_about_now() -> None:
    play = scene(links=(wifi(), lte(up=False)), link_down=LinkDown.ASK, fallback="allow")
    play.queue(1, outdev=WIFI) >> FindOwner >> WatchProcess >> ShowAsk
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert (ask.why, ask.fallback) == ("no rule decides it yet", ALLOW)
    play.rules("route via=lte app=/usr/bin/curl") >> ShowAsk
    assert (ask.why, ask.fallback) == ("no link of lte carries IPv4 there now", DENY)
    play.rules(removed=(1,)) >> ShowAsk
    assert (ask.why, ask.fallback) == ("no rule decides it yet", ALLOW)
    play.wait(31) >> verdict(1, ACCEPTED)


def test_a_fallback_that_a_budget_would_stop_is_shown_as_what_it_is() -> None:
    over = Spent(1.0, OverBudget.ASK, "600 MB of 500 MB/month used")
    play = scene(links=(wifi(), lte(spent=over)), fallback="allow")
    play.queue(1, outdev=LTE) >> FindOwner >> WatchProcess >> ShowAsk
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.fallback == DENY
    play.links(wifi(), lte()) >> Notify >> ShowAsk
    assert ask.fallback == ALLOW
    play.wait(31) >> verdict(1, ACCEPTED)


@pytest.mark.parametrize("down", [LinkDown.WAIT, LinkDown.ASK])
def test_stopping_lets_nothing_out_that_a_rule_keeps_in(down: LinkDown) -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl",
        links=(wifi(), lte(up=False)),
        link_down=down,
        when_absent="pass",
    )
    play.queue(1, outdev=WIFI)
    play.queue(2, owner(process("/usr/bin/wget")), outdev=WIFI, sport=2).skip()
    play.stop()
    assert play.all(SetVerdict) == [verdict(1, DENIED), verdict(2, ACCEPTED)]


def test_a_stale_ask_that_another_packet_takes_up_is_about_that_packet() -> None:
    over = Spent(START.wall + 1, OverBudget.ASK, "600 MB of 500 MB/month used")
    play = scene("route via=lte app=/usr/bin/curl", links=(wifi(), lte(spent=over)))
    play.queue(1, outdev=WIFI) >> FindOwner >> WatchProcess >> ShowAsk
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    play.wait(31).skip()
    ask.obstacle = ask.why = ""  # as it was opened before there was a rule
    play.queue(2, outdev=WIFI, sport=2) >> FindOwner >> ShowAsk
    assert ask.why == "lte is over its budget: 600 MB of 500 MB/month used"
    assert ask.fallback == DENY


# --- no question without end ------------------------------------------------------------------


def over_budget(*rules: str) -> Playbook:
    """lte is over its budget, and rules from before that are asked about."""
    play = scene(*rules)
    play.wait(5)
    spent = Spent(play.now.wall, OverBudget.ASK, "600 MB of 500 MB/month used")
    play.links(wifi(), lte(spent=spent)).skip().wait(1)
    return play.queue(1, outdev=WIFI).skip()


def test_an_answer_that_another_rule_would_overrule_is_refused_and_says_by_which() -> None:
    rule = "route via=lte app=/usr/bin/curl host=198.51.100.10 port=443 proto=tcp"
    play = over_budget(rule)
    for decision in ("allow", "deny"):
        play.answer(1, decision, scope="app", lifetime="forever")
        refused = play.take(Refuse).message
        assert refused.reason is protocol.RefusedReason.INVALID
        assert f"rule 1 ({rule}) decides before it" in refused.text
        assert "once" in refused.text
    play.end()
    play.answer(1, "allow", scope="app") >> verdict(1, OVER_LTE) >> Report >> Announce


@pytest.mark.parametrize("lifetime", ["forever", "15m", "process"])
def test_an_answer_that_is_more_specific_settles_it(lifetime: str) -> None:
    play = over_budget("route via=lte app=/usr/bin/curl")
    play.answer(1, "allow", scope="host", lifetime=lifetime)
    assert not play.all(Refuse)
    play.queue(2, outdev=WIFI, sport=2) >> FindOwner >> verdict(2, OVER_LTE)


def test_ones_own_rule_of_the_same_words_is_replaced_and_not_in_the_way() -> None:
    play = over_budget("route via=lte app=/usr/bin/curl user=alice")
    play.answer(1, "allow", scope="app", lifetime="forever") >> Remember
    assert not play.all(Refuse)


def test_a_link_that_is_down_is_no_answer_to_what_it_is_asked_for() -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl",
        links=(wifi(), lte(up=False)),
        link_down=LinkDown.ASK,
    )
    play.queue(1, outdev=WIFI).skip()
    play.answer(1, "route", via=("lte",), scope="host", lifetime="forever")
    assert "no link of lte carries IPv4 there now" in play.take(Refuse).message.text
    play.end()
    play.answer(1, "route", via=("wifi",), scope="host", lifetime="forever") >> Remember


def test_a_persons_word_counts_though_the_clock_was_set_back() -> None:
    play = over_budget("route via=lte app=/usr/bin/curl")
    play.now = Now(play.now.mono, play.now.wall - 3600)
    play.answer(1, "route", via=("lte",)) >> verdict(1, OVER_LTE)


# --- run-via ----------------------------------------------------------------------------------


def run(
    play: Playbook, via: str, pid: int = 100, peer: Peer = ALICE, start: int | None = None
) -> Playbook:
    """Process 100 is the parent of every process of the playbook."""
    process = (pid, pid * 10 if start is None else start)
    return play.send(RunVia(play.now, 77, peer, process, via))


def goes_over_lte(play: Playbook, who: Any = None) -> bool:
    play.skip()
    id = play.next_rule = play.next_rule + 1
    play.queue(id, who, outdev=WIFI, sport=id)
    (given,) = play.all(SetVerdict)
    return bool(given.verdict == OVER_LTE)


@pytest.mark.parametrize("other", [ALICE, BOB])
def test_nobody_ends_or_moves_the_run_of_another_user(other: Peer) -> None:
    """A socket outlives its process, whose pid may be another's by then; or the process becomes
    another user's by a set-uid program. Its messages say what they like."""
    play = scene("allow app=/usr/bin/curl")
    run(play, "lte", peer=ROOT)
    run(play, "wifi", peer=other)
    assert goes_over_lte(play)
    run(play, "wifi", start=2000)  # as the daemon reads it: the process before it is gone
    assert not goes_over_lte(play)
    play.exits(100)
    assert len(play.pipeline.ways._of_user) == 1


def test_a_run_within_a_run_of_roots_stays_in_it_and_within_ones_own_does_not() -> None:
    inner, outer = Ancestor(50, process().app), Ancestor(100, process().app)
    child = structs.replace(process(), ancestors=(inner, outer))
    for peer, expected in ((ROOT, True), (ALICE, False)):
        play = scene("allow app=/usr/bin/curl")
        run(play, "lte", 100, peer)
        run(play, "wifi", 50, ALICE)
        assert goes_over_lte(play, owner(child)) is expected


def test_a_process_that_got_the_pid_of_a_run_is_not_in_it() -> None:
    play = scene("allow app=/usr/bin/curl")
    run(play, "lte", 4242, start=1)
    assert not goes_over_lte(play)
    run(play, "lte", 4242)
    assert goes_over_lte(play)


def test_runs_of_a_user_are_bounded_and_make_room_as_they_end() -> None:
    play = scene()
    for pid in range(1, MAX_RUNS + 1):
        run(play, "lte", pid) >> WatchProcess(pid, pid * 10) >> Reply
    run(play, "lte", 5000)
    assert play.take(Refuse).message.reason is protocol.RefusedReason.BUSY
    run(play, "wifi", 7) >> Reply  # known already
    run(play, "lte", 5001, BOB) >> WatchProcess >> Reply
    play.exits(7)
    run(play, "lte", 5000) >> WatchProcess >> Reply
    play.end()


def test_what_a_link_costs_is_asked_of_the_link_of_the_run() -> None:
    play = scene("deny app=/usr/bin/curl metered=yes", "allow app=/usr/bin/curl")
    run(play, "lte").skip()
    play.queue(1, outdev=WIFI) >> FindOwner >> verdict(1, DENIED) >> Report
    run(play, "wifi").skip()
    play.queue(2, outdev=LTE, sport=2) >> FindOwner
    assert play.take(SetVerdict).verdict.mark == MARK_DECIDED | 1 << 24
    play.links(wifi()).skip()
    run(play, "wifi").skip()
    play.links().skip()
    play.queue(3, outdev=LTE, sport=3) >> FindOwner >> verdict(3, DENIED)


# --- commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("month", ["0000-01", "9999-12", "2026-13", "2026-7", "x"])
def test_a_month_that_is_none_is_said_without_a_traceback(month: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(usage, ["--month", month, "--db", str(tmp_path / "none.db")])
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert "is no month" in done.output


# --- what a person reads ----------------------------------------------------------------------


def views(count: int) -> tuple[LinkView, ...]:
    words: dict[str, Any] = {
        "metered": True,
        "roaming": True,
        "price": "0.02 EUR/MB",
        "budget": "500 MB/month",
    }
    return tuple(
        LinkView(f"link{n}", True, default=n == 1, left=23_000_000, used=12_000_000, **words)
        for n in range(count)
    )


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (60, 14), (40, 16)])
@pytest.mark.parametrize("count", [1, 2, 5, 9, 31])
def test_whoever_chooses_a_link_sees_all_digits_the_rule_and_the_keys(
    width: int, height: int, count: int
) -> None:
    machine = Machine()
    machine.event(example_ask(7, links=views(count)), 0)
    machine.drawn(0)
    machine.key("r", 1)
    screen = draw(machine, width, height, 1)
    text = " ".join("".join(part for part, _ in line) for line in screen.lines)
    names = [f"{n + 1} link{n}" for n in range(min(count, 9))]
    assert all(name in " ".join(text.split()) for name in [*names, "0 any"])
    assert "route via=" in text
    assert "Esc back" in text


@pytest.mark.parametrize(
    "change",
    [{"default": False}, {"metered": False}, {"roaming": False}, {"price": "9.99 EUR/MB"}],
)
def test_another_price_of_allow_is_another_question(change: dict[str, Any]) -> None:
    machine = Machine()
    first, second = views(2)
    ask = example_ask(7, links=(first, second))
    machine.event(ask, 0)
    machine.drawn(0)
    machine.event(structs.replace(ask, links=(first, structs.replace(second, **change))), 1)
    machine.drawn(1)
    assert [type(out) for out in machine.key("a", 1.1)] == [], "the key came before it was read"
    assert [type(out) for out in machine.key("a", 2)] == [Send]


def test_what_grows_by_itself_is_no_other_question() -> None:
    machine = Machine()
    (link,) = views(1)
    ask = example_ask(7, links=(link,))
    machine.event(ask, 0)
    machine.drawn(0)
    machine.event(structs.replace(ask, links=(structs.replace(link, used=1, left=2),)), 1)
    machine.drawn(1)
    assert [type(out) for out in machine.key("a", 1.1)] == [Send]


def test_what_a_modem_says_reaches_no_terminal_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = "\udcff\u202e\x9b2J\x1b]0;"
    made = found(networks=(f"ssid:{nasty}",), operator=nasty, apn=nasty)
    show_json([link_object(structs.replace(made, interface=nasty), Money(tmp_path / "none"))])
    out = capsys.readouterr().out
    assert out == "\n".join(protocol.clean(line) for line in out.split("\n"))
    assert json.loads(out)[0]["name"] == "lte"


# --- what mutants showed ----------------------------------------------------------------------


def made(*links: Link) -> Ways:
    ways = Ways()
    ways.change(links)
    return ways


def spent(then: OverBudget) -> Spent:
    return Spent(500.0, then, "600 MB of 500 MB/month used")


def test_an_interface_that_nobody_knows_is_no_link() -> None:
    assert made(Link("wifi", 1, "wlan0")).default(packet(1)) is None


def test_who_carries_a_packet_is_its_marks_link_or_the_default_one() -> None:
    ways, wanted = made(wifi(), lte()), packet(1, outdev=WIFI)
    assert ways.used(wanted, 2) == lte()
    assert ways.used(wanted, 0) == wifi()
    assert ways.used(wanted, 9) is None
    assert ways.used(packet(1, outdev=77), 0) is None


def test_a_context_is_that_of_the_default_link_or_of_the_runs() -> None:
    ways = made(wifi(roaming=False), lte(roaming=True))
    for outdev, metered, roaming in ((WIFI, False, False), (LTE, True, True), (77, None, None)):
        context = ways.context(packet(1, outdev=outdev))
        assert (context.metered, context.roaming) == (metered, roaming)
    over = ways.context(packet(1, outdev=WIFI), Run((1, 1), 0, "lte"))
    assert (over.metered, over.roaming) == (True, True)
    gone = ways.context(packet(1, outdev=WIFI), Run((1, 1), 0, "vpn"))
    assert (gone.metered, gone.roaming) == (None, None)
    assert 77 not in ways._contexts, "there may be any number of interfaces"


def test_any_takes_the_default_route_whatever_its_link_carries() -> None:
    ways = made(wifi(up6=False))
    way = ways.take(Decision(Action.ROUTE, ("any",)), packet(1, SERVER6, outdev=WIFI), 0.0)
    assert way.verdict == ACCEPTED


def test_what_is_open_already_no_budget_cuts_and_what_a_file_denies_nobody_allows() -> None:
    ways = made(lte(spent=spent(OverBudget.DENY)))
    wanted = packet(1, outdev=LTE)
    assert ways.take(ALLOW, wanted, NEVER).verdict == ACCEPTED
    assert ways.take(ALLOW, wanted, JUST_NOW).verdict == DENIED


def test_a_decision_of_the_very_second_knows_the_budget() -> None:
    way = made(lte(spent=spent(OverBudget.ASK))).take(ALLOW, packet(1, outdev=LTE), 500.0)
    assert (way.verdict, way.note) == (ACCEPTED, "600 MB of 500 MB/month used")


def test_a_run_over_a_link_of_unknown_cost_is_of_no_class() -> None:
    for word in ("metered", "unmetered"):
        route = Decision(Action.ROUTE, (word,))
        way = made(lte(), wifi()).take(route, packet(1), 0.0, Run((1, 1), 0, "lte"))
        assert (way.verdict == DENIED) is (word == "unmetered")
        unknown = structs.replace(lte(), metered=None)
        assert made(unknown).take(route, packet(1), 0.0, Run((1, 1), 0, "lte")).verdict == DENIED
        assert "another link" in made(unknown).take(route, packet(1), 0, RUN_LTE).note


RUN_LTE = Run((1, 1), 0, "lte")


def test_silence_does_not_pay_for_a_budget() -> None:
    play = scene(links=(lte(spent=spent(OverBudget.ASK)),), fallback="allow")
    play.queue(1, outdev=LTE).skip().wait(31) >> verdict(1, DENIED)
    assert "over its budget" in play.take(Report).note


@pytest.mark.parametrize("down", LinkDown)
def test_while_it_stops_nothing_waits_and_nothing_strict_leaves(down: LinkDown) -> None:
    play = scene(
        "route via=lte app=/usr/bin/curl",
        links=(wifi(), lte(up=False)),
        link_down=down,
        when_absent="pass",
    )
    play.stop().skip()
    play.queue(1, outdev=WIFI) >> FindOwner >> verdict(1, DENIED) >> Report >> Notify
    play.queue(2, owner(process("/usr/bin/wget")), sport=2) >> FindOwner >> verdict(2, ACCEPTED)


STRICT = "route via=lte app=/usr/bin/curl"


def asked(*rules: str, **more: Any) -> Playbook:
    """lte is down, and people are asked about it."""
    links = (wifi(), lte(up=False))
    return scene(*rules, links=links, link_down=LinkDown.ASK, fallback="allow", **more)


def test_with_nobody_to_ask_a_strict_flow_stays() -> None:
    play = asked(STRICT, when_unattended="fallback")
    play.prompts().skip()
    play.queue(1, outdev=WIFI)
    assert play.all(SetVerdict) == [verdict(1, DENIED)]


def test_with_too_many_asks_a_strict_flow_stays() -> None:
    play = asked(STRICT, asks_per_app=1)
    play.queue(1, outdev=WIFI).queue(2, outdev=WIFI, dport=80)
    assert play.all(SetVerdict) == [verdict(2, DENIED)]


def test_a_rule_over_a_link_that_is_down_refuses_what_was_asked_about() -> None:
    play = scene(links=(wifi(), lte(up=False)))
    play.queue(1, outdev=WIFI).skip()
    play.rules(STRICT) >> verdict(1, DENIED) >> Report >> WithdrawAsk
    play.end()


def test_a_rule_made_while_an_answer_is_stored_decides_though_its_link_is_down() -> None:
    play = scene(links=(wifi(), lte(up=False)))
    play.store = False
    play.queue(1, outdev=WIFI).skip()
    play.answer(1, "allow", lifetime="forever", scope="app") >> Remember
    play.rules("route via=lte app=/usr/bin/curl host=198.51.100.10").skip()
    play.stored() >> verdict(1, DENIED) >> Report >> Announce


def test_a_stale_ask_about_a_link_stays_open_until_the_link_is_back() -> None:
    play = asked(STRICT)
    play.queue(1, outdev=WIFI).wait(31).skip()
    play.rules("allow app=/usr/bin/ssh")
    assert not play.all(WithdrawAsk)
    play.links(wifi(), lte())
    assert len(play.all(WithdrawAsk)) == 1


def test_an_answer_over_a_link_that_is_down_is_taken_where_that_was_not_the_question() -> None:
    play = asked()
    play.queue(1, outdev=WIFI).skip()
    play.answer(1, "route", via=("lte",), lifetime="forever") >> Remember


def test_a_rule_that_was_only_tried_is_not_in_force() -> None:
    play = asked(STRICT)
    play.queue(1, outdev=WIFI).skip()
    for scope in ("host", "app"):
        play.answer(1, "route", via=("lte",), lifetime="forever", scope=scope) >> Refuse
    assert len(play.pipeline.rules.index) == 1


def test_silence_is_that_of_the_link_of_the_run() -> None:
    play = scene(links=(wifi(), lte(spent=spent(OverBudget.ASK))), fallback="allow")
    run(play, "lte").skip()
    play.queue(1, outdev=WIFI).skip()
    ask = play.pipeline.asks.get(1)
    assert ask is not None
    assert ask.fallback == DENY
