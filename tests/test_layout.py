"""The house stands as docs/architecture.md draws it: imports go downwards, rooms are pure."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "arbiter.model": 0,
    "arbiter.tomlfile": 0,
    "arbiter.tariff": 0,
    "arbiter.netfacts": 0,
    "arbiter.moments": 0,
    "arbiter.classes": 0,
    "arbiter.linkfiles": 1,
    "arbiter.policyfiles": 2,
    "arbiter.linkdns": 2,
    "arbiter.linknumbers": 1,
    "arbiter.links": 2,
    "arbiter.routeplan": 2,
    "arbiter.routeconflicts": 2,
    "arbiter.packets": 1,
    "arbiter.flowtext": 1,
    "arbiter.frames": 1,
    "arbiter.hostname": 0,
    "arbiter.names": 2,
    "arbiter.nametext": 1,
    "arbiter.dnswire": 1,
    "arbiter.dnsstream": 1,
    "arbiter.identity": 1,
    "arbiter.rules": 1,
    "arbiter.protocol": 1,
    "arbiter.settings": 2,
    "arbiter.auditsettings": 1,
    "arbiter.records": 1,
    "arbiter.usage": 1,
    "arbiter.budgets": 2,
    "arbiter.profiles": 2,
    "arbiter.switching": 2,
    "arbiter.ways": 2,
    "arbiter.nesting": 1,
    "arbiter.linkchange": 2,
    "arbiter.linknews": 2,
    "arbiter.exchange": 2,
    "arbiter.events": 2,
    "arbiter.asks": 2,
    "arbiter.held": 2,
    "arbiter.judge": 2,
    "arbiter.older": 2,
    "arbiter.answers": 2,
    "arbiter.views": 2,
    "arbiter.recordwords": 2,
    "arbiter.lives": 2,
    "arbiter.questions": 2,
    "arbiter.captures": 2,
    "arbiter.cases": 2,
    "arbiter.replay": 2,
    "arbiter.report": 2,
    "arbiter.given": 2,
    "arbiter.snoozes": 2,
    "arbiter.rulebook": 2,
    "arbiter.verdicts": 2,
    "arbiter.proofs": 2,
    "arbiter.core": 2,
    "arbiter.asking": 2,
    "arbiter.pipeline": 2,
    "arbiter.kernel": 3,
    "arbiter.bus": 3,
    "arbiter.namefiles": 3,
    "arbiter.capturefile": 3,
    "arbiter.store": 3,
    "arbiter.sinks": 3,
    "arbiter.server": 3,
    "arbiter.packages": 3,
    "arbiter.rootfiles": 3,
    "arbiter.sdnotify": 3,
    "arbiter.localtime": 3,
    "arbiter.lab": 3,
    "arbiter.notls": 4,
    "arbiter.startup": 4,
    "arbiter.linkkeeper": 4,
    "arbiter.rulesetkeeper": 4,
    "arbiter.olderkeeper": 4,
    "arbiter.linkstate": 4,
    "arbiter.classkeeper": 4,
    "arbiter.health": 4,
    "arbiter.finder": 4,
    "arbiter.policykeeper": 4,
    "arbiter.rulekeeper": 4,
    "arbiter.rulepages": 4,
    "arbiter.socketkeeper": 4,
    "arbiter.namekeeper": 4,
    "arbiter.accounts": 4,
    "arbiter.memory": 4,
    "arbiter.priority": 4,
    "arbiter.ahead": 4,
    "arbiter.repeater": 4,
    "arbiter.waker": 4,
    "arbiter.proofkeeper": 4,
    "arbiter.outbox": 4,
    "arbiter.policystate": 4,
    "arbiter.frontdesk": 4,
    "arbiter.followers": 4,
    "arbiter.lifekeeper": 4,
    "arbiter.archive": 4,
    "arbiter.service": 4,
    "arbiter.settingskeeper": 4,
    "arbiter.daemon": 4,
    "arbiter.cli": 5,
    "arbiter.__main__": 6,
}
"""Each room's floor. It may import its own room and lower floors."""

ONE_ROOM = frozenset({2, 4})
"""Floors that are one room in several files: deciding, and the daemon."""
IMPURE = {
    "asyncio",
    "os",
    "pathlib",
    "random",
    "select",
    "signal",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "netfilterqueue",
    "psutil",
    "sqlite_utils",
}
"""What a pure room must not import: a clock, a file, a socket, a thread."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, at any place in it."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it goes"
            assert node.module
            yield node.module
            for alias in node.names:
                candidate = ROOT / Path(*node.module.split("."), alias.name)
                if candidate.with_suffix(".py").exists() or candidate.is_dir():
                    yield f"{node.module}.{alias.name}"


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("path", sources("arbiter"), ids=module_of)
def test_imports_go_downwards(path: Path) -> None:
    here = room(module_of(path))
    if here == "arbiter":
        assert not [name for name in imports(path) if name.startswith("arbiter")]
        return
    floor = FLOORS[here]
    for name in imports(path):
        if not name.startswith("arbiter.") or room(name) == here:
            continue
        there = FLOORS[room(name)]
        allowed = there < floor or (there == floor and floor in ONE_ROOM)
        assert allowed, f"{here} (floor {floor}) imports {name} (floor {there})"


@pytest.mark.parametrize("path", sources("arbiter"), ids=module_of)
def test_low_floors_are_pure(path: Path) -> None:
    here = module_of(path)
    if FLOORS.get(room(here), 9) > 2:
        return
    found = {name.split(".")[0] for name in imports(path)} & IMPURE
    assert not found, f"{here} must be pure and imports {found}"


def test_arbiter_never_imports_the_prompts() -> None:
    for path in sources("arbiter"):
        assert not [n for n in imports(path) if n.split(".")[0] == "prompts"], path


def test_the_prompts_import_the_protocol_and_the_model_only() -> None:
    for path in sources("prompts"):
        for name in imports(path):
            if name.split(".")[0] == "arbiter":
                assert room(name) in ("arbiter.protocol", "arbiter.model", "arbiter"), (path, name)


def test_every_room_has_its_floor_and_its_place_in_the_docs() -> None:
    rooms = {room(module_of(path)) for path in sources("arbiter")} - {"arbiter"}
    assert rooms == set(FLOORS)
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in rooms - {"arbiter.__main__"}:
        assert f"`{name.split('.')[1]}" in text, f"docs/architecture.md does not mention {name}"


def test_nothing_is_imported_that_is_not_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    always = _names(project["dependencies"])
    frontends = _names(line for name in extras if name != "dev" for line in extras[name])
    packages = importlib.metadata.packages_distributions()
    for path in [*sources("arbiter"), *sources("prompts")]:
        declared = always | (frontends if path.is_relative_to(ROOT / "prompts") else set())
        for name in imports(path):
            top = name.split(".")[0]
            if top in ("arbiter", "prompts") or top in sys.stdlib_module_names:
                continue
            names = {dist.lower().replace("-", "_") for dist in packages.get(top, [top])}
            assert names & declared, f"{path} imports {top}, which pyproject.toml does not declare"


def _names(lines: Iterable[str]) -> set[str]:
    return {re.split(r"[<>=! \[]", line)[0].lower().replace("-", "_") for line in lines}


def test_every_package_is_in_the_distribution() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        module_of(path)
        for path in [*sources("arbiter"), *sources("prompts")]
        if path.name == "__init__.py"
    }
    assert found == listed


def test_the_daemon_loads_only_what_it_uses() -> None:
    """Each of these takes 4 to 15 MB, of the 60 that it may have."""
    heavy = ("ssl", "pyroute2", "sqlite_utils", "rich", "textual", "scapy", "starlette", "uvicorn")
    show = (
        "import sys, arbiter.cli.run, arbiter.daemon;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_shell_and_no_pickle() -> None:
    for path in [*sources("arbiter"), *sources("prompts")]:
        text = path.read_text()
        assert "shell=True" not in text, path
        assert not [name for name in imports(path) if name in ("pickle", "marshal", "shelve")], path


def test_only_the_daemon_and_the_commands_print_or_log() -> None:
    for path in sources("arbiter"):
        if room(module_of(path)) in (
            "arbiter.daemon",
            "arbiter.memory",
            "arbiter.outbox",
            "arbiter.proofkeeper",
            "arbiter.linkkeeper",
            "arbiter.rulesetkeeper",
            "arbiter.olderkeeper",
            "arbiter.linkstate",
            "arbiter.classkeeper",
            "arbiter.health",
            "arbiter.service",
            "arbiter.settingskeeper",
            "arbiter.policykeeper",
            "arbiter.rulekeeper",
            "arbiter.rulepages",
            "arbiter.socketkeeper",
            "arbiter.namekeeper",
            "arbiter.accounts",
            "arbiter.cli",
        ):
            continue
        tree = ast.parse(path.read_text())
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        printed = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not printed, path
        assert "logging" not in set(imports(path)), path


LONG = {"arbiter/identity.py": "one table a kind of app, and they are compared with each other"}
"""Files over 400 lines, and why each is still one file."""


def test_files_stay_readable() -> None:
    """About 150 lines is the habit; more than 400 wants a reason."""
    for path in [*sources("arbiter"), *sources("prompts")]:
        lines = path.read_text().count("\n")
        assert lines <= 400 or str(path.relative_to(ROOT)) in LONG, f"{path} has {lines} lines"
