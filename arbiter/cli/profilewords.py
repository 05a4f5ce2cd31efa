"""What commands about profiles share: names and networks as people type them, what is not there."""

from __future__ import annotations

from collections.abc import Iterable

import click

from arbiter.protocol import clean
from arbiter.rules import RuleError
from arbiter.rules.context import read_network
from arbiter.rules.places import NO_PROFILE, profile_fault
from arbiter.rules.words import quote


def profile_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """The name of a profile, or a usage error."""
    if name is not None and (fault := profile_fault(name) or ("" if name else "it is empty")):
        raise click.BadParameter(f"{clean(name, 60)!r}: {fault}")
    return name


def profile_or_none(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """The same, and "" for the word `none`."""
    return "" if name == NO_PROFILE else profile_name(_, __, name)


def network_names(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[str]:
    """Networks in the one spelling of `network=`, each once, or a usage error."""
    found: list[str] = []
    for text in texts:
        try:
            found.append(read_network(text, 0))
        except RuleError as error:
            hint = f"; did you mean {error.suggestion}?" if error.suggestion else ""
            raise click.BadParameter(clean(f"{text!r}: {error.text}{hint}")) from None
    return list(dict.fromkeys(found))


def listed(networks: Iterable[str]) -> str:
    """Networks for a sentence, as a rule has them."""
    return clean(", ".join(map(quote, networks)))


def no_profile(name: str) -> str:
    """What to say where a command is told of a profile that is not there."""
    return f"there is no profile {name}; see `arbiter profiles list`"


def unknown_profile(name: str, names: Iterable[str]) -> str:
    """What to say about a rule of a profile that is not there; "" if it is, or none is named."""
    if not name or name in names:
        return ""
    return f"there is no profile {name}, so that it never matches: arbiter profiles add {name}"
