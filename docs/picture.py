"""Draw a captured terminal as a picture.

    tmux capture-pane -ep | python docs/picture.py NAME.svg TITLE

docs/prompt.svg was made so, from `arbiter run --prompt terminal` in the lab, docs/tui.svg and
docs/tui-links.svg from `arbiter run --prompt tui`, and docs/review.svg
from `arbiter rules review` of what was observed there.
"""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.text import Text


def picture(captured: str, title: str) -> str:
    """The SVG of what a terminal showed, colours and all."""
    lines = captured.rstrip("\n").split("\n")
    width = max(len(Text.from_ansi(line)) for line in lines)
    console = Console(record=True, width=max(width, 80), file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    return console.export_svg(title=title)


if __name__ == "__main__":
    with open(sys.argv[1], "w") as out:
        out.write(picture(sys.stdin.read(), sys.argv[2]))
