from __future__ import annotations

import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.settings import SettingsError, load
from arbiter.tomlfile import FileError, line_of, nearest, parse, printable, shown, shown_value


class RefusedError(FileError):
    docs = "docs/x.md"


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1\nb = 2\n", "b", 2),
        ("# b = 1\n\nb = 2\n", "b", 3),
        ('a = """\nb = 1\n"""\nb = 2\n', "b", 4),
        ("a = [\n1,\n2]\nb = 2", "b", 4),
        ("a = 1\r\nb = 2\r\n", "b", 2),
        ('"b" = 1', "b", 1),
        ('x = 1\n"\\u0062" = 1', "b", 2),
        ("[a]\nx = 1\n[a.b]\nc = 2", "a.b.c", 4),
        ("[a]\nx = 1\n[a.b]\nc = 2", "a.b", 3),
        ("[c]\nb = 1\n[a]\nb = 2", "a.b", 4),
        ("[a]\nx = 1\nb = { c = 1 }", "a.b.c", 3),
        ("[a]\nx = 1\nb.c = 1", "a.b.c", 3),
        ("[a] # [b]\nx = 1", "b", 0),
        ("x = [\n[1],\n[2]]\ny = 1\n", "y", 4),
        ("[[a]]\nb = 1", "a", 1),
        ("a = 1", "b", 0),
        ("a = 1", "a.b", 0),
    ],
)
def test_a_key_is_found_in_the_line_where_it_is_set(text: str, path: str, line: int) -> None:
    tomllib.loads(text)
    assert line_of(text, *path.split(".")) == line


@given(
    st.lists(st.sampled_from(["x = 'k = 1'", "y = '''\nk = 2\n'''", "# k = 3", ""]), unique=True)
)
def test_the_line_of_a_key_does_not_depend_on_what_stands_above_it(above: list[str]) -> None:
    text = "\n".join([*above, "k = 4"])
    assert text.split("\n")[line_of(text, "k") - 1] == "k = 4"


def test_a_hostile_file_costs_bounded_work() -> None:
    text = "x = [\n" + "[\n1],\n" * 9000 + "]\nk = 1\n"
    start = time.process_time()
    assert line_of(text, "k") == 0
    assert time.process_time() - start < 2


def test_an_error_names_file_line_and_page() -> None:
    assert str(RefusedError("/etc/x.toml", 3, "k", "no")) == "/etc/x.toml:3: no; see docs/x.md"
    assert str(RefusedError("/etc/x.toml", 0, "k", "no")) == "/etc/x.toml: no; see docs/x.md"
    assert str(RefusedError("a\nb", 0, "k", "no")) == "a\ufffdb: no; see docs/x.md"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("mont", "did you mean 'month'?"), ("DAY", "did you mean 'day'?"), ("xyz", ""), ("", "")],
)
def test_the_nearest_word_is_offered_whatever_its_case(word: str, hint: str) -> None:
    assert nearest(word, ["day", "month"]) == hint


@given(st.text())
def test_any_text_is_toml_or_refused(text: str) -> None:
    try:
        parse(text, "x", RefusedError, 100)
    except RefusedError as error:
        assert str(error).isprintable()
    else:
        assert len(text) <= 100


@given(st.text(alphabet=st.characters()))
def test_what_is_shown_is_printable_and_short(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    assert shown(text).isprintable()
    assert len(shown(text)) <= 100


@pytest.mark.parametrize(
    "value", [1 << 20_000, [1 << 20_000], {"x": -(1 << 20_000)}], ids=["number", "list", "table"]
)
def test_a_number_that_python_refuses_to_write_is_shown(value: object) -> None:
    assert shown_value(value) == "(a number of thousands of digits)"


@pytest.mark.parametrize("key", ["queue_num", "mark_base", "mode", "deadline"])
def test_settings_refuse_a_hexadecimal_number_of_any_length(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(f"{key} = 0x{'f' * 5000}", "x")
    assert caught.value.line == 1
    assert len(str(caught.value)) < 400
