"""Moments as options of commands."""

from __future__ import annotations

import time

import click

from arbiter.moments import read_moment


def moment(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Epoch seconds: the callback of an option."""
    if text is None:
        return None
    try:
        return read_moment(text, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
