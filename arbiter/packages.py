"""Which installed package owns a file: so that a package's policy file speaks for its own only.

Read from the package manager's own records, without running it: dpkg's so far. `find` gives None
where no records are known, and whoever asks says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

_MERGED = re.compile(r"/usr(/(?:bin|sbin|lib[0-9a-z]*)/.*)", re.DOTALL)
"""What a merged /usr has under two names (Debian's usrmerge; lib64, libx32 …)."""


class Packages(Protocol):
    """The records of a package manager."""

    @property
    def changes(self) -> Path:
        """A file that is replaced whenever packages are installed, upgraded or removed.

        dpkg lists a new package's files only after they are in place: who reads a shipped file at
        once must look again when this changes.
        """
        ...

    def owners(self, paths: Iterable[str]) -> Mapping[str, frozenset[str]]:
        """The installed packages that own each path, by name; none for what is nobody's.

        Paths are absolute, without symbolic links. OSError where the records cannot be read.
        """
        ...


class Dpkg:
    """dpkg's file lists: `/var/lib/dpkg/info/PACKAGE[:ARCH].list`, and its diversions.

    A removed package's list keeps its configuration files only, so that the rest is nobody's.
    """

    def __init__(self, admin: Path = Path("/var/lib/dpkg")) -> None:
        self._admin = admin

    @property
    def changes(self) -> Path:
        """As in Packages: dpkg's status."""
        return self._admin / "status"

    def owners(self, paths: Iterable[str]) -> Mapping[str, frozenset[str]]:
        """As in Packages. One pass over all lists, however many paths are asked for."""
        diversions = self._diversions()
        diverted = {path: self._diverted(path, diversions) for path in set(paths)}
        # What to look for in the lists → the path that was asked for, and whose word counts.
        wanted: dict[str, list[tuple[str, str, bool]]] = {}
        for path, (listed, by, only) in diverted.items():
            for form in _forms(listed):
                wanted.setdefault(form, []).append((path, by, only))
        found: dict[str, set[str]] = {path: set() for path in diverted}
        for file in self._admin.joinpath("info").glob("*.list"):
            package = file.name.removesuffix(".list").partition(":")[0]
            try:
                lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
            except FileNotFoundError:
                continue  # its package was removed while we looked
            for line in wanted.keys() & set(lines):
                for path, by, only in wanted[line]:
                    if (package == by) == only:
                        found[path].add(package)
        return {path: frozenset(names) for path, names in found.items()}

    def _diversions(self) -> list[tuple[str, str, str]]:
        """(path, what it was moved to, the package that did, ":" for none), dpkg-divert(1)."""
        try:
            text = (self._admin / "diversions").read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            return []
        lines = text.splitlines()
        return list(zip(lines[0::3], lines[1::3], lines[2::3], strict=False))

    @staticmethod
    def _diverted(path: str, diversions: Iterable[tuple[str, str, str]]) -> tuple[str, str, bool]:
        """The path as lists have it, a package, and whether only it counts or only the others.

        A diverted path is the diverting package's own; where it was moved to is the others'.
        """
        forms = _forms(path)
        for source, moved, by in diversions:
            if moved in forms:
                return source, by, False
            if source in forms:
                return path, by, True
        return path, "", False


def _forms(path: str) -> tuple[str, ...]:
    """A path, and how lists from before the merged /usr have it; or the other way round."""
    match = _MERGED.match(path)
    if match:
        return path, match[1]
    return (path, "/usr" + path) if _MERGED.match("/usr" + path) else (path,)


def find(root: Path = Path("/")) -> Packages | None:
    """The records of this machine's package manager; None if there are none that we can read."""
    admin = root / "var/lib/dpkg"
    return Dpkg(admin) if (admin / "info").is_dir() else None
