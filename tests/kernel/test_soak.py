"""`make soak` for a quarter of a minute: what must hold holds, and its figures are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from running import PATIENCE

ROOT = Path(__file__).parent.parent.parent


def test_a_short_soak_holds_and_gives_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    argv = [sys.executable, str(ROOT / "bench" / "soak.py"), "--minutes", "0.25", "--seed", "11"]
    done = subprocess.run(
        [*argv, "--json", str(figures)],
        capture_output=True,
        text=True,
        timeout=150 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 11" in done.stdout
    found = json.loads(figures.read_text())
    assert found["broken"] == [] and found["denied_reached"] == 0
    assert sum(found["faults"].values()) >= 4
    assert found["packets"] > 200 and found["allowed_reached"] > 100
    assert found["denied_tries"] > 100
    assert found["second_half"]["mb_last"] > 20
    for name in found["faults"]:
        assert name in done.stdout
