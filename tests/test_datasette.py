"""packaging/datasette.json: what schema.sql and docs/audit.md say, and each query answered by the
plain `datasette` command."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from auditscene import store_day

from arbiter.store import migrate

HERE = Path(__file__).parents[1]
METADATA = HERE / "packaging" / "datasette.json"
PAGE = (HERE / "docs" / "audit.md").read_text()
QUESTIONS = re.findall(r"^(\w[^\n]*\?)\n\n```sql\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
CHARTS = {
    "which_programs_connect_most": ("bar", "app", "nominal", "connections"),
    "where_do_they_go": ("bar", "daddr", "nominal", "connections"),
    "where_did_this_months_data_go_by_sim": ("bar", "link", "nominal", "MB"),
    "which_program_used_a_link": ("bar", "app", "nominal", "MB"),
    "how_many_connections_a_day": ("line", "day", "temporal", "connections"),
}
"""Queries that datasette-vega draws: the mark, its x with its kind, and y."""


def name_of(question: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", question.lower().replace("'", "")).strip("_")


def comment(lines: list[str]) -> str:
    """The text of SQL comments, in one line."""
    return " ".join(line.split("--", 1)[1].strip() for line in lines if "--" in line)


def tables() -> dict[str, Any]:
    """What schema.sql says of each table, view and column."""
    found: dict[str, Any] = {}
    for statement in migrate.statements(migrate.schema()):
        lines = statement.strip("\n").splitlines()
        begin = next((n for n, line in enumerate(lines) if line.startswith("CREATE")), len(lines))
        made = re.match(r"CREATE (TABLE|VIEW) (\w+)", lines[begin]) if lines[begin:] else None
        if made is None:
            continue
        blanks = [n for n, line in enumerate(lines[:begin]) if not line.strip()]
        above = lines[blanks[-1] + 1 if blanks else 0 : begin]
        if made[1] == "VIEW":
            found[made[2]] = {"description": comment(lines[begin : begin + 1])}
            continue
        columns: dict[str, str] = {}
        last = ""
        for line in lines[begin + 1 :]:
            if column := re.match(r"    ([a-z_]+) +(?:INTEGER|REAL|TEXT|BLOB)\b", line):
                last = column[1]
                columns[last] = comment([line])
            elif line.strip().startswith("--") and columns.get(last) and line.startswith(" " * 9):
                columns[last] += f" {comment([line])}"
        described = {name: text for name, text in columns.items() if text}
        text = comment([*above, lines[begin]])
        found[made[2]] = {"description": text} | ({"columns": described} if described else {})
    return found


def queries() -> dict[str, Any]:
    asked = {name_of(question): (question, sql) for question, sql in QUESTIONS}
    asked["how_many_connections_a_day"] = (
        "How many connections a day?",
        "SELECT date(day, 'unixepoch') AS day, sum(connections) AS connections\n"
        "FROM daily GROUP BY 1 ORDER BY 1;\n",
    )
    found = {}
    for name, (question, sql) in asked.items():
        found[name] = {"title": question, "sql": sql.strip().removesuffix(";")}
        if name in CHARTS:
            mark, x, kind, y = CHARTS[name]
            chart = f"g.mark={mark}&g.x_column={x}&g.x_type={kind}&g.y_column={y}"
            link = f'<a href="#{chart}&g.y_type=quantitative">chart</a> (datasette-vega)'
            found[name]["description_html"] = link.replace("&", "&amp;")
    return found


def metadata() -> dict[str, Any]:
    return {
        "title": "The audit of arbiter",
        "description": "Every decided connection of this machine: by whom, why, and what it did.",
        "databases": {"arbiter": {"tables": tables(), "queries": queries()}},
    }


def test_it_says_what_the_schema_and_the_docs_say() -> None:
    if os.environ.get("ARBITER_REGEN"):
        METADATA.write_text(json.dumps(metadata(), indent=2, ensure_ascii=False) + "\n")
    assert json.loads(METADATA.read_text()) == metadata(), "ARBITER_REGEN=1 writes it anew"
    assert len(queries()) == 16
    assert CHARTS.keys() <= queries().keys()
    for name, table in tables().items():
        assert table["description"], f"schema.sql does not say what {name} is"


def test_the_comments_of_the_schema_are_taken_whole() -> None:
    found = tables()
    assert found["gaps"] == {
        "description": "Records that are missing, as far as it is known.",
        "columns": {"count": "how many; NULL where nobody can know"},
    }
    assert found["top_apps"] == {
        "description": "which programs connect most, and what they carried"
    }
    assert found["decisions"]["columns"]["waited"] == "seconds"
    assert found["totals"]["description"].startswith("the same without the day")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    path = store_day(tmp_path_factory.mktemp("datasette") / "arbiter.db")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    argv = [sys.executable, "-m", "datasette", str(path), "-m", str(METADATA), "-p", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:

        def ask(where: str) -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{where}", timeout=60) as found:
                return json.load(found)

        end = time.monotonic() + 60
        while True:
            try:
                ask("/-/versions.json")
                break
            except urllib.error.URLError:
                assert server.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
        yield ask
        server.terminate()


def test_plain_datasette_reads_the_metadata_from_the_command_line(tmp_path: Path) -> None:
    path = store_day(tmp_path / "arbiter.db")
    argv = [sys.executable, "-m", "datasette", str(path), "-m", str(METADATA), "--get"]
    where = "/arbiter/which_programs_connect_most.json?_shape=array"
    done = subprocess.run([*argv, where], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(done.stdout)) == 4


def test_plain_datasette_shows_the_tables_and_the_queries(answers: Callable[[str], Any]) -> None:
    found = answers("/arbiter.json")
    assert {query["name"] for query in found["queries"]} == set(queries())
    names = {table["name"] for table in found["tables"]} | {view["name"] for view in found["views"]}
    assert tables().keys() <= names


@pytest.mark.parametrize("name", queries())
def test_plain_datasette_answers_each_query(answers: Callable[[str], Any], name: str) -> None:
    found = answers(f"/arbiter/{name}.json?_shape=objects")
    assert found["ok"] is True
    if name in CHARTS and found["rows"]:
        _, x, _, y = CHARTS[name]
        assert {x, y} <= found["rows"][0].keys()
    if name in ("which_programs_connect_most", "how_many_connections_a_day"):
        assert found["rows"]
