"""`vm.py [OPTIONS] -- COMMAND...`: run a command as root under Debian's stock kernel.

In a qemu machine that is made for it and gone after it. Its files are this machine's, which it
cannot change: what it writes is kept in its memory. Its network is a loopback of its own. The
output of the command, both streams in one, comes as it is written; its exit code is ours.

Exit codes of our own, and why is said: 2 usage; 124 the time is over; 125 the machine could not be
made, or died; 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import initramfs
import kernel
import machine
from kernel import NoMachine


def options(argv: list[str]) -> argparse.Namespace:
    """The command line; argparse says what is wrong with it, and exits with 2."""
    parser = argparse.ArgumentParser("vm", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=120, help="its time limit (120)")
    parser.add_argument("--memory", type=int, default=2048, help="MiB (2048)")
    parser.add_argument("--accelerator", choices=["kvm", "tcg"], help="KVM where there is one")
    parser.add_argument("command", nargs="+")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Make the machine, run the command, pass its exit code on."""
    asked = options(argv)
    signal.signal(signal.SIGTERM, terminated)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arbiter" / "vm"
    if re.search(r'[\s,"]', str(cache)):  # separates words for the kernel, and for qemu
        print(f"vm: a space, comma or quote in {cache}: set XDG_CACHE_HOME", file=sys.stderr)
        return 125
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=cache))
    except OSError as error:
        print(f"vm: cannot write to {cache}: {error.strerror}: set XDG_CACHE_HOME", file=sys.stderr)
        return 125
    try:
        found = kernel.stock(cache)
        (scratch / "initramfs").write_bytes(initramfs.build(found))
        how = machine.Machine(
            found, scratch, asked.accelerator or machine.accelerator(), asked.memory
        )
        return machine.run(how, asked.command, asked.minutes * 60)
    except NoMachine as error:
        print(f"vm: {error}", file=sys.stderr)
        return 125
    except BrokenPipeError:  # who read the output has gone, and gets no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(scratch)


def terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the machine, too, on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
