"""From an answer message to a decision and a rule, and the words around asks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from arbiter import protocol
from arbiter.asks import AskBook, OpenAsk, State
from arbiter.model import ANY_LINK, RESERVED_LINKS, Action, Decision, Link, Peer
from arbiter.protocol import RefusedReason
from arbiter.rules import (
    LifetimeKind,
    Rule,
    RuleError,
    conditions,
    parse_lifetime,
    scopes_for,
)

MAX_CONDITIONS = 6000
"""Bytes of a rule's conditions as JSON. A scope beyond that, of a path full of escapes, is not
offered: an ask must fit its line, and nobody could read what such a rule says."""


class AnswerError(Exception):
    """An answer that cannot be carried out: `reason` for programs, the text for a person."""

    def __init__(self, reason: RefusedReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Chosen(NamedTuple):
    """What an answer decides, and the rule to remember; None for `once`."""

    decision: Decision
    rule: Rule | None
    process: tuple[int, int] | None


def check_open(asks: AskBook, id: int, peer: Peer) -> OpenAsk:
    """The ask, if it is open and this peer may answer it."""
    ask = asks.get(id)
    if ask is None:
        how = asks.closed(id)
        if how is None:
            text = f"there is no ask {id}; `arbiter pending` lists those that wait"
            raise AnswerError(RefusedReason.GONE, text)
        raise AnswerError(how.reason, f"ask {id} is closed: {how.text}")
    if not peer.may_answer(ask.uid):
        owner = ask.example.owner.user or "another user"
        whom = f"{owner}, root" if ask.uid not in (None, 0) else "root"
        text = (
            f"ask {id} is about a process of {owner}, and you are {peer.user}: only {whom} and "
            "members of group arbiter may answer it"
        )
        raise AnswerError(RefusedReason.RIGHT, text)
    if ask.state is State.STORING:
        who = ask.peer.user if ask.peer is not None else "somebody"
        raise AnswerError(RefusedReason.ANSWERED, f"{who} has answered ask {id} just now")
    return ask


def offered(ask: OpenAsk, peer: Peer) -> dict[str, Rule]:
    """The scopes this peer may choose from: by id, the rule (allow, forever) each one means."""
    process = ask.example.subject
    scopes = scopes_for(
        process.app if process else None,
        process.ancestors if process else (),
        ask.example.owner.user,
        ask.example.packet.flow,
        ask.example.packet.hook,
        admin=peer.admin,
        uid=ask.example.owner.uid,
        names=ask.example.names,
    )
    return {id: rule for id, rule in scopes if _fits(rule)}


def _fits(rule: Rule) -> bool:
    return len(msgspec.json.encode(conditions(rule))) <= MAX_CONDITIONS


def read(ask: OpenAsk, answer: protocol.Answer, peer: Peer, links: Mapping[str, Link]) -> Chosen:
    """What the answer decides. Everything in it is checked against what the ask offered."""
    decision = _decision(answer, links)
    if ask.via and decision.action is Action.ALLOW:
        decision = Decision(Action.ROUTE, ask.via, decision.traffic)
    try:
        lifetime = parse_lifetime(answer.lifetime)
    except RuleError as error:
        text = f"lifetime {protocol.clean(answer.lifetime, 40)!r}: {error.text}"
        raise AnswerError(RefusedReason.INVALID, text) from None
    process = None
    if lifetime.kind is LifetimeKind.PROCESS:
        subject = ask.example.subject
        if subject is None:
            text = "nobody knows the process of this connection, so no decision can end with it"
            raise AnswerError(RefusedReason.INVALID, text)
        process = (subject.pid, subject.start)
    scopes = offered(ask, peer)
    rule = scopes.get(answer.scope)
    if rule is None and not scopes:
        if lifetime.kind is LifetimeKind.ONCE:
            return Chosen(decision, None, None)
        text = f"no rule that can be read says what ask {ask.id} is about: answer it for once"
        raise AnswerError(RefusedReason.INVALID, text)
    if rule is None:
        given = protocol.clean(answer.scope, 40)
        text = f"scope {given!r} is not offered by ask {ask.id}: choose {', '.join(scopes)}"
        raise AnswerError(RefusedReason.INVALID, text)
    if rule is not None and answer.shown and answer.shown != conditions(rule):
        text = f"ask {ask.id} has changed since you saw it: it is about {conditions(rule)} now"
        raise AnswerError(RefusedReason.INVALID, f"{text}; look at it again")
    if lifetime.kind is LifetimeKind.ONCE:
        return Chosen(decision, None, None)
    return Chosen(decision, rule.replace(decision=decision, lifetime=lifetime), process)


def _decision(answer: protocol.Answer, links: Mapping[str, Link]) -> Decision:
    if answer.decision is not protocol.Choice.ROUTE:
        if answer.via:
            text = f"{answer.decision} takes no links; say route via={','.join(answer.via)}"
            raise AnswerError(RefusedReason.INVALID, protocol.clean(text, 200))
        if answer.traffic and answer.decision is protocol.Choice.DENY:
            text = f"what is denied has no class: leave out {answer.traffic.value}"
            raise AnswerError(RefusedReason.INVALID, text)
        return Decision(Action(answer.decision.value), traffic=answer.traffic)
    if not answer.via:
        raise AnswerError(RefusedReason.INVALID, "route needs a link: route via=NAME")
    if len(set(answer.via)) != len(answer.via) or ANY_LINK in answer.via[:-1]:
        text = 'each link of a route is named once, and "any" comes last'
        raise AnswerError(RefusedReason.INVALID, text)
    for name in answer.via:
        if name not in RESERVED_LINKS and name not in links:
            known = ", ".join(sorted(links)) or "none"
            text = f"there is no link {protocol.clean(name, 40)!r} (known: {known})"
            raise AnswerError(RefusedReason.INVALID, text)
    return Decision(Action.ROUTE, answer.via, answer.traffic)
