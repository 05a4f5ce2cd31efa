"""How many inputs a property test is tried with: others each time, and few enough for each commit.

`TEST_EXAMPLES` times as many as are written, in hundredths: 1000 is ten times.
"""

from __future__ import annotations

import os

SHARE = int(os.environ.get("TEST_EXAMPLES", "33"))
USUAL = 40
"""What is written for a test that names no number."""
_LEAST = 10


def examples(written: int = USUAL) -> int:
    """How many it is now, for a test that is worth `written` where time is not short."""
    return max(_LEAST, written * SHARE // 100)
