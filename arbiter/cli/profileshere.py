"""The networks that this machine is on now, for `arbiter profiles add --here` and `bind --here`."""

from __future__ import annotations

import asyncio

import click

from arbiter.cli.common import fail
from arbiter.cli.linklook import Look
from arbiter.cli.profilewords import listed
from arbiter.links import FoundLink


def here() -> list[str]:
    """The networks of the link that the machine uses first; those of its other links are told."""
    try:
        links = asyncio.run(Look({}, ()).once())
    except OSError as error:
        fail(f"the kernel's links cannot be read: {error.strerror or error}")
    known = sorted(filter(_known, links), key=lambda link: (link.metric, link.number))
    if not known:
        fail("no network is known here: no link that is up has a gateway that answers, an SSID, "
             "or a SIM; see `arbiter links --json`")  # fmt: skip
    first, *others = known
    for link in others:
        text = f"not taken: {listed(link.networks)}, of link {link.name}, which is not used first"
        click.echo(f"arbiter: note: {text}", err=True)
    return list(first.networks)


def _known(link: FoundLink) -> bool:
    return (link.up4 or link.up6) and bool(link.networks)
