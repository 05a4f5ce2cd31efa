"""Questions that nobody is there to answer: what the setting says, and never lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running import Arbiter, eventually

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.protocol import Role

DEADLINE = 3.0


@pytest.mark.parametrize(
    ("unattended", "passes", "held"),
    [("hold", False, True), ("fallback", False, False), ("observe", True, False)],
)
@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_what_nobody_was_there_for_is_kept_for_the_next_prompt_and_for_the_review(
    lab: Lab, tmp_path: Path, unattended: str, passes: bool, held: bool, server: str
) -> None:
    text = f'deadline = {DEADLINE}\nwhen_unattended = "{unattended}"\n'
    host = f"[{server}]" if ":" in server else server
    curl = ("curl", "-sS", "-m", "20", f"http://{host}/")
    with Arbiter(lab, tmp_path, settings=text) as arbiter:
        began = time.monotonic()
        code, out, _ = arbiter.run(*curl)
        assert (code, "link=wifi" in out) == (0 if passes else 7, passes)
        assert (time.monotonic() - began >= DEADLINE - 0.1) is held
        # It is there for whoever comes: a person, a command.
        with arbiter.connection(Role.PROMPT) as prompt:
            (ask,) = prompt.asks
            assert isinstance(ask, protocol.Ask) and ask.stale
        assert [row["id"] for row in arbiter.json("pending")] == [ask.id]
        # And for the review, also when it was not answered at all.
        (row,) = eventually(lambda: arbiter.json("rules", "review"))
        assert row["line"].startswith("allow app=/usr/bin/curl host=")
        assert (row["covers"], row["refused"]) == (1, 0 if passes else 1)
        arbiter.add(row["line"])
        eventually(lambda: arbiter.asks() == [])
        code, out, seconds = arbiter.run(*curl)
        assert code == 0 and "link=wifi" in out
        assert seconds < DEADLINE
