"""For all tests: hypothesis judges what is found, never how fast a shared machine found it; what a
test printed reaches whoever reads it, whichever process ran it; and several processes share the
files so that all end at about the same time."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
from examples import examples
from handout import places
from hypothesis import HealthCheck, settings

settings.register_profile(
    "arbiter",
    deadline=None,
    max_examples=examples(),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("arbiter")

# Reading the tests makes only what stays: no collection walks through it, now or later.
gc.disable()

# A shell that starts the tests in the background ignores SIGINT; programs under test inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of pytest-xdist: the files are handed out in this order."""
    if hasattr(config, "workerinput"):
        place = places(Counter(item.path for item in items))
        items.sort(key=lambda item: place[item.path])


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


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
