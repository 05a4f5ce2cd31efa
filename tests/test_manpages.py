"""The manual pages, and everything else that is shipped beside the code, are there and true."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from arbiter.cli import COMMANDS

ROOT = Path(__file__).parent.parent
MAN = ROOT / "packaging" / "share" / "man" / "man1"
DESKTOP = ROOT / "packaging" / "share" / "desktop"
PAGES = sorted(MAN.glob("*.1"))


def made(folder: Path) -> dict[str, str]:
    """In a process of its own: click keeps a command's help option as it was first asked for."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("ARBITER_")}
    argv = [sys.executable, str(ROOT / "packaging" / "manpages.py"), str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text() for path in folder.glob("*")}


def test_every_command_has_its_page_and_no_page_is_left_over(tmp_path: Path) -> None:
    pages = made(MAN if os.environ.get("ARBITER_REGEN") else tmp_path)
    kept = {path.name: path.read_text() for path in MAN.glob("*")}
    assert kept == pages, "run: ARBITER_REGEN=1 make test ARGS=tests/test_manpages.py"
    assert {f"arbiter-{name}.1" for name in COMMANDS} < set(kept)


def test_pages_that_are_no_commands_any_more_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "arbiter-gone.1").touch()
    assert "arbiter-gone.1" not in made(tmp_path)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="NOT RUN: no mandoc")
def test_mandoc_finds_no_errors() -> None:
    argv = ["mandoc", "-T", "lint", "-W", "error", *map(str, PAGES)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("man") is None, reason="NOT RUN: no man")
def test_man_shows_a_page_with_its_options_and_no_warning() -> None:
    env = {
        "PATH": os.environ["PATH"],
        "MANWIDTH": "200",
        "LC_ALL": "C.UTF-8",
        "MAN_DISABLE_SECCOMP": "1",
    }
    argv = ["man", "--warnings", "-l", str(MAN / "arbiter-prompt-notify.1")]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=True)
    assert done.stderr == ""
    for text in (
        "arbiter-prompt-notify - Ask by desktop notifications with buttons, until Ctrl-C",
        "--wait Wait for a daemon that is not there yet.",
        "ARBITER_SOCKET",
        "3      the daemon cannot be reached",
        "arbiter(1), arbiter-prompt(1)",
    ):
        assert " ".join(text.split()) in " ".join(done.stdout.split())


# --- the desktop ----------------------------------------------------------------------------


def section(path: Path, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return dict(parser[name])


def test_the_desktop_entry_and_the_unit_start_what_there_is() -> None:
    entry = section(DESKTOP / "arbiter-notify.desktop", "Desktop Entry")
    unit = section(DESKTOP / "arbiter-notify.service", "Service")
    assert entry["Exec"] == unit["ExecStart"] == "arbiter prompt notify --wait"
    argv = [sys.executable, "-P", "-m", *entry["Exec"].split(), "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    shutil.which("desktop-file-validate") is None, reason="NOT RUN: no desktop-file-validate"
)
def test_the_desktop_entry_is_valid() -> None:
    subprocess.run(["desktop-file-validate", str(DESKTOP / "arbiter-notify.desktop")], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NOT RUN: no systemd-analyze")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    text = (DESKTOP / "arbiter-notify.service").read_text()
    unit = tmp_path / "arbiter-notify.service"
    unit.write_text(text.replace("ExecStart=arbiter", f"ExecStart={sys.executable} -m arbiter"))
    argv = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert "arbiter-notify.service:" not in done.stderr, done.stderr


# --- the wheel ------------------------------------------------------------------------------


def test_the_wheel_has_all_of_it_where_it_is_looked_for(tmp_path: Path) -> None:
    copy = tmp_path / "copy"  # building writes beside the sources
    ignored = shutil.ignore_patterns(
        ".*", "*.egg-info", "build", "tests", "fixtures", "__pycache__"
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    argv += ["--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(copy)]
    env = os.environ | {"CC": "/bin/false"}  # what is compiled is test_build.py's
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition(".data/data/")[2] for name in archive.namelist()}
    wanted = {f"share/man/man1/{page.name}" for page in PAGES}
    wanted |= {
        "share/bash-completion/completions/arbiter",
        "share/zsh/site-functions/_arbiter",
        "share/fish/vendor_completions.d/arbiter.fish",
        "share/applications/arbiter-notify.desktop",
        "share/systemd/user/arbiter-notify.service",
    }
    assert wanted <= names
