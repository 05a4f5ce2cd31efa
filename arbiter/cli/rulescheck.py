"""`arbiter rules check`: what is wrong with policy files, before they are anywhere in force."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import click

from arbiter.cli.common import (
    STATE,
    config_option,
    db_option,
    fail,
    json_option,
    show_json,
)
from arbiter.cli.ruleslint import check_rules
from arbiter.cli.rulesmachine import Machine
from arbiter.identity import stable_path
from arbiter.packages import find
from arbiter.policyfiles import PolicyFile, PolicyFileError, examine
from arbiter.policyfiles.check import (
    AppFacts,
    Finding,
    Kind,
    Level,
    beside,
    missing,
    of_errors,
    of_file,
    paths_of,
)
from arbiter.policystate import ETC, SHIPPED, UnsafeError, owner_faults, policy_files, read_text
from arbiter.protocol import clean

_ADMINS_KEYS = frozenset({"rule", "rules", "adopt"})


@click.command()
@click.argument(
    "paths",
    type=click.Path(exists=True, path_type=Path),
    nargs=-1,
    metavar="[PATH]...",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "admin", "package"]),
    default="auto",
    show_default=True,
    help="What the files are; auto goes by where they are and by what they hold.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Where the programs are that the files speak of, such as a package's build tree.",
)
@click.option(
    "--here",
    is_flag=True,
    help="Say, too, which users, groups and links of the files this machine has not.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option(
    "--unused-for",
    type=click.IntRange(1, 36500),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Without PATH: how long a rule decides nothing before it is said.",
)
@config_option("The directory of policy.d and links.d.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, readable=False),
    default=STATE,
    envvar="ARBITER_STATE",
    show_default=True,
    show_envvar=True,
    help="The daemon's state directory: it keeps which links there were.",
)
@db_option
@json_option
def check(
    paths: tuple[Path, ...],
    kind: str,
    root: Path,
    here: bool,
    strict: bool,
    unused_for: int,
    config: Path,
    state: Path,
    db: Path,
    as_json: bool,
) -> None:
    """Check policy files, or folders of them; neither daemon nor root is needed.

    Without PATH: check the rules in force against each other, and say which never decide, need not
    be there, contradict others, were not used for long, or speak of programs, users and links that
    are gone. What expired in that time is listed.

    Installed files (in /etc/arbiter/policy.d and /usr/share/arbiter/policy.d) are also checked for
    who may write them, and shipped ones for whether their package owns the program.

    Exit codes: 0 what is checked can be used, 1 there are errors.
    """
    if not paths:
        warnings, faults = check_rules(db, config, state, unused_for, as_json)
        if faults:
            fail("\n".join(faults))
        sys.exit(1 if warnings and strict else 0)
    names = list(dict.fromkeys(file for path in paths for file in _files_of(path)))
    files: list[PolicyFile] = []
    findings = [finding for name in names for finding in _check(name, kind, root, files)]
    findings += beside(files)
    if here:
        machine = Machine(config, state, db)
        findings += missing(files, machine.here(None, apps=False))
        if machine.problem:
            click.echo(f"arbiter: note: {clean(machine.problem)}", err=True)
    order = {str(name): place for place, name in enumerate(names)}
    findings.sort(key=lambda finding: (order[finding.file], finding.line))
    if as_json:
        show_json(findings)
    else:
        _show(findings, len(names))
    bad = findings if strict else [f for f in findings if f.level is Level.ERROR]
    sys.exit(1 if bad else 0)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = policy_files(path)
    if not files:
        fail(f"{clean(str(path))} holds no policy file: their names end in .toml")
    return files


def _check(path: Path, kind: str, root: Path, good: list[PolicyFile]) -> list[Finding]:
    """What is to be said of one file by itself; one that can be used is added to `good`."""
    folder = path.parent.resolve()
    installed = folder in (ETC, SHIPPED)
    owners = {0} if installed else None
    try:
        text = read_text(path, owners=owners, follow=folder != SHIPPED)
    except UnsafeError as error:
        return of_errors([error], Kind.UNSAFE)
    except PolicyFileError as error:
        return of_errors([error])
    if kind == "auto" and installed:
        kind = "package" if folder == SHIPPED else "admin"
    elif kind == "auto":
        kind = "admin" if _says_admin(text) else "package"
    if line := _rule_line(text):
        why = "this is a rule of a file of rules: `arbiter rules import --dry-run` checks those"
        return of_errors([PolicyFileError(str(path), line, "", why)])
    file, errors = examine(text, str(path), shipped=kind == "package")
    if file is None:
        return of_errors(errors)
    good.append(file)
    found = {app: _look(app, root) for app in paths_of(file)}
    unsafe = _ownership(file) if folder == SHIPPED else []
    return [*of_errors(unsafe, Kind.UNSAFE), *of_file(file, found)]


def _rule_line(text: str) -> int:
    """The line of a text that begins, but for comments, with a rule, which no TOML does; else 0."""
    for number, line in enumerate(text.split("\n"), 1):
        first, *rest = line.split(None, 1) or [""]
        if first and not first.startswith("#"):
            is_rule = first in ("allow", "deny", "route") and rest and not rest[0].startswith("=")
            return number if is_rule else 0
    return 0


def _says_admin(text: str) -> bool:
    """Whether a file that could be anywhere is an administrator's: it has rules, or nothing."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return not data or (bool(data.keys() & _ADMINS_KEYS) and "application" not in data)


def _ownership(file: PolicyFile) -> list[UnsafeError]:
    packages = find()
    if packages is None:
        text = "which package owns it cannot be told here: only dpkg's records can be read"
        return [UnsafeError(file.origin, 0, "", text)]
    try:
        return owner_faults([file], packages)
    except OSError as error:
        return [UnsafeError(file.origin, 0, "", f"which package owns it cannot be read: {error}")]


def _look(app: str, root: Path) -> AppFacts:
    path = root / app.lstrip("/")
    try:
        # Only where it is the real root: links of a build tree lead out of it.
        resolved = stable_path(os.path.realpath(path)) if root == Path("/") else ""
        with open(path, "rb") as file:
            return AppFacts(resolved=resolved, script=file.read(2) == b"#!")
    except (FileNotFoundError, NotADirectoryError):
        return AppFacts(exists=False)
    except (OSError, ValueError):
        return AppFacts()  # there, and not ours to read: nothing is known against it


def _show(findings: list[Finding], count: int) -> None:
    for finding in findings:
        place = f"{finding.file}:{finding.line}" if finding.line else finding.file
        click.echo(clean(f"{place}: {finding.level}: {finding.text} [{finding.kind}]"))
    errors = sum(finding.level is Level.ERROR for finding in findings)
    click.echo(
        f"{_counted(count, 'file')}, {_counted(errors, 'error')}, "
        f"{_counted(len(findings) - errors, 'warning')}"
    )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
