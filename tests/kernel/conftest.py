"""The lab for every kernel test, and a loud word where the kernel does not let us have one."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from arbiter.lab import Lab

HERE = Path(__file__).parent
T = TypeVar("T")


@functools.cache
def missing() -> str:
    """Why network namespaces cannot be made here; "" if they can."""
    if os.geteuid() != 0:
        return "not root: repeat it with sudo, or inside `unshare -Urnm`"
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            return f"`{tool}` is not there: install {package}"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    return f"no network namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kernel)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Runs for the tests of this folder only."""
    if missing():
        if os.environ.get("CI"):
            pytest.fail(f"in CI the kernel tests must run, but: {missing()}", pytrace=False)
        pytest.skip(f"KERNEL TEST NOT RUN: {missing()}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Debian's stock kernel (`make test-vm`) has everything: there it is a failure to lack it."""
    report = yield
    if report.skipped and os.environ.get("STOCK_KERNEL") and isinstance(report.longrepr, tuple):
        why = report.longrepr[2]
        if "KERNEL TEST NOT RUN" in why or "this kernel" in why:
            report.outcome = "failed"
            report.longrepr = f"under kernel {os.environ['STOCK_KERNEL']} it must run: {why}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that no summary of dots can hide."""
    skipped = terminalreporter.stats.get("skipped", [])
    if any("KERNEL TEST" in str(report.longrepr) for report in skipped) and missing():
        text = f"the kernel tests did NOT run: {missing()}"
        terminalreporter.write_line(text, red=True, bold=True)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One lab for the whole run: leave its host as you found it, or take `clean_lab`."""
    with Lab(f"t{os.getpid()}") as built:
        yield built


@pytest.fixture
def clean_lab() -> Iterator[Lab]:
    """A lab for this test alone (about 0.3 s): its firewall, routes and sysctls are untouched."""
    with Lab(f"c{os.getpid()}") as built:
        yield built


@pytest.fixture
def in_host(lab: Lab) -> Callable[..., str]:
    """`in_host("curl", url, user="nobody")`: the standard output; a failure is the test's."""

    def run(*argv: str, user: str | None = None, timeout: float = 10) -> str:
        done = lab.run(argv, user=user, timeout=timeout)
        assert done.returncode == 0, f"{argv} exited with {done.returncode}: {done.stderr}"
        return done.stdout

    return run


def wait_until(predicate: Callable[[], T], timeout: float = 5.0) -> T:
    """The predicate's first true value; fails the test after `timeout` seconds."""
    until = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > until:
            pytest.fail(f"waited {timeout} s in vain for {predicate}; it is {value!r}")
        time.sleep(0.01)
    return value


@pytest.fixture
def wait_for() -> Callable[..., object]:
    """`wait_for(predicate, timeout=5.0)`, as a fixture because test folders are no packages."""
    return wait_until


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of our own, beside ours."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.partition("::")[2] for line in lines if line.startswith("0::")), None)
    roots = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    root = next((root for root in roots if (root / "cgroup.procs").exists()), None)
    if own is None or root is None:
        pytest.skip("this kernel's cgroups are not of version 2")
    made = root / "system.slice-arbiter-test"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"this kernel's cgroups cannot be changed: {error}")
    yield made
    made.rmdir()
