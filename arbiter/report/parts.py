"""What a document is made of: sections with sentences, charts and tables."""

from __future__ import annotations

from msgspec import Struct

Cell = str | int


class Series(Struct, frozen=True):
    """One colour of the bars."""

    name: str
    values: tuple[int, ...]
    bad: bool = False
    """It is what was refused."""


class Bars(Struct, frozen=True):
    """A chart of stacked bars; its figures are in the table of its section, too."""

    title: str
    text: str
    """What is to be seen, in a sentence, for who does not see it."""
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    bytes: bool = False
    """The values are bytes, and else a number of connections."""


class Table(Struct, frozen=True):
    """A table; numbers stand at the right."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[int] = frozenset()
    """Columns of texts that are numbers with a unit."""
    bar: int | None = None
    """A column of numbers that has a bar beside it."""
    beyond: int = 0
    """Rows that are left out."""
    folded: bool = False
    """The figures of the chart above it: of use where no chart is."""


class Section(Struct, frozen=True):
    """A chapter."""

    id: str
    title: str
    texts: tuple[str, ...] = ()
    bars: Bars | None = None
    tables: tuple[Table, ...] = ()


class Document(Struct, frozen=True):
    """All of it."""

    title: str
    texts: tuple[str, ...]
    tiles: tuple[tuple[str, str], ...]
    """The figures at the top: what it is, and how much."""
    sections: tuple[Section, ...]
    foot: str
