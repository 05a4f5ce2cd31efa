"""The command line of `arbiter prompt exec`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import click

from prompts.program.keeper import run


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    help="Seconds that the program may take for one ask.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="How many run at the same time; further asks wait.",
)
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(socket_path: Path, timeout: float, at_once: int, program: tuple[str, ...]) -> None:
    """Let PROGRAM decide: it is run for each ask, until Ctrl-C.

    It gets the ask as one line of JSON on its standard input, and says its decision on its
    standard output: allow, deny or route via=LINK, and if it likes scope=NAME, for=LIFETIME and
    class=NAME; or the same as a JSON object. A program that says nothing, fails or takes too
    long decides nothing, and the ask stays open. Put -- before a program with options.
    """
    if shutil.which(program[0]) is None:
        _say(f"arbiter prompt: there is no program {program[0]!r}: check its path", True)
        sys.exit(2)
    code = asyncio.run(
        run(
            str(socket_path),
            program,
            seconds=timeout,
            at_once=at_once,
            say=lambda line: _say(line, False),
            complain=lambda line: _say(f"arbiter prompt: {line}", True),
        )
    )
    sys.exit(code)


def _say(line: str, err: bool) -> None:
    click.echo(line, err=err)
