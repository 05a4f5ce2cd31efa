"""`arbiter rescue`: every trace out of the kernel, daemon or not."""

from __future__ import annotations

import os

import click

from arbiter.cli.common import fail
from arbiter.kernel.firewall import FirewallError, installed, remove
from arbiter.linkkeeper import remove_routing


@click.command()
def rescue() -> None:
    """Remove every trace of arbiter from the kernel, daemon or not; rules you made stay.

    New connections then pass undecided, as if arbiter were not there.
    """
    if os.geteuid() != 0:
        fail("rescue needs root: sudo arbiter rescue")
    try:
        found = installed()
    except FirewallError as error:
        found = None
        click.echo(f"arbiter: what is there cannot be listed, removing all the same: {error}")
    errors = (*remove(), *remove_routing())
    if errors:
        fail("\n".join(errors))
    if found is not None and not found:
        click.echo("nothing of arbiter's is in the kernel")
    else:
        backends = f" ({', '.join(found.backends)})" if found else ""
        click.echo(f"removed arbiter's rules{backends}; new connections pass undecided")
