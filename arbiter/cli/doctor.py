"""`arbiter doctor`: what this kernel and machine can do, and what to install."""

from __future__ import annotations

import sys

import click

from arbiter.cli.common import json_option, show_json
from arbiter.kernel.doctor import Level, examine
from arbiter.kernel.firewall import Plan
from arbiter.settings import Settings

_SIGNS = {Level.OK: ("ok", "green"), Level.WARN: ("warn", "yellow"), Level.FAIL: ("FAIL", "red")}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check what this kernel and machine can do, and what to install.

    Exit code 1 if something arbiter cannot do without is missing.
    """
    checks = examine(Plan(queue=Settings().queue_num))
    if as_json:
        show_json(checks)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            word, color = _SIGNS[check.level]
            click.echo(f"{click.style(f'{word:<4}', color)}  {check.name:<{width}}  {check.text}")
            if check.next_step:
                click.echo(f"{'':<{width + 8}}→ {check.next_step}")
    sys.exit(any(check.level is Level.FAIL for check in checks))
