"""Who a process is: facts of a process -> App, the identity a rule speaks of. Pure and total.

Order: Flatpak, snap, AppImage, interpreter + script, systemd unit, another mount namespace,
path. One file although long: the order and what each step may believe are one security
argument, and it should be read in one place.

What is believed. The kernel's word: the running executable's device:inode, the mount
namespace, the cgroup outside user.slice. What a process or its parent chose is never enough to
gain an id of *another user's or the system's* making: argv, environment, comm, and names of
scopes and services below user.slice (systemd lets every user name its own).

What stays forgeable, by programs of the same user only: an interpreter's argv (`script:`), its
module search path, a mount namespace made with a copied `.flatpak-info`, a user scope named
`snap.…` around a snap's own executable, and APPIMAGE beside the real AppImage running. Nix: all
users of a multi-user store can build a `NAME` (see `stable_path`).
"""

from __future__ import annotations

import functools
import re

from msgspec import Struct

from arbiter.model import App, AppKind, Process

NAME_LIMIT = 64
"""Characters kept of App.name."""


class Facts(Struct, frozen=True):
    """What was read of a process (arbiter/kernel/procfs.py), before any judgement."""

    exe: str
    """readlink of /proc/PID/exe without " (deleted)"; "" for kernel threads and hidden ones."""
    exe_here: bool = True
    """That path, in our mount namespace, is that file: same device:inode, or deleted from there.

    False also where it could not be verified: a FUSE mount closed to root, a memfd.
    """
    exe_deleted: bool = False
    own_mounts: bool = True
    """Its mount namespace is ours."""
    argv: tuple[str, ...] = ()
    script: str = ""
    """Absolute path of the file that `find_script` named, resolved; "" if it was not found."""
    script_here: bool = True
    """The script's path means the same file in our mount namespace, from our root."""
    cgroup: str = ""
    flatpak: str = ""
    """Name in [Application] of /proc/PID/root/.flatpak-info."""
    appimage: str = ""
    """The AppImage file, confirmed: a process of the same user runs it, and the mount is FUSE."""
    appimage_claim: str = ""
    """APPIMAGE of its environment: a hint, chosen by the process."""
    comm: str = ""
    """Used as a display name only, where there is no executable to name."""
    kernel_thread: bool = False


class ScriptArg(Struct, frozen=True):
    """What an interpreter runs: a file to be resolved, or the literal text of a module."""

    text: str
    file: bool = True


# --- the steps ------------------------------------------------------------------------------

_FLATPAK_ID = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)+", re.ASCII)
_SNAP_EXE = re.compile(r"(?:/var/lib/snapd)?/snap/([a-z0-9][a-z0-9-]*(?:_[a-z0-9]{1,10})?)/[^/]+/.")
_APPIMAGE_MOUNT = re.compile(r"(/.*?/\.mount_[^/]+)/.")
_GENERIC = frozenset({"desktop", "app", "client", "application", "gtk", "qt"})


def identify(facts: Facts) -> App:
    """The app of a process. Total: whatever the facts say, exactly one App.

    Ids: `flatpak:ID`, `snap:NAME`, `appimage:FILE`, `script:INTERPRETER:SCRIPT` (a module as
    `-m http.server`, a Java main class by its name), `unit:NAME.service`,
    `foreign:CONTAINER:/path[:SCRIPT]`, or the executable's stable path.
    """
    if not facts.own_mounts and _FLATPAK_ID.fullmatch(facts.flatpak):
        return App("flatpak:" + facts.flatpak, AppKind.FLATPAK, _flatpak_name(facts.flatpak))
    if facts.exe_here and (snap := _snap(facts)):
        return App("snap:" + snap, AppKind.SNAP, _short(snap))
    if facts.appimage and appimage_mount(facts.exe):
        name = facts.appimage.rpartition("/")[2].removesuffix(".AppImage")
        return App("appimage:" + facts.appimage, AppKind.APPIMAGE, _short(name))
    script = find_script(facts.exe, facts.argv)
    text = (facts.script if script.file else script.text) if script else ""
    trusted = facts.exe_here and (facts.script_here or not text)
    if trusted and text:
        text = stable_path(text) if script and script.file else text
        full = f"script:{stable_path(facts.exe)}:{text}"
        return App(full, AppKind.SCRIPT, _script_name(text))
    if unit := unit_of(facts.cgroup):
        return App("unit:" + unit, AppKind.UNIT, _short(unit.removesuffix(".service")))
    if trusted and facts.exe.startswith("/"):
        path = stable_path(facts.exe)
        return App(path, AppKind.PATH, _short(path.rpartition("/")[2]))
    return _foreign(facts, text)


def by_executable_alone(process: Process) -> bool:
    """Whether any process that runs the same file in the same cgroup, where its path means that
    file, is the same app, whatever its arguments and environment are."""
    name = process.exe.rpartition("/")[2]
    plain = process.app.kind is AppKind.PATH and not process.note
    return plain and not interpreter_name(name) and not appimage_mount(process.exe)


def note(facts: Facts) -> str:
    """What a person must know of this identity, or ""."""
    notes = []
    if facts.exe_deleted:
        notes.append("its executable was replaced or deleted")
    if not facts.exe and not facts.kernel_thread:
        notes.append("not permitted to read its executable")
    elif facts.exe and not facts.exe_here:
        where = (
            "in another mount namespace" if not facts.own_mounts else "not reachable by its path"
        )
        notes.append(f"its executable is {where}")
    script = find_script(facts.exe, facts.argv)
    if script and script.file and not facts.script:
        notes.append("its script was not found")
    elif script and script.file and not facts.script_here:
        notes.append("its script is in another mount namespace")
    if facts.appimage_claim and not facts.appimage and appimage_mount(facts.exe):
        notes.append("it claims to be an AppImage, unconfirmed")
    return "; ".join(notes)


def _foreign(facts: Facts, text: str) -> App:
    if facts.kernel_thread:
        return App(f"foreign:kernel:[{facts.comm}]", AppKind.FOREIGN, _short(facts.comm))
    if not facts.exe:
        return App("foreign:hidden:?", AppKind.FOREIGN, _short(facts.comm or "hidden"))
    container = container_of(facts.cgroup)
    full = f"foreign:{container}:{facts.exe}" + (":" + text if text else "")
    name = _script_name(text) if text else _short(facts.exe.rpartition("/")[2])
    return App(full, AppKind.FOREIGN, name)


def _snap(facts: Facts) -> str:
    """The snap whose file runs, if its cgroup is named for it too (snap.NAME.APP…)."""
    match = _SNAP_EXE.match(facts.exe)
    if match and any(part.startswith(f"snap.{match[1]}.") for part in facts.cgroup.split("/")):
        return match[1]
    return ""


def appimage_mount(exe: str) -> str:
    """The mount point that an AppImage's runtime made for this executable, or ""."""
    match = _APPIMAGE_MOUNT.match(exe)
    return match[1] if match else ""


def _flatpak_name(flatpak: str) -> str:
    parts = flatpak.split(".")
    return _short(parts[-2] if parts[-1].lower() in _GENERIC else parts[-1])


def _script_name(text: str) -> str:
    bare = text.removeprefix("-m ")
    return _short(re.split(r"[/\\]", bare)[-1] or bare)


def _short(name: str) -> str:
    return name if len(name) <= NAME_LIMIT else name[: NAME_LIMIT - 1] + "…"


# --- cgroups --------------------------------------------------------------------------------

_RUNS_OTHERS = re.compile(
    "crond?|cronie|anacron|atd|sshd?|dropbear|(serial-|console-|container-)?getty|gdm3?|lightdm|"
    "sddm|lxdm|xdm|slim|ly|greetd|display-manager|rescue|emergency|debug-shell|docker|containerd|"
    "crio|lxc|lxcfs|lxd|incus|libvirtd"
)
_CONNECTION = re.compile(r"\d+-(?:.*-)?(?:\d+-\d+(?:_\d+)?|[\w.:\[\]%]+:\d+-[\w.:\[\]%]+:\d+)")
_HEX_ID = re.compile(r"(?:[a-z-]+-)?([0-9a-f]{12})[0-9a-f]{52}(?:\.scope)?")
_NAMED = re.compile(r"(?:lxc\.payload\.|systemd-nspawn@|machine-)(.+?)(?:\.service|\.scope)?")
_SAFE = re.compile(r"[A-Za-z0-9_.\\@-]{1,80}", re.ASCII)


def unit_of(cgroup: str) -> str:
    """The system service a cgroup belongs to, or "".

    Slices are skipped, the first thing that is not a slice decides, as in systemd's
    cg_path_get_unit (src/basic/cgroup-util.c). Nothing below user.slice (each user names those
    freely), nothing in machine.slice, no scope. Nor services that run other people's programs:
    a user's cron job in cron.service is not cron.

    An instance is kept, `wg-quick@wg0.service`, because `systemctl` shows it and its settings
    are its own. One made for a single connection (sockets with Accept=yes, as
    `sshd@3-10.0.0.1:22-10.0.0.9:5000.service`) never comes back: its template, `sshd@.service`.
    """
    parts = cgroup.split("/")[1:]
    if not parts or parts[0] in ("user.slice", "machine.slice") or not parts[0].endswith(".slice"):
        return ""
    unit = next((part for part in parts if not part.endswith(".slice")), "")
    stem = unit.removesuffix(".service")
    template, at, instance = stem.partition("@")
    if stem == unit or not template or _RUNS_OTHERS.fullmatch(template):
        return ""
    if at and _CONNECTION.fullmatch(instance):
        return f"{template}@.service"
    return unit


def container_of(cgroup: str) -> str:
    """The container a cgroup names: docker, podman, Kubernetes (12 hex), LXC, nspawn; or "?".

    Below user.slice it is prefixed `u<uid>-`: there a user chooses the names, and must not be
    able to choose that of a system container.
    """
    parts = cgroup.split("/")[1:]
    prefix = ""
    if parts[:1] == ["user.slice"]:
        user = re.fullmatch(r"user-(\d+)\.slice", parts[1]) if len(parts) > 1 else None
        prefix = f"u{user[1]}-" if user else "u?-"
    for before, part in zip(["", *parts], parts, strict=False):
        if match := _HEX_ID.fullmatch(part):
            return prefix + match[1]
        match = _NAMED.fullmatch(part)
        name = match[1] if match else part if before in ("lxc", "lxc.payload") else ""
        if _SAFE.fullmatch(name):
            return prefix + name
    return "?"


# --- paths ----------------------------------------------------------------------------------

_INTERPRETER = re.compile(
    r"(python|pypy)(\d?)[\d.]*|(perl|ruby|node|nodejs|php|lua|luajit|tclsh|wish|gjs|electron)"
    r"[\d.-]*|(bash|rbash|sh|dash|ash|zsh|ksh|ksh93|mksh|fish|java|mono|mono-sgen|deno|bun"
    r"|busybox|wine|wine64|wine-preloader|wine64-preloader)",
    re.ASCII,
)
_PURE_VERSION = re.compile(r"v?\d+(\.\d+)+([-.+_]?(alpha|beta|rc|a|b|r)?[-.]?\d+)?", re.ASCII)
_VERSION_SUFFIX = re.compile(rf"(.+?)-{_PURE_VERSION.pattern}", re.ASCII)
_NIX = re.compile(r"/nix/store/[0-9a-df-np-sv-z]{32}-([^/]+)(/.*)?", re.DOTALL)
_NIX_NAME = re.compile(r"(.+?)-\d[^/]*", re.DOTALL)
_UNSTABLE_ROOTS = ("/tmp/", "/var/tmp/", "/dev/shm/")  # noqa: S108 - names to refuse, not to use


@functools.lru_cache(1024)
def stable_path(path: str) -> str:
    """A path that survives updates: the same for every version of the same program.

    - `/nix/store/<hash>-NAME-<version>/bin/x` -> `/nix/store/*-NAME/bin/x` (the version starts
      at the first `-` before a digit, as in Nix's parseDrvName);
    - a directory that is a version (`3.11.7`, `v20.1.0`, `1.2-rc1`) -> `*`; one that ends in
      `-1.2.3` -> `NAME-*`; a version has at least two numbers, so `/opt/app/7` stays;
    - an interpreter's file name loses its minor version: `python3.11` -> `python3`,
      `perl5.36.0` -> `perl`, `node18` -> `node`, `php8.2` -> `php`. Other file names stay;
    - below /tmp, /var/tmp and /dev/shm nothing but the file name changes: anyone may make a
      directory beside another's there.

    Idempotent. A stable id says: whoever may make a directory beside this one may be this app.
    """
    head, _, name = path.rpartition("/")
    name = interpreter_name(name) or name
    if path.startswith(_UNSTABLE_ROOTS):
        return f"{head}/{name}"
    if match := _NIX.fullmatch(head):
        package = _NIX_NAME.fullmatch(match[1])
        head = f"/nix/store/*-{package[1] if package else match[1]}{match[2] or ''}"
    if "." in head:
        head = "/".join(map(_stable_part, head.split("/")))
    return f"{head}/{name}" if "/" in path else name


def _stable_part(part: str) -> str:
    if _PURE_VERSION.fullmatch(part):
        return "*"
    match = _VERSION_SUFFIX.fullmatch(part)
    return f"{match[1]}-*" if match else part


@functools.lru_cache(1024)
def interpreter_name(name: str) -> str:
    """An interpreter's file name without its minor version, "" for any other program."""
    match = _INTERPRETER.fullmatch(name)
    if not match:
        return ""
    return match[1] + match[2] if match[1] else match[3] or match[4]


# --- interpreters ---------------------------------------------------------------------------


class _Options(Struct, frozen=True):
    """How an interpreter's options are spelled, as far as finding its script needs it."""

    stop: str = ""
    """Letters after which there is no script: the program is in the arguments."""
    value: str = ""
    """Letters with a value: the rest of the word, or the next word."""
    rest: str = ""
    """Letters whose value can only be the rest of the word."""
    following: str = ""
    """Letters that take the next word and let the cluster go on (`sh -euo pipefail`)."""
    module: str = ""
    file: str = ""
    long_value: frozenset[str] = frozenset()
    long_stop: frozenset[str] = frozenset()
    plus: bool = False
    dash_ends: bool = False
    """`-` alone ends the options; elsewhere it means standard input."""


_SHELL = _Options(
    stop="cs",
    following="oO",
    long_value=frozenset({"--rcfile", "--init-file", "--emulate"}),
    long_stop=frozenset({"--command"}),
    plus=True,
    dash_ends=True,
)
_OPTIONS = {
    "python": _Options(
        stop="c", module="m", value="WXQ", long_value=frozenset({"--check-hash-based-pycs"})
    ),
    "perl": _Options(stop="eE", value="IMm", rest="iFCDxVd"),
    "ruby": _Options(stop="e", value="IrCE", rest="iFxWTK"),
    "node": _Options(
        stop="ep",
        value="rC",
        long_stop=frozenset({"--eval", "--print", "--run"}),
        long_value=frozenset(
            {"--require", "--import", "--loader", "--experimental-loader", "--conditions"}
            | {"--title", "--input-type", "--env-file", "--test-name-pattern"}
        ),
    ),
    "php": _Options(
        stop="rRBES",
        value="cdzt",
        file="f",
        long_stop=frozenset({"--run", "--server"}),
        long_value=frozenset({"--php-ini", "--define", "--docroot"}),
    ),
    "lua": _Options(value="el"),
    "tcl": _Options(),
    "gjs": _Options(stop="c", value="IC", long_stop=frozenset({"--command"})),
    "mono": _Options(long_value=frozenset({"--config"})),
    "deno": _Options(value="cL", long_value=frozenset({"--config", "--import-map", "--lock"})),
}
_FAMILY = {
    **dict.fromkeys(("pypy", "pypy2", "pypy3", "python", "python2", "python3"), "python"),
    "nodejs": "node",
    "electron": "node",
    "luajit": "lua",
    "tclsh": "tcl",
    "wish": "tcl",
    "mono-sgen": "mono",
    "bun": "deno",
}
_JAVA_VALUE = re.compile(
    "-cp|-classpath|--class-path|-p|--module-path|--upgrade-module-path|-d|--describe-module|"
    "--(add|limit)-(modules|reads|exports|opens)|--patch-module|--enable-native-access|--source"
)


def find_script(exe: str, argv: tuple[str, ...]) -> ScriptArg | None:
    """What the interpreter at `exe` was told to run; None if it is none, or runs no script.

    None too for `-c`/`-e` programs and standard input: then the app is the interpreter itself.
    """
    name = interpreter_name(exe.rpartition("/")[2])
    if not name or not argv:
        return None
    if name.startswith("wine"):
        return _wine(argv)
    if name == "java":
        return _java(argv)
    if name == "busybox" and argv[0].rpartition("/")[2] in ("busybox", "busybox.static"):
        argv = argv[1:]
    if name == "busybox" and argv and argv[0].rpartition("/")[2].lstrip("-") not in ("sh", "ash"):
        return None
    family = _FAMILY.get(name, name)
    if family == "deno" and argv[1:2] in (("run",), ("serve",)):
        argv = argv[1:]
    return _scan(argv, _OPTIONS.get(family, _SHELL))


def _scan(argv: tuple[str, ...], options: _Options) -> ScriptArg | None:
    words = iter(argv[1:])
    for word in words:
        if word == "--" or (word == "-" and options.dash_ends):
            return _file(next(words, ""))
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            if name in options.long_stop:
                return None
            if name in options.long_value and not equals:
                next(words, None)
        elif word == "-":
            return None
        elif word.startswith("-") or (options.plus and word.startswith("+")):
            for at, letter in enumerate(word[1:], 2):
                if letter in options.stop:
                    return None
                if letter in options.module:
                    module = word[at:] or next(words, "")
                    return ScriptArg(f"-m {module}", file=False) if module else None
                if letter in options.file:
                    return _file(word[at:] or next(words, ""))
                if letter in options.following:
                    next(words, None)
                elif letter in options.value or letter in options.rest:
                    if letter in options.value and not word[at:]:
                        next(words, None)
                    break
        else:
            return _file(word)
    return None


def _file(word: str) -> ScriptArg | None:
    return ScriptArg(word) if word else None


def _java(argv: tuple[str, ...]) -> ScriptArg | None:
    words = iter(argv[1:])
    for word in words:
        if word == "-jar":
            return _file(next(words, ""))
        name, _, value = word.partition("=")
        if name in ("-m", "--module"):
            module = value or next(words, "")
            return ScriptArg(f"-m {module}", file=False) if module else None
        if _JAVA_VALUE.fullmatch(word):
            next(words, None)
        elif word and word[0] not in "-@":
            return ScriptArg(word, file=word.endswith(".java"))
    return None


def _wine(argv: tuple[str, ...]) -> ScriptArg | None:
    """Wine rewrites argv so that argv[0] is the Windows program; before that, it comes next."""
    base = argv[0].rpartition("/")[2]
    word = argv[0] if not interpreter_name(base) else argv[1] if len(argv) > 1 else ""
    return ScriptArg(word, file="\\" not in word) if word else None


def script_candidates(text: str, cwd: str, pwd: str) -> tuple[str, ...]:
    """Absolute paths that a script's argument can mean, the likeliest first.

    Against the working directory, then against PWD of the environment, which still names the
    directory the program was started in when it has gone elsewhere since. None for what each
    process sees differently (/dev/fd/63, /proc/self/…): our own would be meant.
    """
    if "\0" in text:
        return ()
    if text.startswith("/"):
        paths = [text]
    else:
        paths = [f"{base.rstrip('/')}/{text}" for base in (cwd, pwd) if base.startswith("/")]
    return tuple(dict.fromkeys(p for p in paths if not re.match(r"/+(dev|proc)(/|$)", p)))
