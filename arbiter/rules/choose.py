"""What an ask offers: the rules an answer may make, narrowest first."""

from __future__ import annotations

from collections.abc import Sequence

from arbiter.model import ALLOW, PORT_PROTOS, Ancestor, App, Flow, Hook
from arbiter.rules.names import name_fault, suffix
from arbiter.rules.rule import Address, Domain, Name, Rule, is_number, plain


def scopes_for(
    app: App | None,
    ancestors: Sequence[Ancestor],
    user: str,
    flow: Flow,
    hook: Hook = Hook.OUT,
    *,
    admin: bool,
    uid: int | None = None,
    names: Sequence[str] = (),
) -> tuple[tuple[str, Rule], ...]:
    """(scope id, rule) pairs; each rule matches the flow, and its decision ALLOW is a placeholder.

    Ids are `connection`, `name`, `host`, `domain`, `port`, `parent`, `app`, `destination`; what the
    flow has not (an owner, a name, ports, a parent worth naming) is left out. `names` are those by
    which the app looked up the destination, in their one spelling, the likeliest first: `name` and
    `domain` (see `parent_domain`) speak of that one, and of the flow's port and protocol. A person
    who is not `admin` gets rules for `user` only, and none at all where nobody knows the user.
    Give `uid` where it is known: a user whose *name* is all digits can only be meant by uid. A
    hook other than out is kept in the rule.
    """
    who = user_word(user, uid)
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
    offered = [("connection", exact)]
    name = next((name for name in names if not name_fault(name)), "")
    if name:
        offered.append(("name", exact.replace(host=Name(name))))
    offered.append(("host", base.replace(host=host)))
    domain = parent_domain(name)
    if domain:
        offered.append(("domain", exact.replace(host=Domain(domain))))
    if has_ports:
        offered.append(("port", exact.replace(host=None)))
    parent = _parent(base.app, ancestors)
    if parent:
        offered.append(("parent", base.replace(parent=parent)))
    offered.append(("app", base))
    if admin:
        offered.append(destination)
    return tuple(offered)


def parent_domain(name: str) -> str:
    """What `*.` may be offered for a name: its last two labels, or "" if it has no more.

    Three where two look like a registry's own domain (`co.uk`, `com.au`, `ac.jp`): nothing here
    knows all of them, so that where it is wrong, `*.` covers less. It does not know what hosters
    give to others (`github.io`); people see in the prompt what the rule would match.
    """
    domain = suffix(name, 2)
    second, _, top = domain.partition(".")
    if len(top) == 2 and len(second) <= 3:
        domain = suffix(name, 3)
    return domain


def user_word(user: str, uid: int | None) -> str:
    """How `user=` names a user; "" if it cannot.

    Names that a rule would take for a uid or a group are meant by uid, or not at all.
    """
    if user and not is_number(user) and not user.startswith("@"):
        return user
    return str(uid) if uid is not None else ""


def _parent(app: str, ancestors: Sequence[Ancestor]) -> str:
    """The nearest ancestor that says more than the app itself; pid 1 started everything."""
    for ancestor in ancestors:
        if ancestor.pid != 1 and ancestor.app.id not in ("", app):
            return ancestor.app.id
    return ""
