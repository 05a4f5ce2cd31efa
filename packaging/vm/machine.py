"""The qemu machine: its command line, its output, its end."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel import Kernel, NoMachine, search_path

HERE = Path(__file__).parent
PASSED_ON = re.compile(r"PATH|HOME|LANG|LC_\w+|TERM|CI|PYTEST_\w+|TEST_\w+|ARBITER_\w+")
"""Of our environment, what the command gets: no secret that happens to be there."""
EMULATED_PATIENCE = "10"
"""TEST_PATIENCE (tests/kernel/running.py) where the CPU is emulated and nobody says another."""


@dataclass(frozen=True)
class Machine:
    """What it is made of."""

    kernel: Kernel
    scratch: Path
    accelerator: str
    """kvm or tcg"""
    memory: int
    """MiB"""

    def argv(self) -> list[str]:
        """qemu(1). Port 1 carries the output, to its stdout, and port 2 the exit code."""
        kvm = self.accelerator == "kvm"
        # With several threads an emulated machine of two CPUs hangs now and then.
        accel = "kvm" if kvm else "tcg,thread=single"
        words = {"console": "ttyS0", "loglevel": "4", "panic": "-1", "mitigations": "off"}
        line = " ".join(f"{k}={v}" for k, v in (words | {"job": str(self.scratch)}).items())
        files = "local,path=/,readonly=on,mount_tag=files,security_model=none,multidevs=remap"
        return [
            # It never outlives us.
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
            *("-M", "q35", "-accel", accel, "-cpu", "host" if kvm else "max"),
            *("-smp", str(min(4, os.cpu_count() or 1)) if kvm else "1", "-m", str(self.memory)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(self.kernel.image), "-initrd", str(self.scratch / "initramfs")),
            *("-append", line, "-serial", f"file:{self.scratch / 'console'}"),
            *("-virtfs", files, "-device", "virtio-serial-pci"),
            *("-chardev", "stdio,id=output,signal=off"),
            *("-device", "virtserialport,nr=1,chardev=output"),
            *("-chardev", f"file,id=status,path={self.scratch / 'status'}"),
            *("-device", "virtserialport,nr=2,chardev=status"),
        ]


def accelerator() -> str:
    """KVM where the CPU itself has it: a host that is a guest may have a /dev/kvm that is too slow
    and too narrow for a whole kernel."""
    own = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return "kvm" if own and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def run(machine: Machine, command: Sequence[str], seconds: float) -> int:
    """The command's exit code; 124 when the time is over, which ends the machine."""
    slow = machine.accelerator == "tcg"
    how = "an emulated CPU, without KVM: slow, so tests wait longer" if slow else "KVM"
    print(f"vm: Debian's kernel {machine.kernel.version}, {how}", file=sys.stderr, flush=True)
    write_job(machine, command)
    over = threading.Event()
    env = os.environ | {"PATH": search_path()}
    with (
        (machine.scratch / "qemu").open("w") as words,
        subprocess.Popen(
            machine.argv(),
            stdin=subprocess.PIPE,  # nothing comes; but at its end qemu would close the port
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
            env=env,
        ) as qemu,
    ):

        def end() -> None:
            over.set()
            qemu.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            assert qemu.stdout is not None
            while part := os.read(qemu.stdout.fileno(), 65536):
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
            qemu.wait()
        finally:
            timer.cancel()
            qemu.kill()
    if over.is_set():
        print(f"vm: the time is over: ended after {seconds / 60:g} minutes", file=sys.stderr)
        return 124
    status = machine.scratch / "status"
    if said := status.read_text().strip() if status.exists() else "":
        return int(said)
    words_of_both = [last_words(machine.scratch / name) for name in ("qemu", "console")]
    raise NoMachine("\n".join(["the machine died:", *filter(None, words_of_both)]))


def write_job(machine: Machine, command: Sequence[str]) -> None:
    """What init.sh and job.sh go on with, in the machine."""
    kernel, scratch = machine.kernel, machine.scratch
    where = {"job": str(scratch), "folder": str(Path.cwd())}
    where |= {"modules": str(kernel.modules), "version": kernel.version}
    lines = [f"{name}={shlex.quote(value)}" for name, value in where.items()]
    (scratch / "job.sh").write_text("\n".join([*lines, (HERE / "job.sh").read_text()]))
    env = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    env |= {"STOCK_KERNEL": kernel.version}
    if machine.accelerator == "tcg":
        env.setdefault("TEST_PATIENCE", EMULATED_PATIENCE)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items())]
    (scratch / "command.sh").write_text("\n".join([*lines, f"exec {shlex.join(command)}", ""]))


def last_words(console: Path) -> str:
    """The end of what qemu, or the kernel, said."""
    return (
        "\n".join(console.read_text(errors="replace").splitlines()[-40:])
        if console.exists()
        else ""
    )
