"""`arbiter rescue`: every trace out of the kernel, daemon or not."""

from __future__ import annotations

import os
from pathlib import Path

import click

from arbiter.cli.common import config_option, fail
from arbiter.cli.settingsfile import read_settings
from arbiter.kernel.firewall import FirewallError, installed, remove
from arbiter.linkkeeper import remove_routing
from arbiter.settings import SettingsError, WhenAbsent
from arbiter.startup import call_off


@click.command()
@click.option(
    "--as-settings-say",
    is_flag=True,
    help="Only if new connections pass while no daemon runs (when_absent); for the service.",
)
@config_option("The directory of arbiter.toml.")
def rescue(as_settings_say: bool, config: Path) -> None:
    """Remove every trace of arbiter from the kernel, daemon or not; rules you made stay.

    New connections then pass undecided, as if arbiter were not there.
    """
    if os.geteuid() != 0:
        fail("rescue needs root: sudo arbiter rescue")
    try:
        found, problem = installed(), ""
    except FirewallError as error:
        found, problem = None, f"what is there cannot be listed: {error}"
    if as_settings_say and _blocks(config):
        if problem:
            fail(problem)
        if found:
            click.echo(
                'when_absent = "block": new connections are refused until arbiter is back;'
                " `arbiter rescue` lets them pass"
            )
        return
    if problem:
        click.echo(f"arbiter: {problem}; removing all the same")
    try:
        call_off()
    except OSError as error:
        click.echo(f"arbiter: a daemon that runs may put its rules back: {error}; stop it")
    errors = (*remove(), *remove_routing())
    if errors:
        fail("\n".join(errors))
    if found is not None and not found:
        click.echo("nothing of arbiter's is in the kernel")
    else:
        backends = f" ({', '.join(found.backends)})" if found else ""
        click.echo(f"removed arbiter's rules{backends}; new connections pass undecided")


def _blocks(config: Path) -> bool:
    try:
        return read_settings(config).when_absent is WhenAbsent.BLOCK
    except SettingsError as error:
        fail(f"what is in the kernel stays, as when_absent cannot be read: {error}")
