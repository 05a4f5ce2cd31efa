"""Whether the program that an app names is still there: by looking at files only."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from arbiter.identity import interpreter_name, stable_path
from arbiter.rules.words import quote

UNIT_FOLDERS = (
    "etc/systemd/system",
    "etc/systemd/system.control",
    "run/systemd/system",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator",
    "run/systemd/generator.early",
    "run/systemd/generator.late",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
"""Where systemd looks for system units (systemd.unit(5))."""
SNAP_FOLDERS = ("snap", "var/lib/snapd/snap")
FLATPAK = "var/lib/flatpak/app"
FLATPAK_OF_USER = ".local/share/flatpak/app"
FLATPAK_MORE = "etc/flatpak/installations.d"
"""Where other installations are named (flatpak-installation(5)): what is in those is not known."""


class _UnknownError(Exception):
    """A folder may not be read: whether something is in it cannot be said."""


class AppFiles:
    """The files of one machine, below `root`; each app is looked for once."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._known: dict[str, str] = {}

    def gone(self, app: str) -> str:
        """Why nothing runs any more that `app` (the id of a rule) names; "" if something may."""
        if app not in self._known:
            try:
                self._known[app] = self._gone(app)
            except (_UnknownError, ValueError):  # ValueError: no file has such a name, or ever had
                self._known[app] = ""
        return self._known[app]

    def _gone(self, app: str) -> str:
        kind, _, rest = app.partition(":")
        if app.startswith("/"):
            return self._path(app)
        if kind == "appimage":
            return self._path(rest)
        if kind == "script":
            interpreter, _, script = rest.partition(":")
            if ":" in script:
                return ""  # which colon parts the two is not sure
            return self._path(interpreter) or (self._path(script) if script[:1] == "/" else "")
        if "/" in rest or not rest:
            return ""
        look = {"unit": self._unit, "snap": self._snap, "flatpak": self._flatpak}.get(kind)
        return look(rest) if look else ""

    def _path(self, path: str) -> str:
        return "" if self._there(path) else f"there is no {quote(path)} any more"

    def _unit(self, unit: str) -> str:
        if not any(self._exists(folder) for folder in UNIT_FOLDERS):
            return ""  # no systemd: whose unit it was is not known
        template, at, _ = unit.partition("@")
        names = {unit, f"{template}@.{unit.rpartition('.')[2]}"} if at else {unit}
        if any(self._exists(f"{folder}/{name}") for folder in UNIT_FOLDERS for name in names):
            return ""
        return f"there is no unit file {quote(unit)} any more"

    def _snap(self, snap: str) -> str:
        if any(self._exists(f"{folder}/{snap}") for folder in SNAP_FOLDERS):
            return ""
        return f"the snap {quote(snap)} is not installed any more"

    def _flatpak(self, id: str) -> str:
        if self._entries(self._root / FLATPAK_MORE) or self._exists(f"{FLATPAK}/{id}"):
            return ""
        homes = {entry.pw_dir.strip("/") for entry in pwd.getpwall()} - {""}
        if any(self._exists(f"{home}/{FLATPAK_OF_USER}/{id}") for home in sorted(homes)):
            return ""
        return f"the Flatpak {quote(id)} is not installed any more"

    # --- files ---

    def _there(self, path: str) -> bool:
        """Whether there is such a file; each `*` and interpreter as in identity.stable_path."""
        *parts, name = path.strip("/").split("/")
        folders: Iterable[Path] = (self._root,)
        for count, part in enumerate(parts, 1):
            wanted = "/" + "/".join(parts[:count])
            folders = [step for folder in folders for step in self._steps(folder, part, wanted)]
        interpreter = interpreter_name(name)
        return any(
            self._exists(str((folder / name).relative_to(self._root)))
            or (interpreter and any(interpreter_name(n) == name for n in self._entries(folder)))
            for folder in folders
        )

    def _steps(self, folder: Path, part: str, wanted: str) -> list[Path]:
        """The folders in `folder` that a part of a stable path may be."""
        if "*" not in part:
            return [folder / part]
        found = [folder / name for name in self._entries(folder)]
        return [path for path in found if self._stable(path) == wanted]

    def _stable(self, folder: Path) -> str:
        return stable_path(f"/{folder.relative_to(self._root)}/x").rpartition("/")[0]

    def _exists(self, path: str) -> bool:
        try:
            os.lstat(self._root / path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _UnknownError from error
        return True

    def _entries(self, folder: Path) -> list[str]:
        try:
            return os.listdir(folder)  # noqa: PTH208  # names, not paths
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _UnknownError from error
