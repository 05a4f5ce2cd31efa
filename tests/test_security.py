"""docs/security.md: every claim names tests that there are; and what holds for all of the code."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbiter.cli.run import Formatter
from arbiter.kernel import rights
from arbiter.kernel.firewall import probe
from arbiter.startup import DaemonError, lock_state

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`((?:[\w/]+/)?test_\w+)\.py::(test_\w+)`")


def sources(*rooms: str) -> Iterator[Path]:
    for name in rooms:
        yield from sorted((ROOT / name).rglob("*.py"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with what is called, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# --- the page -------------------------------------------------------------------------------


def test_every_test_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 100
    missing = []
    for file, name in named:
        path = ROOT / "tests" / f"{file}.py"
        known = re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
        if name not in known:
            missing.append(f"{file}.py::{name}")
    assert missing == []


def test_every_attack_has_an_answer_and_a_test() -> None:
    rows = 0
    for line in PAGE.read_text().split("## What it does not protect from")[0].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[0] not in ("it tries", "---") and "::" in line:
            assert NAMED.search(cells[2]), line
            assert all(cells), line
            rows += 1
        else:
            assert "::" not in line, f"a test that stands in no table: {line}"
    assert rows > 50


def test_the_capabilities_of_the_page_are_those_that_are_kept() -> None:
    assert set(re.findall(r"CAP_\w+", PAGE.read_text())) == {*rights.NEEDED, "CAP_DAC_OVERRIDE"}


# --- programs that the daemon starts ----------------------------------------------------------

_STARTING = re.compile(
    r"(subprocess\.\w+|os\.(exec|spawn|posix_spawn|system|popen|fork)\w*|pty\.\w+"
    r"|asyncio\.create_subprocess_\w+|multiprocessing\.\w+)"
)


def test_the_daemon_starts_the_firewalls_tools_and_nothing_else() -> None:
    """Commands start what a person wrote; the lab its own machine."""
    found = set()
    for path in sources("arbiter"):
        place = path.relative_to(ROOT / "arbiter").as_posix()
        if not place.startswith(("cli/", "lab/")):
            found |= {place for name, _ in calls(ast.parse(path.read_text())) if _starts(name)}
    assert found == {"kernel/firewall/probe.py"}


def _starts(name: str) -> bool:
    return _STARTING.fullmatch(name) is not None


def test_a_tool_is_found_in_roots_directories_whatever_path_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nft", "iptables-save", "cat"):
        trap = tmp_path / name
        trap.write_text("#!/bin/sh\necho trapped\n")
        trap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    probe.find_tool.cache_clear()
    found = probe.find_tool("cat")
    assert found is not None and Path(found).parent.as_posix() in probe.DIRECTORIES
    assert probe.run(["cat"], "from stdin") == "from stdin", "not by our PATH either"


def test_a_tool_gets_no_variable_and_no_descriptor_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    code = """
import json, os
print(json.dumps([sorted(os.environ), sorted(os.listdir('/proc/self/fd'))]))
"""
    try:
        told = probe.run([sys.executable, "-I", "-c", code])
    finally:
        os.close(secret)
    variables, descriptors = json.loads(told)
    assert set(variables) - {"LC_CTYPE"} == {"LC_ALL", "PATH"}  # Python may set LC_CTYPE itself
    assert descriptors[:3] == ["0", "1", "2"]
    assert len(descriptors) == 4, "the fourth is that of /proc/self/fd itself"


# --- what it reads and writes -----------------------------------------------------------------


def test_variables_that_the_daemon_believes_are_those_of_the_page() -> None:
    names = ("DBUS_SYSTEM_BUS_ADDRESS", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    reading = set()
    for path in sources("arbiter"):
        place = path.relative_to(ROOT / "arbiter").as_posix()
        if not place.startswith(("cli/", "lab/")) and re.search(
            r"os\.(environ|getenv)|import environ", path.read_text()
        ):
            reading.add(place)
    assert reading == {"bus/watch.py", "sdnotify.py"}
    text = PAGE.read_text()
    assert [name for name in names if f"`{name}`" not in text] == []


def test_files_are_made_with_a_mode_and_over_no_link() -> None:
    made = 0
    for path in sources("arbiter"):
        if path.is_relative_to(ROOT / "arbiter" / "lab"):
            continue
        text = path.read_text()
        for name, call in calls(ast.parse(text)):
            if name != "os.open":
                continue
            flags = ast.unparse(call.args[1])
            if flags.isidentifier() or flags.startswith("flags"):
                given = re.search(r"^ *flags = (.*(?:\n.*)?)$", text, re.M)
                flags = given[1] if given else flags
            if "O_CREAT" in flags:
                assert "O_NOFOLLOW" in flags or "O_EXCL" in flags, path
                assert "O_CLOEXEC" in flags, path
                assert len(call.args) == 3 and ast.unparse(call.args[2]) in {"MODE", "416", "384"}
                made += 1
    assert made >= 6


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(DaemonError, match="cannot be used"):
        lock_state(tmp_path)
    assert not victim.exists()


def test_a_mistyped_state_directory_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="No such file or directory; choose another with --state"):
        lock_state(tmp_path / "stat" / "e")
    assert not (tmp_path / "stat").exists()


def test_pages_are_made_without_markup_from_texts() -> None:
    for path in (ROOT / "prompts" / "web" / "static").glob("*.js"):
        if not path.name.startswith("uplot"):
            text = path.read_text()
            found = re.findall(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
                r"|DOMParser|createContextualFragment|srcdoc|javascript:",
                text,
            )
            assert found == [], path


# --- what it logs -----------------------------------------------------------------------------


def test_no_name_that_is_logged_begins_a_line_or_commands_a_terminal() -> None:
    formatter = Formatter("%(levelname)s: %(message)s")
    hostile = "x\x1b[2J\r\nERROR: forged\u202e\x9b31m\ud800"
    record = logging.LogRecord("arbiter", logging.INFO, "", 0, "%s", (hostile,), None)
    first, second = formatter.format(record).split("\n")
    assert first.startswith("INFO: x") and second.startswith("  ERROR: forged")
    assert first.isprintable() and second.isprintable()
    assert formatter.format(record).encode()


def test_an_exception_is_logged_whole_and_its_text_begins_no_line() -> None:
    try:
        raise ValueError("bad\x1b[2J\nERROR: forged")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord("arbiter", logging.ERROR, "", 0, "internal error", (), info)
    first, *rest = Formatter("%(levelname)s: %(message)s").format(record).split("\n")
    assert first == "ERROR: internal error"
    assert rest and all(line.startswith(" ") and line.isprintable() for line in rest)
    assert "ValueError: bad" in rest[-2] and "ERROR: forged" in rest[-1]


def test_the_command_is_the_installations_own_whatever_the_environment(tmp_path: Path) -> None:
    """As the installed command starts it: python -I takes no module from the environment, the
    working directory, or a home."""
    trap = tmp_path / "click.py"
    trap.write_text("raise SystemExit('trapped')\n")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    env |= {"PYTHONSTARTUP": str(trap), "PYTHONUSERBASE": str(tmp_path)}
    code = "import sys; from arbiter.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, "--help"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "trapped" not in done.stdout + done.stderr
