"""`host=`: an address, a network or a scope, from words and back."""

from __future__ import annotations

import functools
import ipaddress

from arbiter.model import address_text
from arbiter.rules.rule import Address, Host, Network, ScopeName, is_number, plain
from arbiter.rules.words import RuleError, nearest, quote, shown

_SCOPES = tuple(scope.value for scope in ScopeName)
_SYNONYMS = {"local": "lan", "private": "lan", "wan": "internet", "localhost": "loopback"}


@functools.lru_cache(maxsize=4096)
def read_host(text: str, position: int) -> Host:
    """The host that `text` names; RuleError if none, or one that this version cannot match.

    An IPv4-mapped IPv6 address is read as its IPv4 address. Addresses have one spelling for
    IPv4 (four decimal numbers); netmasks and zone ids are refused.
    """
    if text in _SCOPES:
        return ScopeName(text)
    address, slash, bits = text.partition("/")
    if "%" in address:
        fault = "a zone id (%) cannot be matched: packets do not carry it"
        raise RuleError(fault, position, text, shown(address.partition("%")[0]))
    try:
        packed = ipaddress.ip_address(address).packed
    except ValueError:
        raise _no_address(text, position) from None
    width = 8 * len(packed)
    if not slash:
        return Address(plain(packed))
    if not is_number(bits) or len(bits) > 3 or str(int(bits)) != bits or int(bits) > width:
        fault = f"the prefix length after / is a number 0 to {width}"
        raise RuleError(fault, position + len(address) + 1, bits, f"{shown(address)}/{width}")
    return _network(packed, int(bits), text, position)


def _network(packed: bytes, prefixlen: int, text: str, position: int) -> Host:
    width = 8 * len(packed)
    mask = (1 << (width - prefixlen)) - 1
    number = int.from_bytes(packed)
    if number & mask:
        right = address_text((number & ~mask).to_bytes(len(packed)))
        fault = f"host bits are set beyond /{prefixlen}: for that network write {right}"
        raise RuleError(f"{fault}/{prefixlen}", position, text, f"{right}/{prefixlen}")
    if plain(packed) is not packed:
        packed, prefixlen = plain(packed), prefixlen - 96
    if prefixlen == 8 * len(packed):
        return Address(packed)
    return Network(packed, prefixlen)


def _no_address(text: str, position: int) -> RuleError:
    given = quote(shown(text))
    suggestion = nearest(text, _SCOPES, _SYNONYMS)
    forms = "an address, a network such as 192.0.2.0/24, or lan, internet, multicast, loopback"
    if text.startswith("[") and "]" in text:
        suggestion = shown(text[1:].partition("]")[0])
    elif any(c.isalpha() for c in text) and ":" not in text and "/" not in text:
        fault = f"{given} is a host name: names are not supported by this version; write {forms}"
        return RuleError(fault, position, text, suggestion)
    return RuleError(f"{given} is no host: it is {forms}", position, text, suggestion)


def format_host(host: Host) -> str:
    """What `read_host` reads back as the same."""
    if isinstance(host, Address):
        return address_text(host.packed)
    if isinstance(host, Network):
        return f"{address_text(host.packed)}/{host.prefixlen}"
    return host.value
