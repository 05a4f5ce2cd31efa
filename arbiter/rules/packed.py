"""Entries in little memory: packed, found by their id or by a hash. Most of 100,000 never decide.

An `Entry` and all that hangs on it take about 600 bytes; packed, 60 to 90, and 45 for being found.
What many share (decision, protocol, lifetime, layer ...) is a *frame*, kept once and counted; an
entry is its frame's number and what is its own. Numbers stand in arrays, packed entries one behind
the other in one buffer, so that nothing here is an object of its own that Python must look after.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from msgspec import Struct, msgpack, structs

from arbiter.rules.cells import Cells
from arbiter.rules.rule import Address, Domain, Entry, Host, Name, Network, Rule, ScopeName

_OWN_RULE = ("app", "host", "ports")
_OWN_ENTRY = ("id", "rule", "created", "by", "expires", "process")
"""What differs from entry to entry; `by` has the place of each rule of a file."""
_RULE_FIELDS = tuple(f for f in structs.fields(Rule) if f.name not in _OWN_RULE)
_ENTRY_FIELDS = tuple(f for f in structs.fields(Entry) if f.name not in _OWN_ENTRY)
_shared_of_rule: Callable[[Rule], tuple[Any, ...]] = attrgetter(*(f.name for f in _RULE_FIELDS))
_shared_of_entry: Callable[[Entry], tuple[Any, ...]] = attrgetter(*(f.name for f in _ENTRY_FIELDS))
_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder().decode
_WASTE = 1 << 16
"""Bytes of entries that are gone that are not worth to be gathered."""


class Packed:
    """Entries by id, each under a hash of its own: 64 bits, chosen by the caller."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._hashes = array("q")
        self._at, self._size = array("Q"), array("I")
        self._free: list[int] = []
        """Places of entries that are gone."""
        self._data = bytearray()
        self._waste = 0
        self._by_id, self._by_hash = Cells(self._ids), Cells(self._hashes)
        self._frames = _Frames()

    def __len__(self) -> int:
        return len(self._ids) - len(self._free)

    def ids(self) -> Iterator[int]:
        """All ids, in any order."""
        gone = set(self._free)
        return (id for place, id in enumerate(self._ids) if place not in gone)

    def has(self, id: int) -> bool:
        """Whether an entry has this id."""
        return self._by_id.find(id) >= 0

    def get(self, id: int) -> Entry | None:
        """The entry with this id, made anew."""
        place = self._by_id.find(id)
        return None if place < 0 else self._entry(place)

    def under(self, hash: int) -> Entry | None:
        """The entry under this hash, made anew."""
        place = self._by_hash.find(hash)
        return None if place < 0 else self._entry(place)

    def add(self, entry: Entry, hash: int) -> None:
        """Keep an entry, whose id and hash are not taken."""
        rule = entry.rule
        frame = self._frames.hold(_shared_of_rule(rule), _shared_of_entry(entry))
        ports = [port for ports in rule.ports for port in ports]
        own = (_text(rule.app), _packed_host(rule.host), ports, entry.created, _text(entry.by))
        ends = (entry.expires, entry.process)
        data = _encode((frame, *own) if ends == (None, None) else (frame, *own, *ends))
        if self._free:
            place = self._free.pop()
            self._ids[place], self._hashes[place] = entry.id, hash
            self._at[place], self._size[place] = len(self._data), len(data)
        else:
            place = len(self._ids)
            self._ids.append(entry.id)
            self._hashes.append(hash)
            self._at.append(len(self._data))
            self._size.append(len(data))
        self._data += data
        self._by_id.add(place)
        self._by_hash.add(place)

    def remove(self, id: int) -> None:
        """Forget an entry, which is there."""
        place = self._by_id.find(id)
        self._frames.release(_decode(self._bytes(place))[0])
        self._by_id.remove(id)
        self._by_hash.remove(self._hashes[place])
        self._waste += self._size[place]
        self._size[place] = 0
        self._free.append(place)
        if self._waste > _WASTE and self._waste * 2 > len(self._data):
            self._gather()

    def _gather(self) -> None:
        """Entries move together over what is gone."""
        data = bytearray()
        for place, size in enumerate(self._size):
            at = self._at[place]
            self._at[place] = len(data)
            data += self._data[at : at + size]
        self._data, self._waste = data, 0

    def _bytes(self, place: int) -> bytearray:
        at = self._at[place]
        return self._data[at : at + self._size[place]]

    def _entry(self, place: int) -> Entry:
        frame, app, host, ports, created, by, *ends = _decode(self._bytes(place))
        of_rule, of_entry = self._frames.fields(frame)
        rule = Rule(
            app=app.decode("utf-8", "surrogatepass"),
            host=_host(host),
            ports=tuple(zip(ports[::2], ports[1::2], strict=True)),
            **of_rule,
        )
        expires, process = ends or (None, None)
        return Entry(
            id=self._ids[place],
            rule=rule,
            created=created,
            by=by.decode("utf-8", "surrogatepass"),
            expires=expires,
            process=None if process is None else tuple(process),
            **of_entry,
        )


class _Frame(Struct, gc=False):
    """What entries share: as it is looked for, and as the fields that are not at their default."""

    key: tuple[Any, ...]
    of_rule: dict[str, Any]
    of_entry: dict[str, Any]
    count: int = 0


class _Frames:
    """Each frame by its number, for as long as an entry has it."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._frames: dict[int, _Frame] = {}
        self._next = 0

    def hold(self, of_rule: tuple[Any, ...], of_entry: tuple[Any, ...]) -> int:
        """The number of a frame, which one entry more has."""
        key = (of_rule, of_entry)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._next
            self._next += 1
            said = _said(_RULE_FIELDS, of_rule), _said(_ENTRY_FIELDS, of_entry)
            self._frames[number] = _Frame(key, *said)
        self._frames[number].count += 1
        return number

    def release(self, number: int) -> None:
        """One entry less has it."""
        frame = self._frames[number]
        frame.count -= 1
        if not frame.count:
            del self._frames[number], self._numbers[frame.key]

    def fields(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the rule, and of the entry."""
        frame = self._frames[number]
        return frame.of_rule, frame.of_entry


def _said(fields: tuple[structs.FieldInfo, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    pairs = zip(fields, values, strict=True)
    return {field.name: value for field, value in pairs if value != field.default}


def _text(text: str) -> bytes:
    """Names of programs and users may be no Unicode (os.fsdecode)."""
    return text.encode("utf-8", "surrogatepass")


def _packed_host(host: Host | None) -> Any:
    """One form for each kind: bytes, [bytes, prefix], text, [text], number; None for no host."""
    if host is None:
        return None
    if isinstance(host, Address):
        return host.packed
    if isinstance(host, Network):
        return host.packed, host.prefixlen
    if isinstance(host, Name):
        return host.name
    if isinstance(host, Domain):
        return (host.name,)
    return _SCOPES.index(host)


def _host(packed: Any) -> Host | None:
    if packed is None:
        return None
    if isinstance(packed, bytes):
        return Address(packed)
    if isinstance(packed, str):
        return Name(packed)
    if isinstance(packed, int):
        return _SCOPES[packed]
    return Domain(packed[0]) if len(packed) == 1 else Network(*packed)


_SCOPES = tuple(ScopeName)
