"""What a policy file says, as values: an administrator's rules, or a package's advice."""

from __future__ import annotations

import enum

from msgspec import Struct

from arbiter.model import Decision
from arbiter.policyfiles.hosts import AdviceHost
from arbiter.rules import Layer, Rule
from arbiter.tomlfile import FileError

FORMAT = 1
"""The version of the format. A file may name it; another one is refused, not guessed at."""


class PolicyFileError(FileError):
    """A policy file cannot be used; nothing of it is. `line` counts from 1, 0: the whole file."""

    docs = "docs/policy-files.md"


class Wrong(Exception):  # noqa: N818  # never leaves this package
    """What is wrong with one value."""


class Relevance(enum.StrEnum):
    """What a connection means to the application that makes it."""

    ESSENTIAL = "essential"
    OPTIONAL = "optional"


class FileRule(Struct, frozen=True):
    """A rule of an administrator's file, and its place there."""

    rule: Rule
    line: int
    """From 1."""
    note: str = ""


class Application(Struct, frozen=True):
    """Whom a file's advice is about."""

    name: str
    app: str
    """As rules call it: a path is in its stable form (identity.stable_path)."""
    path: str = ""
    """The executable as the file wrote it; "" for an app that is no path."""
    website: str = ""
    line: int = 0
    """Where the file names the app."""


class Advice(Struct, frozen=True):
    """What an application's package says of one kind of connection. It never decides by itself."""

    app: str
    host: AdviceHost
    ports: tuple[tuple[int, int], ...]
    """Inclusive ranges, sorted and merged; empty for every port."""
    proto: int | None
    purpose: str
    if_denied: str
    """What does not work without the connection; "" if the file does not say."""
    relevance: Relevance
    suggest: Decision | None
    """What the package would answer; None: it has no opinion."""
    origin: str
    """The path of the file."""
    line: int = 0
    name: str = ""
    """The application's name."""


class PolicyFile(Struct, frozen=True):
    """One file. It holds rules, or an application with advice; never both."""

    origin: str
    """Its path."""
    layer: Layer
    """ADMIN for rules, SHIPPED for advice, whoever wrote it."""
    shipped: bool = False
    """It came with a package, and must pass `safety`."""
    rules: tuple[FileRule, ...] = ()
    adopt: tuple[str, ...] = ()
    """Apps whose packages' suggestions the administrator lets decide alone."""
    application: Application | None = None
    advice: tuple[Advice, ...] = ()
    digest: bytes = b""
    """SHA-256 of the text, so that a file that did not change is not read again."""
