"""`arbiter prompt tui`: the full-screen prompt. `start.run` begins it; docs/tui.md describes it."""
