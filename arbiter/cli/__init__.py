"""The command line: one file a subcommand, each loaded only when it is used."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence

import click

from arbiter import __version__
from arbiter.cli.lazy import Lazy

COMMANDS = {
    "run": "Start the daemon: decide every new connection of this machine.",
    "prompt": "Answer the questions of a running daemon.",
    "pending": "List the asks that wait for an answer.",
    "answer": "Answer one ask: allow, deny, or route via=LINK.",
    "events": "Follow what happens: asks, answers, connections, links.",
    "rules": "Add, list and remove remembered rules.",
    "profiles": "Sets of rules bound to a network or a SIM, and which is active.",
    "links": "The ways out that a rule can name: state, price, usage.",
    "run-via": "Run a program and its children over one link, without a rule.",
    "explain": "Say what the rules decide about a connection, and why.",
    "audit": "Show what was decided, by whom and why, the daemon running or not.",
    "status": "Show how the daemon is.",
    "doctor": "Check what this kernel and machine can do, and what to install.",
    "rescue": "Remove every trace of arbiter from the kernel, daemon or not.",
    "completion": "Print the completion script of a shell.",
    "lab": "Two links with an internet behind each, in network namespaces.",
}
"""Subcommands, with the one line that `arbiter --help` shows."""


STDOUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
"""What a write to stdout may fail with; other errors of files are told where they happen."""


class _Commands(Lazy):
    """Lists its commands in the order of COMMANDS, and suggests one for a misspelt name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest command for a misspelt one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


ELSEWHERE = {
    name: (f"arbiter.cli.{file}:{file}", line)
    for name, line in COMMANDS.items()
    for file in (name.replace("-", "_"),)
}


@click.group(
    cls=_Commands, elsewhere=ELSEWHERE, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="arbiter")
def cli() -> None:
    """Decide, connection by connection, what may connect and over which link.

    A first look: `sudo arbiter run --prompt terminal`, or safely apart from this machine's
    network: `sudo arbiter lab shell`.

    Exit codes: 0 done, 1 refused or not found, 2 usage, 3 the daemon cannot be reached.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        # A locale without some letter must not keep us from saying the rest.
        sys.stdout.reconfigure(errors="backslashreplace")
    if "_ARBITER_COMPLETE" in os.environ:
        from arbiter.cli.completion import ready

        ready()
    try:
        cli.main(args=None if argv is None else list(argv), prog_name="arbiter")
    except OSError as error:
        if error.filename is not None or error.errno not in STDOUT_ERRORS:
            click.echo(f"arbiter: {error}", err=True)
            sys.exit(1)
        from arbiter.cli.common import stdout_is_gone

        stdout_is_gone()
        if error.errno != errno.EPIPE:  # a reader that went away (`| head`) needs no word
            click.echo(f"arbiter: the output cannot be written: {error.strerror}", err=True)
        sys.exit(1)
    finally:
        gc.freeze()  # else Python's last act is to walk through all modules: a fifth of the time
