"""What ? shows. Pure."""

from __future__ import annotations

from prompts.cards import Style
from prompts.machine import HELP
from prompts.screen import Line

_EVERYWHERE = (
    "1 Asks, 2 Connections, 3 Apps, 4 Rules, 5 Links, 6 Log: the tabs, by key or click",
    "z: no questions for a while (a snooze), or its end; w: do not disturb, and back",
    "Up, Down, PageUp, PageDown, Home, End: choose a row; Enter, or a second click: all about it",
    "Esc lets a row go: until then rows stay where they are, and new ones wait",
    "q or Ctrl-C: quit",
)
_TABS = (
    "Connections: / filters by words (curl, link=lte, deny), Esc ends it; o changes the order",
    "Rules: / searches, a adds, e edits, x removes, u takes the last change back, r reads again",
    "Log: u takes an answer of yours back",
)


def lines() -> list[Line]:
    """All keys."""
    out: list[Line] = [(("Everywhere", Style.BOLD),)]
    out += [((text, Style.PLAIN),) for text in _EVERYWHERE]
    out += [(), (("Asks", Style.BOLD),), *(((text, Style.PLAIN),) for text in HELP)]
    out += [(), (("Other tabs", Style.BOLD),), *(((text, Style.PLAIN),) for text in _TABS)]
    return out
