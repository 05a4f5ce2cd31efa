"""`arbiter prompt`: the frontends, found as entry points; arbiter itself imports none of them.

An entry point of group `arbiter.prompts` is `async def run(socket_path: str) -> int`, the exit
code, or a click command with options of its own, which is given `socket_path` as a parameter.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from arbiter.cli.common import fail, socket_option

GROUP = "arbiter.prompts"
Run = Callable[[str], Coroutine[object, object, int]]


def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


class _Frontends(click.Group):
    """Knows its commands from entry points; imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_found())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _found().get(cmd_name)
        if entry is None:
            return None
        try:
            return _load(entry)
        except ImportError as error:
            what = error.name or str(error)
            fail(
                f"prompt {cmd_name} needs {what}, which is not installed: "
                f"pip install 'nfarbiter[{cmd_name}]'"
            )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Their names: what each needs is not imported for that."""
        found = [CompletionItem(name) for name in sorted(_found()) if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's; a frontend that cannot start says what it needs."""
        rows = []
        for name, entry in sorted(_found().items()):
            try:
                rows.append((name, _load(entry).get_short_help_str(limit=60)))
            except ImportError as error:
                rows.append((name, f"(needs {error.name or error})"))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest frontend for a misspelt one."""
        known = _found()
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
            fail(f"there is no prompt {args[0]!r}; {hint}", 2)
        return super().resolve_command(ctx, args)


@click.group(cls=_Frontends, invoke_without_command=True)
@socket_option
@click.pass_context
def prompt(ctx: click.Context, socket_path: Path) -> None:
    """Answer the questions of a running daemon, in one of the frontends; without a name: terminal.

    Needs no root: everybody answers for their own programs, root and members of group arbiter
    for all.
    """
    if ctx.invoked_subcommand is None:
        command = prompt.get_command(ctx, "terminal")
        assert command is not None, "the terminal is in the same distribution"
        ctx.invoke(command, socket_path=socket_path)


def _load(entry: EntryPoint) -> click.Command:
    """The frontend's command; its socket is the group's, unless it is given its own.

    Raises ImportError where what it needs is not installed.
    """
    loaded = entry.load()
    if isinstance(loaded, click.Command):
        command = loaded
    else:
        doc = inspect.getdoc(loaded)
        command = click.Command(entry.name, callback=_runs(loaded), help=doc)
    if all(param.name != "socket_path" for param in command.params):
        socket_option(command)
        command.params[-1].callback = _socket
    return command


def _socket(ctx: click.Context, _: click.Parameter, value: Path) -> Path:
    """`arbiter prompt --socket PATH NAME` is as good as `arbiter prompt NAME --socket PATH`."""
    outer = ctx.parent
    given = click.core.ParameterSource.COMMANDLINE
    if (
        outer is not None
        and ctx.get_parameter_source("socket_path") is not given
        and outer.get_parameter_source("socket_path") is given
    ):
        path: Path = outer.params["socket_path"]
        return path
    return value


def _runs(run: Run) -> Callable[[Path], NoReturn]:
    def callback(socket_path: Path) -> NoReturn:
        sys.exit(asyncio.run(run(str(socket_path))))

    return callback
