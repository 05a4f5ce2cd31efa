"""The docs are true: every command with its help, every word of a rule, every example line."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
from click.testing import CliRunner
from sessions import like, session

from arbiter.cli import COMMANDS, cli
from arbiter.rules import LifetimeKind, ScopeName, format_rule, parse
from arbiter.rules.line import KEYS
from arbiter.store import Store

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COMMANDS_MD = DOCS / "commands.md"


PAGE = """
import sys, click
from click.testing import CliRunner
from arbiter.cli import cli

def leaves(command, name):
    yield name
    if isinstance(command, click.Group):
        context = click.Context(command)
        for sub in command.list_commands(context):
            yield from leaves(command.get_command(context, sub), f"{name} {sub}")

for name in leaves(cli, "arbiter"):
    argv = [*name.split()[1:], "--help"]
    done = CliRunner(env={"COLUMNS": "80"}).invoke(cli, argv, prog_name="arbiter")
    assert done.exit_code == 0, done.output
    print(f"\\n## {name}\\n\\n```text\\n{done.output.rstrip()}\\n```")
"""
"""In a process of its own: click keeps a command's help option as it was first asked for."""


def commands_page() -> str:
    text = (
        "# Commands\n\nEvery command and its `--help`, as it prints it. "
        "Exit codes: 0 done, 1 refused or not\nfound, 2 usage, 3 the daemon cannot be reached. "
        "Every listing takes `--json`.\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("ARBITER_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PAGE], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    return text + done.stdout


def test_every_command_is_documented_with_its_help() -> None:
    page = commands_page()
    if os.environ.get("ARBITER_REGEN"):
        COMMANDS_MD.write_text(page)
    assert COMMANDS_MD.read_text() == page, "run: ARBITER_REGEN=1 make test ARGS=tests/test_docs.py"


def test_the_short_help_is_what_each_command_does() -> None:
    context = click.Context(cli)
    assert cli.list_commands(context) == list(COMMANDS)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help, f"arbiter {name} has no help"


def test_a_misspelt_command_names_the_nearest() -> None:
    done = CliRunner().invoke(cli, ["pendin"])
    assert done.exit_code == 2
    assert "Did you mean 'pending'?" in done.output


def test_the_session_of_the_profiles_page_is_real(tmp_path: Path) -> None:
    env = {"ARBITER_DB": str(tmp_path / "a.db"), "ARBITER_SOCKET": str(tmp_path / "socket")}
    env |= {"ARBITER_CONFIG": str(tmp_path)}
    Store.open(tmp_path / "a.db").close()
    steps = session(DOCS / "profiles.md")
    assert len(steps) >= 9
    for command, shown in steps:
        name, *argv = shlex.split(command)
        assert name == "arbiter"
        done = CliRunner(env=env).invoke(cli, argv)
        assert done.exit_code == 0, done.output
        assert like(shown, done.output), f"$ {command}\n{done.output}"


def test_what_is_saved_as_the_profiles_page_says_can_be_restored(tmp_path: Path) -> None:
    text = (DOCS / "profiles.md").read_text()
    (block,) = re.findall(r"^```\n(.*?)```", text.split("## Save and restore")[1], re.DOTALL | re.M)
    env = {"ARBITER_DB": str(tmp_path / "a.db"), "ARBITER_SOCKET": str(tmp_path / "socket")}
    runner = CliRunner(env=env)
    place = {"profile": "home", "network": "ssid:Home", "sim": "89430123456789012345"}
    for key, value in place.items():
        assert (
            runner.invoke(cli, ["rules", "add", f"allow app=/{key} {key}={value}"]).exit_code == 0
        )
    for line in block.splitlines():
        command, _, file = line.partition(" > ")
        argv = [
            str(tmp_path / w) if w.endswith((".rules", ".toml")) else w for w in command.split()[1:]
        ]
        done = runner.invoke(cli, argv)
        assert done.exit_code == 0, done.output
        if file:
            (tmp_path / file).write_text(done.stdout)
            assert done.stdout.count("app") == 1, done.stdout
        elif "restore" in argv:
            assert done.stdout.startswith("0 rules added, 0 changed, 1 there already, 0 removed")


def test_every_example_rule_is_a_rule() -> None:
    text = (DOCS / "rules.md").read_text()
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].strip().splitlines()
    assert len(lines) > 5
    for line in lines:
        assert format_rule(parse(line)) == line.split(" #")[0]


def test_every_word_of_a_rule_is_documented() -> None:
    text = (DOCS / "rules.md").read_text()
    for key in KEYS:
        assert f"{key}=" in text, f"docs/rules.md does not mention {key}="
    for scope in ScopeName:
        assert f"`{scope.value}`" in text
    for kind in LifetimeKind:
        assert kind is LifetimeKind.SPAN or f"`{kind.value}`" in text


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make (\w+)`?", (ROOT / "README.md").read_text())):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
