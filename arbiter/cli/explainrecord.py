"""`arbiter explain --record`: what was decided then, and what the rules of now say of the same."""

from __future__ import annotations

from typing import NamedTuple

import click

from arbiter.cli.common import fail, show_json
from arbiter.cli.explainask import Rules, connection_text, owner_text
from arbiter.cli.ruleswords import when
from arbiter.events import Reason
from arbiter.kernel.users import user_groups
from arbiter.protocol import clean
from arbiter.questions import Answer, of_record
from arbiter.records import Record
from arbiter.recordwords import THEN
from arbiter.rules import RuleError, format_decision, format_rule, why_not
from arbiter.store import Kept, Store

LAST = "last"
_MAX_ID = (1 << 63) - 1


class Change(NamedTuple):
    """How now compares with then."""

    differs: bool
    """Another decision."""
    why: str


def ask_record(rules: Rules, store: Store, which: str, as_json: bool) -> bool:
    """What the rules in force say of a connection that was decided. Whether they decide it."""
    kept = _find(store, which)
    record = kept.record
    groups, gids = user_groups(record.uid) if record.uid is not None else ((), ())
    try:
        question = of_record(record, groups, gids)
    except ValueError as error:
        text = f"record {kept.id} ({when(record.time)}: {clean(record.decision)})"
        fail(f"{text} was not held against rules, and cannot be: {clean(str(error), 300)}")
    answer = rules.ask(question, record.time)
    found = change(rules, store, kept, answer)
    if as_json:
        told = record_object(kept, found)
        show_json([rules.object(answer, at=record.time, record=told)])
    else:
        where = f"{connection_text(question)}, {owner_text(answer)}"
        click.echo(f"record {kept.id} of {when(record.time)}: {where}")
        click.echo(f"then: {then_text(record)}")
        click.echo(f"now: {found.why}")
        rules.say(answer, at=record.time)
    return answer.judgement is not None


def _find(store: Store, which: str) -> Kept:
    if which == LAST:
        kept = store.records.last()
        if kept is None:
            fail(f"{store.path} has no records yet: nothing was decided")
        return kept
    if not (which.isascii() and which.isdigit()):
        fail(f"--record {clean(which, 40)!r}: it is a record's number, or {LAST}", 2)
    kept = store.records.one(int(which)) if len(which) < 20 and int(which) <= _MAX_ID else None
    if kept is None:
        last = store.records.last()
        newest = f"the newest is {last.id}" if last is not None else "it has none"
        fail(f"{store.path} has no record {which}: {newest}")
    return kept


# --- then -----------------------------------------------------------------------------------


def then_text(record: Record) -> str:
    """What was decided, by whom and why."""
    over = f" over {clean(record.link, 40)}" if record.link else ""
    note = f" ({clean(record.note, 500)})" if record.note else ""
    return f"{clean(record.decision)}{over}, {_whythen_text(record)}{note}"


def _whythen_text(record: Record) -> str:
    by = clean(record.by, 200)
    if record.reason == Reason.RULE:
        return f"{_called(record)}, by {by}" if by else _called(record)
    why = THEN.get(record.reason) or clean(record.reason, 40)
    whom = f": {by}, {clean(record.frontend, 40)}".rstrip(", ") if by else ""
    return f"because {why}{whom}"


def _called(record: Record) -> str:
    """`by rule 7`, or of a policy file `by the rule at FILE:LINE`."""
    if record.rule_id is not None and record.rule_id > 0:
        return f"by rule {record.rule_id}"
    return f"by the rule at {clean(record.by.removeprefix('file:'), 300)}"


def record_object(kept: Kept, found: Change) -> dict[str, object]:
    """A decision, and how now compares with it."""
    record = kept.record
    return {
        "id": kept.id,
        "time": record.time,
        "decision": record.decision,
        "reason": record.reason,
        "rule": record.rule_id,
        "layer": record.layer,
        "by": clean(record.by),
        "frontend": clean(record.frontend),
        "link": clean(record.link) or None,
        "note": clean(record.note) or None,
        "differs": found.differs,
        "change": found.why,
    }


# --- and now --------------------------------------------------------------------------------


def change(rules: Rules, store: Store, kept: Kept, answer: Answer) -> Change:
    """Whether the rules of now decide otherwise, and what became of the rule of then."""
    record = kept.record
    judgement = answer.judgement
    now = format_decision(judgement.decision) if judgement is not None else None
    differs = now != record.decision
    what = (
        "the same" if not differs else "no rule decides it" if now is None else f"{now}, not that"
    )
    entry = judgement.entry if judgement is not None else None
    if record.reason != Reason.RULE:
        made = f", by {entry.called} of {when(entry.created)}" if entry is not None else ""
        return Change(differs, f"{what}{made}; then no rule did")
    if entry is not None and _same(record, entry.id, entry.by):
        return Change(differs, f"{what}, by the same rule")
    by = f", by {entry.called}" if entry is not None else ""
    return Change(differs, f"{what}{by}: {_fate(rules, store, record, answer)}")


def _same(record: Record, id: int, by: str) -> bool:
    """Whether a rule in force is the one of then. Those of files are known by file and line."""
    if record.rule_id is not None and record.rule_id > 0:
        return id == record.rule_id
    return by == record.by


def _fate(rules: Rules, store: Store, record: Record, answer: Answer) -> str:
    """Why the rule that decided then does not decide now."""
    called = _called(record).removeprefix("by ")
    here = next((e for e in rules.entries if _same(record, e.id, e.by)), None)
    if here is not None:
        why = why_not(here, answer.query, record.time, rules.zone)
        if why is not None:
            return f"{called} is in force, but does not match: {why}"
        return f"{called} is in force, but another one comes before it"
    if record.rule_id is None or record.rule_id < 0:
        return f"{called} is not there any more"
    ended = store.records.end_of(record.rule_id)
    if ended is not None:
        place = f" by rule {ended.replaced_by}" if ended.replaced_by is not None else ""
        who = f" by {clean(ended.by, 64)}" if ended.by else ""
        reason = clean(ended.reason, 100)
        return f"{called} was taken out of force {when(ended.at)}{who} ({reason}{place})"
    try:
        old = store.get(record.rule_id)
    except (RuleError, ValueError) as error:
        return f"{called} cannot be read any more: {clean(str(error), 200)}"
    if old is None:
        return f"{called} is not in this database"
    if old.expires is not None:
        return f"{called} ended {when(old.expires)}: {format_rule(old.rule)}"
    return f"{called} was for={old.rule.lifetime.kind.value}, and that is over"
