"""The files of one process, read through a descriptor of its /proc/PID directory.

What /proc says is checked here against what anyone can see of the file system from our mount
namespace; what it means is for arbiter/identity.py. Functions raise OSError where the process
is gone, unless they say otherwise; an error that a hostile file system (FUSE) can cause makes a
fact unverified, never a process unseen.
"""

# ruff: noqa: PTH115, PTH116, PTH208 - a Path for every link and stat would double the cost

from __future__ import annotations

import contextlib
import os
import re
import stat as statmode
from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from arbiter import identity

ARGV_READ = 131072
"""Bytes of argv that identification sees (a Java class path is long)."""
ENVIRON_READ = 131072
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of stat field 9 (include/linux/sched.h)."""
_NO_RANDOMIZE = 0x0040000
"""ADDR_NO_RANDOMIZE of /proc/PID/personality (include/uapi/linux/personality.h)."""
_DELETED = " (deleted)"

Image = tuple[bytes, bytes, bytes, bytes]
"""starttime, startcode, startstack, arg_start: different after every execve."""


class Stat(Struct, frozen=True):
    """/proc/PID/stat, parsed (proc(5)). comm may hold anything, `)` and spaces too."""

    comm: str
    ppid: int
    flags: int
    start: int
    image: Image


class Reading(Struct, frozen=True):
    """What was read of a process: facts, and what only the look-up itself needs."""

    facts: identity.Facts
    exe_id: tuple[int, int] = (0, 0)
    """(st_dev, st_ino); zeros where it could not be read."""
    linked: bool = True
    """The executable still has a name somewhere."""
    raw: bytes = b""
    """cmdline, as read."""


def views(proc: str) -> dict[str, str]:
    """Whose files a path may mean: the link text of ns/mnt → the prefix by which we see them.

    Ours, and those of init: a service that systemd confines (ProtectSystem= and others) has a
    mount namespace of its own, and the programs of this machine are in that of process 1. Only
    root mounts there, as here.
    """
    found = {link(f"{proc}/self/ns/mnt"): ""}
    with contextlib.suppress(FileNotFoundError):  # hidepid hides it
        if init := link(f"{proc}/1/ns/mnt"):
            found.setdefault(init, f"{proc}/1/root")
    return found


def read(directory: int, status: Stat, proc: str, homes: Mapping[str, str]) -> Reading:
    """All that identifies a process. `homes` is what `views` gives."""
    cgroup = cgroup_of(slurp("cgroup", 65536, directory))
    try:
        target = os.readlink("exe", dir_fd=directory)
    except FileNotFoundError:
        if not status.flags & _KERNEL_THREAD:
            raise
        facts = identity.Facts("", comm=status.comm, cgroup=cgroup, kernel_thread=True)
        return Reading(facts)
    except PermissionError:
        raw = slurp("cmdline", ARGV_READ, directory)
        facts = identity.Facts("", argv=split_argv(raw), comm=status.comm, cgroup=cgroup)
        return Reading(facts, raw=raw)
    raw = slurp("cmdline", ARGV_READ, directory)
    argv = split_argv(raw)
    view = homes.get(link("ns/mnt", directory))
    own, view = view is not None, view or ""
    exe, here, deleted, exe_id, linked = _executable(target, directory, view)
    facts = identity.Facts(
        exe=exe,
        exe_here=here,
        exe_deleted=deleted,
        own_mounts=own,
        argv=argv,
        cgroup=cgroup,
        comm=status.comm,
    )
    if not own:
        facts = structs.replace(facts, flatpak=_flatpak(directory))
    script = identity.find_script(exe, argv)
    if script and script.file:
        path, script_here = _script(script.text, directory, own, view)
        facts = structs.replace(facts, script=path, script_here=script_here)
    if mount := identity.appimage_mount(exe):
        claim, confirmed = _appimage(directory, mount, proc, view)
        facts = structs.replace(facts, appimage=claim if confirmed else "", appimage_claim=claim)
    return Reading(facts, exe_id, linked, raw)


def _appimage(directory: int, mount: str, proc: str, view: str) -> tuple[str, bool]:
    """The AppImage that a process claims to be of, and whether the claim holds.

    It does if the mount is FUSE, and a process of the same user, its FUSE server, runs
    exactly that file. Scans /proc once, for processes below such a mount only.
    """
    try:
        claim = _environ(directory).get("APPIMAGE", "")
        if not claim.startswith("/") or not _is_fuse(slurp("mountinfo", 1 << 20, directory), mount):
            return claim, False
        uid = os.fstat(directory).st_uid
        file = os.stat(view + claim)
    except (OSError, ValueError):
        return "", False
    for name in os.listdir(proc):
        if name.isdecimal():
            with contextlib.suppress(OSError):  # it exited; the next one may be the server
                exe = f"{proc}/{name}/exe"
                if os.stat(f"{proc}/{name}").st_uid != uid or os.readlink(exe) != claim:
                    continue
                server = os.stat(exe)
                if (server.st_dev, server.st_ino) == (file.st_dev, file.st_ino):
                    return claim, True
    return claim, False


def slurp(path: str, limit: int, directory: int | None = None) -> bytes:
    """A whole file, up to `limit` bytes. Most are one small read: seq_file ends where it ends."""
    descriptor = os.open(path, READ, dir_fd=directory)
    try:
        data = os.read(descriptor, 4096)
        if len(data) < 2048:
            return data
        chunks, size = [data], len(data)
        while data and size < limit:
            data = os.read(descriptor, min(65536, limit - size))
            chunks.append(data)
            size += len(data)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def link(path: str, directory: int | None = None) -> str:
    """Where a link of /proc points; "" if it may not be read."""
    try:
        return os.readlink(path, dir_fd=directory)
    except PermissionError:
        return ""


def image(data: bytes) -> Image:
    """What tells one program of a process from the next. ValueError if it is not a stat file."""
    fields = data[data.rfind(b")") + 2 :].split(b" ", 46)
    if len(fields) < 46:
        raise ValueError(f"stat has {len(fields) + 2} fields where proc(5) says 52")
    return fields[19], fields[23], fields[25], fields[45]


def parse_stat(data: bytes) -> Stat:
    """Raises ValueError if it is not a stat file."""
    end = data.rfind(b")")
    fields = data[end + 2 :].split(b" ", 46)
    if len(fields) < 46:
        raise ValueError(f"stat has {len(fields) + 2} fields where proc(5) says 52")
    comm = os.fsdecode(data[data.find(b"(") + 1 : end])
    mark = fields[19], fields[23], fields[25], fields[45]
    return Stat(comm, int(fields[1]), int(fields[6]), int(fields[19]), mark)


def split_argv(raw: bytes) -> tuple[str, ...]:
    """argv from cmdline. The padding that a rewritten title leaves is dropped."""
    if not raw:
        return ()
    words = os.fsdecode(raw.removesuffix(b"\0")).split("\0")
    while len(words) > 2 and not words[-1] and not words[-2]:
        words.pop()
    return tuple(words)


_UNIFIED = re.compile(rb"^0::(.*)$", re.MULTILINE)
_SYSTEMD = re.compile(rb"^\d+:name=systemd:(.*)$", re.MULTILINE)


def cgroup_of(data: bytes) -> str:
    """The process's cgroup path: v2's, or on a hybrid or v1 system that of systemd's tree.

    A line's beginning is the kernel's, its path may hold anything but a newline (mkdir refuses
    that, kernel/cgroup/cgroup.c).
    """
    match = _UNIFIED.search(data)
    if match is None or match[1] == b"/":
        match = _SYSTEMD.search(data) or match
    return os.fsdecode(match[1]) if match else ""


def _executable(
    target: str, directory: int, view: str
) -> tuple[str, bool, bool, tuple[int, int], bool]:
    """Path, whether it means that file here, whether deleted, device:inode, whether it has a name.

    The link is a path in the process's own mount namespace, or in the one its file was opened
    in, or that of a mount since detached (fusermount -uz): it proves nothing until the file at
    that path in our namespace, or in init's if it is there (`view`), is the same one.
    """
    try:
        running = os.stat("exe", dir_fd=directory)
    except OSError:  # FUSE lets nobody but its user look, and may answer with any error
        return target.removesuffix(_DELETED), False, target.endswith(_DELETED), (0, 0), True
    exe_id, linked = (running.st_dev, running.st_ino), running.st_nlink > 0
    if _same_file(view + target, exe_id):
        return target, True, False, exe_id, linked
    if not target.endswith(_DELETED):
        return target, False, False, exe_id, linked
    path = target.removesuffix(_DELETED)
    return path, _deleted_from_here(path, directory, view), True, exe_id, linked


def _same_file(path: str, file: tuple[int, int]) -> bool:
    try:
        here = os.stat(path)
    except (OSError, ValueError):
        return False
    return (here.st_dev, here.st_ino) == file


def _deleted_from_here(path: str, directory: int, view: str) -> bool:
    """A deleted file can be compared with nothing, but its mount is the one at its path.

    Without this, anyone could bind-mount a program over /usr/bin/curl in a namespace of their
    own, hand its descriptor out, run it here, unlink it, and be curl "since updated".
    """
    exe = os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    try:
        while True:
            path = path.rpartition("/")[0]
            try:
                parent = os.open(f"{view}{path or '/'}", DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                continue  # the whole directory went with the update; "/" is always there
            except OSError:
                return False
            try:
                return _mount_id(exe) == _mount_id(parent)
            finally:
                os.close(parent)
    finally:
        os.close(exe)


def _mount_id(descriptor: int) -> bytes:
    """The mount a descriptor of ours is on (proc(5), fdinfo)."""
    for line in slurp(f"/proc/self/fdinfo/{descriptor}", 4096).splitlines():
        if line.startswith(b"mnt_id:"):
            return line[7:].strip()
    raise ValueError(f"/proc/self/fdinfo/{descriptor} has no mnt_id")


def _flatpak(directory: int) -> str:
    """The Flatpak's id by its sandbox's /.flatpak-info (flatpak-metadata(5)), or ""."""
    try:
        # A FIFO or a link there is hostile: never followed, never waited for.
        descriptor = os.open("root/.flatpak-info", READ | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return ""
    try:
        if not statmode.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        data = os.read(descriptor, 65536)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    match = re.search(rb"^\[Application\]\n(?:[^\[\n].*\n|\n)*?name=([^\n]*)$", data, re.MULTILINE)
    return os.fsdecode(match[1].strip()) if match else ""


def _script(text: str, directory: int, own: bool, view: str) -> tuple[str, bool]:
    """The script's path, symbolic links resolved as for executables; and whether it is that here.

    In another mount namespace or root only the plain path counts, compared with ours; following
    links there from here would lead into our files.
    """
    cwd, pwd = link("cwd", directory), ""
    if not text.startswith("/"):
        with contextlib.suppress(OSError, ValueError):  # PWD is a second guess only
            pwd = _environ(directory).get("PWD", "")
    candidates = identity.script_candidates(text, cwd, pwd)
    if not own or link("root", directory) != "/":
        for path in map(os.path.normpath, candidates):
            try:
                theirs = os.stat(f"root{path}", dir_fd=directory, follow_symlinks=False)
            except OSError:
                continue
            same = statmode.S_ISREG(theirs.st_mode)
            return path, same and _same_file(view + path, (theirs.st_dev, theirs.st_ino))
        return "", False
    return resolved(candidates, view), True


def resolved(candidates: Iterable[str], view: str) -> str:
    """The first that is a file or a folder, without symbolic links; "" for none."""
    for path in candidates:
        try:
            descriptor = os.open(view + path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if statmode.S_IFMT(os.fstat(descriptor).st_mode) in (
                statmode.S_IFREG,
                statmode.S_IFDIR,
            ):
                return os.readlink(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    return ""


def _environ(directory: int) -> dict[str, str]:
    pairs = os.fsdecode(slurp("environ", ENVIRON_READ, directory)).split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _is_fuse(mountinfo: bytes, mount: str) -> bool:
    """Whether the last thing mounted there is FUSE (proc(5): octal escapes, ` - ` then type)."""
    fuse = False
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        if len(fields) < 5:
            continue
        point = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8) & 255]), fields[4])
        if os.fsdecode(point) == mount:
            fuse = after.startswith((b"fuse ", b"fuse."))
    return fuse


def live_thread(where: str, pid: int) -> str:
    """The directory of another thread, where the first one has exited; "" if there is none."""
    if "/task/" in where:
        return ""
    try:
        threads = os.listdir(f"{where}/task")
    except OSError:
        return ""
    return next((f"{where}/task/{tid}" for tid in threads if tid != str(pid)), "")


def randomised(proc: str) -> bool:
    """Whether this kernel puts programs at random addresses."""
    try:
        return slurp(f"{proc}/sys/kernel/randomize_va_space", 64).strip() not in (b"", b"0")
    except OSError:
        return False


def is_random(directory: int, image: Image) -> bool:
    """Whether an exec changes the addresses of this process's image: the kernel shows them to
    us, and its personality has them random."""
    if image[2] == b"0":
        return False
    try:
        return not int(slurp("personality", 64, directory), 16) & _NO_RANDOMIZE
    except (OSError, ValueError):
        return False
