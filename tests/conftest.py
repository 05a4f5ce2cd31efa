"""For all tests: hypothesis judges what is found, never how fast a shared machine found it; and
what a test printed reaches whoever reads it, whichever process ran it."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("arbiter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("arbiter")

# A shell that starts the tests in the background ignores SIGINT; programs under test inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Names that are no UTF-8 are printed, too, and pytest-xdist carries no such text."""
    return _storable((yield))


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_storable(key): _storable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_storable(one) for one in value)
    return value
