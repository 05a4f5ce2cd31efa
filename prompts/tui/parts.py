"""Small widgets that everything here is made of: text that is never markup, things to click."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from prompts.cards import Style
from prompts.render import tidy
from prompts.screen import Line, width_of
from prompts.tui.sheet import LOOKS


def painted(lines: Iterable[Line]) -> Text:
    """Lines of styled text, cleaned once more."""
    out = Text()
    for number, line in enumerate(lines):
        out.append("\n" if number else "")
        for text, style in line:
            out.append(tidy(text), LOOKS[style])
    return out


def pairs(facts: Iterable[tuple[str, str]]) -> list[Line]:
    """(label, text) below each other."""
    known = list(facts)
    width = max((len(label) for label, _ in known), default=0)
    return [((f"{label:{width}}  ", Style.DIM), (text, Style.PLAIN)) for label, text in known]


class Words(Static):
    """Lines of text. Drawn again only where they differ: most of the time nothing does."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: tuple[Line, ...] = ()

    def show(self, lines: Iterable[Line]) -> None:
        """These lines from now on."""
        new = tuple(lines)
        if new != self._lines:
            # Only a height that follows the text has to be found anew.
            layout = len(new) != len(self._lines) or self.styles.auto_dimensions
            self._lines = new
            self.update(painted(new), layout=layout)


class Tap(Static):
    """A key that can be clicked. It never has the focus, so that Return never presses it."""

    DEFAULT_CSS = """
    Tap { width: auto; padding: 0 1; margin: 0 1 0 0; background: $panel; }
    Tap:hover { background: $primary 40%; }
    """

    class Pressed(Message):
        """It was clicked, once: the second of two fast clicks was not meant for what came after."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, key: str, word: str) -> None:
        shown = {"esc": "Esc", "space": "Space"}.get(key, key)
        text = ((shown, Style.BOLD), (f" {word}", Style.PLAIN))
        super().__init__(painted([text]))
        self.key = key
        self.columns = width_of(text) + 3
        """Of the terminal, with the blanks around it."""

    def on_click(self, event: events.Click) -> None:
        """Tell the key."""
        event.stop()
        if event.chain == 1:
            self.post_message(self.Pressed(self.key))


class Taps(Vertical):
    """Keys to click, in as many rows as they need; `show` replaces them where they differ."""

    DEFAULT_CSS = """
    Taps { height: auto; }
    Taps > Horizontal { height: 1; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.keys: list[tuple[str, str]] = []
        self._room = 0

    def show(self, keys: list[tuple[str, str]]) -> None:
        """(key, word) of each."""
        if self.is_attached and (keys != self.keys or self._room != self.size.width):
            self.keys, self._room = keys, self.size.width
            self.remove_children()
            self.mount_all(Horizontal(*row) for row in self._rows())

    def on_resize(self) -> None:
        """As many in a row as there is room for now."""
        self.show(self.keys)

    def _rows(self) -> list[list[Tap]]:
        rows: list[list[Tap]] = []
        left = 0
        for key, word in self.keys:
            tap = Tap(key, word)
            if not rows or tap.columns > left:
                rows.append([])
                left = self._room
            rows[-1].append(tap)
            left -= tap.columns
        return rows


class Dialog(ModalScreen[str | None]):
    """A box with text, keys, and perhaps a line to write; gives the key or the line, None for Esc.

    Return decides nothing, unless a line was written. The title is ours, never a process's: it is
    markup.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", show=False)]
    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > #box {
        width: 90%; max-width: 100; height: auto; max-height: 90%;
        border: round $primary; padding: 0 1; background: $surface;
    }
    Dialog #text { height: auto; }
    Dialog #problem { color: $error; height: auto; }
    Dialog #keys { dock: bottom; background: $surface; }
    """

    def __init__(
        self,
        title: str,
        lines: Iterable[Line],
        keys: Iterable[tuple[str, str]] = (),
        *,
        line: str | None = None,
        problem: str = "",
    ) -> None:
        super().__init__()
        self.heading, self.lines, self.line, self.problem = title, list(lines), line, problem
        self.keys = [*keys, ("esc", "close" if line is None else "leave it")]

    def compose(self) -> ComposeResult:
        """The box."""
        with VerticalScroll(id="box") as box:
            box.border_title = self.heading
            yield Static(painted(self.lines), id="text")
            if self.line is not None:
                yield Input(self.line, id="line", select_on_focus=False)
            yield Static(Text(self.problem), id="problem")
            yield Taps(id="keys")

    def on_mount(self) -> None:
        """The line has the focus, or nothing that Return could press."""
        self.query_one(Taps).show(self.keys)
        if self.line is not None:
            self.query_one(Input).focus()
        else:
            self.query_one("#box").focus()

    def on_key(self, event: events.Key) -> None:
        """A key of this dialog closes it."""
        if self.line is None and event.character in dict(self.keys):
            event.stop()
            self.dismiss(event.character)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The line is written."""
        event.stop()
        if event.value.strip():
            self.dismiss(event.value.strip())

    def on_tap_pressed(self, event: Tap.Pressed) -> None:
        """A key was clicked."""
        event.stop()
        self.dismiss(None if event.key == "esc" else event.key)

    def action_leave(self) -> None:
        """Nothing is done."""
        self.dismiss(None)
