"""What an app names is gone only where that is sure."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from arbiter.cli.appfiles import AppFiles


def tree(root: Path, *files: str) -> AppFiles:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return AppFiles(root)


HOME = pwd.getpwuid(0).pw_dir.strip("/")
THERE = [
    ("usr/bin/curl", "/usr/bin/curl"),
    ("opt/x-1.2.3/bin/x", "/opt/x-*/bin/x"),
    ("opt/3.11.7/bin/x", "/opt/*/bin/x"),
    (
        "nix/store/0c5b2mrkmsa2g9sl4sv9l1zxn8ch4k8d-firefox-1.0/bin/firefox",
        "/nix/store/*-firefox/bin/firefox",
    ),
    ("usr/bin/python3.11", "/usr/bin/python3"),
    ("opt/n-1.2/bin/node18", "/opt/n-*/bin/node"),
    ("home/u/Foo.AppImage", "appimage:/home/u/Foo.AppImage"),
    ("usr/lib/systemd/system/cups.service", "unit:cups.service"),
    ("etc/systemd/system/cups.service", "unit:cups.service"),
    ("run/systemd/transient/run-r1.service", "unit:run-r1.service"),
    ("usr/lib/systemd/system/wg@.service", "unit:wg@home.service"),
    ("snap/firefox/current", "snap:firefox"),
    ("var/lib/snapd/snap/firefox/1", "snap:firefox"),
    ("var/lib/flatpak/app/org.x.Y/current", "flatpak:org.x.Y"),
    (f"{HOME}/.local/share/flatpak/app/org.x.Y/current", "flatpak:org.x.Y"),
]


@pytest.mark.parametrize(("file", "app"), THERE)
def test_what_is_there_is_not_gone(tmp_path: Path, file: str, app: str) -> None:
    assert tree(tmp_path, file).gone(app) == ""


@pytest.mark.parametrize(("file", "app"), THERE)
def test_without_its_file_it_is_gone(tmp_path: Path, file: str, app: str) -> None:
    # Something of its kind is there, or an app of that kind would not be looked for.
    files = tree(tmp_path, "usr/lib/systemd/system/other.service", "usr/bin/ls", "opt/y/bin/x")
    said = files.gone(app)
    assert any(word in said for word in ("there is no", "not installed any more")), said
    assert said.isprintable()


def test_a_script_needs_its_interpreter_and_itself(tmp_path: Path) -> None:
    files = tree(tmp_path, "usr/bin/python3.11", "srv/x.py")
    assert files.gone("script:/usr/bin/python3:/srv/x.py") == ""
    assert files.gone("script:/usr/bin/python3:-m http.server") == ""
    assert "/srv/y.py" in files.gone("script:/usr/bin/python3:/srv/y.py")
    assert "/usr/bin/perl" in files.gone("script:/usr/bin/perl:/srv/x.py")
    assert files.gone("script:/usr/bin/python3:/srv/a:b.py") == "", "which colon it is is not sure"


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/no/such")
    assert AppFiles(tmp_path).gone("/x") == ""


@pytest.mark.parametrize(
    "app",
    [
        "foreign:abc:/usr/bin/curl",
        "unit:x.service",  # no systemd here
        "unit:../x.service",
        "snap:../x",
        "flatpak:a/b",
        "curl",
        "snap:",
        "/a\0b",
        "/a\ud800",
    ],
)
def test_what_cannot_be_known_is_not_said(tmp_path: Path, app: str) -> None:
    assert AppFiles(tmp_path).gone(app) == ""


def test_other_installations_of_flatpak_are_not_known(tmp_path: Path) -> None:
    assert AppFiles(tmp_path).gone("flatpak:org.x.Y")
    assert tree(tmp_path, "etc/flatpak/installations.d/a.conf").gone("flatpak:org.x.Y") == ""


def test_a_folder_that_may_not_be_read_hides_what_is_in_it(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)  # ELOOP, for root too
    assert AppFiles(tmp_path).gone("/loop/x") == ""
    assert AppFiles(tmp_path).gone("/loop/*/x") == ""
    (tmp_path / "file").touch()
    assert AppFiles(tmp_path).gone("/file/x")
    assert AppFiles(tmp_path).gone("/file/*/x")
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0)
    said = AppFiles(tmp_path).gone("/hidden/x")
    assert bool(said) == (os.geteuid() == 0)
