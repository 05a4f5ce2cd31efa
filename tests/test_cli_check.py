"""`arbiter rules check`: what a packager is told, without a daemon and without root."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from arbiter.cli import cli, rulescheck
from arbiter.packages import Dpkg
from arbiter.policyfiles import load
from arbiter.policyfiles.check import AppFacts, Kind, Level, beside, of_file, paths_of

ROOT = Path(__file__).parents[1]
GOOD = ROOT / "fixtures/policies/good"
BAD = ROOT / "fixtures/policies/bad"
APPLICATION = '[application]\nname = "X"\napp = "{app}"\n'
CONNECTION = '[[connection]]\nhost = "a.example"\nport = 443\npurpose = "x"\n'


def check(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["rules", "check", *map(str, args)])


def found(*args: str | Path) -> list[dict[str, Any]]:
    done = check("--json", *args)
    assert done.exit_code in (0, 1), done.output
    findings: list[dict[str, Any]] = json.loads(done.output)
    return findings


def warnings(text: str, *, shipped: bool = True, **facts: AppFacts) -> list[tuple[int, Kind]]:
    file = load(text, "x", shipped=shipped)
    apps = {path: facts.get(path.rpartition("/")[2], AppFacts()) for path in paths_of(file)}
    findings = [*of_file(file, apps), *beside([file])]
    assert {finding.level for finding in findings} <= {Level.WARNING}
    assert all(finding.text.isprintable() for finding in findings)
    return [(finding.line, finding.kind) for finding in findings]


def package(*lines: str) -> str:
    return APPLICATION.format(app="/usr/bin/x") + "\n".join(lines) + "\n"


# --- the command ----------------------------------------------------------------------------


def test_good_files_pass_and_bad_ones_do_not() -> None:
    done = check(GOOD)
    assert done.exit_code == 0, done.output
    assert done.output.endswith(" warnings\n")
    for path in sorted(BAD.glob("*.toml")):
        # An empty file is a mask; as a package's file it is nothing.
        kind = "package" if path.stem == "nothing" else "auto"
        done = check("--kind", kind, path)
        assert done.exit_code == 1, path
        assert f"{path}" in done.output


def test_every_finding_has_its_file_and_line_and_a_stable_kind() -> None:
    assert found(BAD / "second-connection.toml") == [
        {
            "file": str(BAD / "second-connection.toml"),
            "line": 11,
            "level": "error",
            "kind": "invalid",
            "text": "relevance = 'esential': it must be one of essential, optional: "
            "did you mean 'essential'?",
        }
    ]
    done = check(BAD / "second-connection.toml")
    assert done.output.splitlines()[-1] == "1 file, 1 error, 0 warnings"
    assert f"{BAD / 'second-connection.toml'}:11: error: relevance" in done.output
    assert "[invalid]" in done.output


@pytest.mark.parametrize(
    ("text", "line"),
    [("allow app=/a\n", 1), ("# mine\n\n  deny host=lan\n", 3), ("route via=lte app=/a", 1)],
)
def test_a_file_of_rules_is_sent_where_it_is_read(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "mine.rules"
    path.write_text(text)
    (finding,) = found(path)
    assert (finding["line"], finding["level"]) == (line, "error")
    assert "arbiter rules import --dry-run" in finding["text"]


@pytest.mark.parametrize("text", ["allow = 1\n", "deny= 2", "allows x", "\n" * 5000 + "x"])
def test_other_texts_are_taken_for_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert all("rules import" not in finding["text"] for finding in found(path))


def test_nothing_to_say_is_an_empty_array(tmp_path: Path) -> None:
    app = tmp_path / "usr/bin/x"
    app.parent.mkdir(parents=True)
    app.write_text("ELF")
    path = tmp_path / "x.toml"
    path.write_text(package(CONNECTION))
    assert found("--root", tmp_path, path) == []
    assert check("--root", tmp_path, path).output == "1 file, 0 errors, 0 warnings\n"


def test_warnings_fail_only_where_they_are_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(package(CONNECTION))
    args = ("--root", tmp_path, path)  # whose program is not in there
    assert [f["kind"] for f in found(*args)] == ["unknown-app"]
    assert found(*args)[0]["line"] == 3
    assert check(*args).exit_code == 0
    assert check("--strict", *args).exit_code == 1


def test_a_script_and_a_link_are_known_by_other_names(tmp_path: Path) -> None:
    folder = tmp_path / "usr/bin"
    folder.mkdir(parents=True)
    (folder / "x").write_text("#!/usr/bin/python3\n")
    path = tmp_path / "x.toml"
    path.write_text(package(CONNECTION))
    assert [f["kind"] for f in found("--root", tmp_path, path)] == ["other-name"]
    (folder / "y").symlink_to(folder / "x")
    path.write_text(f'rules = ["deny app={folder}/y"]')
    assert "known as" in found(path)[0]["text"]
    (folder / "python3.11").write_bytes(b"\x7fELF")
    (folder / "python3").symlink_to("python3.11")
    path.write_text(f'rules = ["deny app={folder}/python3"]')
    assert found(path) == [], "an interpreter is known without its minor version"


def test_a_file_is_taken_for_what_it_holds_unless_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('rules = ["deny app=unit:x.service"]')
    assert found(path) == []
    assert check("--kind", "package", path).exit_code == 1
    path.write_text("# nothing")
    assert found(path) == []
    path.write_text('rules = ["allow"]\n' + package(CONNECTION))
    assert "a package cannot bring rules" in found(path)[0]["text"]
    path.write_text('[application]\nname = "X"\napp = "/home/x"\n')
    assert found(path)[0]["level"] == "error"
    assert [f["level"] for f in found("--kind", "admin", path)] == ["warning"] * 2


@pytest.mark.parametrize("kind", ["fifo", "bytes", "loop", "hidden"])
def test_what_is_no_text_is_an_error_of_that_file_only(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.toml"
    (tmp_path / "b.toml").write_text('rules = ["deny app=unit:x.service"]')
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "bytes":
        path.write_bytes(b"\xff")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        (tmp_path / ".a.toml").write_text("x")
    expected = [] if kind == "hidden" else [str(path)]
    assert [f["file"] for f in found(tmp_path)] == expected


def test_what_is_not_there_is_a_usage_error_and_an_empty_folder_is_said(tmp_path: Path) -> None:
    assert check(tmp_path / "x.toml").exit_code == 2
    done = check(tmp_path)
    assert done.exit_code == 1
    assert "holds no policy file" in done.output


def test_a_file_that_is_given_twice_is_checked_once() -> None:
    assert check(BAD / "user.toml", BAD / "user.toml").output.count("error:") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others: needs root")
def test_an_installed_file_is_checked_for_who_could_have_written_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulescheck, "SHIPPED", tmp_path)
    (tmp_path / "info").mkdir()
    monkeypatch.setattr(rulescheck, "find", lambda: Dpkg(tmp_path))
    path = tmp_path / "x.toml"
    path.write_text(package(CONNECTION))
    path.chmod(0o666)
    assert [(f["kind"], f["level"]) for f in found(path)] == [("unsafe", "error")]
    path.chmod(0o644)
    assert "no installed package owns this file" in found(path)[0]["text"]
    (tmp_path / "info/x.list").write_text(f"{path}\n/usr/bin/x\n")
    assert [f["kind"] for f in found(path)] == ["unknown-app"]
    monkeypatch.setattr(rulescheck, "find", lambda: None)
    assert "only dpkg's records" in found(path)[0]["text"]


# --- what is odd ----------------------------------------------------------------------------


def test_broad_advice_is_said() -> None:
    text = package('[[connection]]\nhost = "*"\npurpose = "x"')
    assert warnings(text) == [(4, Kind.OVER_BROAD)]
    assert warnings(text + 'suggest = "deny"') == [(4, Kind.OVER_BROAD)]
    assert warnings(text + "port = 443") == []
    assert warnings(text + "port = 443\nsuggest = 'deny'") == []
    assert warnings(text + "port = 443\nsuggest = 'allow'") == [(4, Kind.OVER_BROAD)]
    assert warnings(text.replace('"*"', '"*.com"')) == [(4, Kind.OVER_BROAD)]
    assert warnings(text.replace('"*"', '"*.example.com"')) == []
    assert warnings('rules = ["deny app=/usr/bin/x", "allow"]', shipped=False) == [
        (1, Kind.OVER_BROAD)
    ]


def test_the_same_connection_twice_is_said() -> None:
    assert warnings(package(CONNECTION, CONNECTION)) == [(9, Kind.DUPLICATE)]
    assert warnings(package(CONNECTION, CONNECTION.replace("443", "[443]"))) == [
        (9, Kind.DUPLICATE)
    ]
    assert warnings(package(CONNECTION, CONNECTION.replace("443", "444"))) == []


def test_rules_of_one_file_that_repeat_or_contradict_are_said() -> None:
    text = 'rules = [\n"deny app=/usr/bin/x",\n"deny app=/usr/bin/x",\n"allow app=/usr/bin/x",\n]'
    assert warnings(text, shipped=False) == [(3, Kind.DUPLICATE), (4, Kind.CONTRADICTION)]


def test_rules_of_files_are_looked_at_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('rules = ["deny app=unit:x.service host=lan"]')
    (tmp_path / "b.toml").write_text(
        "rules = [\n"
        '"deny app=unit:x.service host=10.0.0.1",\n'
        '"allow app=unit:x.service host=lan",\n'
        '"deny app=unit:x.service time=mon-wed",\n'
        '"allow app=unit:x.service time=wed@08:00-09:00",\n'
        "]"
    )
    a, b = tmp_path / "a.toml", tmp_path / "b.toml"
    assert [(f["file"], f["line"], f["kind"]) for f in found(tmp_path)] == [
        (str(b), 2, "redundant"),
        (str(b), 3, "contradiction"),
        (str(b), 5, "shadowed"),
    ]
    assert f"the rule at {a}:1 (deny app=unit:x.service host=lan)" in found(tmp_path)[0]["text"]
    assert check(tmp_path).exit_code == 0
    assert check("--strict", tmp_path).exit_code == 1
    assert found(a) == []


def test_what_another_machine_has_is_looked_for_only_where_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('rules = ["deny user=no-such-one", "route via=nolink,any app=unit:x.service"]')
    assert found(path) == []
    here = ("--here", "--config", tmp_path, "--state", tmp_path, "--db", tmp_path / "no.db", path)
    said = found(*here)
    assert [(f["kind"], f["level"]) for f in said] == [("dead", "warning")] * 2
    assert "there is no user no-such-one" in said[0]["text"]
    assert "no link is or was called nolink" in said[1]["text"]
    assert check(*here).exit_code == 0


def test_other_oddities_are_said() -> None:
    assert warnings(package()) == [(0, Kind.NO_CONNECTION)]
    essential = package(CONNECTION, 'relevance = "essential"')
    assert warnings(essential) == [(4, Kind.NO_CONSEQUENCE)]
    assert warnings(essential + 'if_denied = "all"') == []
    routed = package(CONNECTION, 'suggest = "route via=wifi,unmetered,any"')
    assert warnings(routed) == [(4, Kind.NAMED_LINK)]
    assert warnings(routed, shipped=False) == [], "an administrator knows the names"
    assert warnings(package(CONNECTION), x=AppFacts(exists=False)) == [(3, Kind.UNKNOWN_APP)]
    assert warnings(package(CONNECTION), x=AppFacts(resolved="/usr/bin/y")) == [
        (3, Kind.OTHER_NAME)
    ]
    assert warnings(package(CONNECTION), x=AppFacts(resolved="/usr/bin/x")) == []


def test_a_connection_of_many_hosts_is_complained_of_once() -> None:
    text = package('[[connection]]\nhost = ["a.example", "b.example"]\npurpose = "x"')
    assert warnings(text + 'relevance = "essential"') == [(4, Kind.NO_CONSEQUENCE)]


def test_every_kind_of_finding_is_documented() -> None:
    docs = (ROOT / "docs/policy-files.md").read_text("utf-8")
    for kind in Kind:
        assert f"| `{kind}` | {'error' if kind in ('invalid', 'unsafe') else 'warning'} |" in docs
