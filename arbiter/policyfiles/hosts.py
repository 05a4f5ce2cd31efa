"""Which destinations advice speaks of: a name, `*.domain`, an address, a network, a scope, or `*`.

Names are compared label by label, never as a part of a text. They are ASCII here: what DNS carries
(RFC 5890 2.3.2.1), so that a file shows what it means.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from msgspec import Struct

from arbiter.rules import Address, Network, RuleError, ScopeName, scope_of
from arbiter.rules.hosts import format_host, read_host
from arbiter.rules.rule import plain
from arbiter.tomlfile import nearest, shown

MAX_NAME = 253
"""Characters of a name without its last dot: 255 bytes in a message (RFC 1035 2.3.4)."""
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
"""As in RFC 1035 2.3.1, with the "_" of service names (RFC 8552)."""
_NUMERIC = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
"""A last label that makes programs take the whole for an IPv4 address (URL standard, 3.5)."""
_ADDRESS = re.compile(r"[0-9.]+(?:/.*)?\Z|.*[:/]", re.DOTALL)
_SCOPES = tuple(scope.value for scope in ScopeName)
_FORMS = "a name, *.domain, an address, a network such as 192.0.2.0/24, a scope such as lan, or *"


class Name(Struct, frozen=True):
    """A host's name, or (`below`) every name below it, but not itself. Lower case, no last dot."""

    name: str
    below: bool = False


AdviceHost = Name | Address | Network | ScopeName | None
"""None is every destination, written `*`."""


def read(text: str) -> AdviceHost:
    """The destinations that `text` names. Raises ValueError with what is wrong."""
    if text == "*":
        return None
    if _ADDRESS.match(text):
        return _address(text)
    if text in _SCOPES:
        return ScopeName(text)
    return _name(text)


def _address(text: str) -> AdviceHost:
    try:
        host = read_host(text, 0)
    except RuleError as error:
        hint = f"; did you mean {error.suggestion}?" if error.suggestion else ""
        raise ValueError(error.text + hint) from None
    if isinstance(host, Address | Network | ScopeName):
        return host
    raise ValueError(f"{shown(text)!r} is neither an address nor a network")


def _name(text: str) -> Name:
    if not text.isascii():
        raise ValueError(
            "a name is written as DNS carries it, in A-labels such as xn--bcher-kva.de"
        )
    below = text.startswith("*.")
    name = text.removeprefix("*.").removesuffix(".").lower()
    if "*" in name:
        raise ValueError('"*" stands alone or for the first labels, as in *.example.org')
    labels = name.split(".")
    bad = next((label for label in labels if not _LABEL.match(label)), None)
    if bad is not None or len(name) > MAX_NAME:
        what = (
            f"the label {shown(bad)!r}" if bad is not None else f"more than {MAX_NAME} characters"
        )
        raise ValueError(f"{what} is in no host name: it is {_FORMS}")
    if len(labels) == 1 and not below:
        hint = nearest(name, _SCOPES)
        raise ValueError(f"a name has a dot in it, such as example.org{hint and ': '}{hint}")
    if _NUMERIC.match(labels[-1]):
        raise ValueError("a name whose last label is a number would be taken for an address")
    return Name(name, below)


def text_of(host: AdviceHost) -> str:
    """What `read` reads back as the same."""
    if host is None:
        return "*"
    if isinstance(host, Name):
        return f"*.{host.name}" if host.below else host.name
    return format_host(host)


def meets(host: AdviceHost, names: Collection[str], address: bytes) -> bool:
    """Whether a destination is meant: a packed address, and the names it was looked up by.

    `names` are canonical: lower case, A-labels, no last dot.
    """
    if host is None:
        return True
    if isinstance(host, Name):
        if host.below:
            return any(name.endswith("." + host.name) for name in names)
        return host.name in names
    address = plain(address)
    if isinstance(host, Address):
        return host.packed == address
    if isinstance(host, Network):
        shift = 8 * len(address) - host.prefixlen
        return (
            len(host.packed) == len(address)
            and int.from_bytes(host.packed) >> shift == int.from_bytes(address) >> shift
        )
    return scope_of(address) is host


def rank(host: AdviceHost) -> tuple[int, int]:
    """From the most specific to the least: smaller comes first.

    An address, a name, a domain (more labels first), a network (longer prefix first), a scope,
    all of a family, everything: the order of rules (arbiter.rules.rank), names after addresses.
    """
    if host is None:
        return 6, 0
    if isinstance(host, Name):
        return (2, -host.name.count(".")) if host.below else (1, 0)
    if isinstance(host, Network):
        return (3, 8 * len(host.packed) - host.prefixlen) if host.prefixlen else (5, 0)
    return (0, 0) if isinstance(host, Address) else (4, 0)
