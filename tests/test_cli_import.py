"""`arbiter rules import` and `export`: all or nothing, said first, and hostile files refused."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Done, ran

from arbiter.cli import rulesfiles
from arbiter.store import Store

RULES = "# mine\nallow app=/usr/bin/curl port=443\ndeny host=lan\n"


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    def run(*argv: str, stdin: bytes = b"") -> Done:
        env = {"ARBITER_DB": str(tmp_path / "a.db"), "ARBITER_SOCKET": str(tmp_path / "socket")}
        return ran(("rules", *argv), env, stdin)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.rules"
    path.write_text(RULES)
    return path


def rules(arbiter: Callable[..., Done]) -> list[str]:
    done = arbiter("list", "--json")
    assert done.code == 0, done.err
    return [one["rule"] for one in json.loads(done.out)]


def test_a_database_is_made_for_an_image_that_never_ran(
    arbiter: Callable[..., Done], tmp_path: Path, file: Path
) -> None:
    (tmp_path / "image").mkdir()
    db = str(tmp_path / "image" / "var" / "arbiter.db")
    done = arbiter("import", str(file), "--db", db)
    assert done.code == 0, done.err
    assert done.out == "2 rules added, 0 changed, 0 there already\n"
    listed = json.loads(arbiter("list", "--json", "--db", db).out)
    assert [one["rule"] for one in listed] == ["allow app=/usr/bin/curl port=443", "deny host=lan"]
    assert {one["frontend"] for one in listed} == {"import"}


@pytest.mark.parametrize("done_already", [False, True])
def test_ctrl_c_says_whether_rules_were_changed(
    arbiter: Callable[..., Done],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    done_already: bool,
) -> None:
    other = file.with_name("other.rules")
    other.write_text("allow port=1\n")
    arbiter("import", str(other))
    put = Store.import_rules

    def interrupted(self: Store, *args: Any, **more: Any) -> None:
        if done_already:
            put(self, *args, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "import_rules", interrupted)
    done = arbiter("import", str(file))
    monkeypatch.undo()
    assert (done.code, len(rules(arbiter))) == (1, 3 if done_already else 1)
    assert "Aborted" not in done.err
    if done_already:
        assert "`arbiter rules undo` takes that back" in done.err
    else:
        assert done.err == "arbiter: interrupted: no rule was changed\n"


def test_importing_again_changes_nothing(arbiter: Callable[..., Done], file: Path) -> None:
    arbiter("import", str(file))
    before = arbiter("list", "--json").out
    done = arbiter("import", str(file))
    assert done.out == "0 rules added, 0 changed, 2 there already\n"
    assert arbiter("list", "--json").out == before


def test_a_dry_run_says_what_would_change_and_changes_nothing(
    arbiter: Callable[..., Done], tmp_path: Path, file: Path
) -> None:
    done = arbiter("import", str(file), "--dry-run")
    assert done.code == 0
    assert not (tmp_path / "a.db").exists()
    assert f"add: deny host=lan  # {file}:3\n" in done.out
    assert "2 rules would be added" in done.out
    arbiter("add", "deny app=/usr/bin/curl port=443")
    arbiter("add", "deny host=lan")
    before = arbiter("list", "--json").out
    done = arbiter("import", str(file), "--dry-run")
    assert "replace 1: allow app=/usr/bin/curl port=443" in done.out
    assert "same 2: deny host=lan" in done.out
    assert arbiter("list", "--json").out == before


def test_one_rule_that_cannot_be_keeps_all_out(
    arbiter: Callable[..., Done], tmp_path: Path, file: Path
) -> None:
    file.write_text(RULES + "allow host=lam\nallow app=/x for=session\n")
    done = arbiter("import", str(file))
    assert done.code == 1
    assert f"cannot: {file}:4: column 12" in done.err
    assert f"cannot: {file}:5: for=session belongs to an answer" in done.err
    assert "nothing was imported: 2 rules cannot be" in done.err and "--skip" in done.err
    assert not (tmp_path / "a.db").exists()
    assert arbiter("import", str(file), "--skip").code == 0
    assert len(rules(arbiter)) == 2


def test_json_lists_every_outcome(arbiter: Callable[..., Done], file: Path) -> None:
    arbiter("add", "deny app=/usr/bin/curl port=443")
    file.write_text(RULES + "allow app=/x\nallow app=/x\nallow x\n")
    done = arbiter("import", str(file), "--json")
    assert done.code == 1
    objects = json.loads(done.out)
    assert [(o["outcome"], o["place"][-1]) for o in objects] == [
        ("replace", "2"),
        ("add", "3"),
        ("add", "4"),
        ("cannot", "6"),
        ("left out", "5"),
    ]
    assert objects[0]["replaces"] == [1] and objects[0]["id"] is None
    assert len({tuple(o) for o in objects}) == 1, "every object has the same keys"
    done = arbiter("import", str(file), "--json", "--skip")
    assert json.loads(done.out)[0]["id"] == 2


@pytest.mark.parametrize("format", ["lines", "toml", "json"])
def test_what_is_exported_is_imported(
    arbiter: Callable[..., Done], tmp_path: Path, file: Path, format: str
) -> None:
    arbiter("import", str(file))
    arbiter(
        "add", "route via=lte,any user=root network='ssid:My Home' class=bulk".replace("'", '"')
    )
    before = rules(arbiter)
    text = arbiter("export", "--format", format).out
    other = str(tmp_path / "other.db")
    done = arbiter("import", "-", "--db", other, stdin=text.encode())
    assert done.code == 0, done.err
    assert [
        one["rule"] for one in json.loads(arbiter("list", "--json", "--db", other).out)
    ] == before
    assert arbiter("export", "--format", format, "--db", other).out == text or format == "json"


def test_an_export_names_what_it_leaves_out(arbiter: Callable[..., Done]) -> None:
    arbiter("add", "allow app=/a for=1h")
    arbiter("add", "allow app=/b for=boot")
    arbiter("add", "allow app=/c")
    done = arbiter("export")
    assert done.code == 0
    assert done.out.splitlines()[1:] == ["allow app=/c"]
    assert "rule 1 (allow app=/a for=1h): a line cannot say when it ends" in done.err
    assert "rule 2" in done.err
    assert "rule 1" not in arbiter("export", "--format", "toml").err


def test_an_export_that_leaves_out_many_does_not_fill_the_screen(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    many = tmp_path / "many.rules"
    many.write_text("".join(f"allow app=/bin/p{n} for=boot\n" for n in range(60)))
    arbiter("import", str(many))
    done = arbiter("export")
    assert done.code == 0
    assert len(done.err.splitlines()) == 51
    assert done.err.endswith("left out: and 10 more; `arbiter rules list` has all\n")


def test_the_rules_of_one_place_are_saved_and_restored(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    sim = "89430123456789012345"
    for line in (f"allow app=/a sim={sim}", "allow app=/b", "deny app=/c network=ssid:Home"):
        arbiter("add", line)
    text = arbiter("export", "--sim", sim).out
    assert text.splitlines()[2:] == [f"allow app=/a sim={sim}"]
    assert f"bound to sim={sim} only" in text
    assert "deny app=/c" in arbiter("export", "--network", "ssid:Home", "--format", "json").out
    other = tmp_path / "b.rules"
    other.write_text("allow app=/b\n")
    done = arbiter("import", str(other), "--bind", f"sim={sim}")
    assert done.code == 0
    assert f"allow app=/b sim={sim}" in rules(arbiter)
    other.write_text(f"allow app=/b sim={sim[:-1]}9\n")
    assert arbiter("import", str(other), "--bind", f"sim={sim}").code == 1
    assert arbiter("import", str(other), "--bind", "sim=12").code == 2
    assert arbiter("export", "--sim", "12").code == 2


def test_doubts_are_said(arbiter: Callable[..., Done], file: Path) -> None:
    file.write_text("deny\nallow app=/a user=nobodyatall\n")
    done = arbiter("import", str(file))
    assert done.code == 0
    assert "warning" in done.err and "every connection" in done.err
    assert done.err.count("no user nobodyatall") == 1


def test_what_another_firewall_says_of_loopback_is_imported_with_a_word(
    arbiter: Callable[..., Done],
) -> None:
    """OpenSnitch comes with such rules."""
    ours = Path(__file__).parents[1] / "fixtures/imports/opensnitch"
    done = arbiter("import", str(ours / "000-allow-localhost.json"))
    assert done.code == 0, done.err
    assert "it decides nothing: what stays on this machine always passes" in done.err
    assert rules(arbiter) == ["allow host=127.0.0.0/8"]


# --- hostile files --------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("make", [_fifo, _link, _socket])
def test_only_regular_files_are_read(
    arbiter: Callable[..., Done], tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "x.rules")
    for name in ("x.rules", "."):
        done = arbiter("import", str(tmp_path / name))
        assert done.code == 1
        assert "x.rules: it is not a regular file" in done.err
    assert arbiter("import", "/dev/zero").code == 1
    assert "check: ls -ld" in arbiter("import", str(tmp_path / "no")).err


def test_what_is_too_big_is_refused(
    arbiter: Callable[..., Done], tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "sparse.rules").write_bytes(b"")
    os.truncate(tmp_path / "sparse.rules", 1 << 40)
    done = arbiter("import", str(tmp_path / "sparse.rules"))
    assert done.code == 1 and "no file of rules" in done.err
    (tmp_path / "sparse.rules").unlink()
    monkeypatch.setattr(rulesfiles, "MAX_ALL", 30)
    for name in "abc":
        (tmp_path / f"{name}.rules").write_text("allow app=/a\n")
    done = arbiter("import", str(tmp_path))
    assert done.code == 1 and "more than 30 bytes in all" in done.err
    monkeypatch.setattr(rulesfiles, "MAX_FILES", 2)
    assert "more than 2 files" in arbiter("import", str(tmp_path)).err


def test_a_directory_is_read_by_name_and_others_are_passed_over(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    assert "no file in it ends in" in arbiter("import", str(folder)).err
    (folder / "2.rules").write_text("deny app=/2\n")
    (folder / "1.toml").write_text('rules = ["deny app=/1"]\n')
    (folder / "README").write_text("hello\n")
    done = arbiter("import", str(folder))
    assert done.code == 0
    assert "left out" in done.err and "README" in done.err
    assert rules(arbiter) == ["deny app=/1", "deny app=/2"]


def test_what_a_file_holds_is_shown_cleaned(arbiter: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "\x1b[31m.rules").write_text("allow \x1b[31m\n[[\u202e]]")
    done = arbiter("import", str(tmp_path / "\x1b[31m.rules"))
    assert done.code == 1
    assert "\x1b" not in done.err and "\u202e" not in done.err
    assert len(done.err) < 1000


# --- other firewalls ------------------------------------------------------------------------

FIXTURES = Path(__file__).parent.parent / "fixtures" / "imports"


def test_the_same_rules_in_two_forms_are_the_same(arbiter: Callable[..., Done]) -> None:
    assert arbiter("import", str(FIXTURES / "office.rules")).code == 0
    done = arbiter("import", str(FIXTURES / "office.toml"))
    assert done.out == "0 rules added, 0 changed, 5 there already\n"


def test_a_directory_of_opensnitch_is_imported_by_its_order(arbiter: Callable[..., Done]) -> None:
    done = arbiter("import", str(FIXTURES / "opensnitch"))
    assert done.code == 0, done.err
    assert "added to keep OpenSnitch's order" in done.err
    assert "it is disabled" in done.err
    found = rules(arbiter)
    assert "deny app=/usr/bin/telnet host=192.168.1.2 port=23" in found
    again = arbiter("import", str(FIXTURES / "opensnitch"))
    assert again.out.startswith("0 rules added, 0 changed, ")
    assert rules(arbiter) == found


def test_an_access_policy_becomes_a_file_and_no_rule(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    plist = str(FIXTURES / "iap" / "InternetAccessPolicy.plist")
    assert "give --app" in arbiter("import", plist).err
    assert arbiter("import", plist, "--app", "notes").code == 2
    app = ("--app", "/usr/bin/notes")
    shown = arbiter("import", plist, *app)
    assert shown.code == 0 and "[[connection]]" in shown.out
    folder = tmp_path / "policy.d"
    done = arbiter("import", plist, *app, "--output", str(folder))
    assert done.code == 0, done.err
    assert (folder / "notes.toml").read_text() == shown.out
    again = arbiter("import", plist, *app, "--output", str(folder))
    assert again.code == 1 and "is there already" in again.err
    assert not (tmp_path / "a.db").exists()
