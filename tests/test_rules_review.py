"""`arbiter rules review`: what it proposes and says, and what its keys do, without a terminal."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from reviewscene import BEGAN, CURL, FIREFOX, record, store_week, week
from rule_strategies import UNHURRIED, texts
from scripted_daemon import example_status

from arbiter.cli import cli
from arbiter.cli.reviewcards import LEAST_WIDTH, draw, short
from arbiter.cli.reviewstate import Card, Keep, Mark, Quit, Review, TakeBack, denials
from arbiter.cli.reviewterminal import summary
from arbiter.cli.status import _lines as status_lines
from arbiter.model import Hook
from arbiter.protocol import clean
from arbiter.records import Record
from arbiter.rules import Entry, Layer, format_rule, parse
from arbiter.rules.propose import MANY_HOSTS, MANY_PORTS, MANY_RULES, propose
from arbiter.rules.seen import Program, Seen, programs
from arbiter.store import Store
from arbiter.store.sightings import Unreadable

ROOT = Path(__file__).parent.parent
SCREENS = ROOT / "fixtures" / "screens" / "review"


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    """Run a command on this test's database, `a.db`, without a terminal."""

    def run(*argv: str) -> Done:
        env = {
            "ARBITER_DB": str(tmp_path / "a.db"),
            "ARBITER_SOCKET": str(tmp_path / "socket"),
            "ARBITER_CONFIG": str(tmp_path),
        }
        done = CliRunner(env=env).invoke(cli, argv, prog_name="arbiter")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(autouse=True)
def one_person(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever has an account on the machine that runs the tests, and wherever it is."""
    with monkeypatch.context() as patch:
        patch.setattr("pwd.getpwall", list)
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


NARROW = {
    f"allow app={CURL} host=deb.debian.org port=443 proto=tcp": 34,
    f"allow app={FIREFOX} host=internet port=443 proto=tcp": 30,
    f"allow app={CURL} host=www.debian.org port=443 proto=tcp": 4,
    f"allow app={CURL} host=192.168.1.1 port=53 proto=udp": 3,
    "allow app=unit:systemd-timesyncd.service host=192.0.2.123 port=123 proto=udp": 1,
}


# --- the lists ------------------------------------------------------------------------------


def test_as_json_each_proposal_has_its_line_and_what_it_covers(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db")
    done = arbiter("rules", "review", "--json")
    found = json.loads(done.out)
    assert {one["line"]: one["covers"] for one in found} == NARROW
    assert found[2] == {
        "app": CURL,
        "users": ["alice"],
        "line": f"allow app={CURL} host=192.168.1.1 port=53 proto=udp",
        "summary": False,
        "covers": 3,
        "refused": 3,
        "first": BEGAN,
        "last": BEGAN + 120,
        "destinations": ["192.168.1.1"],
        "widenings": [
            f"allow app={CURL} host=192.168.1.0/24 port=53 proto=udp",
            f"allow app={CURL} host=lan port=53 proto=udp",
            f"allow app={CURL} port=53 proto=udp",
            f"allow app={CURL}",
        ],
    }
    assert (found[3]["summary"], len(found[3]["destinations"])) == (True, 30)


def test_what_json_proposes_can_be_imported_and_then_nothing_is_left(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", record("/opt/a b\x1b[31m/x", "192.0.2.6", 80))
    found = json.loads(arbiter("rules", "review", "--json").out)
    (tmp_path / "new.rules").write_text("".join(f"{one['line']}\n" for one in found))
    done = arbiter("rules", "import", str(tmp_path / "new.rules"))
    assert done.out.startswith("6 rules added"), done
    done = arbiter("rules", "review")
    assert (done.code, done.err) == (0, "")
    assert "nothing is left to review" in done.out


def test_without_a_terminal_it_is_a_table_and_the_next_step(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db")
    done = arbiter("rules", "review")
    assert done.code == 0
    rows = [line.split(maxsplit=4) for line in done.out.splitlines()[1:]]
    assert {row[4]: int(row[0]) for row in rows} == NARROW
    assert {int(row[1]) for row in rows} == {0, 3}
    assert "arbiter rules import new.rules" in done.err


def test_what_rules_decide_is_not_proposed(arbiter: Callable[..., Done], tmp_path: Path) -> None:
    store_week(tmp_path / "a.db")
    assert arbiter("rules", "add", f"deny app={FIREFOX}").code == 0
    (tmp_path / "policy.d").mkdir()
    policy = f'[[rule]]\ndecision = "allow"\napp = "{CURL}"\nhost = "*.debian.org"\n'
    (tmp_path / "policy.d" / "a.toml").write_text(policy)
    found = json.loads(arbiter("rules", "review", "--json").out)
    assert {one["line"] for one in found} == {line for line in NARROW if "host=192." in line}, (
        "neither what is remembered nor what an administrator's file decides"
    )


def test_a_policy_file_that_cannot_be_read_is_said(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db")
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d" / "a.toml").write_text("x = 1\n")
    done = arbiter("rules", "review", "--json")
    assert done.code == 0
    assert "a.toml" in done.err


def test_rules_for_some_other_time_place_or_group_do_not_count(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db")
    for line in ("network=ssid:Home", "metered=yes", "user=@nobody-has-it", "user=bob"):
        assert arbiter("rules", "add", f"deny app={FIREFOX} {line}").code == 0
    assert len(json.loads(arbiter("rules", "review", "--json").out)) == len(NARROW)


def test_a_rule_for_a_group_decides_for_who_is_in_it(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", record("/b", "192.0.2.5", 80, user="root", uid=0))
    assert arbiter("rules", "add", "allow app=/b user=@root").code == 0
    assert not json.loads(arbiter("rules", "review", "--json", "--app", "/b").out)


@pytest.mark.parametrize(
    ("span", "count"), [("59m", 0), ("61m", 1), ("2h", 1), ("1d", 1), ("2d", 2), ("1w", 2)]
)
def test_a_span_is_counted_back_from_now(
    arbiter: Callable[..., Done], tmp_path: Path, span: str, count: int
) -> None:
    now = time.time()
    with Store.open(tmp_path / "a.db") as store:
        for hours in (1, 25):
            ago = now - 3600 * hours - BEGAN
            store.record([record(f"/app{hours}", "192.0.2.5", 80, at=ago)])
    assert len(json.loads(arbiter("rules", "review", "--json", "--since", span).out)) == count


def test_it_can_be_narrowed_to_an_app_and_a_time(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db")

    def apps(*options: str) -> set[str]:
        found = json.loads(arbiter("rules", "review", "--json", *options).out)
        return {one["app"] for one in found}

    assert apps("--app", CURL) == {CURL}
    assert apps("--since", "2026-11-18T15:00") == {FIREFOX}
    assert apps("--since", "9999-01-01") == set()
    assert apps("--app", "/none") == set()


@pytest.mark.parametrize("text", ["tomorrow", "0d", "7", "2026-13-01", "-1d", "1234567d"])
def test_a_time_that_is_none_is_a_usage_error_with_the_forms(
    arbiter: Callable[..., Done], text: str
) -> None:
    done = arbiter("rules", "review", f"--since={text}")
    assert done.code == 2
    assert "7d" in done.err and "2026-11-19" in done.err


def test_each_destination_by_itself_if_that_is_asked_for(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db")
    found = json.loads(arbiter("rules", "review", "--json", "--each").out)
    assert len(found) == len(NARROW) - 1 + 30
    assert not any(one["summary"] for one in found)


def test_what_no_program_is_known_of_is_proposed_only_if_asked_for(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", *[record("", "192.0.2.5", 51820, proto="udp")] * 7)
    done = arbiter("rules", "review", "--json")
    assert all(" app=" in one["line"] for one in json.loads(done.out))
    assert "of 7 connections nobody knew the program; --no-owner" in done.err
    (only,) = json.loads(arbiter("rules", "review", "--json", "--no-owner").out)
    assert only["line"] == "allow host=192.0.2.5 port=51820 proto=udp"
    assert arbiter("rules", "review", "--no-owner", "--app", CURL).code == 2


def test_with_several_persons_rules_are_for_whom_it_was_seen_of(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", record(CURL, "192.0.2.9", 80, user="bob", uid=1001))
    found = json.loads(arbiter("rules", "review", "--json", "--app", CURL).out)
    assert [" user=alice" in one["line"] for one in found] == [True, True, True, False]
    assert found[3]["line"] == f"allow app={CURL} user=bob host=192.0.2.9 port=80 proto=tcp"
    assert found[3]["widenings"][-1] == f"allow app={CURL}"


def test_what_cannot_be_read_is_counted_and_said(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", *[record("/x", "nowhere", 80)] * 2)
    done = arbiter("rules", "review", "--json")
    assert "2 connections left out: their records are not as arbiter writes them" in done.err
    assert len(json.loads(done.out)) == len(NARROW)


def test_a_path_that_is_not_utf8_can_be_imported(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", record("/opt/\udcff/x", "192.0.2.5", 80))
    found = json.loads(arbiter("rules", "review", "--json").out)
    (line,) = [one["line"] for one in found if "/opt/" in one["line"]]
    assert arbiter("rules", "add", line).code == 0
    assert len(json.loads(arbiter("rules", "review", "--json").out)) == len(found) - 1


@pytest.mark.parametrize("given", ["curl", "/usr/bin/crul", "crul"])
def test_an_app_that_was_never_seen_is_said_with_the_one_that_may_be_meant(
    arbiter: Callable[..., Done], tmp_path: Path, given: str
) -> None:
    store_week(tmp_path / "a.db")
    done = arbiter("rules", "review", "--app", given)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"arbiter: no app is called {given}; did you mean {CURL}?\n"
    done = arbiter("rules", "review", "--app", given, "--json")
    assert (done.code, done.out) == (0, "[]\n")
    assert f"did you mean {CURL}?" in done.err


def test_an_app_like_no_other_is_said_and_one_with_nothing_left_is_none_such(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", record("/opt/\udcff/x", "192.0.2.5", 80))
    done = arbiter("rules", "review", "--app", "zzz\x1b[2J")
    assert done.code == 1 and "\x1b" not in done.err
    assert "; `arbiter rules review` without --app has all" in done.err
    for app in (CURL, "/opt/\udcff/x"):
        done = arbiter("rules", "review", "--app", app, "--since", "9999-01-01")
        assert done.code == 0 and "nothing is left to review" in done.out


def test_names_in_letters_stand_beside_the_rules_but_not_in_json(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    store_week(tmp_path / "a.db", record("/b", "192.0.2.5", 80, "xn--bcher-kva.example"))
    done = arbiter("rules", "review")
    (row,) = [line for line in done.out.splitlines() if "xn--" in line]
    assert row.split("proto=tcp")[0].endswith("host=xn--bcher-kva.example port=80 ")
    assert row.split("proto=tcp")[1].strip() == "bücher.example"
    done = arbiter("rules", "review", "--json")
    assert "host=xn--bcher-kva.example" in done.out and "cher.example" not in done.out
    assert "that is" not in arbiter("rules", "review", "--app", CURL).out, "only where it is needed"


def test_a_missing_database_is_said(arbiter: Callable[..., Done]) -> None:
    done = arbiter("rules", "review")
    assert (done.code, done.out) == (1, "")
    assert "there is no such file" in done.err


# --- keys -----------------------------------------------------------------------------------


class Scene:
    """A review and its store: `press` carries out what a key wants."""

    def __init__(self, path: Path, *records: Record, denying: str = "") -> None:
        self.store = Store.open(path)
        self.store.record(records or week())
        found = self.store.undecided()
        sightings = [one for one in found if not isinstance(one, Unreadable)]
        shown = programs(sightings, lambda _, __: False)
        entries = [Entry(9, parse(denying), Layer.REMEMBERED, 1.0, "bob")] if denying else []
        self.review = Review([Card(p, propose(p)) for p in shown], denials(entries))
        self.kept: list[list[str]] = []
        self.ids = 0
        self.quit = False

    def press(self, keys: str) -> Scene:
        for key in keys:
            effect = self.review.key({"\r": "enter"}.get(key, key))
            if isinstance(effect, Keep):
                self.kept.append([format_rule(rule) for rule in effect.rules])
                self.ids += len(effect.rules)
                self.review.kept(range(self.ids - len(effect.rules) + 1, self.ids + 1))
            elif isinstance(effect, TakeBack):
                self.kept.append([f"- {effect.id}"])
                self.review.taken_back()
            elif isinstance(effect, Quit):
                self.quit = True
        return self

    def screen(self, width: int = 80, height: int = 24) -> str:
        return "\n".join(line.text.rstrip() for line in draw(self.review, width, height))

    @property
    def here(self) -> str:
        return short(self.review.item.rule)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "s.db")


DEB, WWW, DNS = (line for line in NARROW if CURL in line)


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


# --- low terminals and letters ----------------------------------------------------------------


@pytest.mark.parametrize("keys", ["", "a", "ab", "ax", "w", "wa", "sss"])
@pytest.mark.parametrize(("width", "height"), [(40, 12), (40, 14), (40, 16), (80, 12)])
def test_on_a_low_terminal_head_and_rule_stay(
    scene: Scene, keys: str, width: int, height: int
) -> None:
    text = scene.press(keys).screen(width, height)
    assert len(text.splitlines()) < height
    assert text.startswith(f"-- program {scene.review.card_at + 1} of 3 ")
    assert scene.review.card.program.app in text.splitlines()[1]
    words = " ".join(text.split())
    if keys != "w" or height > 14:  # else what a wider rule is warned of needs the room
        assert "user alice; " in words and "connections to " in words
        assert "> " in text or (keys, height) == ("ab", 12)
    assert ("it matches 38 of this program's 41 connections" in words) == (keys == "w")
    assert format_rule(scene.review.item.rule) in words
    assert scene.review.message[:20] in words
    assert "a allow" in words and "? help" in words


def test_a_card_has_the_name_in_letters_unless_they_deceive(tmp_path: Path) -> None:
    seen = record(CURL, "192.0.2.5", 80, "xn--bcher-kva.example")
    text = Scene(tmp_path / "a.db", seen).screen()
    assert "host=xn--bcher-kva.example port=80" in text and "\n       (bücher.example)\n" in text
    twin = record(CURL, "192.0.2.5", 80, "xn--80ak6aa92e.com")
    assert "(" not in Scene(tmp_path / "b.db", twin).screen().partition("rule   ")[2]


# --- status ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "counters", "said"),
    [
        ("observe", {"by_observe": 412}, "412 let go"),
        ("observe", {}, "0 let go"),
        ("ask", {"by_deadline": 3, "by_unattended": 4, "by_rule": 9}, "7 without an answer"),
        ("enforce", {"by_enforce": 2}, "2 without an answer"),
        ("ask", {"by_rule": 9, "by_answer": 1, "by_older": 2, "by_undecodable": 1}, ""),
    ],
)
def test_status_says_what_there_is_to_review_and_how(
    mode: str, counters: dict[str, int], said: str
) -> None:
    status = msgspec.structs.replace(example_status(), mode=mode, counters=counters)
    shown = dict(status_lines(status)).get("undecided", "")
    assert shown == (f"{said}; `arbiter rules review` proposes rules for them" if said else "")


# --- docs -----------------------------------------------------------------------------------


def test_the_docs_name_every_key_every_json_key_and_every_threshold(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "learning.md").read_text()
    for key in "adwnsbAq?":
        assert re.search(rf"^\|.*`{re.escape(key)}`.*\|", text, re.MULTILINE), key
    store_week(tmp_path / "a.db")
    for name in json.loads(arbiter("rules", "review", "--json").out)[0]:
        assert f"`{name}`" in text, name
    said = " ".join(text.split())
    assert f"more than {MANY_HOSTS} destinations" in said
    assert f"more than {MANY_RULES} rules" in said.replace("still more", "more")
    assert f"more than {MANY_PORTS} ports" in said


# --- screens --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "width", "height"),
    [
        ("review", "", 80, 24),
        ("review-wider", "wa", 80, 24),
        ("review-sum", "sssw", 80, 24),
        ("review-narrow", "a", 40, 16),
        ("review-help", "?", 80, 24),
    ],
)
def test_screens_look_as_drawn(scene: Scene, name: str, keys: str, width: int, height: int) -> None:
    shown = scene.press(keys).screen(width, height) + "\n"
    path = SCREENS / f"{name}.txt"
    if os.environ.get("ARBITER_WRITE_SCREENS"):
        path.write_text(shown)
    assert path.read_text() == shown, "look at it, then run with ARBITER_WRITE_SCREENS=1"


hostile = texts | st.just("\x1b[2J\u202e")
sights = st.builds(
    Seen,
    daddr=st.binary(min_size=4, max_size=4),
    dport=st.integers(0, 65535),
    proto=st.sampled_from([6, 17, 1]),
    hook=st.just(Hook.OUT),
    names=st.lists(hostile, max_size=2).map(tuple),
    count=st.integers(1, 10**12),
    last=st.floats(allow_nan=False),
)


@UNHURRIED
@given(
    st.builds(
        Program,
        app=hostile,
        user=st.just(""),
        users=st.lists(hostile, max_size=2).map(tuple),
        parents=st.lists(st.tuples(hostile, st.integers(1, 9)), max_size=4).map(tuple),
        seen=st.lists(sights, min_size=1, max_size=20).map(tuple),
    ),
    st.text("wnsb?", max_size=8),
    st.integers(1, 200),
    st.integers(1, 60),
)
def test_nothing_of_what_programs_chose_reaches_the_terminal(
    program: Program, keys: str, width: int, height: int
) -> None:
    review = Review([Card(program, propose(program))])
    for key in keys:
        review.key(key)
    lines = draw(review, width, height)
    for line in lines:
        assert clean(line.text, 10_000) == line.text, line
        assert len(line.text) <= max(width - 1, LEAST_WIDTH), line
    if not review.help:
        shown = "".join(line.text for line in lines).replace(" ", "")
        rule = format_rule(review.item.rule).replace(" ", "")
        assert rule in shown.replace("rule", "", 1) or rule in shown, "whole, wherever it is broken"
