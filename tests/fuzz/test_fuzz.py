"""Every fuzz target keeps its promises for the seeds, for what was found, and for any bytes.

`make fuzz` goes on from here, guided by coverage.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rule_strategies as strategies
import seeds
import targets
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.rules import Rule, format_rule, to_json

CORPUS = {path for path in seeds.CORPUS.glob("*/*") if path.is_file()}
BY_TARGET = {
    name: sorted(
        path for folder in seeds.folders(name) for path in folder.glob("*") if path.is_file()
    )
    for name in targets.TARGETS
}
EACH = [(name, path) for name, paths in BY_TARGET.items() for path in paths]


def test_the_corpus_is_what_its_script_makes_and_what_was_found() -> None:
    made = {seeds.CORPUS / target / name: data for target, name, data in seeds.seeds()}
    kept = {path: path.read_bytes() for path in CORPUS if not path.name.startswith("found-")}
    assert kept == made, "run: python tests/fuzz/seeds.py"
    assert {path.parent.name for path in CORPUS} <= set(targets.TARGETS)
    assert all(BY_TARGET.values())


@pytest.mark.parametrize(("name", "path"), EACH, ids=lambda one: getattr(one, "name", one))
def test_a_seed_keeps_the_promises(name: str, path: Path) -> None:
    targets.TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
@settings(max_examples=examples(40), deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_keep_the_promises(name: str, data: bytes) -> None:
    targets.TARGETS[name](data)


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with some of its bytes changed, parts of it moved or repeated, or of two mixed."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from((0, 0, 1, 1, 2, 8, 40))))
        other = draw(st.sampled_from(seeds))
        start = draw(st.integers(0, len(other)))
        new = draw(
            st.sampled_from(
                (b"", b"0", b"-", b",", b"*", b":", b"/", b'"', b"\\", b" ", b"\n", b"\0")
            )
            | st.binary(max_size=3)
            | st.just(other[start : start + draw(st.integers(0, 30))])
            | st.just(data[at:end])
        )
        data = data[:at] + new + data[end:]
    return data


@pytest.mark.parametrize("name", targets.TARGETS)
@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_a_damaged_seed_keeps_the_promises(name: str, data: st.DataObject) -> None:
    targets.TARGETS[name](data.draw(damaged([path.read_bytes() for path in BY_TARGET[name]])))


@settings(max_examples=examples(60), deadline=None)
@given(rule=strategies.rules())
def test_every_rule_is_read_as_it_is_written(rule: Rule) -> None:
    targets.TARGETS["line"](format_rule(rule).encode())
    targets.TARGETS["rule-json"](json.dumps(to_json(rule)).encode())


def test_every_target_is_documented() -> None:
    text = (seeds.ROOT / "docs" / "fuzzing.md").read_text("utf-8")
    for name in targets.TARGETS:
        assert f"`{name}`" in text


# --- the command ----------------------------------------------------------------------------


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(seeds.ROOT / "tests" / "fuzz" / "run.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


def test_the_targets_are_listed_and_a_wrong_one_is_a_usage_error() -> None:
    assert run("--list").stdout.split() == list(targets.TARGETS)
    done = run("--target", "dsn")
    assert done.returncode == 2
    assert "no target dsn; there is: line," in done.stderr


def test_without_atheris_there_is_one_line_with_the_next_step(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['atheris'] = None"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    done = run("--target", "hosts", "--seconds", "1", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install atheris" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_broken_promise_is_found_shown_and_kept(tmp_path: Path) -> None:
    """In a copy that reads an address and does not expect that it is none."""
    for part in ("arbiter", "tests", "fixtures"):
        shutil.copytree(seeds.ROOT / part, tmp_path / part, symlinks=True)
    broken = tmp_path / "arbiter" / "nametext.py"
    text = broken.read_text()
    assert text.count("except ValueError") == 1
    broken.write_text(text.replace("except ValueError", "except OSError"))
    command = [sys.executable, str(tmp_path / "tests/fuzz/run.py"), "--target", "hosts"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "hosts, 5 s: a promise is broken" in done.stdout
    assert "ValueError" in done.stdout
    assert ".fuzz/hosts-crash-" in done.stderr
    assert len(list((tmp_path / ".fuzz").glob("hosts-crash-*"))) == 1
