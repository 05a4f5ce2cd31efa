"""A command loads what it needs, and help tells of each what the command tells of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from arbiter.cli import cli
from arbiter.cli.lazy import Lazy

SLOW = ("asyncio", "dbus_fast", "psutil", "scapy", "xml", "arbiter.daemon", "arbiter.kernel.queue")
"""What takes long to load, and the commands below have no use for."""
SHOW = f"""
import json, sys
from arbiter.cli import cli
try:
    cli.main(json.loads(sys.argv[1]), standalone_mode=False)
except SystemExit as end:
    print("EXIT", end.code)
print("LOADED", [name for name in {SLOW!r} if name in sys.modules])
"""


def lazy(command: click.Command | None, name: str = "arbiter") -> Iterator[tuple[str, Lazy]]:
    if isinstance(command, Lazy):
        yield name, command
        context = click.Context(command)
        for sub in command.list_commands(context):
            yield from lazy(command.get_command(context, sub), f"{name} {sub}")


GROUPS = dict(lazy(cli))


def test_there_are_lazy_groups() -> None:
    assert set(GROUPS) >= {"arbiter", "arbiter rules", "arbiter audit"}


@pytest.mark.parametrize("name", [name for name in GROUPS if name != "arbiter"])
def test_a_line_of_help_is_the_first_of_the_commands_own(name: str) -> None:
    group = GROUPS[name]
    context = click.Context(group)
    assert not set(group.commands) & set(group.elsewhere)
    for sub, (_, line) in group.elsewhere.items():
        command = group.get_command(context, sub)
        assert command is not None and command.name == sub
        assert line
        assert command.get_short_help_str(1000).startswith(line.rstrip(".")), (name, sub)


@pytest.mark.parametrize(
    "argv",
    [
        ("rules", "list"),
        ("rules", "add", "allow", "app=/usr/bin/curl"),
        ("rules", "--help"),
        ("audit",),
        ("audit", "summary"),
        ("audit", "--help"),
        ("explain", "--app", "/usr/bin/curl", "--host", "198.51.100.10"),
        ("profiles", "list"),
    ],
    ids=" ".join,
)
def test_nothing_slow_is_loaded_that_is_not_needed(tmp_path: Path, argv: tuple[str, ...]) -> None:
    here = {"ARBITER_DB": str(tmp_path / "db"), "ARBITER_CONFIG": str(tmp_path)}
    here |= {"ARBITER_SOCKET": str(tmp_path / "socket"), "ARBITER_STATE": str(tmp_path)}
    env = os.environ | here
    made = [sys.executable, "-m", "arbiter", "rules", "add", "deny port=25"]
    subprocess.run(made, env=env, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", SHOW, json.dumps(argv)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("LOADED []\n"), done.stdout


def test_an_interrupt_while_the_command_loads_ends_it_without_a_traceback() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'arbiter.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from arbiter.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
