"""`arbiter explain`: what the rules decide, and why."""

from __future__ import annotations

import ipaddress
import pwd
import time
from collections.abc import Callable
from pathlib import Path

import click
from msgspec import structs

from arbiter.accounts import local_zone
from arbiter.cli.common import (
    config_option,
    db_option,
    fail,
    json_option,
    show_json,
)
from arbiter.cli.profilewords import profile_or_none
from arbiter.cli.rules import rule_object
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.kernel.procfs import user_groups
from arbiter.model import PROTO_NUMBERS, Hook, proto_name
from arbiter.policyfiles import entries as of_files
from arbiter.policystate import read_policies
from arbiter.rules import Index, Query, RuleError, canonical_name, format_rule, why_not
from arbiter.rules.context import read_network, read_sim
from arbiter.rules.rule import is_number, user_fault

_YES_NO = click.Choice(["yes", "no"])


@click.command()
@click.option("--app", default="", help="The app's id: /usr/bin/curl, unit:NAME, ...")
@click.option("--parent", "parents", multiple=True, help="An ancestor's app id; repeatable.")
@click.option("--host", required=True, help="The destination address.")
@click.option("--name", "names", multiple=True, help="A name it was looked up by; repeatable.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The destination port.")
@click.option("--proto", default="tcp", show_default=True, help="tcp, udp, icmp, ..., or 0-255.")
@click.option("--user", default="", help="The user's name or uid.")
@click.option("--hook", type=click.Choice([h.value for h in Hook]), default=Hook.OUT.value)
@click.option("--sim", "sims", multiple=True, help="A SIM in use, by its ICCID; repeatable.")
@click.option(
    *("--network", "networks"),
    multiple=True,
    help="A network it is on: gateway:MAC, ssid:NAME or sim:ICCID; repeatable.",
)
@click.option(
    *("--profile", "named"),
    callback=profile_or_none,
    metavar="NAME|none",
    help="The active profile; by default the one that is.",
)
@click.option("--roaming", type=_YES_NO, help="Is the default link roaming? Else unknown.")
@click.option("--metered", type=_YES_NO, help="Is the default link metered? Else unknown.")
@config_option("The directory of policy.d.")
@db_option
@json_option
def explain(
    app: str,
    parents: tuple[str, ...],
    host: str,
    names: tuple[str, ...],
    port: int,
    proto: str,
    user: str,
    hook: str,
    sims: tuple[str, ...],
    networks: tuple[str, ...],
    named: str | None,
    roaming: str | None,
    metered: str | None,
    config: Path,
    db: Path,
    as_json: bool,
) -> None:
    """Say what the rules decide about a connection: which rule wins, why, and what it beat.

    Policy files count, too. Nothing is looked up: say what the destination is called with --name,
    and where the machine is and what its default link costs with --sim, --network, --roaming and
    --metered. The active profile counts, or the one of --profile.

    Exit code 0 if a rule decides it, 1 if a person would be asked.
    """
    uid, name = _user(user)
    groups, gids = user_groups(uid) if uid is not None else ((), ())
    sims, networks = _places(sims, networks)
    query = Query(
        app=app,
        parents=parents,
        uid=uid,
        user=name,
        daddr=_address(host),
        dport=port,
        proto=_proto(proto),
        hook=Hook(hook),
        sims=sims,
        networks=networks,
        metered=None if metered is None else metered == "yes",
        roaming=None if roaming is None else roaming == "yes",
        groups=groups,
        gids=gids,
        names=tuple(_read(lambda text, _: canonical_name(text), "--name", n) for n in names),
    )
    now, zone = time.time(), local_zone()
    with open_store(db, readonly=True) as store:
        entries = store.rules(now, boot_id(), None)
        active = store.profiles.book().standing.active if named is None else named
    query = structs.replace(query, profile=active)
    files, problems = read_policies(config / "policy.d")
    for problem in problems:
        click.echo(f"arbiter: {problem}", err=True)
    entries = [*entries, *of_files(files)[0]]
    match = Index(entries, zone).explain(query, now)
    others = [(e, why_not(e, query, now, zone)) for e in entries]
    near = [(e, why) for e, why in others if why is not None and e.rule.app in ("", app)]
    if as_json:
        show_json(
            [
                {
                    "decision": format_rule(match.entry.rule).split(" ", 1)[0] if match else None,
                    "rule": rule_object(match.entry) if match else None,
                    "why": match.why if match else "no rule matches: a person would be asked",
                    "beaten": [rule_object(entry) for entry in match.beaten] if match else [],
                    "not_matching": [rule_object(e) | {"why_not": why} for e, why in near],
                }
            ]
        )
    elif match is None:
        click.echo(f"no rule decides {proto_name(query.proto)} {host} port {port}: you are asked")
    else:
        click.echo(f"{format_rule(match.entry.rule)}")
        click.echo(f"  {match.why}")
        for entry in match.beaten:
            click.echo(f"  beats {entry.called}: {format_rule(entry.rule)}")
    if not as_json:
        for entry, why in near[:10]:
            click.echo(f"  {entry.called} does not match ({format_rule(entry.rule)}): {why}")
    if match is None:
        raise SystemExit(1)


def _address(text: str) -> bytes:
    try:
        return ipaddress.ip_address(text.strip("[]")).packed
    except ValueError:
        fail(f"--host {text!r} is not an address; give one such as 192.0.2.7 or 2001:db8::7", 2)


def _places(
    sims: tuple[str, ...], networks: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The SIMs in use, and the networks: each SIM is a network, as it is of a link that is up."""
    used = [_read(read_sim, "--sim", text) for text in sims]
    on = [_read(read_network, "--network", text) for text in networks]
    used += [each.removeprefix("sim:") for each in on if each.startswith("sim:")]
    return tuple(used), (*on, *(f"sim:{sim}" for sim in used))


def _read(read: Callable[[str, int], str], option: str, text: str) -> str:
    try:
        return read(text, 0)
    except ValueError as error:
        if not isinstance(error, RuleError):
            fail(f"{option} {text!r}: {error}", 2)
        hint = f"; did you mean {error.suggestion}?" if error.suggestion else ""
        fail(f"{option} {text!r}: {error.text}{hint}", 2)


def _proto(text: str) -> int:
    if text in PROTO_NUMBERS:
        return PROTO_NUMBERS[text]
    if not (text.isascii() and text.isdigit() and int(text) < 256):
        fail(f"--proto {text!r} is none of {', '.join(sorted(PROTO_NUMBERS))}, nor 0-255", 2)
    return int(text)


def _user(text: str) -> tuple[int | None, str]:
    if not text:
        return None, ""
    if fault := user_fault(text):
        fail(f"--user {text!r}: {fault}", 2)
    try:
        if is_number(text):
            return int(text), pwd.getpwuid(int(text)).pw_name
        return pwd.getpwnam(text).pw_uid, text
    except KeyError:
        return (int(text), "") if is_number(text) else (None, text)
