"""What CI runs: green only where every test passed, a flaky one at its second run and by name; and
in which order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from handout import HERE, LONG, places

RUN = Path(__file__).parent.parent / ".ci" / "run"
MAKEFILE = """
setup:
\t@echo set up, PIP_NO_COMPILE=$(PIP_NO_COMPILE)
check:
\t@echo checked
\t@test {failed} -eq 0 || {{ mkdir -p .pytest_cache/v/cache; \
\t\tcp failed .pytest_cache/v/cache/lastfailed; exit 1; }}
\t@exit {lint}
types:
\t@exit {types}
test:
\t@echo 'again with $(ARGS)'; exit {again}
"""


def ran(
    path: Path, failed: int, again: int = 0, lint: int = 0, types: int = 0
) -> subprocess.CompletedProcess[str]:
    """`.ci/run` in a project where so many tests fail, and that is what comes of them alone."""
    (path / ".ci").mkdir()
    shutil.copy(RUN, path / ".ci" / "run")
    names = {f"tests/test_some.py::test_{number}": True for number in range(failed)}
    (path / "failed").write_text(json.dumps(names, indent=2))
    (path / "Makefile").write_text(
        MAKEFILE.format(failed=failed, again=again, lint=lint, types=types)
    )
    return subprocess.run(["sh", path / ".ci" / "run"], capture_output=True, text=True)


def test_bytecode_is_kept_whatever_the_machine_says() -> None:
    there = ["make", "-s", "-C", str(RUN.parent.parent), "--eval", "shown: ; @env", "shown"]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "ANOTHER": "1"}
    shown = subprocess.run(there, capture_output=True, text=True, env=env, check=True).stdout
    assert "ANOTHER=1" in shown
    assert "PYTHONDONTWRITEBYTECODE" not in shown


def test_all_passed(tmp_path: Path) -> None:
    done = ran(tmp_path, failed=0)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["set up, PIP_NO_COMPILE=0", "checked"]


def test_with_that_setting_pip_compiles_nothing() -> None:
    """pip takes the word of such a setting for the opposite of its name's: 0, and not 1."""
    code = "from pip._internal.commands import create_command as made\n"
    code += "print(bool(made('install').parse_args(['a'])[0].compile))"
    env = os.environ | {"PIP_NO_COMPILE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("failed", [1, 3])
def test_what_passes_alone_is_named_as_flaky(tmp_path: Path, failed: int) -> None:
    done = ran(tmp_path, failed)
    assert done.returncode == 0
    assert "again with --last-failed" in done.stdout
    assert "FLAKY" in done.stdout
    assert "tests/test_some.py::test_0" in done.stdout


def test_a_flaky_test_does_not_hide_what_mypy_found(tmp_path: Path) -> None:
    done = ran(tmp_path, failed=1, types=1)
    assert done.returncode != 0
    assert "FLAKY" not in done.stdout


def test_what_fails_again_is_red(tmp_path: Path) -> None:
    done = ran(tmp_path, failed=1, again=1)
    assert done.returncode != 0
    assert "FLAKY" not in done.stdout


def test_more_than_a_few_are_red_at_once(tmp_path: Path) -> None:
    done = ran(tmp_path, failed=4)
    assert done.returncode != 0
    assert "again" not in done.stdout


def test_lint_is_not_tried_again(tmp_path: Path) -> None:
    left = tmp_path / ".pytest_cache/v/cache"
    left.mkdir(parents=True)
    (left / "lastfailed").write_text('{\n  "tests/test_some.py::test_0": true\n}')
    done = ran(tmp_path, failed=0, lint=1)
    assert done.returncode != 0
    assert "again" not in done.stdout


def test_what_is_no_utf8_is_told_from_another_process_too(tmp_path: Path) -> None:
    for name in ("conftest.py", "examples.py", "handout.py"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n"
        "    sys.stdout.write('a \\udcff')\n    assert '\\udcfe' == 'b'\n"
    )
    argv = [sys.executable, "-m", "pytest", "-n", "1", "--rootdir", str(tmp_path), "test_it.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    assert "a \\udcff" in done.stdout


def test_long_files_are_handed_out_first_and_beside_others() -> None:
    assert [name for name in LONG if not (HERE / name).is_file()] == []
    long = [HERE / name for name in LONG]
    others = {HERE / f"test_other{number}.py": 100 - number for number in range(50)}
    place = places(Counter(others | dict.fromkeys(long, 3)))
    order = sorted(place, key=lambda path: place[path])
    assert [path for path in order if path in long] == long
    assert [path for path in order if path in others] == list(others)
    assert set(order[:2]) == {long[0], next(iter(others))}
    assert order[-1] in others
    half = order[: len(order) // 2]
    assert 0.3 < sum(path in long for path in half) / len(long) < 0.7
