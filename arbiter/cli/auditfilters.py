"""The filters that the commands of `arbiter audit` share: options in, what the store finds out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from arbiter.cli.common import fail, fail_rule
from arbiter.cli.ruleswords import when
from arbiter.cli.times import moment
from arbiter.events import Reason
from arbiter.store import filterwords
from arbiter.store.filters import Wanted
from arbiter.store.filterwords import ConditionError, FilterError

F = TypeVar("F", bound=Callable[..., Any])
_REASONS = click.Choice([reason.value for reason in Reason])
_OPTIONS: dict[str, dict[str, Any]] = {
    "since": {"callback": moment, "metavar": "TIME", "help": "From then on: 2h, today, ..."},
    "until": {"callback": moment, "metavar": "TIME", "help": "Before then: 1h, 2026-11-19, ..."},
    "app": {"help": "This app's id, its last part (curl), or a pattern with *."},
    "user": {"help": "Of this user's processes; a pattern with * is one, too."},
    "host": {"help": "To what host= of a rule means: a name, an address, lan, ..."},
    "port": {"help": "To these ports: 443, or 1-1023,8080."},
    "proto": {"help": "tcp, udp, icmp, ..., or a number."},
    "link": {"help": "That left over this link; '' for none."},
    "decision": {"metavar": "DECISION", "help": "allow, deny, route, or 'route via=LINK,...'."},
    "rule": {"metavar": "RULE", "help": "By this rule: its number, or FILE:LINE."},
    "by": {"help": "Answered, or its rule made, by this person; * is a pattern."},
    "reason": {"type": _REASONS, "help": "Decided for it."},
}
"""Each filter, and what click is told of it."""


def filter_options(*without: str) -> Callable[[F], F]:
    """All filters as options, but for those that the command has as its argument."""

    def add(command: F) -> F:
        for name, option in reversed(_OPTIONS.items()):
            if name not in without:
                command = click.option(f"--{name}", **option)(command)
        return command

    return add


def wanted_by(**filters: Any) -> Wanted:
    """What the options ask for. Ends the program with code 2 where one cannot be understood, or
    where no moment is in the span: "no record" would be taken for an answer."""
    try:
        wanted = filterwords.wanted_by(**filters)
    except ConditionError as error:
        fail_rule(error.error, error.line)
    except FilterError as error:
        raise click.BadParameter(str(error), param_hint=f"'--{error.name}'") from None
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        fail(f"--since {when(wanted.since)} is not before --until {when(wanted.until)}", 2)
    return wanted
