"""`host=`: an address, a network, a name, a domain or a scope, from words and back.

A name of one label is written with a final dot (`nas.`), as in a zone file: without one it would be
a scope today, or the scope of a later version, or a misspelt one.
"""

from __future__ import annotations

import functools
import socket

from arbiter.model import address_text
from arbiter.rules.names import canonical_name, name_fault, shown_name
from arbiter.rules.rule import Address, Domain, Host, Name, Network, ScopeName, is_number, plain
from arbiter.rules.words import RuleError, nearest, quote, shown

_SCOPES = tuple(scope.value for scope in ScopeName)
_SYNONYMS = {"local": "lan", "private": "lan", "wan": "internet", "localhost": "loopback"}


def read_host(text: str, position: int) -> Host:
    """The host that `text` names; RuleError if none.

    An IPv4-mapped IPv6 address is read as its IPv4 address. Addresses have one spelling for
    IPv4 (four decimal numbers); netmasks and zone ids are refused. Names become A-labels.
    """
    try:
        return _read(text)
    except _Fault as fault:
        where = position + fault.offset
        raise RuleError(fault.text, where, fault.word, fault.suggestion) from None


class _Fault(Exception):  # noqa: N818 # becomes the RuleError at its place in the line
    """What is wrong, `offset` characters into the word."""

    def __init__(self, text: str, word: str, suggestion: str = "", offset: int = 0) -> None:
        self.text = text
        self.word = word
        self.suggestion = suggestion
        self.offset = offset
        super().__init__(text)


@functools.lru_cache(maxsize=4096)  # and one value for all rules about a host: memory
def _read(text: str) -> Host:
    if text in _SCOPES:
        return ScopeName(text)
    address, slash, bits = text.partition("/")
    if "%" in address:
        fault = "a zone id (%) cannot be matched: packets do not carry it"
        raise _Fault(fault, text, shown(address.partition("%")[0]))
    packed = _packed(address)
    if packed is None:
        return _read_name(text)
    width = 8 * len(packed)
    if not slash:
        return Address(plain(packed))
    if not is_number(bits) or len(bits) > 3 or str(int(bits)) != bits or int(bits) > width:
        fault = f"the prefix length after / is a number 0 to {width}"
        raise _Fault(fault, bits, f"{shown(address)}/{width}", len(address) + 1)
    return _network(packed, int(bits), text)


def _packed(address: str) -> bytes | None:
    """The bytes of an address; None if it is none.

    inet_pton is ten times faster than ipaddress, and glibc's takes the same IPv4 spelling: four
    decimal numbers without leading zeros. IPv6 in all its forms is the same in both.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_pton(family, address)
    except (OSError, ValueError):  # ValueError: a NUL or a surrogate
        return None


def _network(packed: bytes, prefixlen: int, text: str) -> Host:
    width = 8 * len(packed)
    mask = (1 << (width - prefixlen)) - 1
    number = int.from_bytes(packed)
    if number & mask:
        right = address_text((number & ~mask).to_bytes(len(packed)))
        fault = f"host bits are set beyond /{prefixlen}: for that network write {right}"
        raise _Fault(f"{fault}/{prefixlen}", text, f"{right}/{prefixlen}")
    if plain(packed) is not packed:
        packed, prefixlen = plain(packed), prefixlen - 96
    if prefixlen == 8 * len(packed):
        return Address(packed)
    return Network(packed, prefixlen)


_FORMS = (
    "an address, a network such as 192.0.2.0/24, a name such as example.org or *.example.org, or "
    "lan, internet, multicast, loopback"
)


def _read_name(text: str) -> Host:
    wild = text.startswith("*.")
    bare = text[2:] if wild else text
    if name_fault(bare):  # else it is in its one spelling already
        bare = _canonical(bare, text)
    if not wild and "." not in bare and not text.endswith("."):
        fault = f"is no scope: it is {', '.join(_SCOPES)}; a name of one label ends in a dot"
        suggestion = nearest(text, _SCOPES, _SYNONYMS) or f"{bare}."
        raise _Fault(f"{quote(shown(text))} {fault}", text, suggestion)
    return Domain(bare) if wild else Name(bare)


def _canonical(bare: str, text: str) -> str:
    given = quote(shown(text))
    if not bare.strip(".") or any(c in bare for c in "*:/[]@"):
        raise _Fault(f"{given} is no host: it is {_FORMS}", text, _meant(text))
    try:
        return canonical_name(bare)
    except ValueError as error:
        raise _Fault(f"{given} is no host: {error}", text, _meant(text)) from None


def _meant(text: str) -> str:
    """What somebody probably meant, where that is plain."""
    if text.startswith("[") and "]" in text:
        return shown(text[1:].partition("]")[0])
    _, scheme, rest = text.partition("://")
    name = (rest if scheme else text).partition("/")[0].partition(":")[0]
    if text == "*":
        return ""
    for bare, prefix in ((name.lstrip("*."), "*." if name[:1] in ("*", ".") else ""), (name, "")):
        try:
            canonical = canonical_name(bare)
        except ValueError:
            continue
        if "." in canonical and prefix + canonical != text:
            return prefix + canonical
    return nearest(text, _SCOPES, _SYNONYMS)


def format_host(host: Host) -> str:
    """What `read_host` reads back as the same."""
    if isinstance(host, Address):
        return address_text(host.packed)
    if isinstance(host, Network):
        return f"{address_text(host.packed)}/{host.prefixlen}"
    if isinstance(host, Domain):
        return f"*.{host.name}"
    if isinstance(host, Name):
        return host.name if "." in host.name else f"{host.name}."
    return host.value


def shown_host(host: Host) -> str:
    """A host for people: names in their own script, where that deceives nobody."""
    return shown_name(format_host(host))
