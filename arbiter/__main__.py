"""`python -m arbiter`: the same as the command."""

from arbiter.cli import main

main()
