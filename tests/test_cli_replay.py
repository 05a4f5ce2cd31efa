"""`arbiter audit replay`: files in place of layers, records and captures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from auditscene import BEGAN, CURL, FIREFOX, SYNC, record, store_day
from commands import Done, ran
from sessions import like, session

from arbiter.rules import parse
from arbiter.store import Store

BROWSE = str(Path(__file__).parents[1] / "fixtures" / "captures" / "browse.pcap")


Run = Callable[..., Done]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The scene's day, rule 1 in force, and an administrator's file."""
    store_day(tmp_path / "a.db", record(3600, "allow", "rule", rule_id=1, layer=2, by="alice"))
    with Store.open(tmp_path / "a.db") as store:
        store.remember(parse(f"allow app={CURL}"), by="alice", created=BEGAN)
        store.lives.gap(BEGAN, BEGAN + 10, 7, "it was full")
    policy = tmp_path / "etc" / "policy.d"
    policy.mkdir(parents=True)
    (policy / "admin.toml").write_text(f'rules = ["deny app={SYNC}"]\n')
    return tmp_path


@pytest.fixture
def replay(here: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(here)

    def run(rules: str | None, *argv: str) -> Done:
        if rules is not None:
            (here / "new.rules").write_text(rules)
            argv = ("--rules", "new.rules", *argv)
        places = ["--db", "a.db", "--config", "etc", "--socket", "none"]
        return ran(["audit", "replay", *argv, *places])

    return run


def ask(replay: Run, rules: str | None, *argv: str) -> Any:
    done = replay(rules, *argv, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def totals(found: Any) -> dict[str, int]:
    return {key: count for key, count in found["totals"].items() if count}


def changes(found: Any) -> dict[str, tuple[str, str, str]]:
    return {
        one["app"]: (one["kind"], one["would"], (one["rule"] or {"by": ""})["by"])
        for one in found["differences"]
        if one["host"] != "a.tracker.example"  # by a rule that is not there any more
    }


def test_a_file_stands_in_the_place_of_the_remembered_rules(replay: Run) -> None:
    found = ask(replay, f"deny host=*.debian.org\nallow app={FIREFOX}\n")
    assert (found["layer"], found["rules"], found["other_rules"], found["count"]) == (2, 2, 1, 7)
    assert totals(found) == {
        "same": 2, "now_allowed": 1, "now_denied": 1, "now_asked": 1, "now_another_link": 1,
        "not_decidable": 1,
    }  # fmt: skip
    assert [(d["kind"], d["app"], d["examples"]) for d in found["differences"]] == [
        ("now asked", CURL, [7]), ("now denied", CURL, [1]), ("now another link", FIREFOX, [3]),
        ("now allowed", FIREFOX, [2]),
    ]  # fmt: skip
    assert found["differences"][1]["rule"]["by"] == "file:new.rules:1"
    assert found["not_decidable"][0]["examples"] == [5]
    assert [gap["count"] for gap in found["gaps"]] == [7]


def test_the_others_may_stay_or_go(replay: Run) -> None:
    beside = ask(replay, "deny port=8080\n", "--and-current")
    assert changes(beside) == {FIREFOX: ("now denied", "deny", "file:new.rules:1")}
    assert (beside["rules"], beside["other_rules"]) == (1, 2)
    same = ask(replay, f"deny app={CURL}\n", "--and-current")
    assert same["other_rules"] == 1, "what has the same conditions is replaced"
    alone = ask(replay, "deny port=8080\n", "--alone")
    assert alone["other_rules"] == 0
    assert changes(alone)[SYNC] == ("now asked", "ask", "")


def test_without_a_file_the_rules_in_force_are_asked(replay: Run) -> None:
    found = ask(replay, None)
    assert [(d["examples"], d["kind"]) for d in found["differences"]] == [([2], "now asked")]
    assert found["decided_nothing"] == []
    assert "asked: the 2 rules in force" in replay(None).out


def test_policy_files_stand_in_the_place_of_the_administrators(replay: Run, here: Path) -> None:
    folder = here / "policy.d"
    folder.mkdir()
    (folder / "x.toml").write_text('rules = ["allow app=unit:timesync.service"]\n')
    found = ask(replay, None, "--rules", "policy.d")
    assert (found["layer"], found["rules"], found["other_rules"]) == (1, 1, 1)
    assert changes(found)[SYNC] == ("now allowed", "allow", "file:policy.d/x.toml:1")
    assert ask(replay, None, "--rules", "policy.d/x.toml")["layer"] == 1
    assert ask(replay, None, "--rules", "policy.d/x.toml", "--layer", "remembered")["layer"] == 2
    (folder / "y.toml").write_text("rules = 7\n")
    done = replay(None, "--rules", "policy.d")
    assert done.code == 1
    assert "policy.d/y.toml" in done.err
    assert "Traceback" not in done.err


def test_what_a_package_suggests_counts_as_if_adopted(replay: Run, here: Path) -> None:
    (here / "pkg.toml").write_text(
        f'[application]\nname = "F"\napp = "{FIREFOX}"\n[[connection]]\nhost = "198.51.100.9"\n'
        'purpose = "x"\nsuggest = "deny"\n'
    )
    found = ask(replay, None, "--rules", "pkg.toml", "--layer", "admin")
    (one,) = (d for d in found["differences"] if d["host"] == "198.51.100.9")
    assert (one["kind"], one["rule"]["layer"]) == ("now denied", "shipped")


def test_filters_choose_the_records(replay: Run) -> None:
    assert ask(replay, "deny\n", "--app", "curl")["count"] == 2
    until = datetime.fromtimestamp(BEGAN + 100).isoformat()
    assert ask(replay, "deny\n", "--until", until)["count"] == 2
    assert ask(replay, "deny\n", "--app", "/none")["count"] == 0


def test_each_that_differs_is_a_line_for_programs(replay: Run) -> None:
    done = replay(f"deny app={CURL} host=*.debian.org\n", "--and-current", "--nl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [(one["id"], one["kind"], one["would"], one["was_by"]) for one in lines] == [
        (1, "now denied", "deny", "observe"),
        (2, "now asked", "ask", "rule 3"),
    ]
    assert "7 records: 4 same, 1 now denied, 1 now asked, 1 not decidable" in done.err


def test_the_exit_code_tells_differences_only_when_asked(replay: Run) -> None:
    assert replay("deny\n").code == 0
    assert replay("deny\n", "--check").code == 1
    assert replay(None, "--rules", "etc/policy.d", "--check", "--app", "curl").code == 0


def test_people_read_what_was_asked_and_what_decided_nothing(replay: Run) -> None:
    done = replay("deny host=*.debian.org\nallow app=/none\n")
    assert "asked: 2 rules of new.rules in the place of the remembered rules, and 1 rule of" in (
        done.out
    )
    assert "decided nothing: the rule at new.rules:2: allow app=/none" in done.out
    assert "decided nothing: the rule at new.rules:1" not in done.out
    assert "without a name of its destination" in done.out
    assert "missing: 7 records" in done.out
    assert "and 2 more differences" in replay("deny host=*.debian.org\n", "--top", "1").out


def test_why_a_rule_decides_nothing_is_told_where_another_is_the_reason(replay: Run) -> None:
    rules = f"deny port=443\ndeny port=443 app=/none\nallow app={SYNC}\n"
    done = replay(rules)
    assert "decided nothing: the rule at new.rules:2 (deny app=/none port=443) need not be" in (
        done.out
    )
    found = ask(replay, rules)["decided_nothing"]
    assert [one["by"] for one in found] == ["file:new.rules:2", "file:new.rules:3"]
    assert "never decides: the rule at etc/policy.d/admin.toml:1" in found[1]["why"]


def test_what_cannot_be_read_is_refused_whole(replay: Run) -> None:
    done = replay("allow\nsomething else\n")
    assert done.code == 1
    assert "cannot: new.rules:2" in done.err
    assert "nothing was replayed: 1 rule cannot be read" in done.err
    assert "Traceback" not in replay(None, "--rules", "/none").err
    for argv in (["--json", "--nl"], ["--alone"], ["--from", "192.0.2.1"], ["--pcap", BROWSE]):
        assert replay(None, *argv).code == 2, argv
    assert replay("deny\n", "--pcap", BROWSE, "--port", "1").code == 2
    assert replay("deny\n", "--alone", "--and-current").code == 2


def test_a_capture_is_compared_with_the_rules_in_force(replay: Run) -> None:
    options = ("--pcap", BROWSE, "--from", "192.0.2.10")
    found = ask(
        replay, f"deny app={CURL} host=*.example.org\n", "--and-current", *options, "--app", CURL
    )
    assert found["of"] == "packets"
    assert totals(found) == {"same": 1, "now_denied": 5}
    assert {d["host"] for d in found["differences"]} == {"www.example.org"}
    assert {d["was_by"] for d in found["differences"]} == {"rule 1"}
    nobody = replay("deny host=*.example.org\n", *options)
    assert "no rule for a single app was looked at" in nobody.err
    assert "allow" not in nobody.out
    assert replay("deny\n", "--pcap", "/none").code == 1


def test_the_session_of_the_page_is_real(replay: Run, here: Path) -> None:
    page = Path(__file__).parents[1] / "docs" / "audit.md"
    rules = re.search(r"<!-- file: new.rules -->\n```text\n(.*?)```", page.read_text(), re.DOTALL)
    assert rules is not None
    (here / "new.rules").write_text(rules[1])
    for command, shown in session(page, "replay"):
        assert command.startswith("arbiter audit replay ")
        done = replay(None, *command.split()[3:])
        assert like(shown, done.out), done.out + done.err


def test_what_a_process_chose_is_shown_clean(replay: Run, here: Path) -> None:
    with Store.open(here / "a.db") as store:
        store.record([record(9000, app="/\x1b[31m\u202e\udcff", names='["\\u001b[2J"]', note="\n")])
    for argv in ((), ("--json",), ("--nl",)):
        done = replay("deny\n", *argv)
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", done.out + done.err)
