from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbiter.identity import interpreter_name
from arbiter.model import DENY, Action, Decision, TrafficClass
from arbiter.policyfiles import (
    Advice,
    AdviceBook,
    FileFacts,
    Name,
    PolicyFile,
    PolicyFileError,
    Relevance,
    app_fault,
    as_rule,
    entries,
    examine,
    hosts,
    json_schema,
    keys,
    load,
    load_all,
    owner_fault,
    stat_fault,
)
from arbiter.policyfiles.load import MAX_ADVICE, MAX_CONNECTIONS, MAX_FAULTS, MAX_SHIPPED
from arbiter.policyfiles.places import DEEPEST, line_at, lines_of
from arbiter.rules import Index, Layer, Query, RuleError, format_rule, parse
from arbiter.rules.line import KEYS

ROOT = Path(__file__).parents[1]
GOOD = sorted((ROOT / "fixtures/policies/good").glob("*.toml"))
BAD = sorted((ROOT / "fixtures/policies/bad").glob("*.toml"))
ADMINS = ("admin", "empty")
DOCS = (ROOT / "docs/policy-files.md").read_text("utf-8")
SCHEMA = ROOT / "docs/policy.schema.json"
APPLICATION = '[application]\nname = "X"\napp = "/usr/bin/x"\n'
ETC, SHARE = "/etc/arbiter/policy.d/", "/usr/share/arbiter/policy.d/"


def shipped(path: Path) -> bool:
    return not path.name.startswith(ADMINS)


def good(name: str) -> PolicyFile:
    path = ROOT / f"fixtures/policies/good/{name}.toml"
    return load(path.read_text("utf-8"), str(path), shipped=shipped(path))


def connection(*lines: str, host: str = '"a.example"') -> str:
    return "\n".join([APPLICATION, "[[connection]]", f"host = {host}", 'purpose = "x"', *lines])


def advice(*lines: str, host: str = '"a.example"') -> Advice:
    return load(connection(*lines, host=host), "x", shipped=True).advice[0]


def fails(text: str, *, shipped: bool = True) -> PolicyFileError:
    with pytest.raises(PolicyFileError) as caught:
        load(text, SHARE + "x.toml", shipped=shipped)
    return caught.value


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


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


# --- destinations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "",
        "exa mple.org",
        "*",
        "*.",
        "**.example.org",
        "*.*.org",
        "a.*",
        "-a.example",
        "a-.example",
        "a..example",
        ".example.org",
        "a" * 64 + ".example",
        "a." * 130 + "example",
        "münchen.example",
        "localhost",
        "lann",
        "example.1",
        "1.2.3.4.5",
        "1.2.3",
        "0x7f.0x1",
        "192.0.2.1/24",
        "192.0.2.0/33",
        "fe80::1%eth0",
        "[2001:db8::1]",
        "http://a.example/",
        "a.example:443",
        "a\\u0000.example",
    ],
)
def test_what_is_no_destination_is_refused(host: str) -> None:
    given_as = f'["{host}", "b.example"]'
    assert fails(connection(host=given_as)).key == "connection.host"


def test_names_are_compared_by_label_and_never_by_their_end() -> None:
    below = hosts.read("*.Example.ORG.")
    assert below == Name("example.org", below=True)
    for name, met in (
        ("a.example.org", True),
        ("b.a.example.org", True),
        ("example.org", False),
        ("badexample.org", False),
        ("example.org.evil.example", False),
    ):
        assert hosts.meets(below, (name,), packed("192.0.2.1")) is met
        assert hosts.meets(below, ("other.example", name), packed("192.0.2.1")) is met
    exact = hosts.read("example.org")
    assert hosts.meets(exact, ("example.org",), packed("192.0.2.1"))
    assert not hosts.meets(exact, ("a.example.org",), packed("192.0.2.1"))
    assert not hosts.meets(exact, (), packed("192.0.2.1"))


@pytest.mark.parametrize(
    ("host", "address", "met"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "::ffff:192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "192.0.2.1", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("lan", "10.1.2.3", True),
        ("lan", "fd00::1", True),
        ("internet", "10.1.2.3", False),
        ("*", "2001:db8::1", True),
    ],
)
def test_addresses_are_met_by_what_they_are(host: str, address: str, met: bool) -> None:
    assert hosts.meets(hosts.read(host), (), packed(address)) is met


@given(st.text("ab.*-_:/0129x", max_size=12) | st.text(max_size=12))
def test_a_destination_that_is_read_is_written_as_the_same(text: str) -> None:
    try:
        host = hosts.read(text)
    except ValueError:
        return
    assert hosts.read(hosts.text_of(host)) == host
    hosts.rank(host)
    hosts.meets(host, ("a.b",), bytes(16))


# --- the look-up ----------------------------------------------------------------------------


def book(*connections: str) -> AdviceBook:
    text = APPLICATION + "".join(
        f'[[connection]]\npurpose = "{line}"\n' + line.replace("; ", "\n") + "\n"
        for line in (c.replace('"', "'") for c in connections)
    )
    return AdviceBook([load(text, "x", shipped=True)])


def test_the_most_specific_advice_is_found() -> None:
    order = [
        "host = '192.0.2.1'",
        "host = 'a.b.example'",
        "host = '*.b.example'",
        "host = '*.example'",
        "host = '192.0.2.0/28'",
        "host = '192.0.2.0/24'",
        "host = 'internet'",
        "host = '0.0.0.0/0'",
        "host = '*'; port = 443; proto = 'tcp'",
        "host = '*'; port = 443",
        "host = '*'; port = '400-500'",
        "host = '*'; proto = 'tcp'",
        "host = '*'",
    ]
    for first in range(len(order)):
        for some in (order[first:], [*order[:first:-1], order[first]]):
            found = book(*some).advice_for(
                "/usr/bin/x", ("a.b.example",), packed("192.0.2.1"), 443, 6
            )
            assert found is not None
            assert found.purpose == order[first]


def test_advice_is_about_its_own_app_ports_and_protocol_only() -> None:
    one = book("host = '*'; port = 443; proto = 'tcp'")
    where = packed("192.0.2.1")
    assert one.advice_for("/usr/bin/x", (), where, 443, 6)
    assert not one.advice_for("/usr/bin/y", (), where, 443, 6)
    assert not one.advice_for("", (), where, 443, 6)
    assert not one.advice_for("/usr/bin/x", (), where, 444, 6)
    assert not one.advice_for("/usr/bin/x", (), where, 443, 17)
    ported = book("host = '*'; port = '0-65535'")
    assert ported.advice_for("/usr/bin/x", (), where, 0, 132)
    assert not ported.advice_for("/usr/bin/x", (), where, 0, 1)  # ICMP has no port 0


def test_an_administrators_advice_comes_before_a_packages() -> None:
    text = connection('suggest = "allow"')
    files = [
        load(text, "a.toml", shipped=True),
        load(text.replace('"allow"', '"deny"'), "b.toml"),
    ]
    for some in (files, files[::-1]):
        found = AdviceBook(some).advice_for("/usr/bin/x", ("a.example",), packed("::1"), 1, 6)
        assert found is not None
        assert found.suggest == DENY


def test_an_app_is_found_by_the_name_that_survives_updates() -> None:
    text = connection().replace("/usr/bin/x", "/usr/lib/x-1.2.3/x")
    file = load(text, "x", shipped=True)
    assert file.application is not None
    assert file.application.path == "/usr/lib/x-1.2.3/x"
    assert AdviceBook([file]).advice_for("/usr/lib/x-*/x", ("a.example",), bytes(4), 1, 6)


def naive(files: list[PolicyFile], names: tuple[str, ...], address: bytes, port: int) -> set[str]:
    """Purposes of all advice that a TCP connection meets."""
    return {
        a.purpose
        for file in files
        for a in file.advice
        if hosts.meets(a.host, names, address)
        and a.proto in (None, 6)
        and (not a.ports or any(low <= port <= high for low, high in a.ports))
    }


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["*", "a.example", "*.example", "lan", "10.0.0.0/8", "10.0.0.1"]),
            st.sampled_from(["", "port = 443", "port = '1-1023'"]),
            st.sampled_from(["", "proto = 'tcp'", "proto = 'udp'"]),
        ),
        max_size=6,
    ),
    st.sampled_from([(), ("a.example",), ("b.a.example",)]),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1"]),
    st.sampled_from([80, 443, 8080]),
)
def test_a_look_up_finds_something_exactly_where_something_is_meant(
    said: list[tuple[str, str, str]], names: tuple[str, ...], address: str, port: int
) -> None:
    text = APPLICATION + "".join(
        f'[[connection]]\npurpose = "{n}"\nhost = "{host}"\n{ports}\n{proto}\n'
        for n, (host, ports, proto) in enumerate(said)
    )
    file = load(text, "x", shipped=True)
    found = AdviceBook([file]).advice_for("/usr/bin/x", names, packed(address), port, 6)
    meant = naive([file], names, packed(address), port)
    assert found.purpose in meant if found else not meant


# --- rules in force -------------------------------------------------------------------------


def test_advice_decides_only_where_an_administrator_adopts_it() -> None:
    files = [good("telegram"), good("firefox")]
    assert entries(files) == ((), ())
    admin = load('adopt = ["/usr/bin/telegram-desktop"]', ETC + "a.toml")
    made, unsaid = entries([*files, admin])
    assert {e.layer for e in made} == {Layer.SHIPPED}
    assert {e.rule.app for e in made} == {"/usr/bin/telegram-desktop"}
    said = [a for a in files[0].advice if as_rule(a) is not None]
    assert len(made) == len(said)
    assert len(made) + len(unsaid) == len(files[0].advice)
    everything, _ = entries(files, decide=True)
    assert len(everything) >= len(made)
    with pytest.raises(PolicyFileError):
        load('adopt = ["/usr/bin/x"]\n' + APPLICATION, SHARE + "x.toml", shipped=True)


def test_no_opinion_decides_nothing() -> None:
    assert as_rule(advice()) is None
    assert entries([load(connection(), "x", shipped=True)], decide=True) == ((), ())


def test_the_rule_of_a_suggestion_is_no_wider_than_it() -> None:
    made = as_rule(advice("port = 443", "proto = 'tcp'", "suggest = 'allow'", host="'10.0.0.0/8'"))
    assert made is not None
    assert format_rule(made) == "allow app=/usr/bin/x host=10.0.0.0/8 port=443 proto=tcp"
    named = as_rule(advice("suggest = 'allow'", host="'*.a.example'"))
    try:
        assert named == parse("allow app=/usr/bin/x host=*.a.example")
    except RuleError:
        assert named is None, "a name that rules cannot say must not become any host"


def test_entries_say_where_they_come_from_and_layers_keep_their_order() -> None:
    admin = load('rules = ["deny app=/usr/bin/x"]', ETC + "a.toml")
    files = [load(connection('suggest = "allow"', host='"10.0.0.1"'), "b", shipped=True), admin]
    made, _ = entries(files, decide=True)
    assert len({e.id for e in made}) == len(made) == 2
    assert max(e.id for e in made) < 0
    assert {e.by for e in made} == {f"file:{ETC}a.toml:1", "file:b:5"}
    index = Index(made)
    query = Query("/usr/bin/x", (), 0, "root", packed("10.0.0.1"), 80, 6)
    found = index.lookup(query, 0.0)
    assert found is not None
    assert found.layer is Layer.ADMIN


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


ROOTS = {"uid": 0, "gid": 0}


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


# --- lines ----------------------------------------------------------------------------------

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


# --- the schema -----------------------------------------------------------------------------


def test_the_schema_in_the_docs_is_the_codes() -> None:
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("ARBITER_REGEN"):
        SCHEMA.write_text(text, "utf-8")
    assert SCHEMA.read_text("utf-8") == text, (
        "run: ARBITER_REGEN=1 make test ARGS=tests/test_policy_files.py"
    )


def valid(schema: dict[str, Any], value: Any) -> bool:
    """JSON Schema, as far as ours uses it; an unknown word is an error of this test."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    for word, rule in schema.items():
        if word in ("description", "title", "$schema", "$id"):
            continue
        if word == "type":
            if not isinstance(value, kinds[rule]) or (
                rule == "integer" and value in (True, False) and isinstance(value, bool)
            ):
                return False
        elif word == "anyOf":
            if not any(valid(one, value) for one in rule):
                return False
        elif word == "enum":
            if value not in rule:
                return False
        elif word == "const":
            if value != rule:
                return False
        elif word == "required":
            if not set(rule) <= set(value):
                return False
        elif word == "properties":
            if not all(valid(rule[key], value[key]) for key in value if key in rule):
                return False
        elif word == "additionalProperties":
            assert rule is False
            if set(value) - set(schema["properties"]):
                return False
        elif word == "items":
            if not all(valid(rule, item) for item in value):
                return False
        elif word == "pattern":
            if not re.search(rule, value):
                return False
        else:
            checks = {
                "minLength": lambda v, n: len(v) >= n,
                "maxLength": lambda v, n: len(v) <= n,
                "minItems": lambda v, n: len(v) >= n,
                "maxItems": lambda v, n: len(v) <= n,
                "minimum": lambda v, n: v >= n,
                "maximum": lambda v, n: v <= n,
            }
            if not checks[word](value, rule):
                return False
    return True


def accepts(schema: dict[str, Any], value: Any) -> None:
    assert valid(schema, value), "the schema refuses what the code accepts"


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
