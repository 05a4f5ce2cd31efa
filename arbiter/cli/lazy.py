"""A group of commands that knows their names and one line of each, and loads one when it is called.

What a command needs may take longer to load than another takes in all: D-Bus, asyncio, formats.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

SHORT = 300
"""Letters of a help line before it is cut."""


class Lazy(click.Group):
    """`elsewhere` names its commands that are in other files: where each is, as module:attribute,
    and the line that help and the shell show."""

    def __init__(self, *args: Any, elsewhere: Mapping[str, tuple[str, str]], **more: Any) -> None:
        super().__init__(*args, **more)
        self.elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        """By their names, as click does."""
        return sorted({*self.commands, *self.elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads its file. Raises ImportError where that cannot be."""
        if cmd_name not in self.elsewhere:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.elsewhere[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names without loading what they name; options as click's."""
        found = [
            CompletionItem(name, help=line)
            for name, line in self._lines(ctx)
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lines without loading what they tell of."""
        with formatter.section("Commands"):
            formatter.write_dl(self._lines(ctx))

    def _lines(self, ctx: click.Context) -> list[tuple[str, str]]:
        return [
            (name, self.elsewhere[name][1])
            if name in self.elsewhere
            else (name, self.commands[name].get_short_help_str(SHORT))
            for name in self.list_commands(ctx)
        ]
