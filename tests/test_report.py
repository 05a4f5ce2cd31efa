"""The report as a document: charts, and both forms of it, whatever a program is called."""

from __future__ import annotations

import html.parser
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.protocol import clean
from arbiter.report import Carried, Day, Group, Report, as_html, as_markdown, document, risks
from arbiter.report.charts import HEIGHT, WIDTH, bars, nice
from arbiter.report.html import policy
from arbiter.report.markdown import escaped, paragraph
from arbiter.report.parts import Bars, Series
from arbiter.report.style import STYLE
from arbiter.report.values import Cost, Gap, Risk
from arbiter.rules import Entry, Finding, FindingKind, Layer, parse

EVIL = "</table><script>alert(1)</script>\"'&amp;|`[x](javascript:1)*_~$\\\n# h"


def at(epoch: float, form: str = "", /) -> str:
    """An epoch second, as it is."""
    return str(epoch)


def report(**more: Any) -> Report:
    return Report(0.0, 86400.0, 86400.0, "/x/a.db", 20, 0.0, **more)


def day(text: str, connections: int = 1, denied: int = 0) -> Day:
    return Day(text, connections, denied)


class Elements(html.parser.HTMLParser):
    """Names and attributes of the elements, and the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(page: str) -> Elements:
    found = Elements()
    found.feed(page)
    found.close()
    assert found.open == [], "every element is closed"
    return found


def full(name: str) -> Report:
    return report(
        days=(day("2026-11-01", 3, 1), day("2026-11-02")),
        carried=(Carried("2026-11-01", name, 7), Carried("2026-11-02", "wifi", 9)),
        apps=(Group(name, 3, 1, 5, 6, 7.0),),
        costs=(Cost("lte", name, 1, 2, 3, "0.02 EUR/MB", "1.50 EUR"),),
        risks=(Risk("rule 1", name, name, "anywhere", name),),
        gaps=(Gap(1.0, 2.0, None, name),),
        notes=(name,),
    )


# --- charts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "top"),
    [
        (0, 4),
        (1, 4),
        (4, 4),
        (5, 5),
        (9, 10),
        (95, 100),
        (101, 200),
        (250, 400),
        (1_000_000, 10**6),
    ],
)
def test_the_top_of_a_chart_is_round(value: int, top: int) -> None:
    assert nice(value) == top


@given(st.integers(0, 10**18))
def test_the_top_of_a_chart_is_near(value: int) -> None:
    assert value <= nice(value) <= max(4, 2.5 * value)


VALUES = st.integers(0, 10**15)


@given(st.lists(st.tuples(VALUES, VALUES), max_size=40))
def test_bars_stay_inside_and_stand_on_each_other(pairs: list[tuple[int, int]]) -> None:
    labels = tuple(f"d{n}" for n in range(len(pairs)))
    series = (
        Series("a", tuple(a for a, _ in pairs)),
        Series("b", tuple(b for _, b in pairs), True),
    )
    found = parsed(bars(Bars("t", "d", labels, series), "x", str))
    boxes = [
        [float(attrs[k] or "") for k in ("x", "y", "width", "height")]
        for tag, attrs in found.tags
        if tag == "rect"
    ]
    assert len(boxes) == sum(a > 0 for a, _ in pairs) + sum(b > 0 for _, b in pairs)
    for x, y, width, height in boxes:
        assert x >= 0 and x + width <= WIDTH
        assert y >= 0 and y + height <= HEIGHT
        assert height >= 0
    by_x: dict[float, list[tuple[float, float]]] = {}
    for x, y, _, height in boxes:
        by_x.setdefault(x, []).append((y, height))
    for stack in by_x.values():
        if len(stack) == 2:
            (low, _), (high, height) = stack
            assert abs(high + height - low) < 0.02


def test_a_chart_has_words_for_who_does_not_see_it() -> None:
    page = as_html(document(full("lte"), at))
    found = parsed(page)
    charts = [attrs for tag, attrs in found.tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(charts) == 2
    ids = {attrs.get("id") for _, attrs in found.tags}
    for chart in charts:
        assert set((chart["aria-labelledby"] or "").split()) <= ids
    assert "4 connections" not in page
    assert "2026-11-01: denied 1" in page


def test_of_many_days_months_have_a_bar() -> None:
    days = tuple(day(f"2026-{month:02}-{d:02}") for month in (1, 2, 3, 4) for d in range(1, 29))
    (section, *_) = document(report(days=days), at).sections
    assert section.bars is not None
    assert section.bars.labels == ("2026-01", "2026-02", "2026-03", "2026-04")
    assert section.bars.series[0].values == (28, 28, 28, 28)


def test_links_beyond_the_colours_are_added_up() -> None:
    carried = tuple(Carried("2026-11-01", f"link{n}", 100 - n) for n in range(12))
    section = document(report(carried=carried), at).sections[0]
    assert section.bars is not None
    names = [one.name for one in section.bars.series]
    assert names == [*(f"link{n}" for n in range(6)), "others"]
    assert sum(sum(one.values) for one in section.bars.series) == sum(c.size for c in carried)


# --- HTML -----------------------------------------------------------------------------------


@given(st.text(max_size=60).map(clean) | st.just(EVIL))
def test_no_text_becomes_markup(name: str) -> None:
    plain, evil = (parsed(as_html(document(full(n), at))) for n in ("name", name))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    allowed = [{k: v for k, v in attrs.items() if k != "content"} for _, attrs in plain.tags]
    assert [{k: v for k, v in a.items() if k != "content"} for _, a in evil.tags] == allowed


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = as_html(document(full("x"), at))
    found = parsed(page)
    assert not {tag for tag, _ in found.tags} & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "base",
    }
    for _, attrs in found.tags:
        assert not set(attrs) & {"src", "style", "onclick", "onload"}
        assert (attrs.get("href") or "#").startswith("#")
    assert "url(" not in STYLE and "@import" not in STYLE
    assert f'content="{policy()}"' in page
    assert "default-src 'none'" in policy()


def test_headings_and_tables_can_be_walked() -> None:
    found = parsed(as_html(document(full("x"), at)))
    levels = [tag for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == "h1"
    assert set(levels[1:]) == {"h2"}
    tables = sum(tag == "table" for tag, _ in found.tags)
    assert sum(tag == "caption" for tag, _ in found.tags) == tables > 3
    assert all(a.get("scope") in ("col", "row") for tag, a in found.tags if tag == "th")
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for tag, a in found.tags if tag == "a"}
    assert targets <= set(ids)


# --- Markdown -------------------------------------------------------------------------------


@given(st.text(max_size=60) | st.just(EVIL))
def test_a_cell_stays_a_cell(name: str) -> None:
    plain, evil = (as_markdown(document(full(clean(n)), at)).split("\n") for n in ("x", name))
    assert len(plain) == len(evil)
    for one, other in zip(plain, evil, strict=True):
        bare = re.sub(r"\\.", "", other)
        assert bare.count("|") == one.count("|")
        assert not re.search(r"[`<\[\]~$]", bare.replace("<br>", ""))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"), ("<b>&", "&lt;b&gt;&amp;"), ("*x_", r"\*x\_"),
        ("http://x", "http&#58;//x"), ("www.x", "www&#46;x"), ("2026-11-01", "2026-11-01"),
        ("\\|", r"\\\|"), ("a\nb", "a b"),
    ],
)  # fmt: skip
def test_markup_of_markdown_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("# h", "&#35; h"), ("- x", "&#45; x"), ("1. x", "1&#46; x"), ("2.5 GB", "2.5 GB"),
     ("  + x", "&#43; x"), ("plain", "plain")],
)  # fmt: skip
def test_a_paragraph_is_no_list_and_no_heading(text: str, shown: str) -> None:
    assert paragraph(text) == shown


# --- what it says ---------------------------------------------------------------------------


def entries(*lines: str) -> list[Entry]:
    return [
        Entry(n, parse(line), Layer.REMEMBERED, 0.0, "alice") for n, line in enumerate(lines, 1)
    ]


def test_rules_that_let_much_through_are_named_the_gravest_first() -> None:
    rules = entries(
        "allow app=/a", "allow host=*.x.org", "deny port=1", "allow app=/b host=x.org",
        "route via=lte", "allow host=lan", "allow parent=/a port=2", "allow",
    )  # fmt: skip
    broad = [Finding(FindingKind.OVER_BROAD, rules[-1], None, "broad")]
    found = risks(rules, broad, {"/b"})
    assert [(one.rule, one.kind) for one in found] == [
        ("rule 8", "over-broad"), ("rule 4", "changed-executable"), ("rule 2", "any-program"),
        ("rule 5", "any-program"), ("rule 1", "anywhere"),
    ]  # fmt: skip


def test_each_kind_of_finding_has_its_place() -> None:
    (entry,) = entries("allow app=/a port=1 host=lan")
    for kind in FindingKind:
        if kind is not FindingKind.EXPIRED:
            (one,) = risks([entry], [Finding(kind, entry, None, "x")], ())
            assert one.kind == kind


def test_what_is_missing_and_what_it_cost_is_told_at_the_top() -> None:
    tiles = dict(document(full("x"), at).tiles)
    assert tiles["records missing"] == "unknown"
    assert tiles["cost"] == "1.50 EUR"
    two = report(gaps=(Gap(0, 1, 5, "x"), Gap(0, 1, None, "x")))
    assert dict(document(two, at).tiles)["records missing"] == "5 or more"
    assert dict(document(report(), at).tiles)["records missing"] == "0"


def test_nothing_is_new_where_records_begin_in_the_span() -> None:
    titles = {s.id: s.texts for s in document(report(), at).sections}
    assert "do not reach back" in titles["new"][0]
    assert "None was found." in titles["risks"]
