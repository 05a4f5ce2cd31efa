"""Debian's kernel and a static busybox, as apt gives them: unpacked in the cache, not installed."""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_XZ = b"\xfd7zXZ\x00"


class NoMachine(Exception):  # noqa: N818 - it is what its message says
    """Why there can be no such machine, and what to do."""


@dataclass(frozen=True)
class Kernel:
    """One version of the kernel in the cache: `image` is what qemu starts."""

    version: str
    image: Path
    modules: Path
    """lib/modules/VERSION, with the indexes of depmod(8)."""
    busybox: Path


def stock(cache: Path) -> Kernel:
    """The kernel that linux-image-amd64 stands for today; fetched if the cache has another."""
    if platform.machine() != "x86_64":
        raise NoMachine(f"made for x86_64 only, and this is {platform.machine()}")
    for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("depmod", "kmod")):
        if shutil.which(tool, path=search_path()) is None:
            raise NoMachine(f"`{tool}` is not there: apt install {package}")
    depends = output("apt-cache", "depends", "linux-image-amd64")
    names = re.findall(r"Depends: linux-image-(\S+)", depends)
    if not names:
        raise NoMachine(
            "apt knows no linux-image-amd64: it needs Debian's package lists, of any release"
        )
    home = cache / names[0]
    if not home.exists():
        fetch(names[0], home)
    return Kernel(
        names[0],
        home / "image",
        home / "lib/modules" / names[0],
        next(iter(home.glob("*bin/busybox")), home / "usr/bin/busybox"),
    )


def fetch(version: str, home: Path) -> None:
    """Download and unpack; `home` appears when it is whole."""
    print(f"vm: downloading Debian's kernel {version} (about 70 MB) into {home}", flush=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=home.parent) as name:
        new = Path(name) / "tree"
        new.mkdir()
        sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        wanted = [f"linux-image-{version}", "busybox-static"]
        output("apt-get", "-qq", *sandbox, "download", *wanted, cwd=new)
        for package in new.glob("*.deb"):
            output("dpkg", "-x", str(package), str(new))
            package.unlink()
        output("depmod", "-b", str(new), version)
        (new / "image").write_bytes(unpacked((new / f"boot/vmlinuz-{version}").read_bytes()))
        try:
            new.rename(home)
        except OSError:
            if not home.exists():  # else another of us was quicker
                raise


def unpacked(image: bytes) -> bytes:
    """The kernel in a bzImage (Documentation/arch/x86/boot.rst), which qemu starts directly: under
    emulation it would need seconds to unpack itself. As it is, where it is not packed with xz."""
    at = image.find(_XZ)
    if at < 0:
        return image
    plain = lzma.LZMADecompressor().decompress(image[at:])
    return plain if plain.startswith(b"\x7fELF") else image


def output(*argv: str, cwd: Path | None = None) -> str:
    """What a tool prints; NoMachine with its own words, if it fails."""
    env = os.environ | {"PATH": search_path(), "LC_ALL": "C"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, env=env)
    except FileNotFoundError:
        raise NoMachine(
            f"`{argv[0]}` is not there: this needs Debian, or a system made of it"
        ) from None
    if done.returncode:
        said = done.stderr.strip()
        hint = ": are the package lists old? apt-get update" if argv[0] == "apt-get" else ""
        raise NoMachine(f"{' '.join(argv)}: {said}{hint}")
    return done.stdout


def search_path() -> str:
    """PATH, and where Debian has an administrator's tools, which a user's PATH leaves out."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
