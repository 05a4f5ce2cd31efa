"""Fuzzed: what the compiled fast path reads, in a program of its own under the sanitizers."""

from __future__ import annotations

import atexit
import functools
import tempfile
from contextlib import ExitStack
from pathlib import Path

from nativeharness import Harness
from queuemessages import expected, queued, read, usual


@functools.cache
def _harness() -> Harness:
    stack = ExitStack()
    atexit.register(stack.close)
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    return stack.enter_context(Harness(Path(folder)))


def queue_message(data: bytes) -> None:
    """A message of the queue, and all bytes as the packet in one: what is read is what the decoder
    reads."""
    found = read(_harness(), data)
    assert found is None or found == expected(data)
    whole = queued(data[:65000])
    found = read(_harness(), whole)
    assert (found is not None) is usual(data[:65000])
    assert found is None or found == expected(whole)
