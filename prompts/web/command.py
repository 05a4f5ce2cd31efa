"""The command line of `arbiter prompt web`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    envvar="ARBITER_WEB_PORT",
    show_envvar=True,
    help="The port on 127.0.0.1 and ::1; 0: one that is free.  [default: 0]",
)
@click.option(
    "--url-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the address there, for you only, instead of printing it.",
)
def web(socket_path: Path, port: int, url_file: Path | None) -> None:
    """Ask in a browser on this machine, until Ctrl-C: questions, connections, apps, links, rules,
    the audit.

    Prints an address with a secret, once: whoever has it may answer for you. It serves loopback
    only, and loads nothing from elsewhere.
    """
    try:  # not for `--help`: it needs the web server's packages
        from prompts.web.serve import serve
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn"):
            raise
        text = f"the web console needs {missing}: pip install 'nfarbiter[web]'"
        sys.stderr.write(f"arbiter prompt: {text}; `arbiter prompt terminal` works without\n")
        sys.exit(1)
    sys.exit(asyncio.run(serve(str(socket_path), port, url_file)))
