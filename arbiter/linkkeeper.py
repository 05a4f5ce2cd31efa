"""The daemon's links: found, numbered, routed, and told to the pipeline, one change at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from arbiter.events import Event, LinksChanged
from arbiter.kernel import firewall, linkloss, linksysctl, routes
from arbiter.kernel.rtnl import LinkWatch
from arbiter.linkfiles import LinkFile, load_all
from arbiter.links import FoundLink, Interface, assemble, remember
from arbiter.memory import now
from arbiter.model import Flow, Link
from arbiter.protocol import clean
from arbiter.routeplan import TABLE, LinkRoutes, RoutePlan

OWN_TABLES = range(TABLE + 1, TABLE + 32)
"""Our routing tables: one a link number."""
CONNECTED = frozenset({6, 17, 136})
"""TCP, UDP, UDP-Lite: protocols whose sockets can be ended."""
MAX_FLOWS = 8192
"""Routed flows kept for the loss of their link; the oldest go first."""
log = logging.getLogger("arbiter")


def sysctl_file() -> Path:
    """Where the old sysctls of this network namespace's links are kept, for who gives them back."""
    namespace = Path("/proc/self/ns/net").stat().st_ino
    return Path(f"/run/arbiter/sysctl-{namespace}.json")


def remove_routing() -> tuple[str, ...]:
    """Take every route, rule and sysctl of arbiter's away, daemon or not; gives all failures."""
    return (*routes.remove(), *linksysctl.restore(sysctl_file()))


class LinkKeeper:
    """What is in force for links follows what the kernel shows of interfaces.

    The order of a change: routes first (a mark without its table is unreachable), then the
    ruleset, then the pipeline, which may route over a new link only now.
    """

    def __init__(
        self,
        plan: firewall.Plan,
        backend: firewall.Backend,
        config: Path,
        state: Path,
        dispatch: Callable[[Event], None],
    ) -> None:
        self._plan, self._backend = plan, backend
        self._numbers = state / "links.json"
        self._dispatch = dispatch
        self._known = read_numbers(self._numbers)
        self._files, self._file_problems = read_files(config / "links.d")
        self._watch = LinkWatch(self._changed, self._trouble, own_tables=OWN_TABLES)
        self._seen: tuple[Interface, ...] = ()
        self._fresh = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._watch_problem = ""
        self._problems: tuple[str, ...] = ()
        self.links: tuple[FoundLink, ...] = ()
        self._flows: OrderedDict[Flow, int] = OrderedDict()

    async def start(self) -> None:
        """Put routing and ruleset in force, and follow what changes.

        Raises FirewallError, RouteError or OSError; what was done is undone by `close`.
        """
        conflicts = await asyncio.to_thread(routes.check, RoutePlan(mask=self._plan.mask))
        if conflicts:
            raise routes.RouteError("\n".join(conflicts))
        for problem in self._file_problems:
            log.error("%s", problem)
        await self._watch.start()
        await self._follow(first=True)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Follow no more. What is being put in force is waited for: its thread cannot be ended,
        and must not come after whoever takes the ruleset away."""
        await self._watch.close()
        self._stopping = True
        self._fresh.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Take the routing away, after `stop`; the ruleset is the caller's."""
        for problem in await asyncio.to_thread(remove_routing):
            log.error("%s", problem)

    def routed(self, number: int, flow: Flow) -> None:
        """A TCP or UDP flow leaves over link `number`: what to end if that link is lost."""
        if flow.proto in CONNECTED:
            self._flows[flow] = number
            self._flows.move_to_end(flow)
            if len(self._flows) > MAX_FLOWS:
                self._flows.popitem(last=False)

    def problems(self) -> tuple[str, ...]:
        """What is wrong with links now, each with its next step."""
        watch = (self._watch_problem,) if self._watch_problem else ()
        return (*watch, *self._file_problems, *self._problems)

    def _changed(self, interfaces: tuple[Interface, ...]) -> None:
        self._seen = interfaces
        self._fresh.set()

    def _trouble(self, problem: str) -> None:
        self._watch_problem = problem
        if problem:
            log.error("links: %s", problem)

    async def _run(self) -> None:
        while True:
            await self._fresh.wait()
            if self._stopping:
                return
            try:
                await self._follow()
            except (firewall.FirewallError, routes.RouteError, OSError) as error:
                # The last good state stays, and what lost its link is unreachable, not elsewhere.
                self._problems = (f"links: {error}",)
                log.error("%s", self._problems[0])

    def _forget(self, number: int) -> list[Flow]:
        flows = [flow for flow, link in self._flows.items() if link == number]
        for flow in flows:
            del self._flows[flow]
        return flows

    async def _follow(self, *, first: bool = False) -> None:
        self._fresh.clear()
        links = assemble(self._seen, self._files, self._known)
        self._known = remember(self._known, links)
        plan = structs.replace(
            self._plan, links=tuple((link.number, link.interface) for link in links)
        )
        routing = RoutePlan(links=tuple(map(_routes_of, links)), mask=self._plan.mask)
        names = [link.interface for link in links]
        await asyncio.to_thread(_write_numbers, self._numbers, self._known)
        problems = await asyncio.to_thread(linksysctl.apply, names, sysctl_file())
        await asyncio.to_thread(routes.apply, routing)
        if first or plan != self._plan:
            await asyncio.to_thread(firewall.apply, plan, self._backend)
            log.info("in force by %s: %s", self._backend.name, firewall.describe(plan))
        self._plan, self._problems = plan, problems
        for problem in problems:
            log.error("%s", problem)
        before, now_up = self.links, {link.number for link in links if link.up4 or link.up6}
        for lost in before:
            if (lost.up4 or lost.up6) and lost.number not in now_up:
                await asyncio.to_thread(_cut, lost, self._plan.mask, self._forget(lost.number))
        if links != self.links:
            log.info("links: %s", ", ".join(map(_shown, links)) or "none")
        self.links = links
        self._dispatch(LinksChanged(now(), tuple(map(_link_of, links))))


def _cut(link: FoundLink, mask: int, flows: list[Flow]) -> None:
    """End the connections of a link that is gone: their programs are told at once, and can try
    again; only their conntrack entries are forgotten. Sockets first, while those name them."""
    destroyed = linkloss.destroy_sockets(link.number, mask, (link.index,), flows)
    linkloss.forget_connections(link.number, mask)
    log.info("link %s is lost: %d sockets closed", clean(link.name), destroyed.sockets)
    for error in destroyed.errors:
        log.error("%s", error)


def _routes_of(link: FoundLink) -> LinkRoutes:
    return LinkRoutes(link.number, link.interface, link.index, link.up4, link.up6, link.routes)


def _link_of(link: FoundLink) -> Link:
    up = link.up4 or link.up6
    return Link(link.name, link.number, link.interface, up, link.up4, link.up6)


def _shown(link: FoundLink) -> str:
    families = [name for name, up in (("IPv4", link.up4), ("IPv6", link.up6)) if up]
    return clean(f"{link.name} ({link.interface}, {' and '.join(families) or 'down'})")


# --- files ----------------------------------------------------------------------------------


def read_files(folder: Path) -> tuple[tuple[LinkFile, ...], tuple[str, ...]]:
    """The good link files of a directory, and what is wrong with the others."""
    texts: dict[str, str] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            texts[str(path)] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path} cannot be read: {error}; the other links are in force")
    files, errors = load_all(texts)
    return files, (*problems, *map(str, errors))


def read_numbers(path: Path) -> dict[str, int]:
    """The numbers that links had, so that they have them again. OSError where it may not look."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        log.error("%s cannot be read: %s; links are numbered anew", path, error)
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: n for name, n in found.items() if isinstance(n, int) and 1 <= n <= 31}


def _write_numbers(path: Path, known: dict[str, int]) -> None:
    text = json.dumps(known, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)
