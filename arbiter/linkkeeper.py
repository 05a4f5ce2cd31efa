"""The daemon's links: found, numbered, routed, and told to the pipeline, one change at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import structs

from arbiter.accounts import Accounts, acct_file, not_silent
from arbiter.bus import FactsWatch
from arbiter.classes import Marking
from arbiter.events import LinksChanged
from arbiter.kernel import acct, firewall, linkloss, linksysctl, routes
from arbiter.kernel.filewatch import FileWatch
from arbiter.kernel.firewall.plan import check_interface
from arbiter.kernel.rtnl import LinkWatch
from arbiter.linkchange import both, ends, leading, link_of, replaced, state_of
from arbiter.linkfiles import LinkFile
from arbiter.links import FoundLink, Interface, LinkKind, assemble, is_link, remember
from arbiter.linkstate import SHIPPED, read_files, read_numbers, write_numbers
from arbiter.memory import now
from arbiter.model import TABLE, Flow, Link
from arbiter.netfacts import NetFacts
from arbiter.protocol import LinkState, clean
from arbiter.routeplan import LinkRoutes, RoutePlan
from arbiter.rulesetkeeper import RulesetKeeper

TABLES = 31
"""Our routing tables: one a link number."""
CONNECTED = frozenset({6, 17, 136})
"""TCP, UDP, UDP-Lite: protocols whose sockets can be ended."""
MAX_FLOWS = 8192
"""Flows of each kind kept for the loss of their link; the oldest go first."""
REPAIR_EVERY = 0.5
"""Seconds between two repairs at least."""
AGAIN = 5.0
"""Seconds after which what could not be put in force is tried again."""
PUT_BACK = (
    "another program removed rules or routes of arbiter's, or got in front of them: they are put "
    "back"
)
log = logging.getLogger("arbiter")


def own_tables(table: int = TABLE) -> range:
    """Arbiter's routing tables, where link n has `table` + n."""
    return range(table + 1, table + 1 + TABLES)


def sysctl_file() -> Path:
    """Where the old sysctls of this network namespace's links are kept, for who gives them back."""
    namespace = Path("/proc/self/ns/net").stat().st_ino
    return Path(f"/run/arbiter/sysctl-{namespace}.json")


def remove_routing() -> tuple[str, ...]:
    """Take every route, rule and sysctl of arbiter's away, daemon or not; gives all failures."""
    sysctls = (*linksysctl.restore(sysctl_file()), *acct.restore(acct_file()))
    return (*routes.remove(), *sysctls)


class LinkKeeper:
    """What is in force for links follows what the kernel and services show of interfaces.

    A link that is gone is told to the pipeline first, so that nothing new is sent over it. Then
    routes (a mark without its table is unreachable), then the ruleset, then what is new: the
    pipeline may route over it only now.
    """

    def __init__(
        self,
        plan: firewall.Plan,
        ruleset: RulesetKeeper,
        routing: RoutePlan,
        config: Path,
        state: Path,
        dispatch: Callable[[LinksChanged], None],
        accounts: Accounts,
    ) -> None:
        self._plan, self._ruleset, self._routing = plan, ruleset, routing
        self._numbers = state / "links.json"
        self._folder = config / "links.d"
        self._dispatch = dispatch
        self._accounts = accounts
        self._known = read_numbers(self._numbers)
        self._files, self._file_problems = read_files(self._folder)
        self._watch = LinkWatch(
            self._changed,
            self._trouble,
            own_tables=own_tables(routing.table),
            rules_changed=self._rules_gone,
        )
        watched = {self._folder.absolute(): "*.toml", SHIPPED: "*.toml"}
        self._file_watch = FileWatch(watched, self.reload, self._file_trouble)
        self._bus = FactsWatch(self._told, self._bus_trouble)
        self._seen: tuple[Interface, ...] = ()
        self._facts: Mapping[str, NetFacts] = {}
        self._fresh = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = self._repair = False
        self._repaired = 0.0
        self._classes: tuple[Marking, ...] = ()
        self._watch_problem = self._bus_problem = ""
        self._problems: tuple[str, ...] = ()
        self.links: tuple[FoundLink, ...] = ()
        self._servers: frozenset[bytes] = frozenset()
        self._shown: tuple[Link, ...] | None = None
        """As the pipeline knows them; None before the first."""
        self._routed: OrderedDict[Flow, int] = OrderedDict()
        self._allowed: OrderedDict[Flow, int] = OrderedDict()
        """Flows over a link, by decision and by default: its number."""
        self._offered: tuple[FoundLink, ...] = ()
        """What those were made of: while a change is made, less than `links`."""

    async def start(self) -> None:
        """Put routing and ruleset in force, and follow what changes.

        Raises FirewallError, RouteError or OSError; what was done is undone by `close`.
        """
        conflicts = await asyncio.to_thread(routes.check, self._routing)
        if conflicts:
            raise routes.RouteError("\n".join(conflicts))
        for problem in self._file_problems:
            log.error("%s", problem)
        try:
            self._file_watch.start()
        except OSError as error:
            self._file_trouble(f"changes of {self._folder} are not seen: {error}; send SIGHUP")
        await self._watch.start()
        await self._bus.start()
        self._ruleset.start()
        await self._follow(first=True)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(not_silent)

    async def stop(self) -> None:
        """Follow no more. What is being put in force is waited for: its thread cannot be ended,
        and must not come after whoever takes the ruleset away."""
        self._file_watch.close()
        await self._watch.close()
        await self._bus.close()
        self._stopping = True
        self._fresh.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._ruleset.stop()

    async def close(self) -> None:
        """Take the routing away, after `stop`; the ruleset is the caller's."""
        for problem in await asyncio.to_thread(remove_routing):
            log.error("%s", problem)

    def reload(self) -> None:
        """Read the link files anew; of one that is wrong now the last good version stays."""
        self._files, problems = read_files(self._folder, self._files)
        for problem in problems:
            if problem not in self._file_problems:
                log.error("%s", problem)
        self._file_problems = problems
        self._fresh.set()

    def use_classes(self, markings: tuple[Marking, ...]) -> None:
        """Have packets of labelled connections marked from now on."""
        self._classes = markings
        self._fresh.set()

    def refresh(self) -> None:
        """A budget is used up, or there is room in it again: tell the pipeline."""
        self._tell(self._offered)

    def decided(self, number: int, default: int, flow: Flow) -> None:
        """A TCP or UDP flow leaves over link `number` (0: over `default`, by the default route):
        what to end if that link is lost."""
        if flow.proto in CONNECTED:
            flows = self._routed if number else self._allowed
            flows[flow] = number or default
            flows.move_to_end(flow)
            if len(flows) > MAX_FLOWS:
                flows.popitem(last=False)

    @property
    def dns_servers(self) -> frozenset[bytes]:
        """The DNS servers of all links."""
        return self._servers

    def states(self) -> tuple[LinkState, ...]:
        """The links for those who follow."""
        first, left = leading(self.links), self._accounts.left()
        return tuple(
            state_of(link, link is first, left.get(link.name), self._accounts.month(link))
            for link in self.links
        )

    def problems(self) -> tuple[str, ...]:
        """What is wrong now with the ruleset, and with links, each with its next step."""
        found = (self._watch_problem, self._bus_problem, *self._file_problems, *self._problems)
        return (*self._ruleset.problems(), *(problem for problem in found if problem))

    # --- news -------------------------------------------------------------------------------

    def _changed(self, interfaces: tuple[Interface, ...]) -> None:
        self._seen = interfaces
        self._fresh.set()
        self._bus.look()

    def _rules_gone(self) -> None:
        self._repair = True
        self._fresh.set()

    def _told(self, facts: Mapping[str, NetFacts]) -> None:
        self._facts = facts
        self._fresh.set()

    def _file_trouble(self, problem: str) -> None:
        if problem:
            log.error("links: %s", problem)

    def _trouble(self, problem: str) -> None:
        self._watch_problem = problem
        if problem:
            log.error("links: %s", problem)

    def _bus_trouble(self, problem: str) -> None:
        self._bus_problem = problem
        if problem:
            log.warning("links: %s", problem)

    # --- following --------------------------------------------------------------------------

    async def _run(self) -> None:
        # `_fresh` alone would not do: it is cleared at the start of each change, a stop with it.
        while not self._stopping:
            await self._fresh.wait()
            if self._stopping:
                return
            if self._ruleset.called_off():  # who took everything away does not want it back
                self._fresh.clear()
                continue
            try:
                repair = self._repair
                ready = not repair or await self._may_repair()
                if ready and not self._stopping:
                    await self._follow(repair=repair)
            except (firewall.FirewallError, routes.RouteError, OSError) as error:
                # The last good state stays, and what lost its link is unreachable, not elsewhere.
                self._say((f"links: {error}",))
                asyncio.get_running_loop().call_later(AGAIN, self._fresh.set)

    async def _may_repair(self) -> bool:
        """Rules or routes are gone, or not the first any more, and arbiter did not do that. False
        if its rescue came meanwhile."""
        self._repair = False
        # Whoever removes them again and again shall not keep us busy.
        pause = self._repaired + REPAIR_EVERY - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        self._repaired = time.monotonic()
        return not self._ruleset.called_off()

    def _say(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if problem not in self._problems:
                log.error("%s", problem)
        self._problems = problems

    async def _keep_numbers(self) -> tuple[str, ...]:
        try:
            await asyncio.to_thread(write_numbers, self._numbers, self._known)
        except OSError as error:
            why = f"{self._numbers} cannot be written: {error.strerror}"
            return (f"{why}; after a restart links may have other numbers",)
        return ()

    async def _follow(self, *, first: bool = False, repair: bool = False) -> None:
        self._fresh.clear()
        seen, unfit = _nameable(self._seen, self._files, self._facts)
        links = assemble(seen, self._files, self._known, self._facts)
        if not first:
            self._tell(tuple(both(links, self.links)))
        self._known = remember(self._known, links)
        plan = structs.replace(
            self._plan,
            links=tuple((link.number, link.interface) for link in links),
            tunnels=tuple(i.name for i in seen if i.kind is LinkKind.VPN),
            classes=self._classes,
        )
        routing = structs.replace(self._routing, links=tuple(map(_routes_of, links)))
        names = [link.interface for link in links]
        left = {link.number: link for link in links}
        moved = [old for old in self.links if replaced(old, left.get(old.number))]
        for old in moved:  # or what is open would go on by the new link's table
            await self._end(old)
        problems = await self._keep_numbers()
        problems += await asyncio.to_thread(linksysctl.apply, names, sysctl_file())
        if await asyncio.to_thread(routes.apply, routing) and repair:
            log.warning("%s", PUT_BACK)
        if first or plan != self._plan:
            await self._ruleset.put(plan)
        self._plan = plan
        self._say((*unfit, *problems))
        for lost in self.links:
            if lost not in moved and ends(lost, left.get(lost.number)):
                await self._end(lost)
        if links != self.links:
            log.info("links: %s", ", ".join(map(_shown, links)) or "none")
        self.links = links
        self._servers = frozenset(server for link in links for server in link.dns)
        self._accounts.follow(links)
        self._tell(links)

    async def _end(self, link: FoundLink) -> None:
        """End the connections of a link that is gone."""
        routed, allowed = (_forget(flows, link.number) for flows in (self._routed, self._allowed))
        await asyncio.to_thread(_cut, link, self._plan.mask, routed, allowed)

    def _tell(self, links: tuple[FoundLink, ...]) -> None:
        """The links as the pipeline is to know them, the most preferred first."""
        ordered = sorted(links, key=lambda link: (link.metric, link.number))
        known = tuple(link_of(link, self._accounts.spent(link)) for link in ordered)
        self._offered = links
        if known != self._shown:
            self._shown = known
            self._dispatch(LinksChanged(now(), known))


def _nameable(
    seen: tuple[Interface, ...], files: tuple[LinkFile, ...], facts: Mapping[str, NetFacts]
) -> tuple[tuple[Interface, ...], tuple[str, ...]]:
    """The interfaces that a ruleset can name, and what is wrong with those that would be links."""
    fit: list[Interface] = []
    problems: list[str] = []
    for interface in seen:
        try:
            check_interface(interface.name)
            if interface.name in ("all", "default"):
                raise ValueError(f"interface {interface.name} has everybody's sysctls: rename it")
        except ValueError as error:
            told = facts.get(interface.name, NetFacts())
            if interface.kind is LinkKind.VPN or is_link(interface, files, told):
                problems.append(f"links: {error}")
        else:
            fit.append(interface)
    return tuple(fit), tuple(problems)


def _forget(flows: OrderedDict[Flow, int], number: int) -> list[Flow]:
    found = [flow for flow, link in flows.items() if link == number]
    for flow in found:
        del flows[flow]
    return found


def _cut(link: FoundLink, mask: int, routed: list[Flow], allowed: list[Flow]) -> None:
    """End the connections of a link that is gone: their programs are told at once, and can try
    again; only their conntrack entries are forgotten. Sockets first, while those name them.

    Of those that went over it by default only what is just connecting: the rest may live on.
    """
    destroyed = linkloss.destroy_sockets(link.number, mask, (link.index,), routed, allowed)
    linkloss.forget_connections(link.number, mask)
    log.info("link %s is lost: %d sockets closed", clean(link.name), destroyed.sockets)
    for error in dict.fromkeys(destroyed.errors):
        log.error("link %s is lost, and sockets stay open: %s", clean(link.name), error)


def _routes_of(link: FoundLink) -> LinkRoutes:
    return LinkRoutes(
        link.number,
        link.interface,
        link.index,
        link.up4,
        link.up6,
        link.routes,
        dns=link.dns,
        vpn=link.kind is LinkKind.VPN,
    )


def _shown(link: FoundLink) -> str:
    families = [name for name, up in (("IPv4", link.up4), ("IPv6", link.up6)) if up]
    return clean(f"{link.name} ({link.interface}, {' and '.join(families) or 'down'})")
