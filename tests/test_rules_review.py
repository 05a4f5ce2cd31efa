"""`arbiter rules review` without a terminal: what it proposes, as a table and as JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from commands import ROOT, Done, within
from reviewscene import BEGAN, CURL, FIREFOX, NARROW, record, store_week
from scripted_daemon import example_status

from arbiter.cli.status import _lines as status_lines
from arbiter.rules.propose import MANY_HOSTS, MANY_PORTS, MANY_RULES
from arbiter.store import Store


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    return within(tmp_path, ARBITER_CONFIG=str(tmp_path))


@pytest.fixture(autouse=True)
def one_person(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever has an account on the machine that runs the tests, and wherever it is."""
    with monkeypatch.context() as patch:
        patch.setattr("pwd.getpwall", list)
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


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
