"""A review as lines of text: one program a card, the rule in whole. Pure.

Whatever a process, a file or DNS chose is cleaned here: nothing of it reaches a terminal as it is.
"""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Sequence

from msgspec import Struct

from arbiter.cli.reviewstate import Card, Item, Mark, Review
from arbiter.cli.ruleswords import letters, when
from arbiter.protocol import clean
from arbiter.rules import Rule, format_rule, over_broad, shown_host
from arbiter.rules.seen import Seen, Tally, tally

KEYS = (
    "a allow  w wider  n narrower  d deny instead  s skip  b back  A allow all of this program  "
    "q quit  ? help"
)
FEW_KEYS = "a allow  d deny  s skip  q quit  ? help"
"""Where `KEYS` has no room."""
HELP = """
a   allow: remember the rule that stands beside "rule", as it is
d   deny instead: remember the same rule, with deny
w   wider: the same for more destinations, ports or users; nothing is remembered yet
n   narrower: one step back
s   skip: leave it undecided; of a rule that was just made: take it back
b   back to the one before
A   allow everything of this program that is open, as it is shown, in one step
q   quit; what was allowed or denied stays. `arbiter rules undo` takes the last step back

A row's first letter: + allowed, x denied, - skipped, = rules of this review decide it.

Rules are proposed as narrow as what was seen; but where they would be too many to read, one
stands for a port of the whole internet, or of the LAN.

Any key goes on.
"""
_MARKS = {
    Mark.OPEN: " ",
    Mark.ALLOWED: "+",
    Mark.DENIED: "x",
    Mark.SKIPPED: "-",
    Mark.COVERED: "=",
}
LEAST_WIDTH = 30
"""Columns below which nothing is made shorter."""
_LABEL = 7
_NAMED = 4
"""Destinations of a sum that are shown by name."""
_MOST_PARENTS = 3
_MOST_PRECEDED = 2
_LEAST_ROWS = 3
"""Rows of the list that stay while there is something else to leave out."""


class Line(Struct, frozen=True):
    """One line; `style` is bold, dim, warn or ""."""

    text: str
    style: str = ""


def draw(review: Review, width: int, height: int) -> list[Line]:
    """The card that is looked at: `width` - 1 characters and `height` - 1 lines at most, if it
    can be; the rule is never cut."""
    width = max(width - 1, LEAST_WIDTH)
    if review.help:
        lines = [line for part in HELP.strip().split("\n") for line in _wrap(part, width, 4)]
        return [Line(line) for line in lines]
    pieces = [_pieces(review, width, height, step) for step in range(len(_Step))]
    return next((lines for lines in pieces if len(lines) < height), pieces[-1])


class _Step(enum.IntEnum):
    """What is left out, one after the other, until a card fits a low terminal: its program, the
    rule and every warning stay."""

    NOTHING = 0
    KEYS = 1
    BLANKS = 2
    ROWS = 3
    TIMES = 4
    SEEN = 5
    ONE = 6
    COUNTS = 7


def _pieces(review: Review, width: int, height: int, step: int) -> list[Line]:
    card = review.card
    top = _head(review, width, step)
    keys = [_cut(FEW_KEYS, width)] if step >= _Step.KEYS else _wrap(KEYS, width)
    below = _detail(review, width, brief=step >= _Step.SEEN)
    below += [Line(line, "dim") for line in keys]
    if review.message:
        below.append(Line(_cut(review.message, width), "warn"))
    gap = [] if step >= _Step.BLANKS else [Line("")]
    room = height - 1 - len(top) - len(below) - 2 * len(gap)
    least = _LEAST_ROWS if step < _Step.ROWS else 1 if step < _Step.ONE else 0
    rows = _list(card, review.item, width, max(room, least))
    return [*top, *gap, *rows, *gap, *below]


def _head(review: Review, width: int, step: int) -> list[Line]:
    card, program = review.card, review.card.program
    left = f"-- program {review.card_at + 1} of {len(review.cards)} "
    right = f" {card.done} of {len(card.items)} decided --"
    all_of_it = tally(program.seen)
    span = f"{when(all_of_it.first)} to {when(all_of_it.last)}"
    who = f"user {', '.join(program.users)}; " if program.users else ""
    counts = (
        f"{who}{many(all_of_it.count, 'connection')} to "
        f"{many(len(all_of_it.destinations), 'destination')}"
        + (f", {span}" if step < _Step.TIMES else "")
    )
    lines = [
        Line(_cut(left + "-" * (width - len(left) - len(right)) + right, width), "dim"),
        Line(_cut(program.app or "programs that nobody knew", width), "bold"),
    ]
    if step < _Step.COUNTS:
        lines += [Line(line) for line in _wrap(counts, width)]
    if program.parents and step < _Step.TIMES:
        named = ", ".join(f"{app} ({count})" for app, count in program.parents[:_MOST_PARENTS])
        more = len(program.parents) - _MOST_PARENTS
        named += f" and {more} more" if more > 0 else ""
        lines.append(Line(_cut(f"from {named}", width)))
    if all_of_it.refused and step < _Step.COUNTS:
        text = f"{all_of_it.refused} of them did not pass, as nobody decided them"
        lines.append(Line(_cut(text, width), "warn"))
    if not program.app:
        lines.append(Line(_cut("these rules hold for every program", width), "warn"))
    return lines


def _list(card: Card, current: Item, width: int, room: int) -> list[Line]:
    """As many rows as there is room for, around the current one."""
    at = card.items.index(current)
    first = max(0, min(at - room // 2, len(card.items) - room))
    return [_row(item, item is current, width) for item in card.items[first : first + room]]


def _row(item: Item, current: bool, width: int) -> Line:
    count = str(sum(one.count for one in item.proposal.seen))
    rule = short(item.rule)
    left = f"{'>' if current else ' '} {_MARKS[item.mark]} "
    rule = _cut(rule, width - len(left) - len(count) - 1)
    text = left + rule.ljust(width - len(left) - len(count)) + count
    style = "bold" if current else "" if item.mark is Mark.OPEN else "dim"
    return Line(text, style)


def short(rule: Rule) -> str:
    """A rule without its app and user, which stand in the card's head."""
    return format_rule(rule.replace(app="", user=""))


def _detail(review: Review, width: int, *, brief: bool) -> list[Line]:
    card, item = review.card, review.item
    rows = [("rule", format_rule(item.rule), "bold")]
    if name := letters(item.rule):
        rows.append(("", f"({name})", "dim"))
    if not brief:
        rows.append(("seen", _seen(item.proposal.seen), ""))
    if item.step:
        covered = sum(one.count for one in card.covered(item.steps[item.step]))
        every = sum(one.count for one in card.program.seen)
        text = (
            f"step {item.step} of {len(item.steps) - 1}, also for what was not seen; it matches "
            f"{covered} of this program's {many(every, 'connection')}"
        )
        rows.append(("wider", text, "warn"))
    elif item.proposal.summary:
        text = "also for what was not seen: one by one there is too much to read"
        rows.append(("sum", text, "warn"))
    if doubt := over_broad(item.rule):
        rows.append(("note", doubt, "warn"))
    wider = item.step > 0 or item.proposal.summary
    before = review.preceded(item.rule) if wider and not item.made else []
    rows += [
        ("before", f"{entry.called}: {format_rule(entry.rule)}", "warn")
        for entry in before[:_MOST_PRECEDED]
    ]
    if len(before) > _MOST_PRECEDED:
        more = f"and {many(len(before) - _MOST_PRECEDED, 'other rule')} that would deny"
        rows.append(("before", more, "warn"))
    if item.made:
        rows.append(("now", f"rule {item.made[0]} is in force; s takes it back", ""))
    elif item.mark is Mark.COVERED:
        rows.append(("now", "rules of this review decide all of it", ""))
    lines: list[Line] = []
    for label, text, style in rows:
        wrapped = _wrap(text, width - _LABEL)
        labels = [label, *[""] * (len(wrapped) - 1)]
        for name, part in zip(labels, wrapped, strict=True):
            lines.append(Line(name.ljust(_LABEL) + part, style))
    return lines


def _seen(seen: Sequence[Seen]) -> str:
    found = tally(seen)
    text = f"{many(found.count, 'connection')} to {destinations(found)}, last {when(found.last)}"
    return text + (f"; {found.refused} did not pass" if found.refused else "")


def destinations(found: Tally) -> str:
    """The busiest by name, and how many there are."""
    named = ", ".join(shown_host(host) for host in found.destinations[:_NAMED])
    more = len(found.destinations) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def many(number: int, what: str) -> str:
    """`1 rule`, `2 rules`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cut(text: str, width: int) -> str:
    text = clean(text)
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def _wrap(text: str, width: int, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        clean(text, len(text) + 1),
        width,
        break_on_hyphens=False,
        subsequent_indent=" " * indent,
        replace_whitespace=False,
    ) or [""]
