from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.auditsettings import Audit, SyslogTo, WhenUnwritten, parse_syslog
from arbiter.classes import Marking
from arbiter.model import TrafficClass
from arbiter.settings import (
    CLASSES,
    MAX_TEXT,
    ORDERED,
    RANGES,
    Backend,
    Fallback,
    Mode,
    Settings,
    SettingsError,
    WhenAbsent,
    load,
)

DOCS = (Path(__file__).parents[1] / "docs/settings.md").read_text("utf-8")
EXAMPLE = DOCS.split("```toml\n")[1].split("```")[0]
ROWS = {
    found[1]: (found[2], found[3])
    for found in re.finditer(r"^\| `([\w.]+)` \| `([^|]+)` \| ([^|]+) \|", DOCS, re.MULTILINE)
}

KEYS = {key for key in Settings.__struct_fields__ if key != "audit"}
AUDIT = Audit.__struct_fields__


def fails(text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(text, "/etc/arbiter/arbiter.toml")
    return caught.value


def test_an_empty_file_gives_the_defaults() -> None:
    assert load("", "x") == Settings()
    assert load("# nothing\n", "x").deadline == 30.0


def test_every_key_can_be_set() -> None:
    text = """
    mode = "enforce"
    fallback = "allow"
    deadline = 5
    when_absent = "pass"
    backend = "nft"
    queue_num = 0
    mark_base = 0x007F0000
    """
    settings = load(text, "x")
    assert settings.mode is Mode.ENFORCE
    assert settings.fallback is Fallback.ALLOW
    assert settings.deadline == 5.0
    assert settings.when_absent is WhenAbsent.PASS
    assert settings.backend is Backend.NFT
    assert settings.queue_num == 0
    assert settings.mark_base == 0x7F0000


def test_an_unknown_key_names_file_line_and_the_nearest_valid_key() -> None:
    error = fails('# one\nmode = "ask"\n\nfalback = "deny"\n')
    assert (error.line, error.key) == (4, "falback")
    assert str(error) == (
        "/etc/arbiter/arbiter.toml:4: unknown key 'falback': did you mean 'fallback'?;"
        " see docs/settings.md"
    )


def test_a_table_is_an_unknown_key_at_its_own_line() -> None:
    assert fails('mode = "ask"\n[bounds]\nasks_total = 3\n').line == 2
    assert fails("[[dead]]\n").line == 1
    assert fails("bounds.asks = 1\n").line == 1


def test_a_line_inside_a_string_is_not_taken_for_the_key() -> None:
    error = fails('fallback = """\nmode = 3\n"""\n')
    assert error.line == 1
    error = fails("# mode\nx = '''\n'''\n")
    assert error.line == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('mode = "aks"', "one of ask, observe, enforce: did you mean 'ask'?"),
        ("mode = 3", "one of ask, observe, enforce"),
        ('deadline = "30"', "it must be a number"),
        ("queue_num = 1.5", "queue_num = 1.5: it must be a whole number; see"),
        ("queue_num = true", "queue_num = true: it must be a whole number; see"),
        ("queue_num = 65536", "from 0 to 65535"),
        ("queue_num = 99999999999999999999999", "queue_num"),
        ("queue_num = -1", "from 0 to 65535"),
        ("deadline = nan", "from 0.1 to 3600.0"),
        ("deadline = inf", "from 0.1 to 3600.0"),
        ("deadline = 0", "from 0.1 to 3600.0"),
        ("asks_per_app = 0", "from 1 to 100000"),
        ("mark_base = 0", "seven bits in a row"),
        ("mark_base = -127", "seven bits in a row"),
        ("mark_base = 0x7E000000", "seven bits in a row"),
        ("mark_base = 0xBF000000", "seven bits in a row"),
        ("mark_base = 0xFF000000", "seven bits in a row"),
        ("mark_base = 0x7F00000000", "seven bits in a row"),
        ("class_bulk = 3", "it must be a text"),
        ('class_bulk = "af11"', "it must be a DSCP and a priority with a space between"),
        ('class_bulk = "af14 0:2"', "'af14' is no DSCP: write a number from 0 to 63, or be, le,"),
        ('class_bulk = "af11 2"', "write MAJOR:MINOR"),
        ("class_labels = 126", "from 0 to 125"),
        ("class_labels = -1", "from 0 to 125"),
        ("audit = 3", "audit = 3: it must be a table"),
        ("audit.snyc = true", "unknown key 'snyc': did you mean 'sync'?"),
        ("audit.keep_days = -1", "keep_days = -1: it must be from 0 to 36500"),
        ("audit.sync = 1", "sync = 1: it must be true or false"),
        ('audit.when_unwritten = "dny"', "one of deny, pass: did you mean 'deny'?"),
        ('audit.json_lines = "a.jsonl"', "json_lines = 'a.jsonl': it must be a path from the root"),
        ('audit.json_lines = "/var/log/"', "it is no path of a file"),
        ('audit.json_lines = "/a\\nb"', "it is no path of a file"),
        ('audit.syslog = "log.example.org"', "write unix:/dev/log, udp://HOST:514 or tcp://HOST"),
        ('audit.syslog = "unix:log"', "it must be a path from the root"),
        ('audit.syslog = "unix:/' + "a" * 107 + '"', "at most 107 bytes"),
        ('audit.syslog = "udp://a b"', "neither an address nor a name"),
        ('audit.syslog = "udp://"', "neither an address nor a name"),
        ('audit.syslog = "udp://h:70000"', "it is no address"),
        ('audit.syslog = "udp://h:0"', "write a host and a port only"),
        ('audit.syslog = "tcp://user@h"', "write a host and a port only"),
        ('audit.syslog = "tcp://h/x"', "write a host and a port only"),
        ("mode = ", "not TOML"),
        ('mode = "ask"\nmode = "ask"', "not TOML"),
        ("queue_num = " + "9" * 5000, "not TOML"),
        ("x = " + "[" * 5000 + "]" * 5000, "not TOML"),
        ("a" * (MAX_TEXT + 1), "no settings"),
    ],
)
def test_a_bad_value_is_refused_with_what_would_be_good(text: str, words: str) -> None:
    assert words in str(fails(text))


def test_a_syntax_error_names_its_line() -> None:
    assert fails('mode = "ask"\nfallback = \n').line == 2


def test_a_bad_key_of_a_table_is_named_with_its_line() -> None:
    error = fails('mode = "ask"\n\n[audit]\njournald = true\nsync = 3\n')
    assert (error.line, error.key) == (5, "audit.sync")


@pytest.mark.parametrize(
    ("text", "to"),
    [
        ("unix:/dev/log", SyslogTo("unix", path="/dev/log")),
        ("udp://192.0.2.1", SyslogTo("udp", host="192.0.2.1", port=514)),
        ("udp://log.example.org:5514", SyslogTo("udp", host="log.example.org", port=5514)),
        ("tcp://[2001:DB8::1]:6514", SyslogTo("tcp", host="2001:db8::1", port=6514)),
        ("tcp://Log", SyslogTo("tcp", host="log", port=601)),
    ],
)
def test_where_syslog_listens_is_read_and_written_back(text: str, to: SyslogTo) -> None:
    assert parse_syslog(text) == to
    assert parse_syslog(to.text) == to


@given(st.text(max_size=40) | st.text(max_size=20).map("udp://{}".format))
def test_any_text_is_a_place_for_syslog_or_refused(text: str) -> None:
    try:
        to = parse_syslog(text)
    except ValueError:
        return
    assert parse_syslog(to.text) == to


def test_the_disk_has_its_part_of_the_deadline_only_where_records_come_first() -> None:
    plain = load("", "x")
    assert (plain.writing, plain.waiting) == (0.0, 30.0)
    strict = load('audit.sync = true\naudit.when_unwritten = "pass"', "x")
    assert (strict.writing, strict.waiting) == (5.0, 25.0)
    assert strict.audit.when_unwritten is WhenUnwritten.PASS
    short = load("deadline = 1\naudit.sync = true", "x")
    assert (short.writing, short.waiting) == (0.5, 0.5)


@pytest.mark.parametrize("shift", range(26))
def test_any_seven_bits_of_the_mark_may_be_ours(shift: int) -> None:
    assert load(f"mark_base = {0x7F << shift}", "x").mark_base == 0x7F << shift


def test_each_class_has_its_marking_and_a_label_of_its_own() -> None:
    assert dict(Settings().markings) == {
        TrafficClass.INTERACTIVE: Marking(97, 18, 6),
        TrafficClass.BULK: Marking(98, 10, 2),
        TrafficClass.BACKGROUND: Marking(99, 8, 1),
    }
    settings = load('class_labels = 125\nclass_background = "le 1:30"', "x")
    assert settings.markings[TrafficClass.BACKGROUND] == Marking(127, 1, 0x10030)
    assert {key for key in Settings.__struct_fields__ if key[6:] in set(TrafficClass)} == CLASSES


@pytest.mark.parametrize(("low", "high"), ORDERED)
def test_bounds_that_contradict_each_other_are_refused(low: str, high: str) -> None:
    value = getattr(Settings(), high)
    above = {"deadline": 601.0}.get(low, value + 1)
    error = fails(f"\n{low} = {above}")
    assert f"{low} ({above}) may not be above {high} ({value})" in str(error)
    assert error.line == 2


@given(st.text(max_size=200))
def test_any_text_gives_settings_or_a_settings_error(text: str) -> None:
    try:
        load(text, "x")
    except SettingsError as error:
        assert str(error).startswith("x")
        assert str(error).isprintable()


VALUE = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=8), st.sampled_from(list(Mode))
)


@given(st.sampled_from(Settings.__struct_fields__), VALUE)
def test_what_is_accepted_is_in_range(key: str, value: object) -> None:
    try:
        settings = load(_toml(key, value), "x")
    except SettingsError as error:
        assert error.key in (key, "")
        return
    if key in RANGES:
        assert RANGES[key][0] <= getattr(settings, key) <= RANGES[key][1]
    assert len(settings.markings) == 3


def _toml(key: str, value: object) -> str:
    if isinstance(value, bool):
        return f"{key} = {str(value).lower()}"
    if isinstance(value, str):
        return f"{key} = '''{value}'''"
    return f"{key} = {value}"


# --- docs/settings.md -----------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_setting_is_documented_with_its_default_and_values(key: str) -> None:
    default, values = ROWS[key]
    assert tomllib.loads(f"x = {default}")["x"] == getattr(Settings(), key)
    if key in RANGES:
        low, high = RANGES[key]
        assert values.removesuffix(" s") == f"{low} to {high}"
    elif key not in {"mark_base", *CLASSES}:
        words = [member.value for member in type(getattr(Settings(), key))]
        assert values == ", ".join(f"`{word}`" for word in words)


@pytest.mark.parametrize("key", AUDIT)
def test_every_setting_of_records_is_documented(key: str) -> None:
    default, values = ROWS[f"audit.{key}"]
    assert tomllib.loads(f"x = {default}")["x"] == getattr(Audit(), key)
    if key == "syslog":
        for word in re.findall("`([^`]+)`", values):
            assert parse_syslog(word.replace("HOST", "log.example.org"))
    elif key == "when_unwritten":
        assert values == ", ".join(f"`{word.value}`" for word in WhenUnwritten)


def test_the_documents_describe_no_setting_that_there_is_not() -> None:
    assert set(ROWS) == KEYS | {f"audit.{key}" for key in AUDIT}


def test_the_example_in_the_documents_is_the_defaults() -> None:
    assert load(EXAMPLE, "docs/settings.md") == Settings()
    found = tomllib.loads(EXAMPLE)
    assert set(found) == KEYS | {"audit"}
    assert set(found["audit"]) == set(AUDIT)
