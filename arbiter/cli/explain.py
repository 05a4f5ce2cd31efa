"""`arbiter explain`: what the rules decide, and why."""

from __future__ import annotations

import ipaddress
import pwd
import sys
from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from arbiter.cli import complete
from arbiter.cli.common import (
    config_option,
    db_option,
    fail,
    json_option,
    socket_option,
)
from arbiter.cli.explainask import Given, Rules, note
from arbiter.cli.profilewords import profile_or_none
from arbiter.cli.rulestore import open_store, unknown_user
from arbiter.flowtext import EXAMPLE, Named, read_flow
from arbiter.judge import Context, query
from arbiter.kernel.users import user_groups
from arbiter.model import PROTO_NUMBERS, Flow, Hook
from arbiter.questions import Question
from arbiter.rules import RuleError, canonical_name
from arbiter.rules.context import read_network, read_sim
from arbiter.rules.names import name_fault
from arbiter.rules.rule import is_number, user_fault
from arbiter.store import Store

_YES_NO = click.Choice(["yes", "no"])
_CONTEXT = ("sims", "networks", "named", "roaming", "metered")
_OWNER = ("app", "parents", "user")
_PLACE = ("host", "names", "port", "proto", "hook")
_FORMS = {
    "pid": (*_PLACE, *_CONTEXT),
    "connection": ("names", *_CONTEXT),
    "record": (),
    "pcap": (*_OWNER, "openers", *_CONTEXT),
}
"""Options that say what is asked about otherwise than by its parts, and what may stand beside."""
_COMMON = frozenset({"config", "db", "socket_path", "as_json"})
_WHY = {
    "pid": "the process says it",
    "connection": "the connection and the machine say it",
    "record": "the record says it",
    "pcap": "the capture says it",
}


@click.command()
@click.option(
    "--app",
    default="",
    shell_complete=complete.apps,
    help="The app's id: /usr/bin/curl, unit:NAME, ...",
)
@click.option("--parent", "parents", multiple=True, help="An ancestor's app id; repeatable.")
@click.option("--host", default="", help="The destination address.")
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
@click.option(
    "--pid",
    type=click.IntRange(1, 2**31 - 1),
    help="A process that runs: all its connections, or with --host what it may do.",
)
@click.option("--connection", help="One that is open: 'tcp LOCAL:PORT > PEER:PORT', or ss's line.")
@click.option("--record", help="One that was decided: the number of its record, or last.")
@click.option(
    "--pcap",
    type=click.Path(path_type=Path, readable=False),
    help="A capture (pcap, pcapng; - for stdin): all connections that begin in it.",
)
@click.option(
    *("--from", "openers"),
    multiple=True,
    help="With --pcap: only connections that this address opened; repeatable.",
)
@config_option("The directory of arbiter.toml, links.d and policy.d.")
@db_option
@socket_option
@json_option
@click.pass_context
def explain(
    ctx: click.Context,
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
    pid: int | None,
    connection: str | None,
    record: str | None,
    pcap: Path | None,
    openers: tuple[str, ...],
    config: Path,
    db: Path,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Say what the rules decide about a connection: which rule wins, why, and what it beat.

    Say which by its parts (--app, --host, --port ...), by a process (--pid), as an open
    connection (--connection), as one that was decided (--record), or as a capture (--pcap).

    Policy files count, too. By parts and of a capture nothing is looked up: say what the
    destination is called with --name, and where the machine is and what its default link costs
    with --sim, --network, --roaming and --metered. For what is open now they are looked up, and
    these options stand in their place. The active profile counts, or the one of --profile. The
    mode is that of the daemon that runs, or else of the settings.

    Exit code 0 if rules decide it, 1 if a person would be asked.
    """
    _check_form(ctx)
    uid, name = user_option(user)
    groups, gids = user_groups(uid) if uid is not None else ((), ())
    used, on = _places(sims, networks)
    called = tuple(_read(lambda text, _: canonical_name(text), "--name", n) for n in names)
    given = Given(
        used if sims or networks else None,
        on if sims or networks else None,
        None if metered is None else metered == "yes",
        None if roaming is None else roaming == "yes",
        called or None,
    )
    # All that can be wrong with the options is said before anything is opened.
    flow = Flow(_proto(proto), b"", 0, address_option("--host", host), port) if host else None
    opened = _connection(connection) if connection is not None else None
    hosts = tuple(address_option("--from", text) for text in openers)
    with open_store(db, readonly=True) as store:
        rules = Rules(store, config, socket_path)
        active = store.profiles.book().standing.active if named is None else named
        given = given._replace(profile=active)
        for unknown in (unknown_user(user), _unknown_profile(named, store)):
            if unknown:
                note(unknown)
        # Each form needs much that the others do not: it is imported where it is used.
        if record is not None:
            from arbiter.cli.explainrecord import ask_record

            decided = ask_record(rules, store, record, as_json)
        elif pcap is not None:
            from arbiter.cli.explaincapture import Reading, Who, ask_capture

            who = Who(app, parents, uid, name, groups, gids)
            reading = Reading(rules, pcap, who, given.over(Context()), hosts)
            decided = ask_capture(rules, reading, as_json)
        elif pid is None and opened is None:
            assert flow is not None, "what has no other form has a --host"
            from arbiter.cli.explainparts import ask_parts

            asked = query(
                flow, Hook(hook), given.over(Context()), app, parents, uid, name, (), groups, gids
            )
            decided = ask_parts(rules, store, Question(flow, (asked,), Hook(hook)), as_json)
        else:
            from arbiter.cli.explainlive import (
                Here,
                ask_connection,
                ask_connections,
                ask_process,
            )

            here = Here(given, config, store, rules.now)
            if opened is not None:
                decided = ask_connection(rules, here, opened, as_json)
            elif pid is not None and flow is not None:
                decided = ask_process(rules, here, pid, flow, Hook(hook), as_json)
            else:
                assert pid is not None
                decided = ask_connections(rules, here, pid, as_json)
    if not decided:
        sys.exit(1)


def _check_form(ctx: click.Context) -> None:
    """One way to say what is asked about, and what goes with it; else ends with a usage error."""
    flags = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    given = [
        name
        for name in ctx.params
        if name not in _COMMON and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    forms = [name for name in _FORMS if name in given]
    if len(forms) > 1:
        both = " and ".join(flags[name] for name in forms)
        fail(f"{both} ask about different things: give one of them", 2)
    form = forms[0] if forms else ""
    for name in given if form else ():
        if name != form and name not in _FORMS[form]:
            fail(f"{flags[name]} does not go with {flags[form]}: {_WHY[form]}", 2)
    if form == "pid" and "host" not in given:
        for name in given:
            if name in _PLACE:
                fail(f"{flags[name]} with --pid is about one destination: give its --host, too", 2)
    if not form and "openers" in given:
        fail("--from is about a capture: give it with --pcap", 2)
    if not form and "host" not in given:
        others = ", ".join(flags[name] for name in _FORMS)
        fail(f"what is asked about? Give --host, or one of {others}", 2)


def _connection(text: str) -> Named:
    try:
        return read_flow(text)
    except ValueError as error:
        shown = f"{text[:100]!r}".strip("'")
        fail(f"--connection '{shown}': {error}; write it as {EXAMPLE}", 2)


def address_option(option: str, text: str) -> bytes:
    """A packed address, or a usage error."""
    try:
        return ipaddress.ip_address(text.strip("[]")).packed
    except ValueError:
        named = option == "--host" and text and not name_fault(text.lower())
        hint = f"; of a name: --host ADDRESS --name {text}" if named else ""
        example = "give one such as 192.0.2.7 or 2001:db8::7"
        fail(f"{option} {text!r} is not an address; {example}{hint}", 2)


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


def _unknown_profile(named: str | None, store: Store) -> str:
    """What to say of a profile that is not there; its rules may be, and are asked."""
    if not named or named in store.profiles.names():
        return ""
    return f"there is no profile {named}: arbiter profiles list shows those that are"


def user_option(text: str) -> tuple[int | None, str]:
    """The uid and name that `--user` means, as far as this machine knows them; or a usage error."""
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
