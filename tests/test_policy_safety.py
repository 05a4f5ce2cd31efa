"""Whom a policy file may speak for, and who may write one; and any text at all gives a file or an
error that can be shown."""

from __future__ import annotations

import json
import stat
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policyscene import APPLICATION, accepts

from arbiter.identity import interpreter_name
from arbiter.policyfiles import (
    FileFacts,
    app_fault,
    entries,
    examine,
    json_schema,
    keys,
    owner_fault,
    stat_fault,
)
from arbiter.rules import Layer

# --- safety ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "python3",
        "python3.13",
        "pypy3",
        "perl5.36.0",
        "ruby",
        "node",
        "nodejs",
        "php8.2",
        "bash",
        "sh",
        "dash",
        "busybox",
        "java",
        "mono",
        "wine",
        "electron",
        "deno",
        "lua5.4",
        "gjs",
        "env",
        "awk",
        "gawk",
        "Rscript",
        "qemu-x86_64",
        "ld.so",
        "ld-musl-x86_64.so.1",
        "ld-linux-x86-64.so.2",
        "emacs-gtk",
        "dotnet",
    ],
)
@pytest.mark.parametrize("shipped", [True, False])
def test_no_file_speaks_for_what_runs_anything(name: str, shipped: bool) -> None:
    assert "runs whatever" in app_fault(f"/usr/bin/{name}", shipped=shipped)


@pytest.mark.parametrize("app", ["/usr/bin/curl", "/opt/x-1.2/x", "/usr/lib/awkward/awkward"])
def test_packages_speak_for_executables_and_units(app: str) -> None:
    assert not app_fault(app, shipped=True)
    assert not app_fault("unit:chrony.service", shipped=True)


@pytest.mark.parametrize(
    "app",
    [
        "flatpak:org.x.Y",
        "snap:x",
        "script:/usr/bin/python3:/usr/bin/x",
        "appimage:/opt/x",
        "unit:x",
        "unit:*.service",
        "unit:a/b.service",
        "foreign:?:/usr/bin/x",
        "/",
        "//usr/bin/x",
        "/usr/bin/../bin/x",
        "/usr/bin/x/",
        "/usr/bin/x,/usr/bin/y",
        "/tmp/x",
        "/home/a/x",
        "/usr/local/bin/x",
        "x",
        "",
        "*",
    ],
)
def test_packages_speak_for_nothing_else(app: str) -> None:
    assert app_fault(app, shipped=True)


def test_an_administrator_may_write_advice_on_any_one_program() -> None:
    for app in ("flatpak:org.x.Y", "script:/usr/bin/python3:/usr/bin/x", "/home/a/x"):
        assert not app_fault(app, shipped=False)


@given(st.text(max_size=30).map("/".__add__) | st.text(max_size=30))
def test_an_app_that_a_package_may_name_is_one_plain_path_or_unit(app: str) -> None:
    if not app_fault(app, shipped=True):
        assert app.startswith(("/", "unit:"))
        assert "*" not in app
        assert "/../" not in app
        assert not interpreter_name(app.rpartition("/")[2])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (FileFacts(0, 0, stat.S_IFREG | 0o644), ""),
        (FileFacts(0, 0, stat.S_IFREG | 0o664), ""),
        (FileFacts(0, 0, stat.S_IFDIR | 0o755), ""),
        (FileFacts(0, 50, stat.S_IFREG | 0o664), "others than root may write it (mode 0664)"),
        (FileFacts(0, 0, stat.S_IFREG | 0o646), "others than root may write it"),
        (FileFacts(0, 0, stat.S_IFDIR | 0o1777), "others than root may write it"),
        (FileFacts(1000, 0, stat.S_IFREG | 0o644), "belongs to uid 1000"),
        (FileFacts(0, 0, stat.S_IFLNK | 0o777), "no regular file"),
        (FileFacts(0, 0, stat.S_IFIFO | 0o600), "no regular file"),
        (FileFacts(0, 0, stat.S_IFCHR | 0o600), "no regular file"),
    ],
)
def test_a_file_is_believed_only_if_nobody_but_root_can_write_it(
    facts: FileFacts, words: str
) -> None:
    fault = stat_fault(facts)
    assert (words in fault) if words else not fault


def test_a_package_speaks_for_its_own_programs_only() -> None:
    assert not owner_fault({"firefox"}, {"firefox"}, "/usr/bin/x")
    assert not owner_fault({"a", "b"}, {"b"}, "/usr/bin/x")
    assert "came with evil, but" in owner_fault({"evil"}, {"firefox"}, "/usr/bin/x")
    assert "no installed package owns this file" in owner_fault((), {"firefox"}, "/usr/bin/x")
    assert "no installed package owns /usr/bin/x" in owner_fault({"evil"}, (), "/usr/bin/x")


# --- anything at all ------------------------------------------------------------------------

WORDS = st.sampled_from([*keys.TOP, *keys.ADMIN, *keys.CONNECTION, *keys.RULE, "rule", "nmae"])
VALUES: st.SearchStrategy[str] = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(lambda b: str(b).lower()),
    st.text(max_size=20).map(json.dumps),
    st.sampled_from(
        [
            '"allow"',
            '"tcp"',
            '"*.example.org"',
            '"/usr/bin/x"',
            '["deny"]',
            "[]",
            "{}",
            "1979-05-27",
            '"route via=lte"',
            '"10.0.0.0/8"',
            "443",
            '["wifi","any"]',
            '"essential"',
            "[[1]]",
            "9" * 5000,
            '"\\ud800"',
            "[{a=1}]",
            '"lan"',
        ]
    ),
)
HEADS = st.sampled_from(["", "[[rule]]\n", "[[connection]]\n", APPLICATION, "[rule]\n", "[x]\n"])


@given(
    st.lists(st.tuples(HEADS, st.dictionaries(WORDS, VALUES, max_size=4)), max_size=4),
    st.booleans(),
)
def test_any_values_give_a_policy_file_or_an_error_that_can_be_shown(
    tables: list[tuple[str, dict[str, str]]], shipped: bool
) -> None:
    text = "".join(
        head + "".join(f"{key} = {value}\n" for key, value in values.items())
        for head, values in tables
    )
    judge(text, shipped)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_gives_a_policy_file_or_an_error(text: str) -> None:
    judge(text, shipped=False)
    judge(APPLICATION + text, shipped=True)


def judge(text: str, shipped: bool) -> None:
    file, errors = examine(text, "x", shipped=shipped)
    assert (file is None) == bool(errors)
    for error in errors:
        assert str(error).startswith("x")
        assert str(error).isprintable()
        assert 0 <= error.line <= text.count("\n") + 1
    if file is not None:
        entries([file], decide=True)
        if shipped:
            assert (file.layer, file.rules, file.adopt) == (Layer.SHIPPED, (), ())
            assert not any(a.app.startswith("script:") for a in file.advice)
        accepts(json_schema(), tomllib.loads(text))
