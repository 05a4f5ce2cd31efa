"""links.d/*.toml: what an administrator adds to a link that was found by itself. Pure.

docs/links.md describes each key; tests/test_linkfiles.py fails on one that is not there. A file is
used whole or not at all, and one that cannot be used never takes the others down.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from arbiter.model import MARK_LINK, MARK_LINK_SHIFT, RESERVED_LINKS, OverBudget
from arbiter.tariff import EXACT, MAX_BYTES, UNITS, Budget, Period, Price
from arbiter.tomlfile import FileError, line_of, nearest, parse, shown, shown_value, unknown

MAX_TEXT = 16_384
"""Characters of a link file; more is refused unread."""
MAX_DNS = 8
"""DNS servers of one link."""
MAX_NUMBER = MARK_LINK >> MARK_LINK_SHIFT
LINK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""As in arbiter.rules.rule, so that a rule can name every link; a test holds them together."""
INTERFACE = re.compile(r"[A-Za-z0-9_.@*?-]{1,15}")
"""IFNAMSIZ is 16 with the final NUL (linux/if.h). The kernel would allow nearly any character
(net/core/dev.c, dev_valid_name); these are none of the syntax of a shell or a ruleset."""
SIM = re.compile(r"[0-9]{18,20}")
"""An ICCID: ten bytes of digits on the card (ITU-T E.118, 3GPP TS 31.102 EF_ICCID)."""
APN = re.compile(r"[A-Za-z0-9._-]{1,100}")
"""Labels as in DNS, 100 bytes at most (3GPP TS 23.003, 9.1); some operators' have a "_"."""
AMOUNT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,12})?")
CURRENCY = re.compile(r"[A-Z]{3}")


class Match(Struct, frozen=True):
    """Which link a file speaks of. "" is a condition that is not made; at least one is."""

    interface: str = ""
    """A name, in which `*` stands for any text and `?` for one character."""
    sim: str = ""
    """The ICCID, without the filler F."""
    apn: str = ""

    def fits(self, interface: str, sim: str = "", apn: str = "") -> bool:
        """Whether a link is meant: every condition holds. An unknown ("") SIM or APN fits none."""
        return (
            bool(self.interface or self.sim or self.apn)
            and (not self.interface or fnmatch.fnmatchcase(interface, self.interface))
            and (not self.sim or self.sim == _iccid(sim))
            # An APN is compared as a DNS name is (3GPP TS 23.003, 9.1): case does not matter.
            and (not self.apn or self.apn.lower() == apn.lower())
        )


class LinkFile(Struct, frozen=True):
    """What one file says of one link. None: the file does not say."""

    name: str
    match: Match
    number: int | None = None
    """1 to 31: the link's place in the mark."""
    metered: bool | None = None
    price: Price | None = None
    budget: Budget | None = None
    over_budget: OverBudget = OverBudget.ASK
    dns: tuple[bytes, ...] = ()
    """Its DNS servers, packed."""
    origin: str = ""
    """The path of the file."""


class LinkFileError(FileError):
    """A link file cannot be used; nothing of it is. `line` counts from 1, 0 for the whole file."""

    docs = "docs/links.md"


class _Wrong(Exception):  # noqa: N818  # never leaves this file
    """What is wrong with one value."""


# --- reading a file -------------------------------------------------------------------------


def load(text: str, origin: str) -> LinkFile:
    """The link file in a TOML text; `origin` is its path, for messages. Raises LinkFileError."""

    def wrong(why: str, *path: str) -> LinkFileError:
        return LinkFileError(origin, line_of(text, *path) if path else 0, ".".join(path), why)

    def table(data: dict[str, Any], keys: Mapping[str, _Read], *path: str) -> dict[str, Any]:
        """Every value of a table, read; `path` leads to the table."""
        values = {}
        for key, value in data.items():
            if key not in keys:
                raise wrong(unknown(key, keys, "key of a link"), *path, key)
            try:
                values[key] = keys[key](value)
            except _Wrong as error:
                why = f"{key} = {shown_value(value)}: {error}"
                raise wrong(why, *path, key) from None
        return values

    data = parse(text, origin, LinkFileError, MAX_TEXT, "link file")
    for key in data:
        if key in _LINK:
            raise wrong(f"{key} stands before [link]: put the line [link] above it", key)
        if key != "link":
            raise wrong(unknown(key, ["link"], "table of a link file"), key)
    if "link" not in data:
        raise wrong("there is no [link] table, and a link file is nothing else")
    link = data["link"]
    if not isinstance(link, dict):
        raise wrong("link must be one table, [link]: one file speaks of one link", "link")
    values = table(link, _LINK, "link")
    for key, example in (("name", 'name = "lte"'), ("match", 'match = { interface = "wwan*" }')):
        if key not in values:
            raise wrong(f"[link] has no {key}: add a line such as {example}", "link")
    match = Match(**table(values.pop("match"), _MATCH, "link", "match"))
    if match == Match():
        raise wrong(f"match = {{}}: it must have one of {', '.join(_MATCH)}", "link", "match")
    if "over_budget" in values and "budget" not in values:
        why = 'over_budget has no effect without a budget: add one such as budget = "500 MB/month"'
        raise wrong(why, "link", "over_budget")
    return LinkFile(match=match, origin=origin, **values)


def load_all(
    files: Mapping[str, str], last: Iterable[LinkFile] = ()
) -> tuple[tuple[LinkFile, ...], tuple[LinkFileError, ...]]:
    """The link files among `files` (path → text) in the order of their names, and what is wrong.

    Two files for one name, number or match: the later is refused. In place of a refused file goes
    its last good version, where `last` has one of the same path and no other file is in its way.
    """
    good: list[LinkFile] = []
    errors: list[LinkFileError] = []
    before = {file.origin: file for file in last}
    for path in sorted(files, key=lambda path: (_base(path), path)):
        try:
            file = load(files[path], path)
            clash = _clash(file, good)
            if clash:
                key, why = clash
                raise LinkFileError(path, line_of(files[path], "link", key), f"link.{key}", why)
        except LinkFileError as error:
            errors.append(error)
            old = before.get(path)
            if old is not None and not _clash(old, good):
                good.append(old)
        else:
            good.append(file)
    return tuple(good), tuple(errors)


def _clash(file: LinkFile, others: Iterable[LinkFile]) -> tuple[str, str] | None:
    """The key by which `file` collides with an earlier one, and what is wrong with that."""
    for other in others:
        if file.name == other.name:
            return "name", f"the name {file.name!r} is taken by {shown(other.origin)}: give another"
        if file.number is not None and file.number == other.number:
            why = f"the number {file.number} is taken by {shown(other.origin)}"
            return "number", f"{why} (link {other.name}): give another, or none"
        if file.match == other.match:
            why = f"{shown(other.origin)} (link {other.name}) has the same match"
            return "match", f"{why}, so that this file would never be used: change one of them"
    return None


def masked(shipped: Mapping[str, str], etc: Mapping[str, str]) -> dict[str, str]:
    """The files (path → text) in force: all of /etc, and of the shipped ones those it has not.

    A file of /etc that says nothing (empty, or only comments) masks the shipped one and goes.
    """
    names = {_base(path) for path in etc}
    files = {path: text for path, text in shipped.items() if _base(path) not in names}
    files.update((path, text) for path, text in etc.items() if not _silent(text))
    return files


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _silent(text: str) -> bool:
    return all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines())


# --- values ---------------------------------------------------------------------------------


def _text(value: object, example: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(f'it must be a text in quotes, such as "{example}"')
    if not value.strip():
        raise _Wrong("an empty text matches nothing: leave the key out, or give a value")
    return value


def _dots(text: str) -> str:
    """`text`, if it cannot be taken for an option of a program or for a folder."""
    if text.startswith("-") or text in (".", ".."):
        raise _Wrong('it may not begin with "-", nor be "." or ".."')
    return text


def _name(value: object) -> str:
    text = _text(value, "lte")
    if not LINK_NAME.fullmatch(text):
        raise _Wrong("a link name has 1 to 15 letters, digits, '_', '.' or '-'")
    if text.lower() in RESERVED_LINKS:
        words = ", ".join(sorted(RESERVED_LINKS))
        raise _Wrong(f"{words} have a meaning of their own in via=: choose another")
    return _dots(text)


def _number(value: object) -> int:
    # bool is an int in Python, and not in TOML.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
        raise _Wrong(f"it must be a whole number from 1 to {MAX_NUMBER}")
    return value


def _metered(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("it must be true or false, without quotes")
    return value


def _over_budget(value: object) -> OverBudget:
    return OverBudget(_word(value, OverBudget, "it must be one of"))


def _dns(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise _Wrong('it must be a list of addresses, such as ["192.0.2.53"]')
    if len(value) > MAX_DNS:
        raise _Wrong(f"a link has {MAX_DNS} DNS servers at most")
    return tuple(dict.fromkeys(map(_server, value)))


def _server(text: str) -> bytes:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _Wrong(f"{shown(text)!r} is no address") from None
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        raise _Wrong(f"{shown(text)} is not on any link")
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        scope = shown(address.scope_id)  # whatever somebody wrote
        raise _Wrong(f"{shown(text)}: leave out %{scope}, it is this link's anyway")
    return address.packed


def _price(value: object) -> Price:
    text = _text(value, "0.02 EUR/MB")
    left, slash, unit = (part.strip() for part in text.partition("/"))
    amount, currency = _amount(left)
    if not currency:
        raise _Wrong('it has no currency: say which, as in "0.02 EUR/MB"')
    if not CURRENCY.fullmatch(currency):
        upper = currency.upper()
        hint = f": did you mean {upper!r}?" if CURRENCY.fullmatch(upper) else ""
        raise _Wrong(f"a currency is three capital letters, such as EUR{hint}")
    if not slash:
        raise _Wrong('it must say for how much, as in "0.02 EUR/MB"')
    return Price(amount, currency, _unit(unit))


def _budget(value: object) -> Budget:
    text = _text(value, "500 MB/month")
    left, slash, period = (part.strip() for part in text.partition("/"))
    amount, unit = _amount(left)
    unit = _unit(unit)
    if not slash:
        raise _Wrong('it has no period: say which, as in "500 MB/month"')
    word = _word(period, Period, "its period must be one of")
    size = EXACT.scaleb(amount, UNITS[unit])
    if size != size.to_integral_value() or not 1 <= size <= MAX_BYTES:
        raise _Wrong(f"it must be a whole number of bytes, from 1 to {MAX_BYTES}")
    return Budget(int(size), Period(word))


def _amount(text: str) -> tuple[Decimal, str]:
    """The number that `text` begins with, and what comes after it."""
    found = re.match(r"[0-9.,+_-]*", text)
    number = found[0] if found else ""
    if not AMOUNT.fullmatch(number):
        why = "it must begin with a number such as 0.02"
        raise _Wrong(f"{why}, with a point, and at most 9 digits before it and 12 after it")
    return Decimal(number), text[len(number) :].strip()


def _unit(text: str) -> str:
    return _word(text, UNITS, "its unit (1 MB is 10^6 bytes) must be one of")


def _word(value: object, words: Iterable[str], rule: str) -> str:
    """`value`, if it is one of `words`."""
    words = [str(word) for word in words]
    if isinstance(value, str) and value in words:
        return value
    hint = nearest(value, words) if isinstance(value, str) else ""
    raise _Wrong(f"{rule} {', '.join(words)}{hint and ': '}{hint}")


def _match(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong('it must be a table, such as { interface = "wwan*" }')
    return value


def _interface(value: object) -> str:
    text = _text(value, "wwan*")
    if not INTERFACE.fullmatch(text):
        why = "an interface has 1 to 15 letters, digits, '_', '.', '@' or '-'"
        raise _Wrong(f"{why}; '*' stands for any text, '?' for one other character")
    return _dots(text)


def _sim(value: object) -> str:
    text = _iccid(_text(value, "89430123456789012345"))
    if not SIM.fullmatch(text):
        raise _Wrong("a SIM is its whole ICCID, 18 to 20 digits without spaces, as on the card")
    return text


def _iccid(text: str) -> str:
    """An ICCID as we compare it: cards of 19 digits fill the last half byte with an F."""
    return text[:-1] if text[-1:] in ("F", "f") else text


def _apn(value: object) -> str:
    text = _text(value, "internet")
    if not APN.fullmatch(text):
        raise _Wrong("an APN has 1 to 100 letters, digits, '.', '-' or '_'")
    return text


_Read = Callable[[object], Any]
_LINK: Mapping[str, _Read] = MappingProxyType(
    {
        "name": _name,
        "number": _number,
        "match": _match,
        "metered": _metered,
        "price": _price,
        "budget": _budget,
        "over_budget": _over_budget,
        "dns": _dns,
    }
)
_MATCH: Mapping[str, _Read] = MappingProxyType({"interface": _interface, "sim": _sim, "apn": _apn})
