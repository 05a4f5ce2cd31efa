"""What an ask offers: the rules an answer may make, narrowest first."""

from __future__ import annotations

from collections.abc import Sequence

from arbiter.model import ALLOW, PORT_PROTOS, Ancestor, App, Flow, Hook
from arbiter.rules.rule import Address, Rule, is_number, plain


def scopes_for(
    app: App | None,
    ancestors: Sequence[Ancestor],
    user: str,
    flow: Flow,
    hook: Hook = Hook.OUT,
    *,
    admin: bool,
    uid: int | None = None,
) -> tuple[tuple[str, Rule], ...]:
    """(scope id, rule) pairs; each rule matches the flow, and its decision ALLOW is a placeholder.

    Ids are `connection`, `host`, `port`, `parent`, `app`, `destination`; what the flow has not
    (an owner, ports, a parent worth naming) is left out. A person who is not `admin` gets rules
    for `user` only, and none at all where nobody knows the user. Give `uid` where it is known: a
    user whose *name* is all digits can only be meant by uid. A hook other than out is kept in
    the rule.
    """
    who = _user(user, uid)
    if not admin and not who:
        return ()
    host = Address(plain(flow.daddr))
    has_ports = flow.proto in PORT_PROTOS
    base = Rule(
        ALLOW,
        app=app.id if app is not None else "",
        user="" if admin else who,
        hook=None if hook is Hook.OUT else hook,
    )
    exact = base.replace(
        host=host, proto=flow.proto, ports=((flow.dport, flow.dport),) if has_ports else ()
    )
    destination = ("destination", exact.replace(app=""))
    if not base.app:
        return (destination,)
    offered = [("connection", exact), ("host", base.replace(host=host))]
    if has_ports:
        offered.append(("port", exact.replace(host=None)))
    parent = _parent(base.app, ancestors)
    if parent:
        offered.append(("parent", base.replace(parent=parent)))
    offered.append(("app", base))
    if admin:
        offered.append(destination)
    return tuple(offered)


def _user(user: str, uid: int | None) -> str:
    if uid is not None and (not user or is_number(user)):
        return str(uid)
    return user


def _parent(app: str, ancestors: Sequence[Ancestor]) -> str:
    """The nearest ancestor that says more than the app itself; pid 1 started everything."""
    for ancestor in ancestors:
        if ancestor.pid != 1 and ancestor.app.id not in ("", app):
            return ancestor.app.id
    return ""
