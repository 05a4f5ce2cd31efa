"""packaging/: the unit is what docs/install.md says, and installing leaves what it promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arbiter.kernel import rights

ROOT = Path(__file__).parent.parent
SYSTEM = ROOT / "packaging" / "system"
UNIT = SYSTEM / "arbiter.service"
INSTALL_MD = (ROOT / "docs" / "install.md").read_text()
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="NOT RUN: no systemd-analyze"
)


def setting(name: str) -> list[str]:
    """Every value of a key of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


@needs_analyze
def test_the_exposure_that_the_docs_state_is_that_of_the_unit() -> None:
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for arbiter\.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert f"**{found[1]} (OK)**" in INSTALL_MD
    assert float(found[1]) <= 3.2


@needs_analyze
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "arbiter.service"
    text = UNIT.read_text()
    unit.write_text(text.replace("/usr/bin/arbiter", sys.executable))
    argv = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "arbiter.service:" not in done.stderr, done.stderr


def test_the_unit_lets_the_daemon_have_what_it_keeps_and_no_more() -> None:
    (bounding,) = setting("CapabilityBoundingSet")
    assert set(bounding.split()) == set(rights.NEEDED)
    for name, why in rights.NEEDED.items():
        assert f"| `{name}` | {why.replace('/proc/PID/fd', '`/proc/PID/fd`')} |" in INSTALL_MD
    (mask,) = setting("UMask")
    assert int(mask, 8) == rights.UMASK


def test_each_line_of_the_unit_that_narrows_has_its_why() -> None:
    """A comment stands above each group of lines."""
    groups = UNIT.read_text().split("\n\n")
    for group in groups[1:3]:
        assert "\n# " in f"\n{group}", group


def test_owners_can_be_found_and_links_have_their_sysctls() -> None:
    for forbidden in ("ProtectProc", "ProcSubset", "ProtectKernelTunables", "PrivateNetwork"):
        assert setting(forbidden) == []


def test_directories_are_made_with_the_same_modes_by_the_unit_and_at_boot() -> None:
    lines = (SYSTEM / "tmpfiles.conf").read_text().splitlines()
    made = {line.split()[1]: line.split()[2] for line in lines if not line.startswith("#")}
    for path, name in (
        ("/var/lib/arbiter", "StateDirectoryMode"),
        ("/run/arbiter", "RuntimeDirectoryMode"),
        ("/etc/arbiter", "ConfigurationDirectoryMode"),
    ):
        assert setting(name) == [made[path]]


@pytest.mark.parametrize("script", sorted((ROOT / "packaging").rglob("*.sh")), ids=lambda p: p.name)
def test_shells_can_read_every_script(script: Path) -> None:
    shell = script.read_text().partition("\n")[0].removeprefix("#!")
    subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_shells_can_read_the_maintainer_scripts(name: str) -> None:
    subprocess.run(["/bin/sh", "-n", str(ROOT / "packaging" / "deb" / name)], check=True)


# --- make install -----------------------------------------------------------------------------


def run(target: str, root: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"DESTDIR": str(root), "PREFIX": "/opt/a", "PYTHON": sys.executable}
    argv = ["sh", str(ROOT / "packaging" / "install.sh"), target]
    return subprocess.run(argv, capture_output=True, text=True, env=env, check=check)


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_what_is_installed_runs_and_exactly_that_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "opt/a/share/zsh").mkdir(parents=True)  # empty, and was there before
    for path in ("opt/a/bin/other", "opt/a/share/man/man1/other.1", "etc/arbiter/arbiter.toml"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    before = tree(root)
    run("install", root)
    prefix = root / "opt/a"
    installed = tree(root)
    assert {
        "opt/a/bin/arbiter",
        "opt/a/lib/systemd/system/arbiter.service",
        "opt/a/lib/systemd/user/arbiter-notify.service",
        "opt/a/lib/sysusers.d/arbiter.conf",
        "opt/a/lib/tmpfiles.d/arbiter.conf",
        "opt/a/share/man/man1/arbiter-run.1.gz",
        "opt/a/share/doc/arbiter/docs/install.md",
    } <= installed
    compiled = [path for path in installed if "/arbiter/kernel/_fastpath." in path]
    assert [path.endswith(".so") for path in compiled if not path.endswith(".pyi")] == [True]
    assert not [path for path in installed if "/arbiter/" in path and path.endswith((".c", ".h"))]
    unit = (prefix / "lib/systemd/system/arbiter.service").read_text()
    assert "ExecStart=/opt/a/bin/arbiter run\n" in unit
    assert "/usr/bin/arbiter" not in unit
    notify = (prefix / "lib/systemd/user/arbiter-notify.service").read_text()
    assert "ExecStart=/opt/a/bin/arbiter prompt notify --wait\n" in notify
    command = (prefix / "bin/arbiter").read_text()
    assert command.startswith("#!/opt/a/lib/arbiter/bin/python -I\n")

    # By its own interpreter, whose Python packages are its own; and so a program that it starts.
    python = prefix / "lib/arbiter/bin/python"
    for how in (["-I", str(prefix / "bin/arbiter")], ["-P", "-m", "arbiter"]):
        env = {"PATH": "/usr/bin:/bin", "PYTHONHOME": "/nonexistent"} if how[0] == "-I" else {}
        done = subprocess.run(
            [str(python), *how, "rules", "add", "--help"],
            capture_output=True, text=True, env=env, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    code = "import arbiter, prompts.tui.app as app, uvicorn as u; print(arbiter, app, u)"
    found = subprocess.run(
        [str(python), "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.count(f"from '{prefix}/lib/arbiter/") == 3, found.stdout

    (prefix / "lib/arbiter/left-by-a-run").touch()
    run("uninstall", root)
    assert tree(root) == before
    refused = run("uninstall", root, check=False)
    assert refused.returncode == 1
    assert "no arbiter in" in refused.stderr
    run("purge", root)
    assert tree(root) == before - {"etc/arbiter/arbiter.toml", "etc/arbiter"}


@pytest.mark.parametrize("place", ["PREFIX=usr", "DESTDIR=root"])
def test_a_place_that_does_not_begin_at_the_root_is_refused_at_once(place: str) -> None:
    name, _, path = place.partition("=")
    argv = ["sh", str(ROOT / "packaging" / "install.sh"), "install"]
    done = subprocess.run(argv, env=os.environ | {name: path}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"install: {place}: it must be a path from the root on")
