"""arbiter.toml, where commands read it."""

from __future__ import annotations

from pathlib import Path

from arbiter.settings import Settings, load


def read_settings(config: Path) -> Settings:
    """The settings of a directory; the defaults where it has no arbiter.toml.

    Raises OSError, UnicodeDecodeError and SettingsError.
    """
    path = config / "arbiter.toml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return load(text, str(path))
