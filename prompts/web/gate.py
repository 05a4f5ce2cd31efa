"""Who may come in. Pure.

Every local user, and every page in the person's browser, can connect to a port on loopback. So:

- Host must be this address and port: a name that was rebound to loopback (DNS) is none.
- Everything but the page's own files is a POST whose Origin is this host: no other site.
- It needs a cookie and a key in a header, both got for the token of the printed URL. Cookies are
  shared between the ports of a host (RFC 6265, 8.5), so that a server of another local user would
  be sent the cookie; the key is in the page's own storage, which scripts can read. Neither is
  enough alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_HEADER = "x-arbiter-key"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""On every response."""


def _secret() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Gate:
    """The secrets of one run of the console, and what a request must have."""

    port: int
    token: str = field(default_factory=_secret, repr=False)
    """In the printed URL, after the #: it is in no request line, no log and no Referer."""
    cookie: str = field(default_factory=_secret, repr=False)
    key: str = field(default_factory=_secret, repr=False)

    @property
    def cookie_name(self) -> str:
        """With the port: two consoles of one person do not log each other out."""
        return f"arbiter_{self.port}"

    @property
    def set_cookie(self) -> str:
        """The header's value. No Secure: it is plain HTTP, and never leaves this machine."""
        return f"{self.cookie_name}={self.cookie}; Path=/; HttpOnly; SameSite=Strict"

    def hosts(self) -> tuple[str, ...]:
        """What Host may be."""
        return tuple(f"{host}:{self.port}" for host in ("127.0.0.1", "[::1]", "localhost"))

    def url(self, host: str = "127.0.0.1") -> str:
        """What is printed, once."""
        return f"http://{host}:{self.port}/#{self.token}"

    def host_fault(self, headers: Mapping[str, str]) -> str:
        """Why a request is not to this console; "" if it is."""
        if headers.get("host", "") in self.hosts():
            return ""
        return f"this is no name of the web console: open {' or '.join(self.hosts())}"

    def origin_fault(self, headers: Mapping[str, str]) -> str:
        """Why a request is not from a page of this console; "" if it is."""
        if headers.get("origin", "") == f"http://{headers.get('host', '')}":
            return ""
        return "only a page of this console may ask for that"

    def token_fault(self, token: str) -> str:
        """Why it is not the token; "" if it is. Takes the same time for every wrong one."""
        if secrets.compare_digest(token.encode(), self.token.encode()):
            return ""
        return "this is not the token: open the whole address that `arbiter prompt web` printed"

    def login_fault(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
        """Why a request is not from whoever had the token; "" if it is."""
        cookie = cookies.get(self.cookie_name, "").encode()
        key = headers.get(KEY_HEADER, "").encode()
        good = secrets.compare_digest(cookie, self.cookie.encode())
        if secrets.compare_digest(key, self.key.encode()) and good:
            return ""
        return "not logged in: open the whole address that `arbiter prompt web` printed"
