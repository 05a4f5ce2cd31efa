"""What every form of `arbiter explain` shares: the rules, and one way to say what they say."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click

from arbiter.cli.rulestore import boot_id
from arbiter.cli.ruleswords import rule_object
from arbiter.cli.running import Running, running
from arbiter.cli.settingsfile import read_settings
from arbiter.flowtext import destination, flow_text
from arbiter.judge import Context
from arbiter.localtime import local_zone
from arbiter.model import address_text, proto_name
from arbiter.names import MAX_AGE
from arbiter.policyfiles import entries as of_files
from arbiter.policystate import read_policies
from arbiter.protocol import clean
from arbiter.questions import Answer, Question, answer, misses, otherwise, otherwise_text
from arbiter.records import read_list
from arbiter.recordwords import said
from arbiter.rules import Entry, Index, Query, format_decision, format_rule, shown_name
from arbiter.settings import Mode, Settings, SettingsError, ShippedPolicies
from arbiter.store import Store

NEAR = 3
"""Rules that nearly matched, in a text; JSON has them all."""
MAX_NAMES = 3
"""Names of a destination in a text."""
UNDECIDED = "no rule matches"


class Given(NamedTuple):
    """What the options say of the context; None for what is looked up."""

    sims: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    metered: bool | None = None
    roaming: bool | None = None
    names: tuple[str, ...] | None = None
    profile: str | None = None

    def over(self, found: Context) -> Context:
        """The context with what is given in the place of what was found."""
        given = {key: value for key, value in self._asdict().items() if value is not None}
        return found._replace(**given)


class Rules:
    """The rules in force on this machine now, those of files too, and what happens without one."""

    def __init__(self, store: Store, config: Path, socket_path: Path) -> None:
        """Raises StoreError. What cannot be read in `config` is said on stderr, and left out.

        The mode and the fallback of a daemon that answers at `socket_path` count before those
        of the settings.
        """
        self.now, self.zone = time.time(), local_zone()
        runs: Running | None = None
        try:
            runs = running(socket_path)
        except ValueError as error:
            note(f"{error}: what follows is by the settings")
        decide, self.otherwise = False, None
        try:
            settings = read_settings(config)
            self.otherwise = otherwise(runs.over(settings) if runs is not None else settings)
            decide = settings.shipped_policies is ShippedPolicies.DECIDE
        except SettingsError as error:
            note(f"the settings cannot be read: {error}")
            if runs is not None and runs.mode is not Mode.ASK:
                self.otherwise = otherwise(runs.over(Settings()))  # no more of them counts then
        entries = store.rules(self.now, boot_id(), None)
        for problem in store.unreadable:
            note(problem)
        files, problems = read_policies(config / "policy.d")
        for fault in problems:
            note(str(fault))
        self.entries: list[Entry] = [*entries, *of_files(files, decide=decide)[0]]
        self.index = Index(self.entries, self.zone)

    def ask(self, question: Question, at: float | None = None) -> Answer:
        """What they say of it; `at`: epoch seconds for `time=`, if not now."""
        return answer(self.index, question, self.now if at is None else at)

    def near(self, found: Answer, at: float | None = None) -> list[tuple[Entry, str]]:
        """The rules that do not match, and why."""
        return misses(self.entries, found.query, self.now if at is None else at, self.zone)

    # --- for people -------------------------------------------------------------------------

    def decision(self, found: Answer) -> str:
        """`allow`, `deny`, `route via=…`; without a rule `ask`, or what the mode does."""
        if found.judgement is not None:
            return format_decision(found.judgement.decision)
        if self.otherwise is None or self.otherwise.deadline:
            return "ask"
        return format_decision(self.otherwise.decision)

    def why(self, found: Answer) -> str:
        """The reason, in one sentence."""
        if found.judgement is None:
            why = f"{UNDECIDED}: {otherwise_text(self.otherwise)}"
        elif found.match is None:
            why = "it was open before arbiter could decide it, and no rule says otherwise"
        else:
            why = found.match.why
        return "; ".join(text for text in (why, shared(found)) if text)

    def say(self, found: Answer, *, at: float | None = None) -> None:
        """All of it, in lines: the winner, why, what it beat, and what nearly matched."""
        if found.judgement is None:
            where = destination(found.question.flow)
            click.echo(f"no rule decides {where}: {otherwise_text(self.otherwise)}")
            if sharing := shared(found):
                click.echo(f"  {sharing}")
        elif found.match is None:
            click.echo(f"allow: {self.why(found)}")
        else:
            click.echo(format_rule(found.match.entry.rule))
            click.echo(f"  {self.why(found)}")
            for entry in found.match.beaten:
                click.echo(f"  beats {entry.called}: {format_rule(entry.rule)}")
        near = self.near(found, at)
        for entry, why in near[:NEAR]:
            click.echo(f"  {entry.called} does not match ({format_rule(entry.rule)}): {why}")
        more = len(near) - NEAR
        if more > 0:
            rules = "rule does" if more == 1 else "rules do"
            click.echo(f"  {more} more {rules} not match; --json lists all")

    # --- for programs -----------------------------------------------------------------------

    def object(
        self, found: Answer, *, near: bool = True, at: float | None = None, **more: object
    ) -> dict[str, Any]:
        """The same, with keys that every form has; those in `more` are null where it has none.

        Without `near`, `not_matching` is null: that was not looked at.
        """
        match, judgement = found.match, found.judgement
        entry = judgement.entry if judgement is not None else None
        other = self.otherwise if judgement is None else None
        return {
            "query": query_object(found.question, found.query),
            "decision": judgement and format_decision(judgement.decision),
            "rule": rule_object(entry) if entry is not None else None,
            "why": self.why(found),
            "beaten": [rule_object(e) for e in match.beaten] if match and entry else [],
            "not_matching": [rule_object(e) | {"why_not": why} for e, why in self.near(found, at)]
            if near
            else None,
            "otherwise": other
            and {
                "mode": other.mode.value,
                "decision": format_decision(other.decision),
                "after": other.deadline,
                "unattended": other.unattended and format_decision(other.unattended),
            },
            "apps": [said(one.app) for one in found.question.queries],
            "not_decided": None,
            "way": None,
            "record": None,
            "capture": None,
        } | more


def query_object(question: Question, asked: Query) -> dict[str, Any]:
    """What was asked of the rules."""
    flow = question.flow
    return {
        "app": said(asked.app),
        "parents": [said(parent) for parent in asked.parents],
        "pids": [pid for pid, _ in asked.processes],
        "no_owner": clean(question.no_owner) or None,
        "uid": asked.uid,
        "user": said(asked.user),
        "groups": [clean(group) for group in asked.groups],
        "proto": proto_name(flow.proto),
        "from": address_text(flow.saddr) if flow.saddr else None,
        "from_port": flow.sport if flow.saddr else None,
        "host": address_text(flow.daddr),
        "port": flow.dport,
        "names": [clean(shown_name(name)) for name in asked.names],
        "hook": asked.hook.value,
        "sims": list(asked.sims),
        "networks": [clean(network) for network in asked.networks],
        "profile": clean(asked.profile) or None,
        "metered": asked.metered,
        "roaming": asked.roaming,
    }


def connection_text(question: Question) -> str:
    """`tcp 192.0.2.1:40000 > 192.0.2.7:443 (example.org)`."""
    names = names_text(question.queries[0].names)
    return flow_text(question.flow) + (f" ({names})" if names else "")


def owner_text(answer: Answer) -> str:
    """`of /usr/bin/curl (pid 123), user alice`, or why it has no owner."""
    asked = answer.query
    if not asked.app:
        return f"without a program: {clean(answer.question.no_owner)}"
    pids = ", ".join(str(pid) for pid, _ in asked.processes)
    user = said(asked.user, 64) or "unknown"
    return f"of {said(asked.app, 200)} (pid {pids or 'unknown'}), user {user}"


def names_text(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    shown = [clean(shown_name(name)) for name in names]
    more = len(shown) - MAX_NAMES
    return ", ".join(shown[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def shared(found: Answer) -> str:
    """What it means that several programs hold the socket; "" where one does."""
    count = len(found.question.queries)
    if count == 1:
        return ""
    about = said(found.query.app, 200)
    return f"{count} programs hold its socket and each must be allowed, this is about {about}"


def names_known(store: Store, daddr: bytes, now: float) -> tuple[str, ...]:
    """The daemon alone knows the names of now; its last record about the address says them."""
    kept = store.records.with_names(address_text(daddr), now - MAX_AGE)
    if kept is None:
        return ()
    try:
        return read_list(kept.record.names)
    except ValueError as error:
        note(f"the names in record {kept.id} cannot be read: {error}")
        return ()


def note(text: str) -> None:
    """On stderr: the answer is still an answer."""
    click.echo(f"arbiter: note: {text}", err=True)
