"""The manual pages, one a command, from what the commands say of themselves (click).

`python packaging/manpages.py FOLDER` writes them; tests/test_manpages.py keeps those of
packaging/share/man as they must be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from arbiter import __version__
from arbiter.cli import cli

EXITS = (
    ("0", "done"),
    ("1", "refused, or not found"),
    ("2", "usage"),
    ("3", "the daemon cannot be reached"),
)
_COMMAND = re.compile(r"`([^`]+)`")


def pages() -> dict[str, str]:
    """The text of each page, by its file's name."""
    made = {}
    root = click.Context(cli, info_name="arbiter", **cli.context_settings)
    for path, command, context in commands(cli, root):
        made[f"{'-'.join(path)}.1"] = page(path, command, context)
    return made


def commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[list[str], click.Command, click.Context]]:
    """Every command and its subcommands, with the words that name it."""
    yield context.command_path.split(), command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            if not found.hidden:
                yield from commands(found, click.Context(found, parent=context, info_name=name))


def page(path: list[str], command: click.Command, context: click.Context) -> str:
    """One page in man(7)'s macros."""
    name = "-".join(path)
    about = (command.help or "").strip()
    first, _, rest = about.partition("\n")
    lines = [
        '.\\" Made from the command itself: packaging/manpages.py',
        f'.TH {name.upper()} 1 "" "arbiter {__version__}" "Arbiter"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(short(about))}",
        ".SH SYNOPSIS",
        f".B {escaped(' '.join(path))}",
        escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *paragraphs(f"{first}\n{rest}"),
    ]
    shown = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    options = [record for p in shown if (record := p.get_help_record(context))]
    lines += entries("OPTIONS", [(bold_words(names), text) for names, text in options])
    if isinstance(command, click.Group):
        below = [(sub, command.get_command(context, sub)) for sub in command.list_commands(context)]
        rows = [
            (f"\\fB{escaped(f'{name}-{n}')}\\fR(1)", short(c.help or "")) for n, c in below if c
        ]
        lines += entries("COMMANDS", rows)
    variables = [(str(p.envvar), p.help or "") for p in shown if p.envvar and p.show_envvar]
    lines += entries("ENVIRONMENT", [(f"\\fB{n}\\fR", text) for n, text in variables])
    lines += entries("EXIT STATUS", [(f"\\fB{code}\\fR", text) for code, text in EXITS])
    lines += [".SH SEE ALSO", see_also(path)]
    return "\n".join(lines) + "\n"


def short(text: str) -> str:
    """The first sentence, without its full stop, as NAME wants it."""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])[.:](?: |$)", first)[0]


def see_also(path: list[str]) -> str:
    """The page above, and the first of all."""
    above = ["-".join(path[:end]) for end in range(1, len(path))] or ["nft", "conntrack"]
    section = 1 if len(path) > 1 else 8
    return ", ".join(f"\\fB{escaped(name)}\\fR({section})" for name in dict.fromkeys(above))


def entries(title: str, rows: list[tuple[str, str]]) -> list[str]:
    """A section of terms and their explanations; none without rows."""
    lines = [f".SH {title}"] if rows else []
    for term, text in rows:
        lines += [".TP", term, running(" ".join(text.split()))]
    return lines


def paragraphs(text: str) -> list[str]:
    """Running text, a paragraph at each empty line."""
    parts = [" ".join(part.split()) for part in text.split("\n\n")]
    lines: list[str] = []
    for part in parts:
        if part:
            lines += [".PP"] if lines else []
            lines.append(running(part))
    return lines


def running(text: str) -> str:
    """Text with what stands in backticks in bold."""
    return start(_COMMAND.sub(lambda found: f"\\fB{found[1]}\\fR", escaped(text)))


def bold_words(text: str) -> str:
    """`-h, --help`, the names in bold and the rest as it is."""
    return start(re.sub(r"(?<![\w-])((?:\\-){1,2}[\w-]+(?:\\-\w+)*)", r"\\fB\1\\fR", escaped(text)))


def escaped(text: str) -> str:
    """Text as roff reads it: no escapes, and a minus that can be copied."""
    text = text.replace("\\", "\\(rs").replace("-", "\\-").replace("'", "\\(aq")
    return text.replace("^", "\\(ha").replace("~", "\\(ti")


def start(line: str) -> str:
    """A line of text that does not begin like a macro."""
    return f"\\&{line}" if line[:1] in (".", "'") else line


def write(folder: Path) -> None:
    """All pages into a folder, and those away that are none any more."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in folder.glob("*.1"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
