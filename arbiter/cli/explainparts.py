"""`arbiter explain --host`: what the rules say of a connection that is told by its parts."""

from __future__ import annotations

import click
from msgspec import structs

from arbiter.cli.common import show_json
from arbiter.cli.explainask import MAX_NAMES, Rules, names_known, names_text, note
from arbiter.model import Hook
from arbiter.protocol import clean
from arbiter.questions import Answer, Question, exempt, first_packet
from arbiter.rules import shown_name
from arbiter.rules.words import quote
from arbiter.store import Store


def ask_parts(rules: Rules, store: Store, question: Question, as_json: bool) -> bool:
    """What the rules say if it is made. Whether they decide it, or nobody need."""
    outgoing = question.hook is Hook.OUT
    why = exempt(first_packet(question.flow, question.hook)) if outgoing else ""
    answer = rules.ask(question)
    hint = "" if why else _by_name(rules, store, answer)
    if as_json:
        show_json([rules.object(answer, not_decided=why or None)])
        if hint:
            note(hint)
    else:
        if why:
            click.echo(f"arbiter does not decide it: {why}; else:")
        rules.say(answer)
        if hint:
            click.echo(f"  {hint}")
    return bool(why) or answer.judgement is not None


def _by_name(rules: Rules, store: Store, found: Answer) -> str:
    """What is decided under the names that records know, where none was given; "" if they know
    none."""
    question = found.question
    if any(asked.names for asked in question.queries):
        return ""
    names = names_known(store, question.flow.daddr, rules.now)
    if not names:
        return ""
    queries = tuple(structs.replace(asked, names=names) for asked in question.queries)
    answer = rules.ask(structs.replace(question, queries=queries))
    by = ""
    if answer.match is not None:
        by = f" by {answer.match.entry.called}"
    same = answer.judgement == found.judgement
    then = f"{'still ' * same}{rules.decision(answer)}{by}"
    options = " ".join(f"--name {clean(quote(shown_name(name)))}" for name in names[:MAX_NAMES])
    options += " ..." if len(names) > MAX_NAMES else ""
    return f"records know this address as {names_text(names)}: with {options} it is {then}"
