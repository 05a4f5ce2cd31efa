"""The lines of a policy file: each key and item has its own, whatever the text is."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from policyscene import APPLICATION, fails

from arbiter.policyfiles import load
from arbiter.policyfiles.places import DEEPEST, line_at, lines_of

PLACES = '''
# rule = 1
"a b" = """
x = 1
"""
x.y.z = [ # [
  1, "]", [2,
  3], { k = [4], 'l' = "}" },
  \'\'\'
[t]
\'\'\',
]
[t]
k = "[[u]]" # k2 = 1
[[u]]
k.v = 1
[[ u ]]
w = """""q"""""
[u.deep."er.x"]
k = 1
[[u.more]]
[[u.more]]
k = 1.5
'''


def test_every_key_and_item_has_its_line() -> None:
    lines = lines_of(PLACES)
    assert dict(lines) == {
        ("a b",): 3,
        ("x",): 6,
        ("x", "y"): 6,
        ("x", "y", "z"): 6,
        ("x", "y", "z", 0): 7,
        ("x", "y", "z", 1): 7,
        ("x", "y", "z", 2): 7,
        ("x", "y", "z", 2, 0): 7,
        ("x", "y", "z", 2, 1): 8,
        ("x", "y", "z", 3): 8,
        ("x", "y", "z", 3, "k"): 8,
        ("x", "y", "z", 3, "k", 0): 8,
        ("x", "y", "z", 3, "l"): 8,
        ("x", "y", "z", 4): 9,
        ("t",): 13,
        ("t", "k"): 14,
        ("u",): 15,
        ("u", 0): 15,
        ("u", 0, "k"): 16,
        ("u", 0, "k", "v"): 16,
        ("u", 1): 17,
        ("u", 1, "w"): 18,
        ("u", 1, "deep"): 19,
        ("u", 1, "deep", "er.x"): 19,
        ("u", 1, "deep", "er.x", "k"): 20,
        ("u", 1, "more"): 21,
        ("u", 1, "more", 0): 21,
        ("u", 1, "more", 1): 22,
        ("u", 1, "more", 1, "k"): 23,
    }


def paths(data: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    pairs: list[tuple[str | int, Any]] = []
    if isinstance(data, dict):
        pairs = list(data.items())
    elif isinstance(data, list):
        pairs = list(enumerate(data))
    return {p for key, value in pairs for p in ((*path, key), *paths(value, (*path, key)))}


TOML_PARTS = st.sampled_from(
    [
        "a",
        "b",
        "'c'",
        '"d.e"',
        ".",
        "=",
        "[",
        "]",
        "[[a]]",
        "[a]",
        "[[b.a]]",
        "{",
        "}",
        ",",
        "\n",
        "a = 1\n",
        "b = [",
        '"x"',
        "'''\n'''",
        '"""\n"""',
        "# [x]\n",
        "1.5",
        " ",
        "\r\n",
        "a.b = {a = 1}\n",
        "c = [{a = 1, b = []}, 2]\n",
    ]
)


@given(st.lists(TOML_PARTS, max_size=25).map("".join))
@example(PLACES)
def test_the_lines_of_a_valid_text_are_of_exactly_what_it_holds(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_of(text)
    assert {p for p in lines if len(p) < DEEPEST} == {p for p in paths(data) if len(p) < DEEPEST}
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@pytest.mark.parametrize(
    "text", ["a" + ".a" * 20_000 + "=1", "[a" + ".a" * 20_000 + "]", "a=" + "[" * 50 + "]" * 50]
)
def test_what_is_nested_without_end_costs_little_and_still_has_a_line(text: str) -> None:
    lines = lines_of("\n" + text)
    assert len(lines) <= DEEPEST + 1
    assert line_at(lines, ("a",) * 20_000) == 2
    assert line_at(lines, ("b",)) == 0


@pytest.mark.parametrize("text", ["a" + ".a" * 20_000 + "=1", "[ a" + " . 'a'" * 9_000 + "]"])
def test_a_key_of_endless_parts_is_refused_before_a_parser_labours_on_it(text: str) -> None:
    error = fails("\n# ...\n" + text)
    assert (error.line, "dots are in no key" in str(error)) == (3, True)


def test_dots_in_quotes_are_no_parts() -> None:
    load(package_of("purpose = '" + "." * 150 + "' # " + "." * 150), "x", shipped=True)


def package_of(line: str) -> str:
    return f"{APPLICATION}[[connection]]\nhost = '*'\n{line}\n"
