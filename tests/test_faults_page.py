"""docs/faults.md is true: each fault names tests, and each test of faults is on the page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "faults.md").read_text()
NAMED = re.compile(r"`((?:[\w/]+/)?test_\w+)\.py::(test_\w+)`")


def rows() -> list[list[str]]:
    found = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0] not in ("what happens", "---"):
            found.append(cells)
    return found


def test_every_fault_says_what_holds_what_is_seen_and_names_a_test() -> None:
    assert len(rows()) > 20
    for cells in rows():
        assert all(cells), cells
        assert NAMED.search(cells[3]), cells


def test_every_test_that_the_page_names_exists() -> None:
    missing = []
    for file, name in NAMED.findall(PAGE):
        text = (ROOT / "tests" / f"{file}.py").read_text()
        if name not in re.findall(r"^(?:async )?def (test_\w+)", text, re.M):
            missing.append(f"{file}.py::{name}")
    assert missing == []


def test_every_test_of_faults_is_on_the_page() -> None:
    named = {name for _, name in NAMED.findall(PAGE)}
    for path in sorted((ROOT / "tests" / "kernel").glob("test_faults_*.py")):
        found = set(re.findall(r"^def (test_\w+)", path.read_text(), re.M))
        assert found <= named, f"{path.name}: {sorted(found - named)}"


def test_the_variables_that_make_tests_longer_are_those_of_the_tests() -> None:
    told = dict(re.findall(r"`(ARBITER_(?:FAULT_)?[A-Z_]+)` \((\d+)", PAGE))
    texts = [p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if p != Path(__file__)]
    used = dict(re.findall(r'os\.environ\.get\("(ARBITER_[A-Z_]+)", "(\d+)"\)', "\n".join(texts)))
    wanted = {n: v for n, v in used.items() if n.startswith("ARBITER_FAULT") or n.endswith("KILLS")}
    assert told == wanted
