"""`arbiter lab`: two links or three, an internet behind each, in network namespaces."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict, TypeVar, Unpack

import click
from rich.console import Console
from rich.table import Table

from arbiter.cli.common import fail
from arbiter.lab import Lab, LabError, LinkConfig, private
from arbiter.lab.config import DEFAULT_LINKS, LINKS, SERVER4, SERVER6, check_name
from arbiter.lab.guests import Guest
from arbiter.lab.state import SOURCE, closed_to_others, names
from arbiter.protocol import clean

F = TypeVar("F", bound=Callable[..., Any])


def _possible(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    try:
        return None if name is None else check_name(name, "lab name")
    except LabError as error:
        raise click.BadParameter(str(error)) from None


_NAME = click.option(
    "--name",
    default="arb",
    show_default=True,
    callback=_possible,
    help="The lab's name; several may exist.",
)


BUILT_WITHIN = 30.0
"""Seconds after which who builds a lab is not waited for any more."""
_USUAL = ",".join(link.name for link in DEFAULT_LINKS)


class Options(TypedDict, total=False):
    """What the options of `_building` say of a lab's links."""

    links: str
    no_ipv6: tuple[str, ...]
    mtu: tuple[str, ...]
    no_default: tuple[str, ...]


def _building(command: F) -> F:
    """The options of every command that may build a lab."""
    for option in (
        click.option(
            "--no-default",
            multiple=True,
            metavar="LINK",
            help="A link without a default route; repeatable.",
        ),
        click.option(
            "--mtu", multiple=True, metavar="LINK=BYTES", help="MTU of a link; may be repeated."
        ),
        click.option(
            "--no-ipv6", multiple=True, metavar="LINK", help="A link without IPv6; repeatable."
        ),
        click.option(
            "--links",
            default=_USUAL,
            show_default=True,
            metavar="LINK,LINK",
            help=f"Of {', '.join(link.name for link in LINKS)}.",
        ),
        _NAME,
    ):
        command = option(command)
    return command


@click.group()
def lab() -> None:
    """Two links with an internet behind each, in network namespaces: try everything safely."""


@lab.command()
@_building
def up(name: str, **options: Unpack[Options]) -> None:
    """Build the lab and leave it."""
    with _errors():
        links = configure(**options)
        if os.geteuid() != 0:
            raise LabError(
                "building a lab that stays needs root: `sudo arbiter lab up`, or use "
                "`arbiter lab shell`, which works without root"
            )
        Lab(name, links).up()
    click.echo(f"lab {name} is up: `arbiter lab shell --name {name}` enters it")


@lab.command()
@_NAME
def down(name: str) -> None:
    """Remove the lab and every trace of it, whatever state it is in."""
    with _errors():
        if os.geteuid() != 0:
            raise LabError("removing a lab needs root: `sudo arbiter lab down`")
        (Lab.existing(name) or Lab(name)).down()
    click.echo(f"lab {name} is down")


@lab.command()
@_building
def shell(name: str, **options: Unpack[Options]) -> None:
    """Open $SHELL on the lab's machine.

    Builds the lab if it is not up, and then the last one in it removes it.
    Without root it makes a private lab in a user namespace, where you are root.
    """
    with _errors():
        _without_root("shell", name, options, ())
        with _entered(name, configure(**options)) as entered:
            click.echo(banner(entered))
            if note := _only_root():
                click.echo(f"arbiter: note: {note}", err=True)
            code = _attend(entered, [os.environ.get("SHELL") or "/bin/sh"])
    sys.exit(code)


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@_building
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, command: tuple[str, ...], **options: Unpack[Options]) -> None:
    """Run COMMAND on the lab's machine; its exit code is ours (128 + the signal that ended it).

    Builds the lab if it is not up, and then the last one in it removes it. Write `--` before
    COMMAND.
    """
    with _errors():
        _without_root("exec", name, options, command)
        with _entered(name, configure(**options)) as entered:
            code = _attend(entered, command)
    sys.exit(code)


@lab.command()
@click.option("--name", callback=_possible, help="Only this lab; exit code 1 if it is not up.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects.")
def status(name: str | None, as_json: bool) -> None:
    """Show the labs there are, with their links and servers."""
    with _errors():
        found = [describe(Lab.existing(n) or Lab(n)) for n in ([name] if name else names())]
    if name and found[0]["state"] == "down" and not as_json:
        fail(f"there is no lab {name}: `arbiter lab up --name {name}` builds it")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("there is no lab: `arbiter lab up` or `arbiter lab shell` builds one")
    else:
        table = Table("lab", "state", "link", "interface", "address", "IPv6", "MTU", "servers")
        for entry in found:
            for link in entry["links"]:
                row = [entry["name"], entry["state"], link["name"], link["interface"]]
                pid = f"pid {link['servers']}" if link["servers"] else "not running"
                row += [link["address"], link["address6"] or "none", str(link["mtu"]), pid]
                table.add_row(*row)
        Console().print(table)
    if name and found[0]["state"] != "up":
        sys.exit(1)


def configure(
    no_ipv6: Sequence[str] = (),
    mtu: Sequence[str] = (),
    links: str = _USUAL,
    no_default: Sequence[str] = (),
) -> tuple[LinkConfig, ...]:
    """The links that the options describe; raises click.UsageError for what they cannot mean."""
    there = {link.name: link for link in LINKS}
    wanted = links.split(",")
    for name in wanted:
        if name not in there:
            text = f"use {', '.join(there)}, with commas between"
            raise click.UsageError(f"--links {links!r}: there is no link {name!r}; {text}")
    if len(set(wanted)) < len(wanted):
        raise click.UsageError(f"--links {links!r}: a lab has a link once; name each once")
    # In the order of their metrics, whatever order they were named in.
    chosen = {name: link for name, link in there.items() if name in wanted}

    def known(name: str, option: str) -> LinkConfig:
        if name not in chosen:
            text = f"there is no link {name!r}; use {' or '.join(chosen)}"
            raise click.UsageError(f"{option}: {text}")
        return chosen[name]

    for name in no_default:
        chosen[name] = dataclasses.replace(known(name, "--no-default"), default_route=False)
    for name in no_ipv6:
        chosen[name] = dataclasses.replace(known(name, "--no-ipv6"), ipv6=False)
    for text in mtu:
        name, _, size = text.partition("=")
        link = known(name, "--mtu")
        if not (size.isascii() and size.isdigit() and len(size) < 6):
            raise click.UsageError(f"--mtu {text!r}: write LINK=BYTES, such as lte=1280")
        try:
            chosen[name] = dataclasses.replace(link, mtu=int(size))
        except LabError as error:
            raise click.UsageError(f"--mtu {text}: {error}") from None
    return tuple(chosen.values())


def describe(entry: Lab) -> dict[str, Any]:
    """One object of `status --json`."""
    servers = entry.servers()
    return {
        "name": entry.name,
        "state": entry.condition(),
        "namespaces": list(entry.config.namespaces),
        "links": [
            {
                "name": link.name,
                "interface": link.interface,
                "namespace": entry.internet(link.name),
                "address": link.host4,
                "address6": link.host6 if link.ipv6 else None,
                "mtu": link.mtu,
                "default_route": link.default_route,
                "dns": list(link.resolvers()),
                "servers": servers,
                "log": str(entry.log(link.name)),
            }
            for link in entry.config.links
        ],
    }


def banner(entered: Lab) -> str:
    """What a person needs to know on entering."""
    links = ", ".join(f"{link.name} ({link.interface})" for link in entered.config.links)
    last = entered.config.links[-1]
    return f"""You are on the machine of lab {entered.name}; its links are {links}.
  curl http://www.lab.test/        the answer names the link it came over
  curl http://{SERVER4}/     the same, by address; or http://[{SERVER6}]/
  curl --interface {last.interface} http://www.lab.test/     over {last.name}
  ping lan.lab.test                a neighbour that only wifi reaches
  arbiter run --prompt terminal    start arbiter here, and try again from a second
                                   shell: `arbiter lab shell --name {entered.name}`
Leave with `exit`."""


def _only_root() -> str:
    """Why `arbiter` in the lab is for root only, and what helps; "" if it is for everybody, or
    where there are no other users (a private lab)."""
    closed = None if private.inside() else closed_to_others(Path(sys.executable), SOURCE)
    if closed is None:
        return ""
    return (
        f"only root can run arbiter here: it, or its Python, lies below {clean(str(closed))}, "
        "which is closed to other users; to try it as one, make it anew in an open folder, such as "
        "/opt, with /usr/bin/python3, and start the lab from there"
    )


@contextmanager
def _errors() -> Iterator[None]:
    """LabError becomes one line and exit code 1."""
    try:
        yield
    except LabError as error:
        fail(str(error))


def _without_root(subcommand: str, name: str, given: Options, command: Sequence[str]) -> None:
    """Where this is not root: becomes the same command in a user namespace, and does not return."""
    if os.geteuid() == 0:
        return
    configure(**given)  # a wrong option is better refused before the detour
    options = [f"--name={name}", f"--links={given['links']}"]
    options += [f"--no-default={link}" for link in given["no_default"]]
    options += [f"--no-ipv6={link}" for link in given["no_ipv6"]]
    options += [f"--mtu={link}" for link in given["mtu"]]
    rest = ["--", *command] if command else []
    again = [sys.executable, "-m", "arbiter.cli.lab", subcommand, *options, *rest]
    argv = private.command(again)
    sys.stdout.flush()
    os.execvpe(argv[0], argv, private.environment())  # noqa: S606 - no shell is wanted here


@contextmanager
def _entered(name: str, links: tuple[LinkConfig, ...]) -> Iterator[Lab]:
    """The lab that is up, or one built for the occasion, which the last who is in it removes,
    signals included.

    One that was up and is broken is left to whoever has something in it: LabError.
    """
    there = _there(name, links)
    with _ended_in_order():
        entered = there or Lab(name, links)
        if there is None:
            try:
                entered.up()
            except LabError:  # another may have begun to build it in this moment
                there = _there(name, links)
                if there is None:
                    raise
                entered = there
        guest = Guest(name, temporary=there is None)
        try:
            yield entered
        finally:
            if guest.last():
                entered.down()
            elif there is None and entered.condition() == "up":
                click.echo(f"lab {name} stays until the last who is in it leaves", err=True)
            guest.leave()


def _there(name: str, links: tuple[LinkConfig, ...]) -> Lab | None:
    existing = Lab.existing(name)
    if existing is None:
        return None
    end = time.monotonic() + BUILT_WITHIN
    while (condition := existing.condition()) == "building" and time.monotonic() < end:
        time.sleep(0.1)  # somebody else entered in this moment
    existing = Lab.existing(name) or existing
    if condition == "up":
        if links != DEFAULT_LINKS and links != existing.config.links:
            text = f"leave the options away, or choose another --name than {name}"
            raise LabError(f"lab {name} is up with other links than these options describe: {text}")
        return existing
    if condition == "broken" and existing.was_up():
        text = f"`arbiter lab down --name {name}` removes it, and what runs in it"
        raise LabError(f"lab {name} is broken: its servers or namespaces are gone; {text}")
    return None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A closed terminal or a `kill` must not leave a lab behind."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {s: signal.signal(s, leave) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _attend(entered: Lab, command: Sequence[str]) -> int:
    """Runs a program with our terminal and returns its exit code."""
    # Ctrl-C is the program's. A handler, not SIG_IGN, which the program would inherit.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        code = entered.popen(command).wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    lab(prog_name="arbiter lab")
