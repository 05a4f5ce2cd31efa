"""packaging/check.sh: what mypy and the tests say together, whichever ends first."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / "packaging" / "check.sh"
WAITS = "for i in $(seq 500); do [ -e began ] && break; sleep 0.02; done; "
"""Until the tests have begun."""


def check(place: Path, types: str, tests: str, collect: str = "") -> tuple[int, list[str]]:
    """Its exit code and lines, with a shell's words for each command."""
    argv = ["sh", str(CHECK)]
    for name, words in (("types", types), ("tests", tests), ("collect", collect)):
        (place / name).write_text(words)
        argv.append(f"sh {name}")
    done = subprocess.run(argv, capture_output=True, text=True, cwd=place, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("code", [0, 3])
def test_both_are_run_and_the_tests_code_is_the_answer(tmp_path: Path, code: int) -> None:
    for types in ("echo typed", WAITS + "echo typed"):
        ended, lines = check(tmp_path, types, f"echo tested; >began; exit {code}", "echo unseen")
        assert (ended, sorted(lines)) == (code, ["tested", "typed"])
        (tmp_path / "began").unlink()


def test_what_mypy_finds_soon_ends_it_before_the_tests(tmp_path: Path) -> None:
    found = check(tmp_path, "echo wrong; exit 1", "echo tested", "sleep 2")
    assert found == (1, ["wrong"])


def test_what_mypy_finds_later_is_said_at_once_and_again_at_the_end(tmp_path: Path) -> None:
    tests = ">began; for i in $(seq 500); do [ -e said ] && break; sleep 0.02; done; echo tested"
    types = WAITS + "echo wrong; >said; exit 1"
    code, lines = check(tmp_path, types, tests)
    assert code == 1
    assert sorted(lines[:2]) == ["tested", "wrong"]
    assert lines[2:] == ["wrong"]
