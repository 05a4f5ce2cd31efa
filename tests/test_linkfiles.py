from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbiter.linkfiles import (
    _LINK,
    _MATCH,
    LINK_NAME,
    MAX_TEXT,
    LinkFile,
    LinkFileError,
    Match,
    load,
    load_all,
    masked,
)
from arbiter.model import OverBudget
from arbiter.rules import rule
from arbiter.tariff import MAX_BYTES, UNITS, Budget, Period, Price

ROOT = Path(__file__).parents[1]
GOOD = sorted((ROOT / "fixtures/links/good").glob("*.toml"))
BAD = sorted((ROOT / "fixtures/links/bad").glob("*.toml"))
DOCS = (ROOT / "docs/links.md").read_text("utf-8")
MATCH = 'match = { interface = "wwan*" }'


def link(*lines: str, name: str = "lte", match: str = MATCH) -> str:
    return "\n".join(["[link]", f'name = "{name}"', match, *lines])


def fails(text: str) -> LinkFileError:
    with pytest.raises(LinkFileError) as caught:
        load(text, "/etc/arbiter/links.d/lte.toml")
    return caught.value


def price(text: str) -> Price | None:
    return load(link(f'price = "{text}"'), "x").price


def budget(text: str) -> Budget | None:
    return load(link(f'budget = "{text}"'), "x").budget


# --- fixtures -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_at_the_line_that_its_first_line_says(path: Path) -> None:
    text = path.read_text("utf-8")
    found = re.match(r"# (\d+): (.+)\n", text)
    assert found
    error = fails(text)
    assert error.line == int(found[1])
    assert found[2] in str(error)
    place = f"lte.toml:{found[1]}: " if error.line else "lte.toml: "
    assert str(error).startswith(f"/etc/arbiter/links.d/{place}")
    assert str(error).endswith("; see docs/links.md")
    assert str(error).isprintable()


def test_the_good_files_are_read_together_in_the_order_of_their_names() -> None:
    files, errors = load_all({str(path): path.read_text("utf-8") for path in reversed(GOOD)})
    assert not errors
    assert [file.name for file in files] == ["lte", "mms", "vpn", "wifi"]
    lte, mms, vpn, wifi = files
    assert lte == LinkFile(
        name="lte",
        match=Match(interface="wwan*", sim="8949012345678901234", apn="internet"),
        number=2,
        metered=True,
        price=Price(Decimal("0.02"), "EUR", "MB"),
        budget=Budget(500_000_000, Period.MONTH),
        over_budget=OverBudget.ASK,
        dns=(bytes([10, 255, 2, 53]), bytes.fromhex("20010db8000200000000000000000053")),
        origin=str(GOOD[0]),
    )
    assert mms.match == Match(apn="mms.example")
    assert mms.price == Price(Decimal("1.5"), "CHF", "GB")
    assert (mms.budget, mms.over_budget) == (Budget(1_500_000_000, Period.WEEK), OverBudget.DENY)
    assert (vpn.number, vpn.metered) == (31, False)
    assert wifi == LinkFile(name="wifi", match=Match(interface="wlan0"), origin=str(GOOD[3]))


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("number = 0", "from 1 to 31"),
        ('dns = ["fe80::1%\\u202e"]', "it is this link's anyway"),
        ('dns = ["::1%\\u202e"]', "is not on any link"),
        ("number = true", "from 1 to 31"),
        ("number = 2.0", "from 1 to 31"),
        ('number = "2"', "from 1 to 31"),
        ("number = 0x" + "f" * 5000, "a number of thousands of digits"),
        ('metered = "yes"', "true or false, without quotes"),
        ("metered = 1", "true or false, without quotes"),
        ("price = 0.02", 'such as "0.02 EUR/MB"'),
        ('price = ""', "an empty text"),
        ('price = "0.02"', "no currency"),
        ('price = "0.02 /MB"', "no currency"),
        ('price = "0.02 EUR"', "for how much"),
        ('price = "0.02 eur/MB"', "did you mean 'EUR'?"),
        ('price = "0.02 €/MB"', "three capital letters"),
        ('price = "0.02 EURO/MB"', "three capital letters"),
        ('price = "EUR 0.02/MB"', "begin with a number"),
        ('price = "0,02 EUR/MB"', "with a point"),
        ('price = "-0.02 EUR/MB"', "begin with a number"),
        ('price = ".5 EUR/MB"', "begin with a number"),
        ('price = "٣ EUR/MB"', "begin with a number"),
        ('price = "nan EUR/MB"', "begin with a number"),
        ('price = "1e9 EUR/MB"', "three capital letters"),
        ('price = "1000000000 EUR/MB"', "9 digits before"),
        ('price = "0.02 EUR/mb"', "did you mean 'MB'?"),
        ('price = "0.02 EUR/MiB"', "1 MB is 10^6 bytes"),
        ("budget = 500", 'such as "500 MB/month"'),
        ('budget = "500"', "its unit"),
        ('budget = "500/month"', "its unit"),
        ('budget = "500 MiB/month"', "1 MB is 10^6 bytes) must be one of kB, MB, GB, TB"),
        ('budget = "500 MB/"', "its period must be one of day, week, month"),
        ('budget = "500 MB/monthly"', "did you mean 'month'?"),
        ('budget = "500 MB/Month"', "did you mean 'month'?"),
        ('budget = "0 MB/month"', "whole number of bytes"),
        ('budget = "0.0001 kB/month"', "whole number of bytes"),
        ('budget = "1.0005 kB/month"', "whole number of bytes"),
        ('budget = "9223373 TB/month"', "whole number of bytes"),
        ('over_budget = "drop"', "one of ask, deny, allow"),
        ("over_budget = 1", "one of ask, deny, allow"),
    ],
)
def test_a_bad_value_is_refused_at_its_line_with_what_would_be_good(line: str, words: str) -> None:
    error = fails(link("# x", line))
    assert words in str(error)
    assert error.line == 5
    assert error.key == f"link.{line.split()[0]}"
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "name", ["", "a b", "a,b", "lté", "sixteen-letters-", "Any", "metered", ".", "..", "-x", "a\\n"]
)
def test_a_name_that_no_rule_could_say_is_refused(name: str) -> None:
    assert fails(link(name=name)).line == 2


@pytest.mark.parametrize(
    "match",
    [
        'interface = "a;b"',
        'interface = "a b"',
        'interface = "{eth0}"',
        'interface = "[a-z]"',
        'interface = "../x"',
        'interface = ".."',
        'interface = "a\\u0000"',
        'interface = "wlan0\\n"',
        'interface = ""',
        "interface = 3",
        'sim = " "',
        'sim = "12345678901234567"',
        'sim = "123456789012345678901"',
        'sim = "٣49012345678901234"',
        'apn = ""',
        'apn = "a b"',
        'apn = "$(x)"',
    ],
)
def test_a_match_that_would_be_other_syntax_or_match_nothing_is_refused(match: str) -> None:
    key = match.split()[0]
    error = fails(f'[link]\nname = "x"\n[link.match]\n{match}\n')
    assert (error.line, error.key) == (4, f"link.match.{key}")


def test_a_name_is_required_and_a_file_is_not_endless() -> None:
    assert "[link] has no name" in str(fails(f"\n[link]\n{MATCH}"))
    assert fails(f"\n[link]\n{MATCH}").line == 2
    assert "characters" in str(fails("#" * (MAX_TEXT + 1)))
    assert load(link() + "\n" + "#" * (MAX_TEXT - len(link()) - 1), "x").name == "lte"
    assert "one table" in str(fails("link = 3"))
    assert 'such as { interface = "wwan*" }' in str(fails(link(match='match = "wwan0"')))


AMOUNTS = st.decimals(0, 999_999_999, places=6).map(abs)


@given(AMOUNTS, st.from_regex(r"[A-Z]{3}", fullmatch=True), st.sampled_from(list(UNITS)))
def test_a_price_that_is_written_is_read_again(amount: Decimal, currency: str, unit: str) -> None:
    made = Price(amount, currency, unit)
    assert price(str(made)) == made


@given(st.integers(1, MAX_BYTES), st.sampled_from(Period))
@example(MAX_BYTES, Period.DAY)
@example(1, Period.DAY)
@example(10**9, Period.WEEK)
def test_a_budget_that_is_written_is_read_again(size: int, period: Period) -> None:
    made = Budget(size, period)
    assert budget(str(made)) == made


def test_a_budget_is_written_in_the_largest_unit_that_it_fills() -> None:
    assert str(Budget(1_500_000_000, Period.MONTH)) == "1.5 GB/month"
    assert str(Budget(10**9, Period.DAY)) == "1 GB/day"
    assert str(Budget(500_000_000, Period.DAY)) == "500 MB/day"
    assert str(Budget(100, Period.WEEK)) == "0.1 kB/week"


def test_spaces_and_decimal_units_are_read() -> None:
    assert price("2CHF / GB") == Price(Decimal(2), "CHF", "GB")
    assert budget(" 1 kB /day ") == Budget(1000, Period.DAY)
    assert budget("1.5 GB/month") == Budget(1_500_000_000, Period.MONTH)
    assert budget("0.001 TB/month") == Budget(10**9, Period.MONTH)


KEYS = [*_LINK, "nmae", "link"]
VALUES = st.one_of(
    st.integers(),
    st.floats().map(str),
    st.booleans().map(lambda b: str(b).lower()),
    st.text(),
    st.from_regex(r"[0-9.]{1,4} ?[A-Za-z]{2,3}/[A-Za-z]{2,5}", fullmatch=True),
).map(lambda value: str(value) if not isinstance(value, str) else f"'{value}'")


@given(st.dictionaries(st.sampled_from(KEYS), VALUES), st.sampled_from(["", "[link]\n"]))
def test_any_values_give_a_link_file_or_an_error_that_can_be_shown(
    values: dict[str, str], head: str
) -> None:
    text = head + "\n".join(f"{key} = {value}" for key, value in values.items())
    try:
        load(text, "x")
    except LinkFileError as error:
        assert str(error).startswith("x")
        assert str(error).isprintable()
        assert error.line <= text.count("\n") + 1


@given(st.text(max_size=20))
def test_an_interface_that_is_accepted_is_no_syntax(text: str) -> None:
    quoted = "".join(f"\\U{ord(c):08x}" for c in text)
    try:
        made = load(link(match=f'match.interface = "{quoted}"'), "x").match.interface
    except LinkFileError as error:
        assert error.line == 3
    else:
        assert made == text
        assert re.fullmatch(r"[A-Za-z0-9_.@*?][A-Za-z0-9_.@*?-]{0,14}", made)


# --- which link is meant --------------------------------------------------------------------

SIM = "8949012345678901234"


@pytest.mark.parametrize(
    ("match", "link_of", "fits"),
    [
        (Match(interface="wwan*"), ("wwan0",), True),
        (Match(interface="wwan*"), ("wwan0", SIM, "internet"), True),
        (Match(interface="wwan*"), ("xwwan0",), False),
        (Match(interface="wwan?"), ("wwan",), False),
        (Match(interface="wwan?"), ("wwan1",), True),
        (Match(interface="eth0"), ("ETH0",), False),
        (Match(interface="eth.0"), ("ethx0",), False),
        (Match(sim=SIM), ("wwan0", SIM), True),
        (Match(sim=SIM), ("wwan0", SIM + "F"), True),
        (Match(sim=SIM), ("wwan0", SIM + "1"), False),
        (Match(sim=SIM), ("wwan0", ""), False),
        (Match(apn="Internet"), ("wwan0", "", "internet"), True),
        (Match(apn="internet"), ("wwan0", SIM, ""), False),
        (Match(interface="wwan*", sim=SIM), ("wwan0", SIM), True),
        (Match(interface="wwan*", sim=SIM), ("ppp0", SIM), False),
        (Match(interface="wwan*", sim=SIM), ("wwan0", ""), False),
        (Match(), ("wwan0", "", ""), False),
    ],
)
def test_a_match_fits_a_link_where_every_condition_holds(
    match: Match, link_of: tuple[str, ...], fits: bool
) -> None:
    assert match.fits(*link_of) is fits


def test_over_budget_asks_unless_the_file_says_otherwise() -> None:
    assert load(link('budget = "1 MB/day"'), "x").over_budget is OverBudget.ASK
    assert load(link('budget = "1 MB/day"', 'over_budget = "allow"'), "x").over_budget == "allow"


def test_a_rule_can_name_every_link() -> None:
    assert rule.LINK_NAME.pattern == LINK_NAME.pattern + r"\Z"


# --- several files --------------------------------------------------------------------------

A, B, C = (f"/etc/arbiter/links.d/{name}.toml" for name in "abc")
ETH = 'match.interface = "eth0"'
WLAN = 'match.interface = "wlan0"'


def test_one_bad_file_never_takes_the_others_down() -> None:
    files, errors = load_all({A: "[link", B: link(), C: "[link]\nfoo = 1"})
    assert [file.origin for file in files] == [B]
    assert [error.origin for error in errors] == [A, C]


def test_two_links_with_one_name_the_later_is_refused_and_the_first_named() -> None:
    files, errors = load_all({B: link(match=ETH), A: link()})
    assert [file.origin for file in files] == [A]
    assert str(errors[0]) == (
        f"{B}:2: the name 'lte' is taken by {A}: give another; see docs/links.md"
    )
    assert errors[0].key == "link.name"


def test_two_links_with_one_number_the_later_is_refused_and_the_first_named() -> None:
    files, errors = load_all(
        {A: link("number = 3"), B: link("", "number = 3", name="wifi", match=ETH)}
    )
    assert [file.origin for file in files] == [A]
    assert (errors[0].origin, errors[0].line, errors[0].key) == (B, 5, "link.number")
    assert f"the number 3 is taken by {A} (link lte)" in str(errors[0])


def test_two_files_for_the_same_match_the_later_is_refused() -> None:
    files, errors = load_all({A: link(), B: link(name="wifi")})
    assert [file.origin for file in files] == [A]
    assert (errors[0].line, errors[0].key) == (3, "link.match")


def test_links_without_a_number_do_not_collide() -> None:
    files, errors = load_all({A: link(), B: link(name="wifi", match=ETH)})
    assert (len(files), errors) == (2, ())


def test_a_refused_file_is_in_nobodys_way() -> None:
    files, errors = load_all(
        {
            A: link("number = 1"),
            B: link("number = 1", name="wifi", match=ETH),
            C: link("number = 2", name="wifi", match=WLAN),
        }
    )
    assert [file.origin for file in files] == [A, C]
    assert [error.origin for error in errors] == [B]


def test_the_last_good_version_of_a_refused_file_stays_in_force() -> None:
    last, _ = load_all({A: link("number = 1"), B: link(name="wifi", match=ETH)})
    files, errors = load_all({A: "[link", B: link("number = 4", name="wifi", match=ETH)}, last)
    assert [(file.origin, file.number) for file in files] == [(A, 1), (B, 4)]
    assert [error.origin for error in errors] == [A]


def test_the_last_good_version_gives_way_to_a_file_that_is_good_and_a_removed_file_is_gone() -> (
    None
):
    last, _ = load_all({B: link(name="wifi", match=ETH), C: link(name="x", match=WLAN)})
    files, errors = load_all({A: link(name="wifi"), B: "[link"}, last)
    assert [file.origin for file in files] == [A]
    assert [error.origin for error in errors] == [B]


@given(
    st.dictionaries(
        st.sampled_from([A, B, C]),
        st.sampled_from(
            [
                "",
                link(),
                link(name="wifi"),
                link("number = 1", match=ETH),
                link(name="vpn", match=WLAN),
            ]
        ),
    )
)
def test_every_file_is_in_force_or_refused_and_no_two_share_a_name(files: dict[str, str]) -> None:
    good, errors = load_all(files)
    assert sorted([*(f.origin for f in good), *(e.origin for e in errors)]) == sorted(files)
    assert len({file.name for file in good}) == len(good)
    again, _ = load_all(files, good)
    assert again == good


USR = "/usr/share/arbiter/links.d"


def test_a_same_named_file_in_etc_masks_the_shipped_one() -> None:
    shipped = {f"{USR}/a.toml": "shipped a", f"{USR}/d.toml": "shipped d"}
    assert masked(shipped, {A: "mine", B: "b"}) == {
        A: "mine",
        B: "b",
        f"{USR}/d.toml": "shipped d",
    }


@pytest.mark.parametrize("text", ["", "\n \n", "# [link]\n  # name\n"])
def test_a_file_in_etc_that_says_nothing_masks_the_shipped_one_and_goes(text: str) -> None:
    assert masked({f"{USR}/a.toml": link()}, {A: text}) == {}


def test_a_bad_file_in_etc_masks_the_shipped_one_too() -> None:
    assert masked({f"{USR}/a.toml": link()}, {A: "# x\n[link"}) == {A: "# x\n[link"}


# --- docs/links.md --------------------------------------------------------------------------


def test_every_key_is_documented_and_no_other() -> None:
    about_files = DOCS.split("## What other services know")[0]
    rows = re.findall(r"^\| `(\w+)` \| ", about_files, re.MULTILINE)
    assert sorted(rows) == sorted([*_LINK, *_MATCH])
    assert set(_LINK) == set(LinkFile.__struct_fields__) - {"origin"}
    assert set(_MATCH) == set(Match.__struct_fields__)


def test_the_example_in_the_documents_is_the_fixture_with_every_key() -> None:
    text = DOCS.split("```toml\n")[1].split("```")[0]
    assert load(text, "x") == load(GOOD[0].read_text("utf-8"), "x")
    assert all(f"{key} = " in text for key in [*_LINK, *_MATCH])


def test_the_error_in_the_documents_is_the_one_that_is_raised() -> None:
    shown = DOCS.split("```text\n")[1].split("\n```")[0]
    assert str(fails(link("", "", 'price = "0.02/MB"'))) == shown


def test_every_word_is_documented() -> None:
    for word in [*Period, *OverBudget]:
        assert f"`{word.value}`" in DOCS
    for unit in UNITS:
        assert unit in DOCS
