"""Stacked bars as SVG: no script, readable without colour (each bar has its words), fit for paper.

Colours are classes, `s0` to `s7` and `bad`: the page's style says what they are in light, in dark
and on paper. Geometry is in attributes, so that a policy without inline styles lets it through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from arbiter.report.parts import Bars

WIDTH, HEIGHT = 720, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 8, 24
_LINES = 4
_LABELS = 8
_HALF_LABEL = 32
COLOURS = 8


def bars(chart: Bars, id: str, text: Callable[[int], str]) -> str:
    """The chart; `text` writes a value. `id` is unique in the page."""
    total = [sum(values) for values in zip(*(s.values for s in chart.series), strict=True)]
    top = nice(max(total, default=0))
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-labelledby="{id}-title {id}-text">',
        f'<title id="{id}-title">{escape(chart.title)}</title>',
        f'<desc id="{id}-text">{escape(chart.text)}</desc>',
        *_grid(top, text),
        *_bars(chart, top, text),
        *_labels(chart),
        "</svg>",
    ]
    return "\n".join(parts)


def legend(chart: Bars) -> str:
    """Which colour is what; "" for one series."""
    if len(chart.series) < 2:
        return ""
    items = (
        '<li><svg viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect class="{colour(chart, n)}" width="10" height="10"/></svg>{escape(one.name)}</li>'
        for n, one in enumerate(chart.series)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def colour(chart: Bars, number: int) -> str:
    """The class of a series."""
    return "bad" if chart.series[number].bad else f"s{number % COLOURS}"


def nice(value: int) -> int:
    """The smallest round number that is not below: 1, 2, 5 times a power of ten, and at least
    the number of lines, so that each line is a whole number."""
    if value <= _LINES:
        return _LINES
    power: int = 10 ** int(math.log10(value))
    return next(step for n in (1, 2, 4, 5, 8, 10, 20) if (step := n * power) >= value)


def _grid(top: int, text: Callable[[int], str]) -> Iterator[str]:
    for line in range(_LINES + 1):
        y = _y(top * line / _LINES, top)
        yield f'<path class="line" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
        shown = escape(text(top * line // _LINES))
        yield f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{shown}</text>'


def _bars(chart: Bars, top: int, text: Callable[[int], str]) -> Iterator[str]:
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(chart.labels))
    width = max(0.5, step * 0.8)
    for place, label in enumerate(chart.labels):
        x, below = _LEFT + step * place + (step - width) / 2, 0
        for number, one in enumerate(chart.series):
            value = one.values[place]
            if not value:
                continue
            y = _y(below + value, top)
            height = _y(below, top) - y
            below += value
            said = escape(f"{label}: {one.name} {text(value)}")
            yield (
                f'<rect class="{colour(chart, number)}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}"'
                f' height="{height:.2f}"><title>{said}</title></rect>'
            )


def _labels(chart: Bars) -> Iterator[str]:
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(chart.labels))
    every = max(1, math.ceil(len(chart.labels) / _LABELS))
    for place in range(0, len(chart.labels), every):
        x = min(_LEFT + step * (place + 0.5), WIDTH - _HALF_LABEL)
        label = escape(chart.labels[place])
        yield f'<text class="middle" x="{x:.1f}" y="{HEIGHT - 6}">{label}</text>'


def _y(value: float, top: int) -> float:
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - value / top)


def bar(value: int, most: int) -> str:
    """A small bar beside a number, for the eye only."""
    width = 100 * value / most if most else 0
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="s0" width="{width:.1f}" height="10"/></svg>'
    )
