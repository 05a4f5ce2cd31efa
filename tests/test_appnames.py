"""A path that leads to another program, and what to write in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arbiter.cli.appnames import other_name


@pytest.fixture
def bin(tmp_path: Path) -> Path:
    """A folder with a program, a link to it, and an interpreter with a version."""
    for name in ("wget", "python3.11", "make"):
        (tmp_path / name).write_bytes(b"\x7fELF")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python3").symlink_to("python3.11")
    (tmp_path / "get").symlink_to("wget")
    return tmp_path


def script(path: Path, first: str) -> str:
    path.write_text(f"{first}\nx\n")
    return str(path)


def test_a_program_is_known_by_its_own_path(bin: Path) -> None:
    assert other_name(f"{bin}/wget") == ""
    assert other_name(f"{bin}/python3") == "", "an interpreter has no minor version"
    assert other_name(f"script:{bin}/python3:{bin}/wget") == ""


def test_a_link_is_known_by_where_it_leads(bin: Path) -> None:
    said = other_name(f"{bin}/get")
    assert f"{bin}/get is a link" in said and said.endswith(f"write {bin}/wget")
    (bin / "there").symlink_to(bin)
    said = other_name(f"{bin}/there/wget")
    assert said.endswith(f"write {bin}/wget"), "a folder on the way is a link"
    assert other_name(f"appimage:{bin}/get").endswith(f"write appimage:{bin}/wget")
    assert other_name(f"script:{bin}/python3:{bin}/get").endswith(
        f"write script:{bin}/python3:{bin}/wget"
    )


def test_a_version_is_not_part_of_the_name(bin: Path) -> None:
    assert other_name(f"{bin}/python3.11").endswith(f"write {bin}/python3")


def test_what_starts_snaps_and_flatpaks_is_known_by_these(bin: Path) -> None:
    for folder in ("snap/bin", "flatpak/exports/bin"):
        (bin / folder).mkdir(parents=True)
    (bin / "usr-bin").mkdir()
    (bin / "usr-bin" / "snap").write_bytes(b"\x7fELF")
    (bin / "snap/bin/firefox.geckodriver").symlink_to(bin / "usr-bin" / "snap")
    assert other_name(f"{bin}/snap/bin/firefox.geckodriver").endswith("write snap:firefox")
    exported = script(bin / "flatpak/exports/bin/org.x.Y", "#!/bin/sh")
    assert other_name(exported).endswith("write flatpak:org.x.Y")


def test_a_folder_is_no_program(bin: Path) -> None:
    assert f"{bin} is a folder" in other_name(str(bin))


def test_a_script_is_known_by_its_interpreter_too(
    bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script(bin / "pip", f"#!{bin}/python3.11 -u")
    wanted = f"script:{bin}/python3:{path}"
    said = other_name(path)
    assert f"{path} is a script" in said
    assert said.endswith(f"write {wanted}, or the program that it starts")
    (bin / "pipe").symlink_to("pip")
    assert f"write {wanted}," in other_name(f"{bin}/pipe")
    monkeypatch.setenv("PATH", str(bin))
    for first in ("#!/usr/bin/env python3", "#! /usr/bin/env -S A=1 python3 -u"):
        assert f"write {wanted}," in other_name(script(bin / "pip", first)), first
    said = other_name(script(bin / "build", f"#!{bin}/make -f"))
    assert f"write {bin}/make," in said, "what is no interpreter is the program itself"


@pytest.mark.parametrize("first", ["#!", "#!/no/such", "#!/usr/bin/env no-such", "#!/usr/bin/env"])
def test_an_interpreter_that_is_not_known_is_left_to_the_person(bin: Path, first: str) -> None:
    path = script(bin / "x", first)
    said = other_name(path)
    assert f"{path} is a script" in said and f"script:INTERPRETER:{path}" in said


@pytest.mark.parametrize(
    "app",
    ["/no/such", "/opt/*/x", "unit:x.service", "/a\0b", "/a\ud800", "", "script:x", "/proc/1/x"],
)
def test_what_is_not_there_or_not_known_is_not_said(app: str) -> None:
    assert other_name(app) == ""


def test_what_a_path_holds_is_fit_to_print(bin: Path) -> None:
    os.symlink("wget", bin / "a\x1b b")
    assert other_name(f"{bin}/a\x1b b").isprintable()


def test_a_loop_and_a_pipe_are_not_read(bin: Path) -> None:
    (bin / "loop").symlink_to("loop")
    assert other_name(f"{bin}/loop") == ""
    os.mkfifo(bin / "pipe")
    assert other_name(f"{bin}/pipe") == ""


def test_what_may_be_read_in_two_ways_is_not_said(bin: Path) -> None:
    for name in ("*", "a:b"):
        (bin / name).symlink_to("wget")
    assert other_name(f"{bin}/*") == "", "it may be every version"
    assert other_name(f"script:{bin}/python3:{bin}/a:b") == "", "which colon it is is not sure"
