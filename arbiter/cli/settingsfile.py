"""arbiter.toml, where commands read it."""

from __future__ import annotations

from pathlib import Path

from arbiter.rootfiles import UnbelievedError, believed, check_folder, read_small, reason
from arbiter.settings import MAX_TEXT, Settings, SettingsError, load


def read_settings(config: Path) -> Settings:
    """The settings of a directory; the defaults where it has no arbiter.toml.

    Raises SettingsError, also where others than root may write it.
    """
    path = config / "arbiter.toml"
    owners = believed()
    try:
        check_folder(config, owners)
    except FileNotFoundError:
        return load("", str(path))
    except UnbelievedError as error:
        raise SettingsError(str(config), 0, "", f"none of its files is used: {error}") from None
    except OSError as error:
        raise SettingsError(str(config), 0, "", f"it cannot be read: {reason(error)}") from None
    try:
        return load(read_small(path, 4 * MAX_TEXT, owners), str(path))
    except FileNotFoundError:
        if path.is_symlink():  # somebody wanted settings, and the defaults are others
            raise SettingsError(str(path), 0, "", "it is a link to no file") from None
        return load("", str(path))
    except UnbelievedError as error:
        raise SettingsError(str(path), 0, "", f"it is not used: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), 0, "", f"it cannot be read: {reason(error)}") from None
