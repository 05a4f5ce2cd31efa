"""`arbiter completion`: the scripts that make a shell complete our command lines."""

from __future__ import annotations

import os
import re
import shlex

import click
from click.shell_completion import (
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

VARIABLE = "_ARBITER_COMPLETE"
"""Set by the scripts: then the program completes instead of doing anything (click's way)."""
_PLAIN = re.compile(r"[\w@%+=:,./-]*", re.ASCII)

BASH = """\
# Completion for arbiter, in bash. Made by `arbiter completion bash`.
_arbiter_completion() {
    # The line as it was typed: bash breaks words at = and :, of which rules are full. What it
    # inserts replaces only what is behind the last of those.
    local line=${COMP_LINE:0:COMP_POINT} word before kind value
    word=${line##*[[:space:]]}
    before=${word%%"${word##*[=:]}"}
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        plain)
            COMPREPLY+=("${value#"$before"}")
            [[ $value == *= ]] && compopt -o nospace
            ;;
        esac
    done < <(COMP_WORDS=$line %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F _arbiter_completion %(prog_name)s
"""


class _Bash(ShellComplete):
    """Ours: click's own knows nothing of words with = in them, and quotes nothing."""

    name = "bash"
    source_template = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1].isspace() else (words[:-1], words[-1])

    def format_completion(self, item: CompletionItem) -> str:
        # A value may come from a program's path: typed in, it must not become a command.
        value = item.value if _PLAIN.fullmatch(item.value) else shlex.quote(item.value)
        return f"{item.type},{value}"


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "fish": FishComplete, "zsh": ZshComplete}


def ready() -> None:
    """Complete by the classes of here, where a shell asks for it."""
    add_completion_class(_Bash)


def script(shell: str) -> str:
    """What the shell reads."""
    from arbiter.cli import cli

    made = _SHELLS[shell](cli, {}, "arbiter", VARIABLE)
    # Not click's own `source` of bash: that runs one, to ask for its version.
    return ShellComplete.source(made).strip() + "\n"


@click.command()
@click.argument("shell", type=click.Choice(sorted(_SHELLS)))
def completion(shell: str) -> None:
    """Print the completion script of a shell: bash, zsh or fish.

    For this bash only: `source <(arbiter completion bash)`. For all: write it to
    ~/.local/share/bash-completion/completions/arbiter; for zsh to _arbiter in a directory of
    $fpath; for fish to ~/.config/fish/completions/arbiter.fish. Packages bring them along.
    """
    click.echo(script(shell), nl=False)
