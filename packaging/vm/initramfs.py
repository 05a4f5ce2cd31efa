"""The first files of the machine: busybox, the modules that lead to the real ones, and init.sh."""

from __future__ import annotations

from pathlib import Path

from kernel import Kernel

WANTED = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
"""Modules, to reach this machine's files and to write to us."""
HERE = Path(__file__).parent


def build(kernel: Kernel) -> bytes:
    """A cpio archive, in the order that needs each folder before its files."""
    base = Path("lib/modules") / kernel.version
    entries: dict[Path, tuple[int, bytes]] = {
        Path("init"): (0o100755, (HERE / "init.sh").read_bytes()),
        Path("bin/busybox"): (0o100755, kernel.busybox.read_bytes()),
        Path("bin/sh"): (0o120777, b"busybox"),
    }
    for path in needed((kernel.modules / "modules.dep").read_text()):
        entries[base / path] = (0o100644, (kernel.modules / path).read_bytes())
    for name in ("modules.dep", "modules.alias", "modules.symbols", "modules.builtin"):
        entries[base / name] = (0o100644, (kernel.modules / name).read_bytes())
    folders = {parent for path in entries for parent in path.parents if parent.name}
    archive = b"".join(entry(path, 0o040755, b"") for path in sorted(folders))
    archive += b"".join(entry(path, mode, data) for path, (mode, data) in entries.items())
    return archive + entry(Path("TRAILER!!!"), 0, b"")


def needed(dependencies: str) -> set[str]:
    """The files of WANTED and of what they depend on, by modules.dep(5)."""
    files: set[str] = set()
    for line in dependencies.splitlines():
        file, _, others = line.partition(":")
        if file.rpartition("/")[2].partition(".")[0].replace("-", "_") in WANTED:
            files |= {file, *others.split()}
    return files


def entry(path: Path, mode: int, data: bytes) -> bytes:
    """One file in the newc format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    name = str(path).encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
    return _filled(head) + _filled(data)


def _filled(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
