"""The keys of `arbiter rules review`, without a terminal; and what others do meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from reviewscene import CURL, DEB, DNS, FIREFOX, WWW, Scene, record

from arbiter.cli.reviewstate import Mark
from arbiter.cli.reviewterminal import summary
from arbiter.rules import Entry, Layer, parse


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "s.db")


# --- keys -----------------------------------------------------------------------------------


def test_allow_keeps_exactly_what_is_shown_and_goes_on(scene: Scene) -> None:
    assert f"rule   {DEB}" in scene.screen()
    scene.press("a")
    assert scene.kept == [[DEB]]
    assert scene.here == "allow host=www.debian.org port=443 proto=tcp"
    assert "  + allow host=deb.debian.org" in scene.screen()


def test_deny_keeps_the_same_rule_with_deny(scene: Scene) -> None:
    scene.press("d")
    assert scene.kept == [[DEB.replace("allow", "deny")]]
    assert "  x deny host=deb.debian.org" in scene.screen()


def test_wider_is_shown_and_only_kept_by_allow(scene: Scene) -> None:
    scene.press("w")
    assert scene.kept == []
    assert "it matches 38 of this program's 41 connections" in " ".join(scene.screen().split())
    scene.press("wwwn")
    assert scene.here == "allow port=443 proto=tcp"
    scene.press("nn")
    assert scene.here == "allow host=deb.debian.org port=443 proto=tcp"
    scene.press("n")
    assert "the narrowest" in scene.screen()


def test_what_a_wider_rule_covers_is_not_asked_again(scene: Scene) -> None:
    scene.press("wa")
    assert scene.kept == [[DEB.replace("host=deb.", "host=*.")]]
    assert scene.here == "allow host=192.168.1.1 port=53 proto=udp"
    assert "  = allow host=www.debian.org" in scene.screen()
    scene.press("bb").press("s")
    assert scene.kept[1] == ["- 1"]
    assert scene.review.count(Mark.COVERED) == 0, "its rule is gone"
    scene.press("n").press("a")
    assert scene.here == "allow host=www.debian.org port=443 proto=tcp"


@pytest.mark.parametrize("key", ["enter", "space", "esc", "several", "y", "x", "7", "é", "W", "D"])
def test_no_other_key_decides_anything(scene: Scene, key: str) -> None:
    before = scene.here
    assert scene.review.key(key) is None
    assert (scene.kept, scene.here) == ([], before)
    assert scene.review.message
    assert scene.review.message in scene.screen()


def test_all_of_a_program_is_allowed_in_one_step_but_for_what_is_settled(scene: Scene) -> None:
    scene.press("sA")
    assert scene.kept == [[WWW, DNS]]
    assert scene.review.card.program.app == FIREFOX
    assert scene.review.count(Mark.SKIPPED) == 1


def test_all_at_once_keeps_one_rule_where_two_were_widened_to_the_same(scene: Scene) -> None:
    scene.press("w")
    scene.review.item_at = 1
    scene.press("wA")
    assert scene.kept == [[DEB.replace("host=deb.", "host=*."), DNS]]
    assert [item.made and item.made[0] for item in scene.review.cards[0].items] == [1, 1, 2]


def test_a_rule_that_is_made_is_not_changed_unseen(scene: Scene) -> None:
    scene.press("abdwna")
    assert scene.kept == [[DEB]]
    assert "s takes it back" in scene.screen()


def test_back_goes_over_programs_and_stops_at_the_first(scene: Scene) -> None:
    scene.press("sss")
    assert scene.review.card.program.app == FIREFOX
    scene.press("b")
    assert scene.review.card.program.app == CURL
    scene.press("bbb")
    assert "this is the first" in scene.screen()


def test_after_the_last_it_goes_to_what_was_left_open(scene: Scene) -> None:
    scene.review.card_at = 2
    scene.press("s")
    assert scene.review.card.program.app == CURL


def test_at_the_end_it_waits_for_q(scene: Scene) -> None:
    scene.press("AAs")
    assert not scene.quit
    assert "every proposal is decided or skipped" in scene.screen()
    assert scene.press("q").quit
    assert summary(scene.review) == (
        "4 allowed, 0 denied, 1 skipped; 0 proposals left; "
        "`arbiter rules undo` takes the last step back"
    )


def test_help_names_every_key_and_any_key_leaves_it(scene: Scene) -> None:
    text = scene.press("?").screen()
    for key in "adwnsbAq":
        assert f"\n{key}   " in f"\n{text}"
    scene.press("a")
    assert scene.kept == []
    assert "rule   " in scene.screen()


def test_a_denial_that_would_no_longer_decide_is_shown(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "s.db", denying="deny host=*.ads.example")
    assert "before" not in scene.screen(), "deb.debian.org is narrower, and is no such name"
    assert "before" not in scene.press("w").screen(), "*.debian.org is another domain"
    assert "before rule 9: deny host=*.ads.example" in scene.press("w").screen()
    same = Scene(tmp_path / "u.db", denying="deny host=*.debian.org")
    assert "before" not in same.screen(), "what is no wider than what was seen takes nothing"
    assert "before rule 9" in same.press("w").screen()
    other = Scene(tmp_path / "t.db", denying=f"deny app={CURL} host=192.168.1.0/24")
    assert "before" not in other.press("ww").screen(), "it is the narrower one, and stays"


def test_rules_for_every_program_are_never_allowed_all_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "s.db", record("", "192.0.2.5", 51820, proto="udp"))
    assert "these rules hold for every program" in scene.screen()
    assert scene.press("A").kept == []
    assert "one by one" in scene.screen()


# --- what others do meanwhile -----------------------------------------------------------------


def entry(id: int, line: str) -> Entry:
    return Entry(id, parse(line), Layer.REMEMBERED, 1.0, "bob")


def test_what_was_undone_elsewhere_is_open_again(scene: Scene) -> None:
    scene.press("A")
    scene.review.changed({1, 3}, [])
    scene.press("bbb")
    assert "  + allow host=www.debian.org" in scene.screen()
    assert "in force" not in scene.screen()
    assert (scene.review.count(Mark.ALLOWED), scene.review.count(Mark.OPEN)) == (1, 4)
    assert summary(scene.review).startswith("1 allowed, 0 denied, 0 skipped; 4 proposals left")


def test_what_was_decided_otherwise_elsewhere_is_shown_so(scene: Scene) -> None:
    scene.press("a")
    scene.review.changed({1}, [entry(7, DEB.replace("allow", "deny"))])
    scene.press("b")
    assert "  x" not in scene.screen() and "> x deny host=deb.debian.org" in scene.screen()
    assert "now    rule 7 is in force" in scene.screen()
    assert scene.review.count(Mark.DENIED) == 1
    scene.press("s")
    assert scene.kept[-1] == ["- 7"]


def test_all_at_once_does_not_overrule_what_another_denied_meanwhile(scene: Scene) -> None:
    scene.review.changed(set(), [entry(7, WWW.replace("allow", "deny"))])
    scene.press("A")
    assert scene.kept == [[DEB, DNS]]


def test_what_is_skipped_stays_so_and_one_process_alone_decides_nothing(scene: Scene) -> None:
    scene.press("s")
    for_one = Entry(8, parse(f"{WWW} for=process"), Layer.REMEMBERED, 1.0, "bob", process=(7, 1))
    scene.review.changed(set(), [entry(7, DEB), for_one])
    assert scene.review.count(Mark.SKIPPED) == 1
    assert scene.review.count(Mark.OPEN) == 4


def test_a_covering_rule_that_went_covers_nothing(scene: Scene) -> None:
    scene.press("wa")
    assert scene.review.count(Mark.COVERED) == 1
    scene.review.changed({1}, [])
    assert scene.review.count(Mark.COVERED) == 0


def test_denials_that_come_and_go_are_told_of(scene: Scene) -> None:
    scene.review.changed(set(), [entry(9, "deny host=*.debian.org")])
    assert "before rule 9" in scene.press("w").screen()
    scene.review.changed({9}, [])
    assert "before" not in scene.screen()
