"""Policy files as a whole: what is read, what is refused and where, the schema and the docs."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from policyscene import (
    APPLICATION,
    ETC,
    ROOT,
    SHARE,
    accepts,
    connection,
    fails,
    good,
    shipped,
    valid,
)

from arbiter.model import Action, Decision, TrafficClass
from arbiter.policyfiles import Advice, Relevance, examine, hosts, json_schema, keys, load, load_all
from arbiter.policyfiles.load import MAX_ADVICE, MAX_CONNECTIONS, MAX_FAULTS, MAX_SHIPPED
from arbiter.rules import Layer, format_rule
from arbiter.rules.line import KEYS

GOOD = sorted((ROOT / "fixtures/policies/good").glob("*.toml"))
BAD = sorted((ROOT / "fixtures/policies/bad").glob("*.toml"))
DOCS = (ROOT / "docs/policy-files.md").read_text("utf-8")
SCHEMA = ROOT / "docs/policy.schema.json"

# --- fixtures -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_at_the_line_that_its_first_line_says(path: Path) -> None:
    text = path.read_text("utf-8")
    found = re.match(r"# (\d+): (.+)\n", text)
    assert found
    error = fails(text, shipped=shipped(path))
    assert found[2] in str(error)
    assert error.line == int(found[1])
    place = f"x.toml:{found[1]}: " if error.line else "x.toml: "
    assert str(error).startswith(SHARE + place)
    assert str(error).endswith("; see docs/policy-files.md")
    assert str(error).isprintable()


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_file_is_read_whole(path: Path) -> None:
    text = path.read_text("utf-8")
    file = load(text, str(path), shipped=shipped(path))
    data = tomllib.loads(text)
    assert len({a.line for a in file.advice}) == len(data.get("connection", []))
    assert len(file.rules) == len(data.get("rules", [])) + len(data.get("rule", []))
    for a in file.advice:
        assert text.split("\n")[a.line - 1] == "[[connection]]"
        assert a.purpose
        assert a.origin == str(path)
        assert file.application is not None
        assert (a.app, a.name) == (file.application.app, file.application.name)


def test_what_a_package_says_becomes_advice() -> None:
    file = good("telegram")
    assert file.layer is Layer.SHIPPED
    assert file.application is not None
    assert file.application.website == "https://desktop.telegram.org"
    assert file.advice[0] == Advice(
        app="/usr/bin/telegram-desktop",
        host=hosts.read("91.108.4.0/22"),
        ports=((80, 80), (443, 443), (5222, 5222)),
        proto=6,
        purpose="The long-lived connection on which messages arrive",
        if_denied="No message is sent or arrives",
        relevance=Relevance.ESSENTIAL,
        suggest=Decision(Action.ROUTE, ("unmetered", "any")),
        origin=file.origin,
        line=8,
        name="Telegram Desktop",
    )
    calls = next(a for a in file.advice if a.proto == 17)
    assert calls.suggest == Decision(Action.ALLOW, (), TrafficClass.INTERACTIVE)
    assert (calls.relevance, calls.ports) == (Relevance.OPTIONAL, ())


def test_what_an_administrator_writes_becomes_rules_in_either_form() -> None:
    file = good("admin-office")
    assert (file.layer, file.adopt) == (Layer.ADMIN, ("/usr/lib/firefox/firefox",))
    assert [(format_rule(r.rule), r.line, r.note) for r in file.rules] == [
        ("deny app=unit:cups-browsed.service", 5, ""),
        ("allow host=lan proto=icmp", 6, ""),
        (
            "route via=wifi,lte,any class=bulk app=/usr/bin/rsync host=192.0.2.0/24 "
            "port=22,873 proto=tcp",
            9,
            "the backup, wherever the notebook is",
        ),
        ("deny app=/usr/bin/wget user=1001 host=internet port=80,8000-8080", 19, ""),
        (
            "deny parent=/usr/sbin/cron hook=out network=ssid:Guest "
            "sim=89430123456789012345 roaming=yes metered=no",
            26,
            "",
        ),
    ]


def test_a_package_and_an_administrator_have_every_key_there_is() -> None:
    assert set(keys.RULE) == {*KEYS, "time", "decision", "note"} - {"for"}


# --- faults ---------------------------------------------------------------------------------


def test_all_faults_of_a_file_are_found_in_the_order_of_their_lines() -> None:
    text = connection("port = 70000", 'proto = "tpc"', "x = 1") + "\n[[connection]]\n"
    file, errors = examine(text, "x", shipped=True)
    assert file is None
    lines = text.split("\n")
    assert [error.line for error in errors] == [
        lines.index("port = 70000") + 1,
        lines.index('proto = "tpc"') + 1,
        lines.index("x = 1") + 1,
        *[lines.index("[[connection]]", 8) + 1] * 2,
    ]
    assert [error.key for error in errors[:3]] == [
        "connection.port",
        "connection.proto",
        "connection.x",
    ]


def test_a_file_of_nothing_but_faults_is_answered_in_bounded_words() -> None:
    text = APPLICATION + "".join(f"x{n} = 1\n" for n in range(3000))
    assert len(examine(text, "x", shipped=True)[1]) == MAX_FAULTS


def test_a_file_is_not_endless() -> None:
    assert "characters" in str(fails("#" * (MAX_SHIPPED + 1)))
    many = APPLICATION + '[[connection]]\nhost="*"\npurpose="x"\n' * (MAX_CONNECTIONS + 1)
    assert f"more than {MAX_CONNECTIONS} connections" in str(fails(many))
    names = json.dumps([f"a{n}.example" for n in range(64)])
    wide = APPLICATION + f'[[connection]]\nhost={names}\npurpose="x"\n' * (MAX_ADVICE // 64 + 1)
    assert f"more than {MAX_ADVICE} destinations" in str(fails(wide))
    many_hosts = json.dumps([f"a{n}.example" for n in range(65)])
    assert "1 to 64 destinations" in str(fails(connection(host=many_hosts)))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("proto = 256", "a number 0 to 255"),
        ("proto = true", "a text in quotes, a whole number"),
        ('port = "80-70"', "from the smaller port"),
        ("port = 0x" + "f" * 5000, "a number of thousands of digits"),
        ("port = []", "a text in quotes, a whole number"),
        ("port = 1.5", "a text in quotes, a whole number"),
        ("port = [[443]]", "a text in quotes, a whole number"),
        ('port = ""', "an empty text"),
        ("if_denied = 3", "a text in quotes"),
        ('if_denied = " x"', "without blanks at its ends"),
        ('if_denied = "a\\nb"', "one line"),
        ('if_denied = "a\\tb"', "one line"),
        (f'if_denied = "{"x" * 201}"', "more than 200 characters"),
        ('relevance = "Essential"', "did you mean 'essential'?"),
        ('suggest = "route"', "via="),
        ('suggest = "route via=any,lte"', '"any" comes last'),
        ('suggest = "allow for=once"', "a decision alone"),
        ('suggest = "deny class=bulk"', "deny takes no class="),
        ('suggest = ""', "an empty text"),
    ],
)
def test_a_bad_value_is_refused_at_its_line_with_what_would_be_good(line: str, words: str) -> None:
    error = fails(connection("# x", line))
    assert words in str(error)
    assert error.key == f"connection.{line.split()[0]}"
    assert error.line == connection("# x", line).split("\n").index(line) + 1


@pytest.mark.parametrize(
    "website",
    ["", "javascript:alert(1)", "https://a b", "ftp://x", "https://x/\\n", "https://ü.de"],
)
def test_a_website_is_one_of_the_web(website: str) -> None:
    assert fails(APPLICATION + f'website = "{website}"').key == "application.website"


# --- several files --------------------------------------------------------------------------

RULE = 'rules = ["deny app=/usr/bin/wget"]'


def test_a_bad_file_is_refused_alone_and_its_last_good_version_stays() -> None:
    files, errors = load_all({ETC + "a.toml": RULE, ETC + "b.toml": RULE}, {})
    assert not errors
    worse = {ETC + "a.toml": "rules = 3", ETC + "b.toml": 'rules = ["deny"]'}
    again, errors = load_all(worse, {}, files)
    assert [error.origin for error in errors] == [ETC + "a.toml"]
    assert again[0] == files[0]
    assert again[1] != files[1]
    third, errors = load_all(worse, {}, again)
    assert (third, len(errors)) == (again, 1), "it is told again, and stays again"
    assert load_all({ETC + "b.toml": RULE}, {}, again)[0] == (files[1],), "gone is gone"
    mended, errors = load_all({ETC + "a.toml": RULE, ETC + "b.toml": RULE}, {}, again)
    assert (mended, errors) == (files, ())


def test_a_file_that_did_not_change_is_not_read_again() -> None:
    files, _ = load_all({}, {SHARE + "x.toml": connection()})
    again, _ = load_all({}, {SHARE + "x.toml": connection()}, files)
    assert again[0] is files[0]


def test_a_same_named_file_masks_the_shipped_one_and_an_empty_one_adds_nothing() -> None:
    share = {SHARE + "x.toml": connection(), SHARE + "y.toml": connection()}
    for text in ("", "# not here\n"):
        files, errors = load_all({ETC + "x.toml": text}, share)
        assert ([file.origin for file in files], errors) == ([SHARE + "y.toml"], ())
    files, _ = load_all({ETC + "x.toml": connection('suggest = "deny"')}, share)
    assert [(file.origin, file.shipped) for file in files] == [
        (ETC + "x.toml", False),
        (SHARE + "y.toml", True),
    ]
    files, errors = load_all({ETC + "x.toml": "rules = 3"}, share)
    assert [file.origin for file in files] == [SHARE + "y.toml"], "a broken mask masks"
    assert len(errors) == 1


def test_the_same_text_is_judged_by_where_it_came_from() -> None:
    files, errors = load_all({}, {SHARE + "x.toml": RULE})
    assert (files, len(errors)) == ((), 1)
    files, _ = load_all({SHARE + "x.toml": RULE}, {})
    assert load_all({}, {SHARE + "x.toml": RULE}, files)[0] == ()


# --- the schema -----------------------------------------------------------------------------


def test_the_schema_in_the_docs_is_the_codes() -> None:
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("ARBITER_REGEN"):
        SCHEMA.write_text(text, "utf-8")
    assert SCHEMA.read_text("utf-8") == text, (
        "run: ARBITER_REGEN=1 make test ARGS=tests/test_policy_files.py"
    )


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_schema_accepts_good_files(path: Path) -> None:
    accepts(json_schema(), tomllib.loads(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "name",
    [
        "unknown-key",
        "unknown-table",
        "no-purpose",
        "no-application",
        "second-connection",
        "escalation",
        "user",
        "hook-in",
        "newer-format",
        "nothing-of-ours",
        "admin-unknown-key",
        "admin-decision",
        "admin-for",
        "admin-metered",
    ],
)
def test_the_schema_refuses_what_has_the_wrong_shape(name: str) -> None:
    path = ROOT / f"fixtures/policies/bad/{name}.toml"
    text = path.read_text("utf-8") if path.exists() else "other = 1"
    assert not valid(json_schema(), tomllib.loads(text))


# --- docs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [keys.TOP, keys.ADMIN, keys.APPLICATION, keys.CONNECTION])
def test_every_key_is_documented(table: keys.Table) -> None:
    for key in table:
        assert f"| `{key}` |" in DOCS, f"docs/policy-files.md does not have {key}"


def test_every_key_of_a_rule_is_documented() -> None:
    for key in keys.RULE:
        assert f"`{key}`" in DOCS, f"docs/policy-files.md does not have {key}"


def test_the_examples_of_the_docs_are_policy_files() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        load(block, "docs/policy-files.md", shipped=block.startswith("[application]"))
