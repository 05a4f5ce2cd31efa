"""Policy files on disk: read, and refused where somebody else than root could have written them.

What a package ships is believed for the package's own programs only. The package manager's
records are read anew each time: that is how advice is gone with its package.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from arbiter.packages import Packages, find
from arbiter.policyfiles import (
    MAX_ADMIN,
    FileFacts,
    PolicyFile,
    PolicyFileError,
    load_all,
    owner_fault,
    stat_fault,
)
from arbiter.rootfiles import believed

ETC = Path("/etc/arbiter/policy.d")
SHIPPED = Path("/usr/share/arbiter/policy.d")
UNITS = "/usr/lib/systemd/system"
_NO_RECORDS = (
    "{count} shipped files are left out: which package owns a file can be told from dpkg's records "
    "only, and there are none here; an administrator who trusts a file copies it to " + str(ETC)
)


class UnsafeError(PolicyFileError):
    """Somebody else could have written it: its last good version does not stay either."""


def read_policies(
    etc: Path = ETC,
    last: Iterable[PolicyFile] = (),
    shipped: Path = SHIPPED,
    packages: Packages | None = None,
) -> tuple[tuple[PolicyFile, ...], tuple[PolicyFileError, ...]]:
    """The policy files in force, and what is wrong with the others.

    A file that cannot be used leaves its `last` good version in force, unless it is unsafe or gone.
    `packages` are this machine's unless given. It reads every list of the package manager: not for
    the event loop.
    """
    errors: list[PolicyFileError] = []
    mine = _texts(etc, errors, owners=believed(), follow=True)
    theirs = _texts(shipped, errors, owners={0}, follow=False)
    # A file of /etc masks by its name, also where it could not be read.
    names = {path.name for path in policy_files(etc)}
    theirs = {path: text for path, text in theirs.items() if Path(path).name not in names}
    kept = tuple(last)
    files, faults = load_all(mine, theirs, kept)
    errors += faults
    unread = {error.origin for error in errors if not isinstance(error, UnsafeError)} - {
        *mine,
        *theirs,
    }
    files += tuple(file for file in kept if file.origin in unread and not _masked(file, names))
    return _owned(files, packages or find(), errors, shipped), tuple(errors)


def _masked(file: PolicyFile, names: Collection[str]) -> bool:
    return file.shipped and Path(file.origin).name in names


# --- texts ----------------------------------------------------------------------------------


def policy_files(folder: Path) -> list[Path]:
    """What counts as a policy file: editors' and package managers' temporary files do not."""
    return sorted(path for path in folder.glob("*.toml") if not path.name.startswith("."))


def _texts(
    folder: Path, errors: list[PolicyFileError], *, owners: Collection[int], follow: bool
) -> dict[str, str]:
    texts: dict[str, str] = {}
    try:
        fault = stat_fault(_facts(folder.stat()), owners)
    except FileNotFoundError:
        return texts
    except OSError as error:
        errors.append(PolicyFileError(str(folder), 0, "", f"cannot be read: {error.strerror}"))
        return texts
    if fault:
        errors.append(UnsafeError(str(folder), 0, "", f"none of its files is used: {fault}"))
        return texts
    for path in policy_files(folder):
        try:
            texts[str(path)] = read_text(path, owners=owners, follow=follow)
        except PolicyFileError as error:
            errors.append(error)
    return texts


def read_text(path: Path, *, owners: Collection[int] | None = None, follow: bool = True) -> str:
    """The text of a regular file, if one of `owners` (None: anybody) and nobody else may write it.

    Raises PolicyFileError where it cannot be read, UnsafeError where it is not to be believed.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO must not hold us up
    try:
        fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
        try:
            facts = _facts(os.fstat(fd))
            fault = "" if stat.S_ISREG(facts.mode) else "it is no regular file"
            if owners is not None:
                fault = fault or stat_fault(facts, owners)
            if fault:
                raise UnsafeError(str(path), 0, "", f"it is not used: {fault}")
            # One byte more than any text that is used has: UTF-8 takes up to four a character.
            data = _read(fd, 4 * MAX_ADMIN + 1)
        finally:
            os.close(fd)
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyFileError(str(path), 0, "", f"not UTF-8: {error.reason}") from None
    except OSError as error:
        what = "cannot be read: " + (error.strerror or "unknown error")
        raise PolicyFileError(str(path), 0, "", what) from None


def _read(fd: int, most: int) -> bytes:
    parts = []
    while most and (part := os.read(fd, most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _facts(found: os.stat_result) -> FileFacts:
    return FileFacts(found.st_uid, found.st_gid, found.st_mode)


# --- whose program it is --------------------------------------------------------------------


def _owned(
    files: Iterable[PolicyFile],
    packages: Packages | None,
    errors: list[PolicyFileError],
    shipped: Path,
) -> tuple[PolicyFile, ...]:
    """`files` without shipped ones that speak for a program which is not their package's."""
    good = list(files)
    asked = [file for file in good if file.shipped]
    if not asked:
        return tuple(good)
    if packages is None:
        text = _NO_RECORDS.format(count=len(asked))
        errors.append(UnsafeError(str(shipped), 0, "", text))
        return tuple(file for file in good if not file.shipped)
    try:
        faults = owner_faults(asked, packages)
    except OSError as error:
        errors.append(UnsafeError(str(shipped), 0, "", f"no shipped file is used: {error}"))
        return tuple(file for file in good if not file.shipped)
    errors += faults
    bad = {error.origin for error in faults}
    return tuple(file for file in good if file.origin not in bad)


def owner_faults(files: Iterable[PolicyFile], packages: Packages) -> list[UnsafeError]:
    """Which shipped files may not speak for their program, and why. OSError: no records."""
    files = tuple(files)
    owners = packages.owners({path for f in files for path in (f.origin, _program(f))})
    faults = ((file, _program_fault(file, owners)) for file in files)
    return [UnsafeError(file.origin, 0, "application.app", why) for file, why in faults if why]


def _program(file: PolicyFile) -> str:
    """The file on disk that a package must own to speak for an app: executable, or unit."""
    if file.application is None:
        return file.origin
    unit = file.application.app.removeprefix("unit:")
    if unit == file.application.app:
        return file.application.path
    template, at, _ = unit.partition("@")
    return f"{UNITS}/{template}@.service" if at else f"{UNITS}/{unit}"


def _program_fault(file: PolicyFile, owners: Mapping[str, frozenset[str]]) -> str:
    program = _program(file)
    fault = owner_fault(owners[file.origin], owners[program], program)
    if fault:
        return fault
    try:
        found = Path(program).stat()
    except OSError:
        return ""  # not there: nothing that the advice could be believed for
    fault = stat_fault(_facts(found))
    return f"{program}: {fault}" if fault else ""
