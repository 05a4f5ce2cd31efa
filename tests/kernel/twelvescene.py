"""Requests, commands and the ends of programs in the lab, for the tests of the twelve points."""

from __future__ import annotations

import subprocess

import pytest
from running import PATIENCE

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6

TCP, UDP = 6, 17
both = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["IPv4", "IPv6"])


def url(server: str, path: str = "") -> str:
    return f"http://[{server}]/{path}" if ":" in server else f"http://{server}/{path}"


def curl(server: str, path: str = "", *options: str) -> tuple[str, ...]:
    return ("curl", "-sS", "-g", "-m", str(20 * PATIENCE), *options, url(server, path))


def sh(lab: Lab, line: str) -> str:
    done = lab.run(line.split())
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def finish(program: subprocess.Popen[str], timeout: float = 20) -> tuple[int, str]:
    output, _ = program.communicate(timeout=timeout * PATIENCE)
    return program.returncode, output
