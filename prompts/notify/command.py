"""The command line of `arbiter prompt notify`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from prompts.choices import FIRST_LIFETIME
from prompts.notify import opener
from prompts.render import LIFETIMES


@click.command()
@click.option(
    "--for",
    "lifetime",
    type=click.Choice(LIFETIMES),
    default=FIRST_LIFETIME,
    show_default=True,
    help="How long what the buttons decide is remembered; each notification shows the rule.",
)
@click.option(
    "--open",
    "wanted",
    type=click.Choice(opener.WANTED),
    default="auto",
    show_default=True,
    help="What shows the full question; auto: tui if it is installed, else terminal.",
)
@click.option("--wait", is_flag=True, help="Wait for a daemon that is not there yet.")
def notify(socket_path: Path, lifetime: str, wanted: str, wait: bool) -> None:
    """Ask by desktop notifications with buttons, until Ctrl-C.

    Each question gets a notification: deny, allow, or more, which opens the full question in a
    terminal. Dismissing one denies nothing.
    """
    # Not for `--help`: it needs the bus's library.
    from prompts.notify.shell import run

    sys.exit(asyncio.run(run(str(socket_path), lifetime=lifetime, wanted=wanted, wait=wait)))
