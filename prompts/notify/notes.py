"""What notifications say. Pure: from an ask or a sentence to the arguments of Notify."""

from __future__ import annotations

import enum
import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arbiter.protocol import Ask, Choice
from prompts import choices, render
from prompts.linkwords import default_link
from prompts.render import tidy

RULE_LIMIT = 240
"""Characters of a rule that a notification can show whole; a longer one is not made from it."""
LINE_LIMIT = 240
"""Characters of any other line of its body."""
OPEN = "default"
"""The action of a click on the notification itself (the specification's name for it)."""
NAMES_SHOWN = 4


class Urgency(enum.IntEnum):
    """The specification's. Nothing of ours is critical: that would break through do-not-disturb."""

    LOW = 0
    NORMAL = 1


@dataclass(frozen=True)
class Server:
    """What the notification server can do (GetCapabilities)."""

    actions: bool = True
    body: bool = True
    markup: bool = True
    """It reads a subset of HTML in the body."""


@dataclass(frozen=True)
class Note:
    """One notification, in plain text."""

    summary: str
    body: str = ""
    actions: tuple[tuple[str, str], ...] = ()
    """(key, label); the key is ours, and is told back."""
    urgency: Urgency = Urgency.NORMAL
    expires: int = 0
    """Milliseconds; 0: never, -1: as the server likes."""
    transient: bool = False
    """Not kept in the server's list once it has been shown."""


def body_for(note: Note, server: Server) -> str:
    """The body as this server must get it: escaped where it reads markup."""
    if not server.body:
        return ""
    return html.escape(note.body, quote=False) if server.markup else note.body


def summary_for(note: Note, server: Server) -> str:
    """The summary, never markup; with the first line of the body where there is no body."""
    if server.body or not note.body:
        return note.summary
    return f"{note.summary}: {note.body.partition(chr(10))[0]}"


def actions_for(note: Note, server: Server) -> list[str]:
    """Keys and labels in turns, as Notify takes them; none where the server has no buttons."""
    return [text for action in note.actions for text in action] if server.actions else []


# --- questions ------------------------------------------------------------------------------


def lifetime_for(ask: Ask, wanted: str) -> str:
    """For how long the buttons answer: once only, where their rule could not be shown whole."""
    lifetime = choices.default_lifetime(ask, wanted)
    scope = render.scopes(ask)[choices.first_scope(ask)]
    decision, via = choices.meant(ask, Choice.ALLOW)
    too_long = len(render.rule_line(scope, lifetime, decision, via)) > RULE_LIMIT
    return "once" if too_long else lifetime


def rule_words(ask: Ask, lifetime: str) -> str:
    """The rule that the buttons make: `allow (or deny) app=…`."""
    scope = render.scopes(ask)[choices.first_scope(ask)]
    line = render.rule_line(scope, lifetime, *choices.meant(ask, Choice.ALLOW))
    if not line:
        return "this time only: nothing is remembered"
    decision = render.decision_text(*choices.meant(ask, Choice.ALLOW))
    return f"{decision} (or deny){line.removeprefix(decision)}"


def local_clock(seconds: float) -> str:
    """`12:34:56`, here."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def deadline_words(ask: Ask, now: float, clock: Callable[[float], str] = local_clock) -> str:
    """What happens without an answer, and when: by the clock, for a notification does not tick."""
    if not render.waits(ask) or ask.deadline <= now:
        return render.countdown(ask, now)
    return f"without an answer: {ask.fallback} at {clock(ask.deadline)}"


def question(
    ask: Ask,
    lifetime: str,
    revision: int,
    server: Server,
    now: float,
    problem: str = "",
    clock: Callable[[float], str] = local_clock,
) -> Note:
    """An ask. Its keys carry a revision: a click on what it showed before is no answer to this."""
    summary = render.question(ask)[0].removesuffix(" to")
    lines = [render.where(ask), *(f"!! {text}" for text in render.warnings(ask))]
    lines += [f"!! {problem}"] if problem else []
    lines.append(f"rule: {rule_words(ask, lifetime)}")
    lines.append(deadline_words(ask, now, clock))
    lines.append(f"why: {tidy(ask.why)}")
    over = default_link(ask)
    lines += [f"over {over}"] if over and (len(ask.links) > 1 or ":" in over) else []
    lines += [f"its package says: {render.advice_words(ask.advice)}"] if ask.advice else []
    if not server.actions:
        lines.append(f"answer: arbiter prompt terminal, or arbiter answer {ask.id} allow | deny")
    late = not render.waits(ask) or ask.deadline <= now
    return Note(
        tidy(summary, LINE_LIMIT),
        # The rule is whole, by lifetime_for; no other line may push it out.
        "\n".join(line if line.startswith("rule: ") else shorter(line) for line in lines),
        (
            (f"deny.{revision}", "Deny"),
            (f"allow.{revision}", "Allow"),
            (f"more.{revision}", "More…"),
            (OPEN, "More…"),
        ),
        Urgency.LOW if late else Urgency.NORMAL,
    )


def shorter(line: str) -> str:
    """A line that does not push the next ones out."""
    return line if len(line) <= LINE_LIMIT else f"{line[: LINE_LIMIT - 1]}…"


def summary_of(asks: Sequence[Ask], server: Server) -> Note:
    """The one notification for all asks that have none of their own."""
    count = len(asks)
    names = list(dict.fromkeys(render.app_name(ask) for ask in asks))
    shown = ", ".join(names[:NAMES_SHOWN])
    shown += f" and {len(names) - NAMES_SHOWN} more programs" if len(names) > NAMES_SHOWN else ""
    lines = [f"from {shown}"]
    if not server.actions:
        lines.append("answer: arbiter prompt terminal, or arbiter pending")
    word = "1 more question waits" if count == 1 else f"{count} more questions wait"
    return Note(word, "\n".join(lines), (("more", "Show all…"), (OPEN, "Show all…")))
