"""docs/performance.md says what its run said: the table and the picture are made of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILES = ("performance.json", "performance.md", "performance.svg")


def test_the_figures_are_those_of_the_run(tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(DOCS / name, tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "chart.py"), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (tmp_path / name).read_text() == (DOCS / name).read_text(), f"{name}: bench/chart.py"


def test_the_run_was_of_everybody_several_times_over() -> None:
    run = json.loads((DOCS / "performance.json").read_text())
    assert set(run) == {"machine", "figures", "left out"}
    for kind in ("same", "fresh", "udp"):
        by = run["figures"][kind]
        names = {name.split(",")[0] for name in by}
        assert names == {"bare kernel", "C accept-all", "OpenSnitch", "arbiter"}
        assert min(len(figures) for figures in by.values()) >= 3, "medians of three rounds"


def test_the_picture_is_one_and_names_each_bar() -> None:
    root = ET.fromstring((DOCS / "performance.svg").read_text())
    assert root.tag.endswith("svg")
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("OpenSnitch" in text for text in texts)
    assert any("arbiter" in text for text in texts)
