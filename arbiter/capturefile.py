"""A capture file, pcap or pcapng, gzipped or not, packet by packet. scapy, which reads it, is
imported when one is.

What a hostile file can do is bounded here: how much is read at once, and how much without a packet
in it. scapy takes a file that breaks off for one that ends; whoever asks is told which it was.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

MAX_READ: Final = 16 << 20
"""Bytes of one block; the largest that a capture needs is a packet's, 256 kB."""
MAX_READS: Final = 100_000
"""Reads without a packet: a pcapng file may consist of descriptions only."""
MAX_INTERFACES: Final = 4096
_GZIP = b"\x1f\x8b"


class CaptureError(Exception):
    """The file cannot be read (further); the text says where and why."""


class Frame(NamedTuple):
    """One packet as it was captured."""

    number: int
    """From 1, as Wireshark counts."""
    time: float
    """Epoch seconds; that of the packet before, where the file does not say."""
    linktype: int
    data: bytes


class CaptureFile:
    """An open capture; use it in a `with`, and iterate once."""

    def __init__(self, path: Path) -> None:
        """`path` "-" is the standard input. Raises CaptureError."""
        self.path = path
        self._last = 0.0
        try:
            raw = os.fdopen(0, "rb", closefd=False) if str(path) == "-" else path.open("rb")
            self.size = os.fstat(raw.fileno()).st_size
            """Bytes on disk; 0 for a pipe."""
            self._raw: IO[bytes] = raw
            zipped = raw.peek(2)[:2] == _GZIP
        except OSError as error:
            raise CaptureError(f"{path} cannot be read: {error.strerror or error}") from None
        self._bytes = _Bounded(gzip.GzipFile(fileobj=raw) if zipped else raw)

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file that were read; for a progress bar."""
        return self._raw.tell() if self.size else 0

    def __iter__(self) -> Iterator[Frame]:
        """Every packet in order. Raises CaptureError, naming the packet, where the file breaks."""
        from scapy.error import Scapy_Exception
        from scapy.utils import RawPcapReader

        broken = (Scapy_Exception, OSError, EOFError, ValueError, struct.error, zlib.error)
        number = 0
        with _warnings(self._bytes) as said:
            try:
                capture: Any = RawPcapReader  # it takes any file object, whatever its types say
                reader = capture(self._bytes)
                for data, meta in reader:
                    number += 1
                    yield self._frame(number, reader, data, meta)
                    self._bytes.reads = 0
                    if len(getattr(reader, "interfaces", ())) > MAX_INTERFACES:
                        raise CaptureError(self._at(number + 1, "too many interfaces"))
            except broken as error:
                if not number and not self._bytes.error:
                    what = "is neither pcap nor pcapng" if self._bytes.some else "is empty"
                    raise CaptureError(f"{self.path} {what}") from None
                why = self._bytes.error or str(error)
                raise CaptureError(self._at(number + 1, why)) from None
        if not self._bytes.ended or self._bytes.error or said == [self._bytes.total]:
            why = self._bytes.error or "the file breaks off, or is damaged"
            raise CaptureError(self._at(number + 1, why))

    def _frame(self, number: int, reader: Any, data: bytes, meta: Any) -> Frame:
        if hasattr(meta, "sec"):
            if len(data) < min(meta.caplen, 0xFFFF):
                raise CaptureError(self._at(number, "the file breaks off in the middle of it"))
            self._last = meta.sec + meta.usec / (1e9 if reader.nano else 1e6)
            return Frame(number, self._last, reader.linktype & 0xFFFF, data)
        if meta.tshigh is not None:
            self._last = (meta.tshigh << 32 | meta.tslow) / meta.tsresol
        return Frame(number, self._last, meta.linktype, data)

    def _at(self, number: int, why: str) -> str:
        return f"{self.path}, packet {number}: {why}; what comes after it is not read"


class _Bounded:
    """What scapy reads from: never too much at once, and it is remembered how it ended."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.reads = self.total = 0
        self.some = self.ended = False
        """Whether there was anything at all; whether the last read found nothing more."""
        self.error = ""

    def read(self, size: int) -> bytes:
        """As a file's."""
        self.reads += 1
        self.total += 1
        try:
            if size > MAX_READ:
                raise OSError(0, f"a block of {size} bytes: no packet is that long")
            if self.reads > MAX_READS:
                raise OSError(0, f"{MAX_READS} blocks without a packet")
            data: bytes = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            self.error = getattr(error, "strerror", None) or str(error)
            raise
        self.some = self.some or bool(data)
        self.ended = not data and size > 0
        return data

    def seek(self, _: int) -> None:
        """Asked of a gzipped file only, which is unpacked here already."""
        raise OSError(0, "a gzipped file in a gzipped file")

    def close(self) -> None:
        """The file is closed by who opened it."""


@contextmanager
def _warnings(file: _Bounded) -> Iterator[list[int]]:
    """scapy's warnings, kept off the terminal: after how many reads the last one came."""
    from scapy.error import log_runtime

    last: list[int] = []

    def keep(_: object) -> bool:
        last[:] = [file.total]
        return False

    before = log_runtime.filters[:]
    log_runtime.filters[:] = [keep]  # not its own, which lets through what does not come too often
    try:
        yield last
    finally:
        log_runtime.filters[:] = before
