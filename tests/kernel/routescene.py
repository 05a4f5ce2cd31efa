"""The lab's machine with our rules and routes, and programs that go by marks."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arbiter.kernel import firewall, linksysctl, routes
from arbiter.kernel.queue import Queue
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.model import DENIED, MARK_DECIDED, Packet, Undecodable, Verdict, VerdictKind
from arbiter.routeplan import MAIN, LinkRoutes, RoutePlan

QUEUE = 21
OVER = {n: Verdict(VerdictKind.ACCEPT, MARK_DECIDED | n << 24) for n in (1, 2)}
Choose = Callable[[Packet], Verdict]
both = pytest.mark.parametrize("server", [SERVER4, SERVER6])


def sh(lab: Lab, line: str) -> str:
    done = lab.run(line.split())
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def plan_of(lab: Lab, down: tuple[str, ...] = ()) -> RoutePlan:
    """What arbiter would want: each link's routes as table main has them now."""

    def look() -> RoutePlan:
        found = []
        with Rtnetlink() as net:
            main = [r for family in (4, 6) for r in net.routes(family, table=MAIN)]
        for number, link in enumerate(lab.config.links, 1):
            index = socket.if_nametoindex(link.interface)
            up = link.name not in down
            mine = tuple(r.route for r in main if r.index == index)
            found.append(LinkRoutes(number, link.interface, index, up, up, mine))
        return RoutePlan(tuple(found))

    return lab.inside(look)


def state(lab: Lab) -> list[str]:
    """All rules, routes and link sysctls of the host, as the tools show them."""
    shown = [sh(lab, f"ip {f} {what}") for f in ("-4", "-6") for what in ("rule", ROUTES)]
    names = [link.interface for link in lab.config.links]
    keys = [f"net.ipv4.conf.{n}.{k}" for n in (*names, "all") for k in linksysctl.WANTED]
    return [*shown, sh(lab, f"sysctl {' '.join(keys)}")]


ROUTES = "route show table all"


class Host:
    """The lab's host with firewall, routes and a consumer that marks by `choose`."""

    def __init__(self, lab: Lab, choose: Choose, notes: Path) -> None:
        self.lab, self.choose, self.notes = lab, choose, notes
        self.got: list[Packet] = []
        self.plan = plan_of(lab)
        links = tuple(enumerate((x.interface for x in lab.config.links), 1))
        self.rules = firewall.Plan(queue=QUEUE, links=links)

    def start(self) -> None:
        assert self.lab.inside(lambda: routes.check(self.plan)) == ()
        self.queue = self.lab.inside(
            lambda: Queue(QUEUE, self._packet, length=1024, fail_open=False)
        )
        backend = self.lab.inside(lambda: firewall.probe_backend("auto"))
        self.lab.inside(lambda: firewall.apply(self.rules, backend))
        self.lab.inside(lambda: routes.apply(self.plan))
        names = [link.interface for link in self.lab.config.links]
        assert self.lab.inside(lambda: linksysctl.apply(names, self.notes)) == ()
        self.wake, self.stopping = os.pipe()
        self.thread = threading.Thread(target=lambda: self.lab.inside(self._loop))
        self.thread.start()

    def _loop(self) -> None:
        while self.wake not in select.select([self.queue.fileno(), self.wake], [], [])[0]:
            self.queue.handle()

    def _packet(self, packet: Packet | Undecodable) -> None:
        assert isinstance(packet, Packet)
        self.got.append(packet)
        self.queue.set_verdict(packet.id, self.choose(packet))

    def apply(self, plan: RoutePlan | None = None) -> routes.Changes:
        return self.lab.inside(lambda: routes.apply(plan or plan_of(self.lab)))

    def leaves(self, mark: int, address: str) -> int:
        def look() -> int:
            with Rtnetlink() as net:
                return net.leaves(mark, packed(address))

        return self.lab.inside(look)

    def stop(self) -> None:
        os.close(self.stopping)
        self.thread.join()
        self.queue.close()
        os.close(self.wake)

    def ask(self, server: str, *options: str) -> str:
        """One HTTP request; "" if it fails."""
        host = f"[{server}]" if ":" in server else server
        return self.lab.run(["curl", "-sS", "-m", "4", *options, f"http://{host}/"]).stdout

    def connect(self, server: str, port: int = 7, seconds: float = 4.0) -> socket.socket:
        return self.lab.inside(lambda: socket.create_connection((server, port), seconds))


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@contextmanager
def running(lab: Lab, choose: Choose, notes: Path) -> Iterator[Host]:
    host = Host(lab, choose, notes)
    host.start()
    try:
        yield host
    finally:
        host.stop()


def careful(host: Host, number: int = 2) -> Choose:
    """As the daemon must: what cannot leave by its link is refused, not lost."""

    def choose(packet: Packet) -> Verdict:
        with Rtnetlink() as net:
            reachable = net.leaves(OVER[number].mark, packet.flow.daddr)
        return OVER[number] if reachable else DENIED

    return choose
