"""`arbiter rules check` without files: what is odd about the rules that are in force."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from arbiter.cli.common import show_json
from arbiter.cli.profilewords import unknown_profile
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.policyfiles import entries as of_files
from arbiter.policystate import read_policies
from arbiter.protocol import clean
from arbiter.rules import Entry
from arbiter.rules import check as odd

NO_PROFILE = "no-profile"
"""The kind of a finding about a rule of a profile that is not there."""
GONE = "dead"
"""The kind of a finding about a program that is not there any more."""


def check_rules(db: Path, config: Path, as_json: bool) -> int:
    """Show it; gives how many findings there are. A finding is advice: nothing is changed."""
    now = time.time()
    with open_store(db, readonly=True) as store:
        remembered = store.rules(now, boot_id(), None)
        profiles = store.profiles.names()
    files, _ = read_policies(config / "policy.d")
    rules = [*remembered, *of_files(files)[0]]
    findings = [(f.kind.value, f.entry, f.other, f.text) for f in odd(rules, now)]
    findings += [(GONE, entry, None, _gone(entry)) for entry in rules if _gone(entry)]
    unknown = ((entry, unknown_profile(entry.rule.profile, profiles)) for entry in rules)
    findings += [
        (NO_PROFILE, entry, None, f"{entry.called}: {why}") for entry, why in unknown if why
    ]
    if as_json:
        show_json(
            [
                {
                    "kind": kind,
                    "rule": entry.id,
                    "other": other.id if other is not None else None,
                    "text": text,
                }
                for kind, entry, other, text in findings
            ]
        )
        return len(findings)
    for kind, _, _, text in findings:
        click.echo(clean(f"{text} [{kind}]"))
    count = len(findings)
    click.echo(f"{len(rules)} rules, {count} finding{'' if count == 1 else 's'}")
    return count


def _gone(entry: Entry) -> str:
    """Why nothing runs any more that the rule speaks of; "" if something may."""
    app = entry.rule.app
    if not app.startswith("/") or os.path.lexists(app):
        return ""
    return f"{entry.called}: there is no {app} any more"
