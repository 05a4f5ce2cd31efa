"""`arbiter rules export`: the remembered rules as a file."""

from __future__ import annotations

import time
from pathlib import Path

import click

from arbiter.cli.common import db_option, fail
from arbiter.cli.importwords import MOST_SHOWN
from arbiter.cli.profilewords import no_profile
from arbiter.cli.rulesimport import LAYER, one_place
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.exchange import WRITERS, about, select
from arbiter.rules.rule import Layer


@click.command("export")
@click.option(
    "--format",
    "format",
    type=click.Choice(list(WRITERS)),
    default="lines",
    show_default=True,
    help="toml and json keep when a rule expires, too.",
)
@click.option("--layer", type=LAYER, default="remembered", show_default=True, help="Which rules.")
@click.option(
    "--profile", callback=one_place, metavar="NAME", help="Only rules with this profile=."
)
@click.option("--network", callback=one_place, metavar="…", help="Only rules of this network.")
@click.option("--sim", callback=one_place, metavar="ICCID", help="Only rules of this SIM.")
@db_option
def export(format: str, layer: str, profile: str, network: str, sim: str, db: Path) -> None:
    """Write the rules in force to stdout, oldest first; `rules import` reads them back.

    A SIM's rules are those with its sim=, or with network=sim: and its number. Rules that belong to
    one process, one run of arbiter or this boot are left out, and so are time spans in the format
    lines; the first 50 are named on stderr.
    """
    with open_store(db, readonly=True) as store:
        entries = store.rules(time.time(), boot_id(), None)
        unreadable, profiles = store.unreadable, store.profiles.names()
    if unreadable:
        fail("\n".join((*unreadable, "nothing was exported")))
    entries = [entry for entry in entries if entry.layer is Layer[layer.upper()]]
    places = [("profile", profile), ("network", network), ("sim", sim)]
    bound = [(key, value) for key, value in places if value]
    kept, left = select(entries, bound, spans=format != "lines")
    click.echo(WRITERS[format](kept, about(bound)), nl=False)
    if profile and profile not in profiles:
        click.echo(f"arbiter: note: {no_profile(profile)}", err=True)
    if bound and not kept:
        click.echo("arbiter: note: no rule is bound to that place: the file holds none", err=True)
    for text in left[:MOST_SHOWN]:
        click.echo(f"arbiter: left out: {text}", err=True)
    if len(left) > MOST_SHOWN:
        more = len(left) - MOST_SHOWN
        click.echo(f"arbiter: left out: and {more} more; `arbiter rules list` has all", err=True)
