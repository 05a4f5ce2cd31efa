"""Reading files of rules: regular files of bounded size, never through a link."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from arbiter.exchange import MAX_FILE, Source

MAX_FILES = 50_000
"""Files of one directory."""
MAX_ALL = 128 << 20
"""Bytes of one import, all files together: they are in memory at once."""
SUFFIXES = (".json", ".toml", ".rules", ".txt", ".plist")
"""What is read of a directory; a file that is named outright may be called anything."""


class UnreadableError(Exception):
    """A file or directory cannot be read; the text says which, why and what to do."""


def read_sources(paths: tuple[Path, ...]) -> tuple[list[Source], list[str]]:
    """Every file that `paths` name, `-` for stdin, and the names that were passed over.

    Of a directory: its files with a suffix of SUFFIXES, by name, without its subdirectories.
    Raises UnreadableError.
    """
    sources: list[Source] = []
    passed: list[str] = []
    left = MAX_ALL
    for path in paths:
        for file in _files(path, passed):
            data = _read(file)
            left -= len(data)
            if left < 0:
                raise UnreadableError(f"{file}: more than {MAX_ALL} bytes in all; import in parts")
            sources.append(Source(str(file), data))
    return sources, passed


def _files(path: Path, passed: list[str]) -> list[Path]:
    try:
        mode = path.lstat().st_mode if str(path) != "-" else stat.S_IFREG
        if not stat.S_ISDIR(mode):
            return [path]
        names = sorted(os.listdir(path), key=os.fsencode)  # noqa: PTH208  # names, not paths
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}; check: ls -ld '{path}'") from error
    if len(names) > MAX_FILES:
        raise UnreadableError(f"{path}: more than {MAX_FILES} files; is this the right directory?")
    found = [path / name for name in names if name.endswith(SUFFIXES)]
    passed.extend(str(path / name) for name in names if not name.endswith(SUFFIXES))
    if not found:
        fault = f"no file in it ends in {', '.join(SUFFIXES)}; name the file itself"
        raise UnreadableError(f"{path}: {fault}")
    return found


def _read(path: Path) -> bytes:
    if str(path) == "-":
        if sys.stdin is None:
            raise UnreadableError("-: there is no standard input; name a file")
        data = sys.stdin.buffer.read(MAX_FILE + 1)
    else:
        data = _read_file(path)
    if len(data) > MAX_FILE:
        raise UnreadableError(f"{path}: more than {MAX_FILE} bytes are no file of rules")
    return data


def _read_file(path: Path) -> bytes:
    """Its bytes, one more than MAX_FILE at most.

    A link could name anything that root may read; a FIFO would make us wait, and opening a device
    can do things: what is not a regular file is not even opened for long (O_NONBLOCK).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UnreadableError(f"{path}: it is not a regular file; name the file itself")
        descriptor = os.open(path, flags)
        with open(descriptor, "rb") as file:
            # It may have been exchanged in between.
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnreadableError(f"{path}: it is not a regular file; name the file itself")
            return file.read(MAX_FILE + 1)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}; check: ls -ld '{path}'") from error
