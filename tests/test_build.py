"""What is compiled: it is in what is built, where there is a compiler, and built anew when it
changes; without one all is built but it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "arbiter" / "kernel" / "native"
PARTS = ("arbiter", "packaging", "prompts", "schema.sql", "pyproject.toml", "README.md")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources only: building writes beside them."""
    made = tmp_path / "source"
    made.mkdir()
    unwanted = shutil.ignore_patterns("*.so", "__pycache__")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, made / part, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(ROOT / part, made / part)
    return made


@pytest.mark.parametrize("compiler", ["gcc", "/bin/false"])
def test_without_a_compiler_all_is_built_but_what_is_compiled(copy: Path, compiler: str) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    env = os.environ | {"CC": compiler, "CFLAGS": "-O0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*command, "-v", "."], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = copy.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "arbiter/kernel/fastpath.py" in names
    built = [name for name in names if "/_fastpath." in name and name.endswith(".so")]
    assert len(built) == (compiler == "gcc")
    assert not [name for name in names if name.endswith((".c", ".h"))]
    said = 'building extension "arbiter.kernel._fastpath" failed' in done.stdout + done.stderr
    assert said is (not built)


def test_all_that_is_compiled_is_in_the_source_package(copy: Path) -> None:
    code = "import setuptools.build_meta as meta; print(meta.build_sdist('.'))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True)
    with tarfile.open(copy / done.stdout.split()[-1]) as package:
        names = {Path(name).name for name in package.getnames() if "/native/" in name}
    assert names == {path.name for path in NATIVE.iterdir()}


def test_setup_builds_anew_what_has_changed_and_only_that(copy: Path) -> None:
    """In a virtual environment that writes down what it is to install."""
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    log = copy / "log"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || echo "$@" >>{log}\n')
    python.chmod(0o755)

    def setup() -> int:
        env = os.environ | {"PYTHON": sys.executable}
        subprocess.run(["sh", "packaging/setup.sh"], cwd=copy, env=env, check=True)
        return log.read_text().count("pip install")

    assert [setup(), setup()] == [1, 1]
    for number, name in enumerate(["events.c", "fastpath.h"], 2):
        source = copy / "arbiter" / "kernel" / "native" / name
        source.write_text(source.read_text() + "\n")
        assert [setup(), setup()] == [number, number]
