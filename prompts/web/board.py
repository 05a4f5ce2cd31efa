"""What all pages see, view by view, and what one of them has not seen yet. Pure.

A page that is slow, or slept, is told only how things are in the end: nothing queues up for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

_encoder = msgspec.json.Encoder()


def encoded(view: object) -> bytes:
    """A view as JSON."""
    return _encoder.encode(view)


class Board:
    """Views by key (`ask:7`), each as JSON with the version that it has had since it changed."""

    def __init__(self) -> None:
        self.version = 0
        self.views: dict[str, tuple[int, bytes]] = {}

    def show(self, views: Mapping[str, object]) -> bool:
        """These and no others are to be seen now. Whether that is news.

        Bytes are JSON already.
        """
        version, shown = self.version + 1, {}
        for key, view in views.items():
            data = view if isinstance(view, bytes) else encoded(view)
            old = self.views.get(key)
            shown[key] = old if old is not None and old[1] == data else (version, data)
        news = shown.keys() != self.views.keys() or any(v == version for v, _ in shown.values())
        if news:
            self.views, self.version = shown, version
        return news


class Reader:
    """One page: what it has been told."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        self._version = -1

    def news(self, board: Board) -> bytes:
        """One line of JSON, `{"set": {key: view}, "gone": [key]}` and a newline; b"" for none."""
        if board.version == self._version:
            return b""
        self._version = board.version
        changed = {
            key: msgspec.Raw(data)
            for key, (version, data) in board.views.items()
            if self._told.get(key) != version
        }
        gone = [key for key in self._told if key not in board.views]
        self._told = {key: version for key, (version, _) in board.views.items()}
        if not changed and not gone:
            return b""
        return _encoder.encode({"set": changed, "gone": gone}) + b"\n"
