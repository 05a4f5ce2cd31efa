"""Users and their groups by number, from the machine's databases of them (nsswitch.conf(5))."""

from __future__ import annotations

import grp
import os
import pwd
import time

_users: dict[int, str] = {}


def user_name(uid: int) -> str:
    """The user's name, or the number in digits. Known names are cached; may ask NSS (LDAP)."""
    name = _users.get(uid)
    if name is None:
        try:
            name = pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            return str(uid)  # not cached: the user may be added later
        if len(_users) >= 1024:
            _users.clear()
        _users[uid] = name
    return name


_groups: dict[int, tuple[float, tuple[str, ...], tuple[int, ...]]] = {}
GROUPS_FOR = 300.0
"""Seconds for which the groups of a user are believed; a new one counts at the next login."""


def user_groups(uid: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and numbers of the groups that a user is in; may ask NSS, as `user_name`."""
    now = time.monotonic()
    known = _groups.get(uid)
    if known is not None and now - known[0] < GROUPS_FOR:
        return known[1], known[2]
    try:
        user = pwd.getpwuid(uid)
        gids = tuple(dict.fromkeys(os.getgrouplist(user.pw_name, user.pw_gid)))
    except (KeyError, OverflowError):
        gids = ()
    names = tuple(name for gid in gids if (name := _group_name(gid)))
    if len(_groups) >= 1024:
        _groups.clear()
    _groups[uid] = (now, names, gids)
    return names, gids


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
