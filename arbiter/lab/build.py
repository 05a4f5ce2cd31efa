"""`Lab`: builds the namespaces, starts the servers, runs programs inside, removes every trace."""

from __future__ import annotations

import json
import os
import pwd
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from arbiter.lab import namespaces, plan, state
from arbiter.lab.config import (
    DEFAULT_LINKS,
    ECHO_PORT,
    PUBLIC4,
    PUBLIC6,
    LabConfig,
    LabError,
    LinkConfig,
    Seen,
    ServerConfig,
)

READY_SECONDS = 40.0
"""How long servers and routes may take; usual is a fifth of a second, an emulated CPU needs 15."""

T = TypeVar("T")


class Lab:
    """Links, and an internet behind each. `with Lab("name") as lab:` builds and removes it.

    Labs with different names do not touch each other. Every method that can fail raises LabError.
    """

    def __init__(self, name: str = "arb", links: Sequence[LinkConfig] = DEFAULT_LINKS) -> None:
        self.config = LabConfig(name, tuple(links))
        self._pipe = -1
        self._started: dict[int, int] = {}

    @classmethod
    def existing(cls, name: str) -> Lab | None:
        """The lab of that name as it was built, if it has a record; it may be half-built."""
        found = state.load(name)
        return None if found is None else cls(name, found.config.links)

    @property
    def name(self) -> str:
        """The prefix of every namespace."""
        return self.config.name

    @property
    def host(self) -> str:
        """The namespace of the person's machine."""
        return self.config.namespace("host")

    def internet(self, link: str) -> str:
        """The namespace of a link's gateway and servers."""
        return self.config.namespace(link)

    @property
    def errors(self) -> Path:
        """The file where the servers complain; empty in a healthy lab."""
        return state.directory(self.name) / "servers.errors"

    def log(self, link: str) -> Path:
        """The file where a link's servers write what they see."""
        return state.directory(self.name) / f"{self.config.link(link).name}.jsonl"

    # --- up and down --------------------------------------------------------------------------

    def up(self) -> None:
        """Builds the lab and waits until it answers over every link and family.

        What a builder that was killed left behind is removed first; a lab that is up, or being
        built, is an error. After any failure, nothing is left.
        """
        self._check_free()
        builder = (os.getpid(), namespaces.start_time(os.getpid()) or 0)
        state.claim(state.State(self.config, builder))
        try:
            self._build()
            servers = self._serve()
            self._await_ready()
            self._await_routes()
            state.save(state.State(self.config, builder, True, servers))
        except BaseException as error:
            taken = not state.directory(self.name).exists()
            self.down()
            if taken and isinstance(error, LabError | OSError):
                raise self._taken() from None
            raise
        finally:
            if self._pipe >= 0:
                os.close(self._pipe)
            self._pipe = -1

    def _check_free(self) -> None:
        found, condition = state.load(self.name), self.condition()
        if condition in ("up", "building"):
            who = f" by process {found.builder[0]}" if found and condition == "building" else ""
            text = f"`arbiter lab down --name {self.name}` removes it; or choose another name"
            raise LabError(f"lab {self.name} is already {condition}{who}: {text}")
        if condition == "broken":
            self.down()
        for namespace in self.config.namespaces:
            if (namespaces.NETNS / namespace).exists():
                text = "`ip netns del` it if it is not needed, or choose another name"
                raise LabError(f"network namespace {namespace} exists, made by no lab: {text}")

    def _build(self) -> None:
        namespaces.ip_batch(f"netns add {n}" for n in self.config.namespaces)
        groups = plan.ping_groups(Path("/proc/self/gid_map").read_text())
        namespaces.write_sysctls(self.host, plan.host_sysctls(groups))
        for link in self.config.links:
            namespaces.write_sysctls(self.internet(link.name), plan.internet_sysctls())
        namespaces.ip_batch(plan.create(self.config))
        for link in self.config.links:
            namespaces.ip_batch(plan.internet_lines(link), self.internet(link.name))
        namespaces.ip_batch(plan.host_lines(self.config), self.host)
        nsswitch = Path("/etc/nsswitch.conf")
        text = nsswitch.read_text() if nsswitch.exists() else ""
        state.write_etc(self.config, plan.etc_files(self.config, text))

    def _serve(self) -> tuple[int, int]:
        configs = [self._served(link) for link in self.config.links]
        env = {**os.environ, "PYTHONPATH": _python_path()}
        argv = [sys.executable, "-P", "-S", "-m", "arbiter.lab.servers", json.dumps(configs)]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._pipe, theirs = os.pipe()
        try:
            # Not a Popen: servers outlive `arbiter lab up`, which Popen would warn of. In their own
            # session, because Ctrl-C in the builder's terminal is not meant for them.
            # In one of the lab's namespaces from the start, so that `down` always finds it.
            first = self.internet(self.config.links[0].name)
            pid = os.posix_spawnp(
                "ip",
                ["ip", "netns", "exec", first, *argv],
                env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_OPEN, 2, str(self.errors), flags, 0o644),
                ],
                setsid=True,
            )
        finally:
            os.close(theirs)
        started = namespaces.start_time(pid) or 0
        self._started[pid] = started
        return pid, started

    def _served(self, link: LinkConfig) -> dict[str, Any]:
        addresses = (*PUBLIC4, *PUBLIC6, *link.near(), *link.resolvers())
        log = str(self.log(link.name))
        return asdict(ServerConfig(link.name, self.internet(link.name), addresses, log))

    def _await_ready(self) -> None:
        readable, _, _ = select.select([self._pipe], [], [], READY_SECONDS)
        if not readable or os.read(self._pipe, 64) != b"ready\n":
            said = self.errors.read_text(errors="replace").strip()[-1500:]
            raise LabError(f"the lab's servers did not start: {said or 'no reason'}")

    def _await_routes(self) -> None:
        """The kernel brings a link's routes up a moment after the link: try them."""
        until = time.monotonic() + READY_SECONDS

        def answers(address: str) -> None:
            while True:
                left = until - time.monotonic()
                try:
                    patience = min(max(left, 0.1), 1.0)
                    with socket.create_connection((address, ECHO_PORT), patience) as there:
                        there.recv(64)
                    return
                except OSError as error:
                    if not state.directory(self.name).exists():
                        raise self._taken() from None
                    if left < 0:
                        text = f"{address} does not answer in the new lab: {error}"
                        raise LabError(f"{text}; `arbiter doctor` says what is missing") from None
                    time.sleep(0.01)

        def all_answer() -> None:
            for link in self.config.links:
                for address in link.near():
                    answers(address)

        namespaces.inside(self.host, all_answer)
        for link in self.config.links:
            os.truncate(self.log(link.name), 0)  # the tries are nobody's traffic

    def _taken(self) -> LabError:
        return LabError(f"lab {self.name} was taken down while it was built: build it again")

    def down(self) -> None:
        """Removes every trace: processes, namespaces with their links, files. Safe to repeat.

        Goes on after a failure and then raises LabError with everything that is left. Processes
        are those recorded, and whatever else runs in the lab's namespaces.
        """
        found = state.load(self.name)
        config = found.config if found else self.config
        mine = namespaces.processes_in(config.namespaces)
        if os.getpid() in mine:
            raise LabError(f"this process is inside lab {self.name}: leave it first (`exit`)")
        problems = []
        recorded = self._started | (dict([found.servers]) if found and found.servers else {})
        if left := namespaces.stop(mine | recorded):
            problems.append(f"processes that would not end: {', '.join(map(str, left))}")
        for pid in recorded:  # of the others their own parents want to know
            namespaces.reap(pid)
        self._started = {}
        there = [n for n in config.namespaces if (namespaces.NETNS / n).exists()]
        if there:
            # The links first: a namespace that an open socket keeps alive keeps none of them.
            for n in there[:1]:
                devices = [f"link del {link.interface}" for link in config.links]
                namespaces.ip_batch(devices, n, force=True)
            said = namespaces.ip_batch((f"netns del {n}" for n in there), force=True)
            if any((namespaces.NETNS / n).exists() for n in there):  # else somebody else did it
                problems.append(said)
        try:
            state.remove(config)
        except OSError as error:
            problems.append(f"{error.filename}: {error.strerror}")
        if problems:
            text = "; be root and repeat `arbiter lab down`"
            raise LabError(f"lab {self.name} is not wholly removed: {'; '.join(problems)}{text}")

    def __enter__(self) -> Self:
        """Builds it."""
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes it."""
        self.down()

    # --- inside -------------------------------------------------------------------------------

    def popen(
        self, argv: Sequence[str], ns: str = "host", user: str | None = None, **kwargs: Any
    ) -> subprocess.Popen[Any]:
        """Starts a program in `host` or a link's internet, as `user` if given.

        `kwargs` are Popen's. The process becomes the program itself (ip, then setpriv exec), so
        its pid is the program's. Names resolve by the lab's DNS, in `host` only.
        """
        kwargs.setdefault("env", self.environment())
        return subprocess.Popen([*self._prefix(ns, user), *argv], **kwargs)

    def run(
        self, argv: Sequence[str], ns: str = "host", user: str | None = None, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Like `popen`, but waits: text, captured, 30 s at most (subprocess.TimeoutExpired)."""
        settings: dict[str, Any] = {"text": True, "timeout": 30, "env": self.environment()} | kwargs
        if not settings.keys() & {"stdout", "stderr", "capture_output"}:
            settings["capture_output"] = True
        command = [*self._prefix(ns, user), *argv]
        done: subprocess.CompletedProcess[str] = subprocess.run(command, check=False, **settings)
        return done

    def inside(self, action: Callable[[], T], ns: str = "host") -> T:
        """Runs `action` in a thread in that namespace, e.g. to make a socket there."""
        return namespaces.inside(self.config.namespace(ns), action)

    def environment(self) -> dict[str, str]:
        """This process's environment, with `arbiter` on PATH and ARBITER_LAB set to the name.

        Arbiter's own files are the lab's, too: what is decided here must not become the real
        machine's, and goes with the lab.
        """
        home = state.directory(self.name)
        return {
            **os.environ,
            "PATH": f"{home / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "ARBITER_LAB": self.name,
            "ARBITER_STATE": str(home / "state"),
            "ARBITER_DB": str(home / "state" / "arbiter.db"),
            "ARBITER_SOCKET": str(home / "arbiter.sock"),
        }

    def _prefix(self, ns: str, user: str | None) -> list[str]:
        prefix = ["ip", "netns", "exec", self.config.namespace(ns)]
        if user is None:
            return prefix
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise LabError(
                f"there is no user {user!r} on this machine: see `getent passwd`"
            ) from None
        ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
        return [*prefix, "setpriv", *ids, "--"]

    # --- what is known of it ------------------------------------------------------------------

    def seen(self, link: str) -> list[Seen]:
        """What reached a link's servers since `up`, oldest first.

        Written before the answer: a client that got one is in here. ICMP is not.
        """
        try:
            lines = self.log(link).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [Seen(**json.loads(line)) for line in lines]

    def mend(self, link: str) -> None:
        """Brings a link of `host` back as built, after it was set down or lost its addresses."""
        namespaces.ip_batch(plan.link_lines(self.config.link(link)), self.host)

    def servers(self) -> int | None:
        """The pid of the servers; None if they do not run."""
        found = state.load(self.name)
        pid, started = (found.servers if found else None) or (0, -1)
        return pid if namespaces.start_time(pid) == started else None

    def was_up(self) -> bool:
        """Whether it was built to its end: people may have something in it."""
        found = state.load(self.name)
        return found is not None and found.ready

    def condition(self) -> str:
        """`down`, `building`, `up`, or `broken`: something is left, or something is missing."""
        found = state.load(self.name)
        if found is None:
            return "broken" if state.directory(self.name).exists() else "down"
        if not found.ready:
            pid, started = found.builder
            return "building" if namespaces.start_time(pid) == started else "broken"
        there = all((namespaces.NETNS / n).exists() for n in found.config.namespaces)
        return "up" if there and self.servers() is not None else "broken"


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(state.SOURCE), os.environ.get("PYTHONPATH"))))
