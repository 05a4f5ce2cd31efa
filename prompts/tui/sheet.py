"""A table whose rows stay where they are while somebody looks at one.

It draws the lines that are seen, and no more: 8,192 rows cost as much as 20. Cells are text and
never markup, cleaned again on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from prompts.cards import Style
from prompts.render import tidy
from prompts.screen import Span, cut

LOOKS = {
    Style.PLAIN: RichStyle(),
    Style.DIM: RichStyle(dim=True),
    Style.BOLD: RichStyle(bold=True),
    Style.GOOD: RichStyle(color="green"),
    Style.BAD: RichStyle(color="red", bold=True),
    Style.WARN: RichStyle(color="yellow", bold=True),
}
"""How the styles of `prompts.cards` look here."""
_GAP = 1

T = TypeVar("T")
Cells = Callable[[T, float], Sequence[str | Span]]
"""A row's cells, from the row and now (epoch seconds)."""


@dataclass(frozen=True)
class Column:
    """`width` columns of the terminal at least, and `share` parts of what is left over. Where there
    is no room the highest `drop` goes first; 0 stays."""

    title: str
    width: int
    share: int = 0
    right: bool = False
    drop: int = 0


def fit(columns: Sequence[Column], width: int) -> list[tuple[int, int]]:
    """(index, width) of the columns that have room in `width`."""
    shown = list(range(len(columns)))

    def taken() -> int:
        return sum(columns[i].width + _GAP for i in shown) - _GAP

    while taken() > width and any(columns[i].drop for i in shown):
        shown.remove(max(shown, key=lambda i: columns[i].drop))
    spare, shares = max(0, width - taken()), sum(columns[i].share for i in shown)
    out = []
    for i in shown:
        more = spare * columns[i].share // shares if columns[i].share else 0
        spare, shares = spare - more, shares - columns[i].share
        out.append((i, columns[i].width + more))
    return out


class Sheet(ScrollView, Generic[T], can_focus=True):
    """Rows of T by a key. `show` gives it rows; what they hold is asked for as it is drawn."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "move(-1000000)", show=False),
        Binding("end,G", "move(1000000)", show=False),
        Binding("enter", "open", show=False),
        Binding("escape", "release", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"sheet--head", "sheet--cursor"}
    DEFAULT_CSS = """
    Sheet { height: 1fr; scrollbar-gutter: stable; overflow-x: hidden; overflow-y: scroll; }
    Sheet > .sheet--head { text-style: bold; background: $panel; }
    Sheet > .sheet--cursor { background: $primary 30%; }
    Sheet:focus > .sheet--cursor { background: $primary 60%; }
    """

    class Moved(Message):
        """Another row is under the cursor, or none."""

        def __init__(self, sheet: Sheet[Any]) -> None:
            super().__init__()
            self.sheet = sheet

        @property
        def control(self) -> Sheet[Any]:
            """The sheet."""
            return self.sheet

    class Opened(Moved):
        """Enter, or a click on the row under the cursor."""

    class HeadClicked(Message):
        """A column's title was clicked."""

        def __init__(self, sheet: Sheet[Any], column: int) -> None:
            super().__init__()
            self.sheet, self.column = sheet, column

        @property
        def control(self) -> Sheet[Any]:
            """The sheet."""
            return self.sheet

    def __init__(
        self,
        columns: Sequence[Column],
        cells: Cells[T],
        key: Callable[[T], Hashable],
        *,
        id: str,
        empty: str = "nothing yet",
    ) -> None:
        super().__init__(id=id)
        self.columns, self.cells, self.key, self.empty = tuple(columns), cells, key, empty
        self.items: list[T] = []
        self.cursor: Hashable | None = None
        """The key of the row under it; None: nobody looks at a row, and rows may move."""
        self.news = 0
        """Rows that came since, and wait to be shown until the cursor is let go."""
        self.now = 0.0
        self._places: dict[Hashable, int] = {}
        self._seen: object = None

    # --- rows -------------------------------------------------------------------------------

    def show(self, items: Sequence[T], now: float, *, again: bool = False) -> None:
        """These rows, in this order; while a row is looked at, those shown stay where they are.

        `again`: the person asked for another order or choice: take it all the same.
        """
        self.now = now
        if self.cursor is not None and not again:
            known = {self.key(item): item for item in items}
            self.items = [known.pop(self.key(old), old) for old in self.items]
            self.news = len(known)
        else:
            self.items, self.news = list(items), 0
            self._places = {self.key(item): place for place, item in enumerate(self.items)}
            if self.cursor not in self._places:
                self.cursor = None
        self.virtual_size = Size(self._width, len(self.items) + 1)
        self._redraw()

    @property
    def chosen(self) -> T | None:
        """The row under the cursor."""
        place = self._places.get(self.cursor)
        return None if self.cursor is None or place is None else self.items[place]

    def choose(self, key: Hashable | None) -> None:
        """Put the cursor on a row, without a message."""
        self.cursor = key if key in self._places else None
        self._reveal()
        self._redraw()

    # --- keys and mouse ---------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """So many rows down."""
        if not self.items:
            return
        place = self._places.get(self.cursor, -1 if by > 0 else 0)
        self._put(min(max(place + by, 0), len(self.items) - 1))

    def action_page(self, by: int) -> None:
        """So many screens down."""
        self.action_move(by * max(1, self.size.height - 2))

    def action_open(self) -> None:
        """What Enter does is told to whoever holds the sheet."""
        if self.chosen is not None:
            self.post_message(self.Opened(self))

    def action_release(self) -> None:
        """Nobody looks at a row any more: new ones come in."""
        self.cursor = None
        self.scroll_to(y=0, animate=False)
        self.post_message(self.Moved(self))
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """A row is chosen; the one that is already opens."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            left = 0
            for index, width in fit(self.columns, self._width):
                if left <= offset.x < left + width:
                    self.post_message(self.HeadClicked(self, index))
                left += width + _GAP
            return
        place = offset.y - 1 + round(self.scroll_y)
        if place < len(self.items):
            if self.cursor == self.key(self.items[place]):
                self.action_open()
            else:
                self._put(place)

    def _put(self, place: int) -> None:
        self.cursor = self.key(self.items[place])
        self._reveal()
        self.post_message(self.Moved(self))
        self.refresh()

    def _reveal(self) -> None:
        place, room = self._places.get(self.cursor), max(1, self.size.height - 1)
        if place is None or self.cursor is None:
            return
        top = round(self.scroll_y)
        if not top <= place < top + room:
            self.scroll_to(y=place if place < top else place - room + 1, animate=False)

    # --- drawing ----------------------------------------------------------------------------

    def _redraw(self) -> None:
        """If what is seen differs from what was drawn: most of the time it does not."""
        top = round(self.scroll_y)
        rows = self.items[top : top + max(1, self.size.height)]
        seen = (self.empty, self.cursor, top, [self.cells(item, self.now) for item in rows])
        if seen != self._seen:
            self._seen = seen
            self.refresh()

    @property
    def _width(self) -> int:
        return self.scrollable_content_region.width

    def render_line(self, y: int) -> Strip:
        """Line 0 is the head, and stays."""
        width = self._width
        if y == 0:
            style = self.get_component_rich_style("sheet--head")
            return self._strip([c.title for c in self.columns], width, style)
        place = y - 1 + round(self.scroll_y)
        if place >= len(self.items):
            text = self.empty if not self.items and y == 1 else ""
            return Strip([Segment(set_cell_size(text, width), self.rich_style + LOOKS[Style.DIM])])
        item, style = self.items[place], self.rich_style
        if self.cursor is not None and self.key(item) == self.cursor:
            style += self.get_component_rich_style("sheet--cursor")
        return self._strip(self.cells(item, self.now), width, style)

    def _strip(self, cells: Sequence[str | Span], width: int, base: RichStyle) -> Strip:
        segments, used = [], 0
        for index, room in fit(self.columns, width):
            if used:
                segments.append(Segment(" " * _GAP, base))
                used += _GAP
            cell = cells[index]
            text, look = (cell, Style.PLAIN) if isinstance(cell, str) else cell
            text = cut(tidy(text), room)
            if self.columns[index].right:
                text = " " * (room - cell_len(text)) + text
            segments.append(Segment(set_cell_size(text, room), base + LOOKS[look]))
            used += room
        return Strip(segments).adjust_cell_length(width, base)
