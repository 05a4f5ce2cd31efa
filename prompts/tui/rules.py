"""The tab of rules: a list with search; `arbiter rules` changes them, as this user."""

from __future__ import annotations

import time
from typing import Any

from textual.app import ComposeResult
from textual.widgets import Input

from prompts.cards import Style
from prompts.render import tidy
from prompts.screen import Line, Span
from prompts.tui.pane import Host, Pane, words_match
from prompts.tui.parts import pairs
from prompts.tui.sheet import Column, Sheet

COLUMNS = (
    Column("id", 5, right=True),
    Column("rule", 24, share=6),
    Column("by", 8, drop=2),
    Column("from", 8, drop=4),
    Column("since", 10, drop=3),
    Column("ends", 16, drop=1),
)
_ADD_HELP = (
    "allow, deny or route via=LINK, then conditions: app= host= port= proto= user= for=",
    "for example: deny app=/usr/bin/curl host=lan for=1h",
)
Row = dict[str, Any]


def when(at: object) -> str:
    """`2026-11-26 14:03`, this machine's time."""
    if not isinstance(at, int | float):
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def ends(row: Row) -> str:
    """When a rule ends by itself."""
    if row.get("expires") is not None:
        return when(row["expires"])
    if row.get("process"):
        return "with its program"
    line = str(row.get("rule", ""))
    if line.endswith(" for=session"):
        return "with arbiter"
    return "at reboot" if line.endswith(" for=boot") else "never"


def cells(row: Row, _: float) -> list[str | Span]:
    """One rule; denials red."""
    line = tidy(str(row.get("rule", "")))
    style = Style.BAD if line.startswith("deny") else Style.PLAIN
    return [
        str(row.get("id", "")),
        (line, style),
        tidy(str(row.get("by", ""))),
        tidy(str(row.get("frontend", ""))),
        when(row.get("created"))[:10],
        ends(row),
    ]


def last_step(history: list[Row]) -> Row | None:
    """The step that undo would take back: the newest that nobody took back, that is no undo
    itself, and of which nothing was deleted."""
    by_hand = {"remembered", "replaced", "removed", "imported"}  # `arbiter rules history --json`
    for step in reversed(history):
        changes = step.get("changes", [])
        mine = any(change.get("reason") in by_hand for change in changes)
        able = not step.get("undone") and step.get("undoes") is None
        if mine and able and step.get("whole", True):
            return step
    return None


def step_lines(step: Row) -> list[Line]:
    """What taking this step back does."""
    what = {"added": "goes", "retired": "comes back"}
    facts = [("done", f"{when(step.get('time'))} by {tidy(str(step.get('by', '')))}")]
    facts += [
        (what.get(str(change.get("change")), "?"), tidy(str(change.get("rule", ""))))
        for change in step.get("changes", [])
    ]
    return pairs(facts)


READING = "reading the rules ..."
"""Stands where they will be, until they were read for the first time."""


class RulesPane(Pane):
    """Reads the list when it is opened, after each change, and when `r` says so."""

    HINT = "/ search  a add  e edit  x remove  u undo  r read again  Enter details"
    DEFAULT_CSS = "RulesPane #search { display: none; height: 3; }"

    def __init__(self, host: Host) -> None:
        super().__init__(host, id="rules-pane")
        self.rows: list[Row] = []
        self.problem = READING
        self.search = Input(placeholder="words of the rules to show", id="search")
        self.sheet = Sheet[Row](
            COLUMNS, cells, lambda row: row.get("id"), id="rules", empty=READING
        )

    def compose(self) -> ComposeResult:
        """Search and sheet."""
        yield self.search
        yield self.sheet

    def opened(self) -> None:
        """The keys go to the sheet, and the list is read."""
        self.sheet.focus()
        self.do_read()

    def do_read(self) -> None:
        """Read the list again."""
        self.host.start(self.read)

    async def read(self) -> None:
        """`arbiter rules list`; why it cannot be read stands where it would be."""
        done = await self.host.commands.run("rules", "list", "--json")
        self.rows, self.problem = done.rows(), done.said
        self.show(again=True)

    def show(self, again: bool = False) -> None:
        """The rules that match the search."""
        wanted, sheet = self.search.value, self.sheet
        rows = [
            row
            for row in self.rows
            if words_match(wanted, f"{row.get('id')} {row.get('rule')} {row.get('by')}".lower())
        ]
        sheet.empty = self.problem or (
            "no rule matches" if self.rows else "no rules are remembered"
        )
        sheet.show(rows, self.host.now(), again=again)
        sheet.border_title = f"{len(rows)} of {len(self.rows)} rules" if self.rows else ""

    def resized(self) -> None:
        """The same rows in another width."""
        self.show()

    # --- keys -------------------------------------------------------------------------------

    def do_filter(self) -> None:
        """Write a search."""
        self.search.display = True
        self.search.focus()

    def on_input_changed(self) -> None:
        """Show at once what matches."""
        self.show(again=True)

    def on_input_submitted(self) -> None:
        """Back to the rows; the search stays."""
        self.search.display = bool(self.search.value)
        self.sheet.focus()

    def leave_filter(self) -> None:
        """No search any more."""
        self.search.value = ""
        self.search.display = False
        self.sheet.focus()

    def on_sheet_opened(self) -> None:
        """Everything about one."""
        row = self._chosen()
        if row is not None:
            known = ("id", "rule", "by", "frontend", "layer")
            facts = [(key, tidy(str(row.get(key, "")))) for key in known]
            facts += [("since", when(row.get("created"))), ("ends", ends(row))]
            self.host.start(lambda: self._told("a rule", pairs(facts)))

    async def _told(self, title: str, lines: list[Line]) -> None:
        await self.host.dialog(title, lines)

    def _chosen(self) -> Row | None:
        row: Row | None = self.sheet.chosen
        if row is None:
            self.host.say("choose a rule first: Up and Down, or a click")
        return row

    def do_add(self) -> None:
        """A new rule."""
        lines: list[Line] = [((text, Style.DIM),) for text in _ADD_HELP]
        self.host.start(lambda: self._write("add a rule", lines, "", ()))

    def do_edit(self) -> None:
        """Another rule in the place of this one, in one step."""
        row = self._chosen()
        if row is not None:
            id, line = str(row.get("id")), str(row.get("rule"))
            lines: list[Line] = [((f"in place of rule {id}: {tidy(line)}", Style.DIM),)]
            option = ("--instead-of", id)
            self.host.start(lambda: self._write("edit a rule", lines, line, option))

    async def _write(
        self, title: str, lines: list[Line], line: str, option: tuple[str, ...]
    ) -> None:
        """Until it is a rule, or left."""
        problem = ""
        while (
            written := await self.host.dialog(title, lines, line=line, problem=problem)
        ) is not None:
            done = await self.host.commands.run("rules", "add", *option, "--", written)
            line, problem = written, done.said
            if done.code == 0:
                self._done(done.out, done.said)
                await self.read()
                return

    def do_remove(self) -> None:
        """Not without a yes."""
        row = self._chosen()
        if row is not None:
            id, line = str(row.get("id")), tidy(str(row.get("rule")))
            self.host.start(lambda: self._remove(id, line))

    async def _remove(self, id: str, line: str) -> None:
        lines: list[Line] = [((line, Style.BOLD),), (("u brings it back", Style.DIM),)]
        if await self.host.dialog(f"remove rule {id}?", lines, [("y", "remove")]) == "y":
            await self._change("rules", "remove", id)

    def do_undo(self) -> None:
        """Take the last change back, once it was seen what that is."""
        self.host.start(self._undo)

    async def _undo(self) -> None:
        done = await self.host.commands.run("rules", "history", "--last", "100", "--json")
        step = last_step(done.rows())
        if step is None:
            self.host.say(done.said or "there is nothing to undo", Style.WARN)
            return
        asked = await self.host.dialog("undo this?", step_lines(step), [("y", "undo")])
        if asked == "y":
            await self._change("rules", "undo", str(step.get("step")))

    async def _change(self, *argv: str) -> None:
        done = await self.host.commands.run(*argv)
        if done.code:
            self.host.say(done.said.replace("\n", " "), Style.BAD)
        else:
            self._done(done.out, done.said)
        await self.read()

    def _done(self, out: str, said: str) -> None:
        text = " ".join(tidy(line).strip() for line in (*out.splitlines(), *said.splitlines()))
        self.host.say(text, Style.WARN if said else Style.GOOD)
