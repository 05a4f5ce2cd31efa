"""A decision record: what the audit keeps of one decided connection. Pure."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable

from msgspec import Struct

from arbiter.model import Flow


class Record(Struct, frozen=True):
    """One decided connection, as words and numbers; a row of table `decisions`.

    Texts that a process chose are spelt by `utf8`; the store sees to it that all are valid.
    """

    time: float
    """Epoch seconds of the decision."""
    decision: str
    """`allow`, `deny`, or `route via=lte,any`."""
    reason: str
    """Why, as one word: rule, answer, deadline, overflow, observe, undecodable, ..."""
    hook: str = "out"
    proto: str = ""
    """Its name, or the number in digits; "" for an undecodable packet."""
    saddr: str = ""
    sport: int = 0
    daddr: str = ""
    dport: int = 0
    outdev: int = 0
    """Interface index; 0 where the hook has none."""
    length: int = 0
    """Bytes of the first packet."""
    uid: int | None = None
    user: str = ""
    app: str = ""
    app_kind: str = ""
    pid: int | None = None
    start: int | None = None
    """Clock ticks since boot (proc(5), stat field 22)."""
    exe: str = ""
    argv: str = "[]"
    """JSON array of strings; see `json_list`."""
    parents: str = "[]"
    """JSON array of app ids, nearest first."""
    no_owner: str = ""
    """Why there is no owner; "" where there is one."""
    rule_id: int | None = None
    layer: int | None = None
    """The rule's layer, 1-3."""
    by: str = ""
    """Who answered, or made the rule."""
    frontend: str = ""
    waited: float = 0.0
    """Seconds that the packet was held."""
    count: int = 1
    """Packets that this record stands for: those of its flow that came before the kernel had the
    verdict, as a retransmit or datagrams sent at once do. Only the first of them is described."""
    note: str = ""
    link: str = ""
    """The link it left over; "" where it did not leave, or over a default route that is no link."""
    names: str = "[]"
    """JSON array of the names its destination had been looked up by, the newest first."""
    sims: str = "[]"
    """JSON array of the SIMs in use, by ICCID."""
    networks: str = "[]"
    """JSON array of the networks this machine was on, as `network=` of a rule names them."""
    metered: bool | None = None
    """Whether the link it would leave over by default was metered; None where nobody knew."""
    roaming: bool | None = None
    profile: str = ""
    """The active profile; "" for none."""
    state: str = ""
    """What became of it, a `State`; "" where it did not pass, or nobody followed it."""
    replied: float | None = None
    """Epoch seconds by which a packet had come back."""
    closed: float | None = None
    """Epoch seconds at which conntrack forgot it."""
    out_bytes: int | None = None
    """Bytes and packets as `usage.on_wire` counts them; None where conntrack never told."""
    in_bytes: int | None = None
    out_packets: int | None = None
    in_packets: int | None = None


class State(enum.StrEnum):
    """What became of a connection that passed."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"
    """It is gone, and nobody saw when: arbiter did not run, or the kernel could not tell."""


class Progress(Struct, frozen=True):
    """What a connection has come to since its record was written. Fields as in Record; None says
    nothing new."""

    id: int
    state: State | None = None
    replied: float | None = None
    closed: float | None = None
    out_bytes: int | None = None
    in_bytes: int | None = None
    out_packets: int | None = None
    in_packets: int | None = None
    count: int | None = None


class Running(Struct, frozen=True):
    """A connection whose record says that it is open."""

    id: int
    time: float
    """Epoch seconds at which its first packet came."""
    flow: Flow


def json_list(texts: Iterable[str]) -> str:
    """A JSON array in ASCII, of texts as `utf8` spells them: any program may read it."""
    return json.dumps([utf8(text) for text in texts], ensure_ascii=True)


def read_list(array: str) -> tuple[str, ...]:
    """The texts that `json_list` was given. Raises ValueError for what is no array of texts."""
    return tuple(map(from_utf8, spelt_list(array)))


def spelt_list(array: str) -> tuple[str, ...]:
    """The same texts as they are spelt in it. Raises ValueError."""
    found: object = json.loads(array)
    if not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
        raise ValueError("it is no list of texts")
    return tuple(found)


_BYTE = re.compile(r"\\udc(?=5c|[89a-f][0-9a-f])")
_SPELT = re.compile(r"\\udc(5c|[89a-f][0-9a-f])")


def utf8(text: str) -> str:
    r"""`text` as valid UTF-8, so that `from_utf8` reads it back.

    A byte that is no UTF-8, which is a lone surrogate here (PEP 383), is spelt `\udcXX`; and so is
    the backslash, `\udc5c`, of a text that could be taken for such a spelling.
    """
    if "\\" in text:
        text = _BYTE.sub(r"\\udc5cudc", text)
    return valid(text)


def spelt(text: str) -> str:
    """A text that somebody typed, as itself or as it is spelt, in the spelling of records."""
    return utf8(from_utf8(text))


def valid(text: str) -> str:
    r"""`text` with lone surrogates as `\udXXX`; what `utf8` gave stays as it is."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def from_utf8(text: str) -> str:
    """What `utf8` was given."""
    if "\\" not in text:
        return text
    return _SPELT.sub(_read, text)


def _read(found: re.Match[str]) -> str:
    byte = int(found[1], 16)
    return chr(byte + 0xDC00) if byte > 0x7F else chr(byte)
