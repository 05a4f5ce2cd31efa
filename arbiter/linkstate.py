"""What the daemon keeps of links in files: the admin's facts, and the numbers they had."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from arbiter.linkfiles import MAX_TEXT, LinkFile, load_all, masked
from arbiter.rootfiles import UnbelievedError, believed, check_folder, read_small, reason

SHIPPED = Path("/usr/share/arbiter/links.d")
"""Files of packages; one of the same name in the config directory masks it."""
log = logging.getLogger("arbiter")


def read_files(
    folder: Path, last: Iterable[LinkFile] = (), shipped: Path = SHIPPED
) -> tuple[tuple[LinkFile, ...], tuple[str, ...]]:
    """The good link files, and what is wrong with the others. The `last` good version of those
    stays, unless others than root may write them."""
    problems: list[str] = []
    texts = masked(_texts(shipped, problems), _texts(folder, problems))
    files, errors = load_all(texts, last)
    return files, (*problems, *map(str, errors))


def _texts(folder: Path, problems: list[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    owners = believed()
    try:
        check_folder(folder, owners)
    except FileNotFoundError:
        return texts
    except OSError as error:
        problems.append(f"{folder}: none of its files is used: {error}")
        return texts
    for path in sorted(folder.glob("*.toml")):
        try:
            texts[str(path)] = read_small(path, 4 * MAX_TEXT, owners)
        except UnbelievedError as error:
            problems.append(f"{path} is not used: {error}")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path} cannot be read: {reason(error)}; the other links are in force")
    return texts


def read_numbers(path: Path) -> dict[str, int]:
    """The numbers that links had, so that they have them again. OSError where it may not look."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        log.error("%s cannot be read: %s; links are numbered anew", path, error)
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: n for name, n in found.items() if isinstance(n, int) and 1 <= n <= 31}


def write_numbers(path: Path, known: dict[str, int]) -> None:
    """Keep them, in this order. OSError."""
    text = json.dumps(known, indent=1)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Put a text in a file's place in one step, readable to its owner and group. OSError."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)
