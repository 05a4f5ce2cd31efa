"""The prompt's lines: drawn from the machine for a width and a height, then painted. Pure.

What does not fit goes in the order of `Row.drop`; the question, the warnings, the rule and the
keys stay longest. Every line is narrower than the terminal, so the terminal never wraps one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from arbiter.protocol import Choice, clean
from prompts import render
from prompts.cards import Card, Say, Style
from prompts.linkwords import default_link, link_words
from prompts.machine import Machine

Span = tuple[str, Style]
Line = tuple[Span, ...]

_SGR = {
    Style.DIM: "2",
    Style.BOLD: "1",
    Style.GOOD: "32",
    Style.BAD: "31",
    Style.WARN: "1;33",
}
_ASCII = str.maketrans({"✓": "ok", "✗": "no", "→": "->", "…": "...", "·": "-", "─": "-"})
_LABEL = 9
"""Columns of a row's label."""
_BESIDE_LINKS = 8
"""Lines of the question, the rule and the keys; twice as many where it is narrow."""


@dataclass
class Row:
    """A paragraph. The highest `drop` goes first where the screen is too low; 0 stays."""

    drop: int
    lines: list[Line]
    clock: bool = False
    """Changes by the second: not worth a new line on a terminal that cannot redraw."""


@dataclass(frozen=True)
class Screen:
    """What to show: `rule_cut` if the rule did not fit, `steady` without the countdown."""

    lines: tuple[Line, ...]
    rule_cut: bool = False
    steady: tuple[Line, ...] = ()


def fold(text: str, ascii_only: bool) -> str:
    """`text` for a terminal without UTF-8: what has no ASCII form is written as its code."""
    if not ascii_only or text.isascii():
        return text
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def columns(text: str) -> int:
    """How many columns a terminal gives `text` (UAX #11: wide is 2, combining 0)."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns, with an ellipsis where it was cut."""
    if columns(text) <= width:
        return text
    mark = "..." if text.isascii() else "…"
    room, out = max(0, width - len(mark)), ""
    for char in text:
        room -= _columns(char)
        if room < 0:
            break
        out += char
    return (out + mark)[: max(width, 0)]


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns, broken at blanks where there are any.

    Joined again (a blank for each break at a blank) nothing is missing: a rule is shown whole.
    """
    lines, line = [], ""
    for word in text.split(" "):
        rest = word
        if line and columns(line) + 1 + columns(rest) <= width:
            line += f" {rest}"
            continue
        if line:
            lines.append(line)
        while columns(rest) > width:
            head = _head(rest, width)
            lines.append(head)
            rest = rest[len(head) :]
        line = rest
    return [*lines, line]


def _head(text: str, width: int) -> str:
    end, room = 0, width
    while end < len(text) and (room := room - _columns(text[end])) >= 0:
        end += 1
    return text[: max(1, end)]


def paint(line: Line, color: bool) -> str:
    """A line as the terminal gets it: cleaned once more, with colours if it has them."""
    out = ""
    for text, style in line:
        text = clean(text)
        out += f"\x1b[{_SGR[style]}m{text}\x1b[0m" if color and style in _SGR else text
    return out


def width_of(line: Line) -> int:
    """Columns of a line."""
    return sum(columns(text) for text, _ in line)


def said(say: Say, width: int, ascii_only: bool, color: bool) -> list[str]:
    """Lines for the scroll-back, broken between words; a longer word is the terminal's to wrap, so
    that it is copied whole."""
    room = max(width - 1, 20)
    first, *words = fold(say.text, ascii_only).split(" ")
    lines = [first]
    for word in words:
        if lines[-1].strip() and columns(lines[-1]) + 1 + columns(word) > room:
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return [paint(((line.rstrip(), say.style),), color) for line in lines]


# --- drawing --------------------------------------------------------------------------------


def draw(
    machine: Machine,
    width: int,
    height: int,
    now: float,
    ascii_only: bool = False,
    keys: bool = True,
    beside: Sequence[tuple[str, Style]] = (),
    covered: bool = False,
) -> Screen:
    """The prompt in at most `height` - 1 lines of `width` - 1 columns.

    Without `keys` for who shows those in another way. What is `beside` it is shown below, or
    alone where the ask is `covered`.
    """
    room = max(height - 1, 1)
    page = _Page(max(width - 1, 10), ascii_only, room)
    if covered:
        pass
    elif machine.gone:
        page.text(
            0, f"{render.who(machine.gone.card.ask)} → {render.endpoint(machine.gone.card.ask)}"
        )
        page.text(0, machine.gone.text, Style.WARN)
        page.text(1, f"{len(machine.queue())} more waiting; any key goes on", Style.DIM)
    elif machine.card is None:
        page.text(0, machine.notice, Style.WARN)
        page.text(0, _idle(machine), Style.DIM)
    else:
        _ask(page, machine, machine.card, now, keys)
    for text, style in beside:
        page.text(0 if covered else 2, text, style, most=3)
        page.rows[-1].clock = True
    return page.fit(room)


def _idle(machine: Machine) -> str:
    if machine.welcome is None:
        return "not connected; trying again; q quits"
    later = f", {machine.put_off} put off (u shows them)" if machine.put_off else ""
    user = render.tidy(machine.welcome.user)
    return f"listening as {user}; {len(machine.queue())} waiting{later}; ? for help"


def _ask(page: _Page, machine: Machine, card: Card, now: float, keys: bool) -> None:
    ask, queue = card.ask, machine.queue()
    later = f", {machine.put_off} put off" if machine.put_off else ""
    place = f"{queue.index(ask.id) + 1} of {len(queue)} waiting{later}"
    soon = not ask.stale and 0 < ask.deadline - now < 10
    page.header(place, render.countdown(ask, now), Style.WARN if soon else Style.PLAIN)
    for line in render.question(ask):
        page.text(0, line, Style.BOLD)
    page.text(9, "")
    for warning in render.warnings(ask):
        page.text(0, f"!! {warning}", Style.BAD, most=3)
    drops = {"from": 8, "command": 7, "program": 6, "why": 5}
    for label, text in render.facts(ask):
        page.labelled(drops.get(label, 6), label, text, most=1 if label == "command" else 2)
    over = default_link(ask)
    if over and (len(ask.links) > 1 or ":" in over):
        page.labelled(6, "over", over)
    scopes = render.scopes(ask)
    number = f"{card.scope + 1} of {len(scopes)}: " if len(scopes) > 1 else ""
    page.labelled(3, "scope", number + render.scope_words(card.chosen))
    known = render.lifetimes(ask)
    page.labelled(3, "for", " ".join(f"[{x}]" if x == card.lifetime else x for x in known))
    via = card.picked if machine.picking else ask.via
    choice = Choice.ROUTE if machine.picking or ask.via else Choice.ALLOW
    if machine.picking:
        page.links(ask_links(card))
    rule = render.rule_line(card.chosen, card.lifetime, choice, via or ("?",))
    page.rule(rule or "none: nothing is remembered")
    meaning = render.means(ask, card.chosen, card.lifetime, choice, via)
    page.labelled(4, "means", meaning + ("" if machine.picking else " (d: may not)"))
    if keys:
        page.keys(key_words(machine, card))
    if machine.notice:
        page.text(0, machine.notice, Style.WARN)
    elif card.sent:
        page.text(0, f"{card.sent.decision} sent, waiting for the daemon", Style.DIM)


def ask_links(card: Card) -> list[str]:
    """`1 wifi`, `2 lte: 0.02 EUR/MB`: the links to route over, by digit; 0 is the default route."""
    known = {link.name: link for link in card.ask.links}
    lines = []
    for place, name in enumerate(card.links):
        words = render.LINK_WORDS.get(name, "")
        if name in known:
            words = link_words(card.ask, known[name])
        digit = place + 1 if place < len(card.links) - 1 else 0
        default = " (default)" if name in known and known[name].default else ""
        lines.append(f"{digit} {render.tidy(name)}{default}" + (f": {words}" if words else ""))
    return lines


def key_words(machine: Machine, card: Card) -> list[tuple[str, str]]:
    """(key, what it does) of the keys that do something now."""
    if machine.picking:
        return [("0-9", "link"), ("r", "route so"), ("Esc", "back"), ("s/S", "scope"),
                ("l/L", "for"), ("?", "help"), ("q", "quit")]  # fmt: skip
    keys = [("a", "allow"), ("d", "deny")]
    keys += [("r", "route")] if card.ask.links else []
    keys += [("s/S", "scope"), ("l/L", "for")]
    keys += [("n/p", "other")] if len(machine.queue()) > 1 else []
    keys += [("x", "later")] + ([("u", "back")] if machine.put_off else [])
    return [*keys, ("i", "info"), ("?", "help"), ("q", "quit")]


class _Page:
    """Rows of one screen, all text cleaned and folded on the way in."""

    def __init__(self, width: int, ascii_only: bool, room: int) -> None:
        self.width, self.ascii_only, self.room = width, ascii_only, room
        self.rows: list[Row] = []
        self._rule: Row | None = None

    def _wrap(self, text: str, width: int, most: int = 6) -> list[str]:
        lines = wrap(fold(text, self.ascii_only), max(width, 1))
        if len(lines) > most:
            lines[most - 1 :] = [cut(" ".join(lines[most - 1 :]), width)]
        return lines

    def text(self, drop: int, text: str, style: Style = Style.PLAIN, most: int = 6) -> None:
        if text or drop:
            self.rows.append(Row(drop, [((x, style),) for x in self._wrap(text, self.width, most)]))

    def header(self, left: str, right: str, style: Style) -> None:
        dash = "-" if self.ascii_only else "─"
        fill = self.width - columns(left) - columns(right) - 8
        if fill < 1:
            self.text(0, left, Style.DIM)
            self.text(0, right, style)
            self.rows[-1].clock = True
            return
        line = ((f"{dash * 2} {left} {dash * fill} ", Style.DIM), (right, style),
                (f" {dash * 2}", Style.DIM))  # fmt: skip
        self.rows.append(Row(0, [line], clock=True))

    def labelled(self, drop: int, label: str, text: str, most: int = 4) -> Row:
        indent = _LABEL if self.width >= 40 else 2
        lines: list[Line] = []
        if indent < _LABEL:
            lines += [((f"{label}:", Style.DIM),)] if label else []
        for index, part in enumerate(self._wrap(text, self.width - indent, most)):
            head = label if index == 0 and indent == _LABEL else ""
            lines.append(((f"{head:{indent}}", Style.DIM), (part, Style.PLAIN)))
        self.rows.append(Row(drop, lines))
        return self.rows[-1]

    def rule(self, text: str) -> None:
        self._rule = self.labelled(0, "rule", text, most=10_000)

    def links(self, links: list[str]) -> None:
        """In full, or a line each, or their names only: a digit whose link nobody sees is worse."""
        indent = _LABEL if self.width >= 40 else 2
        room = self.room - (_BESIDE_LINKS if self.width >= 59 else 2 * _BESIDE_LINKS)
        full = sum(len(self._wrap(link, self.width - indent)) for link in links)
        if len(links) > room:
            self.labelled(1, "links", "  ".join(link.partition(":")[0] for link in links))
            return
        for at, link in enumerate(links):
            self.labelled(1, "" if at else "links", link, most=4 if full <= room else 1)

    def keys(self, keys: list[tuple[str, str]]) -> None:
        lines: list[Line] = [()]
        for key, word in keys:
            item = ((key, Style.BOLD), (f" {word}", Style.PLAIN))
            if lines[-1] and width_of((*lines[-1], *item)) + 2 > self.width:
                lines.append(())
            lines[-1] = (*lines[-1], *((("  ", Style.PLAIN),) if lines[-1] else ()), *item)
        self.rows.append(Row(2, lines))

    def fit(self, room: int) -> Screen:
        over = sum(len(row.lines) for row in self.rows) - room
        for drop in range(9, 0, -1):
            for row in self.rows:
                if over > 0 and row.drop == drop:
                    over -= len(row.lines)
                    row.lines = []
        rule_cut = False
        if over > 0 and self._rule and len(self._rule.lines) > 1:
            keep = max(1, len(self._rule.lines) - over)
            over -= len(self._rule.lines) - keep
            self._rule.lines, rule_cut = self._rule.lines[:keep], True
            last = self._rule.lines[-1][-1][0]
            mark = (cut(last + "....", columns(last)), Style.WARN)
            self._rule.lines[-1] = (*self._rule.lines[-1][:-1], mark)
        lines = [self._clamp(line) for row in self.rows for line in row.lines]
        steady = [self._clamp(x) for row in self.rows if not row.clock for x in row.lines]
        cut_off = len(lines) > room
        return Screen(tuple(lines[:room]), rule_cut or cut_off, tuple(steady))

    def _clamp(self, line: Line) -> Line:
        """For screens too narrow for a label and a word: cut rather than wrap."""
        if width_of(line) <= self.width:
            return line
        room, out = self.width, []
        for text, style in line:
            out.append((cut(text, room), style))
            room -= columns(out[-1][0])
        return tuple(out)
