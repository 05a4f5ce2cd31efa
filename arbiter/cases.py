"""What was decided, as it can be asked again: a row of table `decisions` as a question. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from msgspec import Struct

from arbiter.events import Reason
from arbiter.judge import SEVERAL_USERS
from arbiter.model import DENY, Decision
from arbiter.questions import Question, of_record
from arbiter.records import Record, from_utf8, read_list
from arbiter.rules import RuleError, parse

KNOWN: Final = 65_536
"""Questions that are remembered: most records ask one of a few."""
ASK: Final = "ask"
"""In the place of a decision: no rule decides, a person is asked."""

_QUESTION = (
    *("app", "uid", "user", "parents", "hook", "proto", "daddr", "dport", "no_owner"),
    *("names", "sims", "networks", "metered", "roaming", "profile"),
)
COLUMNS: Final = ("decision", "reason", "rule_id", "by_user", "link", "note", *_QUESTION)
"""What `of_row` reads of table `decisions`, in this order."""
PROCESS_COLUMNS: Final = ("pid", "start")
"""And behind them, where some rule is for one process."""

Groups = Callable[[int], tuple[tuple[str, ...], tuple[int, ...]]]
"""Names and numbers of the groups of a uid."""
_Names = tuple[str, ...]
_ASKED = frozenset({Reason.ANSWER.value, Reason.DEADLINE.value})
_SHARED = "socket shared with "


class Case(Struct, frozen=True):
    """A connection that was decided."""

    question: Question | str
    """Or why the rules cannot be asked."""
    was: str
    """The decision, or ASK where no rule decides it in a capture."""
    by: str
    """Whose it was: `rule 3`, `the rule at FILE:12`, or the word of a Reason."""
    ruled: bool
    """A rule decided."""
    asked: bool = False
    """A person was asked."""
    link: str = ""
    shared: bool = False
    """Other apps hold its socket, too, and only a denial is certain."""
    several: bool = False
    """Other processes do, of which the record knows the app alone."""
    app: str = ""
    user: str = ""
    host: str = ""
    """The newest name of its destination, or the address."""
    dport: int = 0
    proto: str = ""
    nameless: bool = False
    """Nobody knew a name of its destination."""


def of_row(row: tuple[object, ...], groups: Groups) -> Case:
    """A case of COLUMNS, with PROCESS_COLUMNS behind them or not. Total: what is not as arbiter
    writes it is a case that cannot be asked."""
    decision, reason, rule_id, by, link, note, *asked = row
    several = SEVERAL_USERS if SEVERAL_USERS in str(note) else ""
    older = reason if reason == Reason.OLDER else ""
    record, question, names = _question((older, several, *asked), groups)
    if isinstance(question, str) and not record.daddr:
        question = f"{question} ({note or reason})"
    if decision_of(str(decision)) is None:
        question = f"its decision {decision!r} is none"
    ruled = reason == Reason.RULE
    app = from_utf8(record.app)
    return Case(
        question,
        str(decision),
        _called(rule_id, str(by)) if ruled else str(reason),
        ruled,
        reason in _ASKED,
        str(link),
        _shared(from_utf8(str(note)), app),
        _SHARED in str(note),
        app,
        from_utf8(record.user),
        names[0] if names else record.daddr,
        record.dport,
        record.proto,
        not names,
    )


@lru_cache(KNOWN)
def _question(asked: tuple[object, ...], groups: Groups) -> tuple[Record, Question | str, _Names]:
    """The question of what a rule may be held against, or why there is none; and the names."""
    fields = dict(zip(("reason", "note", *_QUESTION, *PROCESS_COLUMNS), asked, strict=False))
    for name in ("metered", "roaming"):
        fields[name] = None if fields[name] is None else bool(fields[name])
    # Only its family is asked about; the address itself would make each case one of its own.
    saddr = "::" if ":" in str(fields["daddr"]) else "0.0.0.0"  # noqa: S104  # no socket binds it
    record = Record(0.0, "", saddr=saddr, **fields)  # type: ignore[arg-type]  # as in schema.sql
    names: _Names = ()
    try:
        if not record.daddr:
            raise ValueError("its packet could not be read")
        names = read_list(record.names)
        of_user = groups(record.uid) if record.uid is not None else ((), ())
        return record, of_record(record, *of_user), names
    except (ValueError, RecursionError) as error:
        return record, f"it was not held against rules, and cannot be: {error}", names


def _called(rule_id: object, by: str) -> str:
    """As `Entry.called`."""
    if isinstance(rule_id, int) and rule_id > 0:
        return f"rule {rule_id}"
    return f"the rule at {by.removeprefix('file:')}"


def _shared(note: str, app: str) -> bool:
    """Whether others than this app held the socket: `views.record_of` writes who."""
    place = note.find(_SHARED)
    if place < 0:
        return False
    one = rf"{re.escape(app)} \(pid [0-9]+\)"
    return re.fullmatch(f"{one}(, {one})*", note[place + len(_SHARED) :]) is None


def decision_of(text: str) -> Decision | None:
    """What a record's decision says; None where it is none: a database may come from anywhere."""
    if text == "deny":
        return DENY
    try:
        return parse(text).decision
    except RuleError:
        return None
