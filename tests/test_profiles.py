"""Which profile is active: only a known network switches it, always the same way, and aloud."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from linkscene import WIFI, lte, wifi
from playbook import START, Playbook, owner, process, verdict
from rule_strategies import UNHURRIED

from arbiter.events import (
    Announce,
    FindOwner,
    KeepProfile,
    LinksChanged,
    Notify,
    ProfilesRead,
    Report,
    SetVerdict,
    ShowAsk,
    WatchProcess,
    WithdrawAsk,
)
from arbiter.model import ACCEPTED, DENIED, Link
from arbiter.profiles import (
    Book,
    Profile,
    Standing,
    Switch,
    look,
    read_bound,
    shown,
    undoable,
    word,
)
from arbiter.rules import RuleError
from arbiter.rules.words import quote

MAC = "gateway:02:00:5e:10:00:0a"
HOME, OFFICE, CAFE, SIM = "ssid:Home", "ssid:Office", "ssid:cafe", "sim:89430123456789012345"
BOUND = {HOME: "home", MAC: "home", OFFICE: "office", SIM: "travel"}


def on(*networks: str, name: str = "wifi", up: bool = True, finding: bool = False) -> Link:
    return Link(name, 1, name, up=up, networks=networks, finding=finding)


NOTHING = Standing()

# --- the core -------------------------------------------------------------------------------

LOOKS: list[tuple[str, Standing, list[Link], Standing, str]] = [
    ("comes home", Standing(), [on(HOME)], Standing("home", "home"), "on ssid:Home"),
    ("is home", Standing("home", "home"), [on(HOME)], Standing("home", "home"), ""),
    ("by its gateway", Standing("home", "home"), [on(MAC)], Standing("home", "home"), ""),
    ("unknown", Standing("home", "home"), [on(CAFE)], Standing("home", "home"), ""),
    ("off", Standing("home", "home"), [], Standing("home", "home"), ""),
    ("down", Standing(), [on(HOME, up=False)], Standing(), ""),
    ("chosen, and home", Standing("travel", "home"), [on(HOME)], Standing("travel", "home"), ""),
    ("chosen, and off", Standing("travel", "home"), [on(CAFE)], Standing("travel", "home"), ""),
    ("chosen before", Standing("home", ""), [on(HOME)], Standing("home", "home"), ""),
    ("chosen just now", Standing("travel", None), [on(HOME)], Standing("travel", "home"), ""),
    ("chosen nowhere", Standing("travel", None), [on(CAFE)], Standing("travel", ""), ""),
    (
        *("the default link first", Standing(), [on(HOME), on(SIM, name="lte")]),
        *(Standing("home", "home"), "on ssid:Home, which comes before sim:…12345 of travel"),
    ),
    (
        *("the other link first", Standing("home", "home"), [on(SIM, name="lte"), on(HOME)]),
        *(Standing("travel", "travel"), "on sim:…12345, which comes before ssid:Home of home"),
    ),
    (
        *("a known one behind", Standing("home", "home"), [on(CAFE), on(SIM, name="lte")]),
        *(Standing("travel", "travel"), "on sim:…12345"),
    ),
    (
        *("to the office", Standing("home", "home"), [on(OFFICE)]),
        *(Standing("office", "office"), "on ssid:Office"),
    ),
    (
        *("silent for a moment", Standing("home", "home")),
        *([on(finding=True), on(SIM, name="lte")], Standing("home", "home"), ""),
    ),
    (
        *("silent, and down", Standing("home", "home")),
        *([on(finding=True, up=False), on(SIM, name="lte")], Standing("travel", "travel")),
        "on sim:…12345",
    ),
    (
        *("silent, and known otherwise", Standing()),
        *([on(HOME, finding=True), on(SIM, name="lte")], Standing("home", "home")),
        "on ssid:Home, which comes before sim:…12345 of travel",
    ),
    (
        *("silent behind", Standing("home", "home")),
        *([on(SIM, name="lte"), on(finding=True)], Standing("travel", "travel"), "on sim:…12345"),
    ),
    (
        *("chosen, and nobody knows where yet", Standing("travel", None)),
        *([on(finding=True), on(SIM, name="lte")], Standing("travel", None), ""),
    ),
    (
        *("two of one profile", Standing(), [on(MAC, HOME)]),
        *(Standing("home", "home"), f"on {MAC}"),
    ),
]


@pytest.mark.parametrize(
    ("before", "links", "after", "why"),
    [row[1:] for row in LOOKS],
    ids=[row[0] for row in LOOKS],
)
def test_what_follows_from_the_links(
    before: Standing, links: list[Link], after: Standing, why: str
) -> None:
    found = look(BOUND, before, links)
    assert (found.standing, found.why) == (after, why)


networks = st.sampled_from([HOME, MAC, OFFICE, SIM, CAFE, "ssid:other", "sim:8900000000000000000"])
links = st.lists(
    st.builds(
        lambda up, finding, of: on(*of, up=up, finding=finding),
        *(st.booleans(), st.booleans(), st.lists(networks)),
    )
)
bounds = st.dictionaries(networks, st.sampled_from(["home", "office", "travel"]))
standings = st.builds(
    Standing,
    st.sampled_from(["", "home", "office", "travel", "gone"]),
    st.sampled_from([None, "", "home", "office", "travel", "gone"]),
)


@UNHURRIED
@given(bounds, standings, links)
def test_an_unknown_network_and_none_never_switch(
    bound: dict[str, str], before: Standing, links: list[Link]
) -> None:
    unknown = [
        Link(x.name, x.number, x.interface, up=x.up and not set(x.networks) & set(bound))
        for x in links
    ]
    found = look(bound, before, unknown)
    assert (found.standing.active, found.why) == (before.active, "")
    assert found.standing.place in (before.place, before.place or "")


@UNHURRIED
@given(bounds, standings, links)
def test_looking_twice_is_looking_once_and_the_first_known_network_says(
    bound: dict[str, str], before: Standing, links: list[Link]
) -> None:
    found = look(bound, before, links)
    again = look(bound, found.standing, links)
    assert (again.standing, again.why) == (found.standing, "")
    assert look(bound, before, links) == found
    assert bool(found.why) == (found.standing.active != before.active)
    if found.why:
        here = [n for x in links if x.up for n in x.networks if n in bound]
        assert found.standing == Standing(bound[here[0]], bound[here[0]])
        assert before.place is not None
        assert before.place != bound[here[0]]


@UNHURRIED
@given(bounds, st.sampled_from(["", "home", "office", "travel"]), st.lists(links, max_size=6))
def test_what_was_chosen_holds_until_another_profiles_network_comes(
    bound: dict[str, str], chosen: str, looks: list[list[Link]]
) -> None:
    standing = Standing(chosen, None)
    places: list[str] = []
    for each in looks:
        known = [on(*x.networks, up=x.up) for x in each]  # sooner or later
        here = [bound[n] for x in known if x.up for n in x.networks if n in bound]
        if here:
            places.append(here[0])
        elif standing.place is None:
            places.append("")
        standing = look(bound, standing, known).standing
        if len(set(places)) <= 1:
            assert standing.active == chosen
        else:
            assert standing.active == places[-1]


def test_a_sim_is_told_by_its_end_and_hostile_names_are_harmless() -> None:
    assert shown(SIM) == "sim:…12345"
    assert shown("ssid:a\x1b[2J\u202eb") == r'"ssid:a\x1b[2J\u{202e}b"'
    assert (word(""), word("home")) == ("none", "home")


@pytest.mark.parametrize("network", [HOME, MAC, SIM, 'ssid:"a b"#', "ssid:\udcff", "ssid:\n"])
def test_a_network_survives_as_text(network: str) -> None:
    assert read_bound(quote(network)) == network


@pytest.mark.parametrize("text", ["", "ssid:", "x", "ssid:a port=1", '"ssid:a"', "ssid:a #", "\0"])
def test_a_text_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(RuleError):
        read_bound(text)


def switch(id: int, before: str, after: str, why: str = "chosen", **more: Any) -> Switch:
    return Switch(id, float(id), before, after, why, "alice", 1000, "cli", **more)


def test_undo_goes_back_switch_by_switch() -> None:
    one, two = switch(1, "", "home"), switch(2, "home", "travel")
    assert undoable([]) is None
    assert undoable([one, two]) == two
    taken = switch(2, "home", "travel", undone=True)
    back = switch(3, "travel", "home", undoes=2)
    assert undoable([one, taken, back]) == one
    assert undoable([one, taken, back, switch(4, "home", "office")]) == switch(4, "home", "office")


# --- scenes ---------------------------------------------------------------------------------

BOOK = (Profile("home", (MAC, HOME)), Profile("office", (OFFICE,)), Profile("travel", (SIM,)))
TWO = ("allow app=/usr/bin/curl profile=home", "deny app=/usr/bin/curl profile=travel")
BACK = "; `arbiter profiles undo` goes back"


def read(
    play: Playbook,
    standing: Standing = NOTHING,
    last: Switch | None = None,
    profiles: tuple[Profile, ...] = BOOK,
    *,
    back: bool = True,
) -> Playbook:
    return play.send(ProfilesRead(play.now, Book(profiles, standing, last, back=back)))


def moving(*rules: str, standing: Standing = NOTHING, **settings: Any) -> Playbook:
    """At the café, over wifi; lte is there, without a SIM that is bound."""
    play = Playbook(*rules, **settings)
    read(play, standing)
    play.links(wifi(networks=(CAFE,)), lte())
    return play.skip()


def test_coming_home_switches_is_kept_and_told_and_decides_by_other_rules() -> None:
    play = moving(*TWO)
    play.links(wifi(networks=(HOME,)), lte())
    play >> Notify(None, "link wifi is on ssid:Home")
    play >> KeepProfile("", Standing("home", "home"), "on ssid:Home")
    play >> Notify(None, f"profile home: on ssid:Home{BACK}")
    play.queue(1) >> FindOwner >> verdict(1, ACCEPTED) >> Report
    play.links(lte(networks=(SIM,)))
    assert [e.standing for e in play.all(KeepProfile)] == [Standing("travel", "travel")]
    play.queue(2) >> FindOwner >> verdict(2, DENIED)
    assert play.take(Report).context.profile == "travel"
    play.end()


def test_an_unknown_network_and_being_off_switch_nothing_and_say_nothing() -> None:
    play = moving(standing=Standing("home", "home"))
    for links in ((wifi(networks=("ssid:airport",)),), (), (lte(),), (wifi(up=False),)):
        play.links(*links)
        assert not [n for n in play.effects if isinstance(n, KeepProfile)]
        assert not [n for n in play.all(Notify) if "profile" in n.text]
        assert play.pipeline.profiles.active == "home"


def test_a_restart_on_the_same_network_switches_nothing_and_says_nothing() -> None:
    play = Playbook(*TWO)
    read(play, Standing("travel", "home"), switch(1, "home", "travel"))
    play.end()
    play.links(wifi(networks=(HOME,)))
    play.end()
    play.queue(1) >> FindOwner >> verdict(1, DENIED) >> Report
    play.end()


def test_a_restart_on_another_known_network_switches() -> None:
    play = Playbook(*TWO)
    read(play, Standing("travel", "office"))
    play.links(wifi(networks=(HOME,)))
    play >> KeepProfile("travel", Standing("home", "home"), "on ssid:Home") >> Notify
    play.end()


def test_what_waits_is_tried_again_and_asks_are_withdrawn() -> None:
    play = moving("allow app=/usr/bin/curl profile=home")
    play.queue(1) >> FindOwner >> WatchProcess >> ShowAsk
    play.queue(2, owner(process("/usr/bin/wget", 7))) >> FindOwner >> WatchProcess >> ShowAsk
    play.links(wifi(networks=(HOME,)), lte())
    play >> Notify >> KeepProfile >> Notify
    play >> verdict(1, ACCEPTED) >> Report >> WithdrawAsk >> ShowAsk(2)
    play.end()


def test_what_a_person_chose_holds_here_and_is_told() -> None:
    play = moving(*TWO, standing=Standing("home", "home"))
    play.links(wifi(networks=(HOME,)))
    play.skip().queue(9, outdev=WIFI) >> FindOwner >> verdict(9, ACCEPTED) >> Report
    read(play, Standing("travel", None), switch(2, "home", "travel"))
    play >> Notify(None, f"profile travel: chosen by alice{BACK}")
    play >> KeepProfile("travel", Standing("travel", "home"), "")
    play.end()
    play.queue(1) >> FindOwner >> verdict(1, DENIED) >> Report
    play.queue(2, outdev=WIFI) >> FindOwner >> verdict(2, DENIED) >> Report
    for links in ((), (wifi(networks=(CAFE,)),), (wifi(networks=(MAC, HOME)),)):
        play.links(*links)
        assert play.pipeline.profiles.active == "travel"
    play.links(wifi(networks=(OFFICE,)))
    assert play.pipeline.profiles.active == "office"


def test_what_the_store_says_of_people_is_harmless() -> None:
    play = moving()
    hostile = Switch(1, 1.0, "", "travel", "chosen\x1b[2J", "al\u202eice", 1000, "cli")
    read(play, Standing("travel", None), hostile)
    assert play.take(Notify).text == f"profile travel: chosen\ufffd[2J by al\ufffdice{BACK}"


def test_what_is_chosen_before_the_links_are_known_waits_for_them() -> None:
    play = Playbook()
    read(play, Standing("travel", None))
    play.end()
    play.links(wifi(networks=(HOME,)))
    play >> KeepProfile("travel", Standing("travel", "home"), "")
    play.end()


def test_the_same_word_again_is_no_news_and_a_network_bound_here_counts_at_once() -> None:
    play = moving(*TWO)
    read(play).end()
    here = (Profile("home", (CAFE,)),)
    read(play, profiles=here)
    play >> KeepProfile("", Standing("home", "home"), "on ssid:cafe") >> Notify
    play.end()
    read(play, Standing("home", "home"), profiles=here).end()
    read(
        *(play, Standing("", ""), switch(3, "home", "", why="it was removed")),
        profiles=(),
        back=False,
    )
    play >> Notify(None, "no profile is active: it was removed by alice")
    play.end()


def test_an_ask_shows_the_profile_and_is_sent_again_when_it_changes() -> None:
    play = moving()
    play.queue(1) >> FindOwner >> WatchProcess >> ShowAsk
    read(play, Standing("travel", None), switch(1, "", "travel"))
    play >> Notify >> KeepProfile >> ShowAsk(1)
    play.end()


def test_what_is_allowed_goes_on_nothing_takes_a_verdict_back() -> None:
    play = moving(*TWO, standing=Standing("home", "home"))
    play.queue(1) >> FindOwner >> verdict(1, ACCEPTED) >> Report
    play.links(lte(networks=(SIM,)))
    assert play.pipeline.profiles.active == "travel"
    assert not play.all(SetVerdict)


def test_a_rule_made_by_an_answer_holds_in_every_profile() -> None:
    play = moving()
    play.queue(1) >> FindOwner >> WatchProcess >> ShowAsk
    play.answer(1, "allow", scope="app", lifetime="forever")
    assert play.all(Announce)[0].message.rule == "allow app=/usr/bin/curl user=alice"
    play.links(lte(networks=(SIM,)))
    play.skip().queue(2) >> FindOwner >> verdict(2, ACCEPTED) >> Report
    play.end()


@UNHURRIED
@given(st.lists(links | standings, max_size=8))
@example([Standing("home", None), [on(HOME)]])
def test_the_active_profile_is_what_was_kept_last(steps: list[list[Link] | Standing]) -> None:
    """Whatever comes: who replays what was written down and chosen has the same active profile, and
    the rules are held against it."""
    play, kept = Playbook(), ""
    read(play)
    for step in steps:
        if isinstance(step, Standing):
            kept = step.active
            read(play, step)
        else:
            play.send(LinksChanged(START, tuple(step)))
        for effect in play.all(KeepProfile):
            assert effect.before == kept
            kept = effect.standing.active
            assert effect.standing == play.pipeline.profiles.standing
        assert play.pipeline.profiles.active == kept
        assert play.pipeline.ways._here.profile == kept  # what `network=` is held against, too
