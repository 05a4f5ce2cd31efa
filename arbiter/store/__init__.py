"""SQLite: remembered rules, profiles, decision records, and what was used."""

from arbiter.store.errors import (
    ClosedError,
    CorruptError,
    DiskFullError,
    LockedError,
    MissingError,
    NewerError,
    NoPermissionError,
    NotOursError,
    ReadOnlyError,
    StoreError,
    UnstorableError,
    UnsuitableError,
)
from arbiter.store.imports import Planned, Wanted
from arbiter.store.rows import Author, Change, Ended, Kept, Remembered
from arbiter.store.store import Store
from arbiter.store.writer import Writer

__all__ = [
    "Author",
    "Change",
    "ClosedError",
    "CorruptError",
    "DiskFullError",
    "Ended",
    "Kept",
    "LockedError",
    "MissingError",
    "NewerError",
    "NoPermissionError",
    "NotOursError",
    "Planned",
    "ReadOnlyError",
    "Remembered",
    "Store",
    "StoreError",
    "UnstorableError",
    "UnsuitableError",
    "Wanted",
    "Writer",
]
