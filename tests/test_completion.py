"""Tab in real shells: commands, options, what is there now; nothing hostile becomes a command."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripted_daemon import ScriptedDaemon, ask_to, example_ask

from arbiter.cli import COMMANDS, cli, complete
from arbiter.cli.completion import script
from arbiter.protocol import Scope
from arbiter.rules import LifetimeKind

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "packaging" / "share" / "completions"
FILES = {"bash": "arbiter", "zsh": "_arbiter", "fish": "arbiter.fish"}

PROBE = """
source {script}
compopt() {{ echo "compopt $*" >&2; }}
COMP_LINE=$1 COMP_POINT=${{#1}}
_arbiter_completion arbiter
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def environment(folder: Path) -> dict[str, str]:
    """`arbiter` is this one; a database and a socket of the test's."""
    program = folder / "bin" / "arbiter"
    if not program.exists():
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m arbiter "$@"\n')
        program.chmod(0o755)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "ARBITER_DB": str(folder / "a.db"),
        "ARBITER_SOCKET": str(folder / "s"),
    }


def bash(folder: Path, line: str) -> list[str]:
    """What bash would insert or offer for this line, with the cursor at its end."""
    done = subprocess.run(
        ["bash", "--norc", "-c", PROBE.format(script=SHIPPED / "arbiter"), "bash", line],
        env=environment(folder), capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert not [x for x in done.stderr.splitlines() if not x.startswith("compopt")], done.stderr
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize("shell", FILES)
def test_the_shipped_scripts_are_what_the_command_prints(shell: str) -> None:
    path = SHIPPED / FILES[shell]
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert done.output == script(shell)
    if os.environ.get("ARBITER_REGEN"):
        path.write_text(done.output)
    regen = "run: ARBITER_REGEN=1 make test ARGS=tests/test_completion.py"
    assert path.read_text() == done.output, regen


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    assert bash(tmp_path, "arbiter ") == list(COMMANDS)
    assert bash(tmp_path, "arbiter run") == ["run", "run-via"]
    assert bash(tmp_path, "arbiter prompt te") == ["terminal"]
    assert bash(tmp_path, "arbiter rules rem") == ["remove"]
    assert bash(tmp_path, "arbiter run --mo") == ["--mode"]
    assert bash(tmp_path, "arbiter run --mode ") == ["ask", "observe", "enforce"]
    assert bash(tmp_path, "arbiter no-such-command ") == []
    assert "via=" in bash(tmp_path, "arbiter rules add route ")
    assert "via=" not in bash(tmp_path, "arbiter rules add deny ")
    assert bash(tmp_path, "arbiter rules add deny app=x fo") == ["for="]
    assert bash(tmp_path, "arbiter rules add deny app=x ap") == [], "once is enough"
    assert "15m" in bash(tmp_path, "arbiter rules add deny for="), "only what is behind the ="


def test_bash_completes_rules_and_apps_of_the_database(tmp_path: Path) -> None:
    env = environment(tmp_path)
    for line in ("allow app=/usr/bin/curl", "deny app=/usr/bin/wget"):
        assert CliRunner().invoke(cli, ["rules", "add", line], env=env).exit_code == 0
    assert bash(tmp_path, "arbiter rules remove ") == ["2", "1"]
    assert bash(tmp_path, "arbiter explain --app ") == ["/usr/bin/wget", "/usr/bin/curl"]
    assert bash(tmp_path, "arbiter rules add deny app=/usr/bin/c") == ["/usr/bin/curl"]


def test_bash_completes_asks_scopes_and_decisions_of_a_running_daemon(tmp_path: Path) -> None:
    async def scene() -> None:
        other = example_ask(9, scopes=(Scope("destination", "port=443"),))
        async with ScriptedDaemon(tmp_path / "s", example_ask(), ask_to(8), other):
            for line, wanted in (
                ("arbiter answer ", ["7", "8", "9"]),
                ("arbiter answer 7 ", ["allow", "deny", "route"]),
                (
                    "arbiter answer 7 deny --scope ",
                    ["connection", "host", "port", "app", "parent"],
                ),
                ("arbiter answer 7 deny --for s", ["session"]),
            ):
                assert await asyncio.to_thread(bash, tmp_path, line) == wanted, line

    asyncio.run(scene())


def test_a_hostile_app_is_quoted_and_without_a_daemon_nothing_is_said(tmp_path: Path) -> None:
    env = environment(tmp_path)
    name = "/tmp/$(touch pwned);`id` x"
    added = CliRunner().invoke(cli, ["rules", "add", f'deny app="{name}"'], env=env)
    assert added.exit_code == 0, added.output
    (offered,) = bash(tmp_path, "arbiter explain --app ")
    assert offered == f"'{name}'"
    for line in ("arbiter answer ", "arbiter run-via ", "arbiter answer 7 allow --scope "):
        asked = {"_ARBITER_COMPLETE": "bash_complete", "COMP_WORDS": line}
        done = subprocess.run(
            ["arbiter"], env=env | asked, capture_output=True, text=True, timeout=20, check=False
        )
        assert (done.stdout.strip(), done.stderr) == ("", ""), line


def test_in_a_real_bash_tab_completes_the_line_past_an_equals_sign(tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        env=environment(tmp_path) | {"TERM": "dumb", "PS1": "> ", "INPUTRC": "/dev/null"},
        stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True,
    )  # fmt: skip
    os.close(secondary)
    try:
        read_until(primary, "> ")
        type_in(primary, f"source {SHIPPED / 'arbiter'}; echo rea''dy\n")
        read_until(primary, "ready")
        type_in(primary, "arbiter comp\tba\t")
        read_until(primary, "arbiter completion bash ")
        type_in(primary, "\x15arbiter rules add deny for=fo\tapp=x cla\t")
        read_until(primary, "arbiter rules add deny for=forever app=x class=")
    finally:
        shell.kill()
        shell.wait()
        os.close(primary)


def type_in(terminal: int, text: str) -> None:
    os.write(terminal, text.encode())


def read_until(terminal: int, wanted: str) -> None:
    seen, end = "", time.monotonic() + 15
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{wanted!r} is not in {seen!r}"
        seen += os.read(terminal, 4096).decode(errors="replace").replace("\x07", "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="NOT RUN: no fish")
def test_fish_completes(tmp_path: Path) -> None:
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {SHIPPED}/arbiter.fish; complete -C 'arbiter ru'"],
        env=environment(tmp_path), capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    offered = sorted(line.split("\t")[0] for line in done.stdout.splitlines())
    assert offered == ["rules", "run", "run-via"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="NOT RUN: no zsh")
def test_zsh_reads_its_script() -> None:
    subprocess.run(["zsh", "-f", "-n", str(SHIPPED / "_arbiter")], check=True, timeout=20)


def test_what_is_offered_as_lifetimes_are_lifetimes() -> None:
    kinds = {kind.value for kind in LifetimeKind}
    assert {word for word in complete.LIFETIMES if not word[0].isdigit()} <= kinds


def test_help_is_one_clean_line() -> None:
    (item,) = complete.names({"1": "a\x1b[31m\nb" + "x" * 200}, "")
    assert item.help is not None
    assert item.help.isprintable()
    assert len(item.help) <= 80
