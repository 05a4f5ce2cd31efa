"""The command, by its name and as `python -m arbiter`."""

from __future__ import annotations

import sys


def main() -> None:
    """Load it and run it. Ctrl-C while it loads ends it, and with no more words than later."""
    try:
        from arbiter.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
