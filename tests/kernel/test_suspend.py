"""A suspend: the kernel freezes every process of the machine and thaws them again, and the wall
clock is hours ahead by then. In `make test-vm` only, whose machine is nobody's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Arbiter, eventually

from arbiter.lab import Lab
from arbiter.lab.config import SECOND4, SERVER4, SERVER6

POWER = Path("/sys/power")
HOURS = 2 * 3600.0
CURL = ("curl", "-sS", "-m", "90", "-o", "/dev/null")


@pytest.fixture
def suspended() -> Iterator[Callable[[], None]]:
    """The machine stands still for 5 s, and wakes two hours later.

    Its devices go on, as its own files come through one: pm_test says how far to go
    (Documentation/power/basic-pm-debugging.rst). All processes do stand still, we too.
    """
    if not os.environ.get("STOCK_KERNEL"):
        pytest.skip(
            "it would freeze every process of your machine: `make test-vm` has one of its own"
        )
    left = []

    def suspend() -> None:
        (POWER / "pm_test").write_text("freezer")
        try:
            (POWER / "state").write_text("freeze")
        finally:
            (POWER / "pm_test").write_text("none")
        time.clock_settime(time.CLOCK_REALTIME, time.time() + HOURS)
        left.append(HOURS)

    yield suspend
    time.clock_settime(time.CLOCK_REALTIME, time.time() - sum(left))


def test_what_was_open_asked_and_denied_before_a_suspend_is_so_after_it(
    suspended: Callable[[], None], clean_lab: Lab, tmp_path: Path
) -> None:
    settings = "deadline = 60.0\nask_ttl = 600\n"
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        arbiter.add(f"allow host={SERVER4} for=1h", f"deny host={SERVER6}")
        stream = arbiter.echo(SERVER4)
        stream.send(1000)
        waiting = arbiter.program(*CURL, f"http://{SECOND4}/")
        eventually(lambda: [ask for ask in arbiter.asks() if ask["waiting"]])
        before = time.monotonic()
        suspended()
        assert time.monotonic() - before > 4, "it stood still"
        stream.send(1000)
        assert arbiter.run(*CURL, f"http://[{SERVER6}]/")[0] == 7
        arbiter.answer("allow")
        assert waiting.wait(60) == 0, "the question had stayed"
        again = arbiter.program(*CURL, f"http://{SERVER4}/")
        eventually(
            lambda: any(
                ask["waiting"] and SERVER4 in str(ask["destination"]) for ask in arbiter.asks()
            )
        )
        arbiter.answer("deny", "--for", "once")
        assert again.wait(60) == 7, "the hour of its rule is over"
        stream.end()
        assert arbiter.process is not None and arbiter.process.poll() is None
        assert arbiter.status().problems == ()
        arbiter.intact()
