"""kill -9 at any moment: nothing that was told is lost, and what is missing is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("ARBITER_KILLS", "20"))
"""200 take a minute or two; see tests/killing.py."""


def test_after_each_kill_all_that_was_told_is_there_and_verified(tmp_path: Path) -> None:
    argv = [sys.executable, str(HERE / "killing.py"), str(tmp_path), "--rounds", str(ROUNDS)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30 + 5 * ROUNDS)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rounds"] == ROUNDS
    # That it was under load at all: most rounds came to work, and every kind of it was done.
    assert found["begun"] > ROUNDS / 3, found
    for kind in ("rules", "removed", "once", "given", "missing"):
        assert found[kind], f"no {kind}: {done.stdout}"
