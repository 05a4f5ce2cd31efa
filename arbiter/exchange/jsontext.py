"""JSON from strangers: strict, with each key once, and errors that say where."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from arbiter.exchange.items import clipped


class JsonError(ValueError):
    """A text is not the JSON that it should be."""


def load_json(text: str) -> Any:
    """The value in a text. Raises JsonError; also for a key that stands twice, and for NaN."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise JsonError(f"line {error.lineno}: not JSON: {clipped(error.msg)}") from None
    except RecursionError:
        raise JsonError("not rules: it is nested too deeply") from None
    except JsonError:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise JsonError(f"not JSON: {clipped(str(error))}") from None


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
