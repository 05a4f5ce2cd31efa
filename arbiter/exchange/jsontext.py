"""JSON from strangers: strict, with each key once, and errors that say where."""

from __future__ import annotations

import itertools
import json
from typing import Any, NoReturn

from arbiter.exchange.items import clipped

DEEPEST = 30
"""Levels of lists and objects: those of rules have five at most."""
_DEEP = "not rules: it is nested too deeply"


class JsonError(ValueError):
    """A text is not the JSON that it should be."""


def load_json(text: str) -> Any:
    """The value in a text. Raises JsonError; also for a key that stands twice, and for NaN."""
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise JsonError(f"line {error.lineno}: not JSON: {clipped(error.msg)}") from None
    except RecursionError:
        raise JsonError(_DEEP) from None
    except JsonError:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise JsonError(f"not JSON: {clipped(str(error))}") from None
    check_depth(value, len(text))
    return value


def check_depth(value: object, size: int) -> None:
    """Raise JsonError for lists and objects more than DEEPEST inside each other, and for more
    values in all than `size`, its length as it is written: one that stands in several places counts
    in each.

    Others may then recurse: comparing and showing such a value would end in RecursionError, or in
    no time that anybody has.
    """
    level = [value]
    for _ in range(DEEPEST):
        inside = (
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        )
        level = list(itertools.islice(inside, size + 1))
        size -= len(level)
        if size < 0:
            raise JsonError("it has more values than bytes: what is in it stands in several places")
        if not level:
            return
    raise JsonError(_DEEP)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"the key {clipped(key)!r} stands twice in one object")
            seen.add(key)
    return out


def _no_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is no number of JSON")
