"""The C of the fast path, compiled under the sanitizers: a program of its own that reads what it
is given (native/harness.c), and ends with a report where it does what C forbids."""

from __future__ import annotations

import struct
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).parent
NATIVE = HERE.parent / "arbiter" / "kernel" / "native"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
KEEP = 0xFFFF
"""Of a step of `drain`: it is repeated without end."""


def compile_c(to: Path, *words: str) -> Path:
    """Compile with these words, every warning an error; the file that was made."""
    command = ["gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Werror", "-I", str(NATIVE)]
    done = subprocess.run([*command, "-o", str(to), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return to


def build(folder: Path, *words: str) -> Path:
    """The module, compiled with these words."""
    shared = ("-shared", "-fPIC", f"-I{sysconfig.get_path('include')}")
    sources = map(str, sorted(NATIVE.glob("*.c")))
    return compile_c(folder / "_fastpath.so", *words, *shared, *sources)


class Harness:
    """The program, which has what it remembers of process events. Close it: then it must have kept
    no memory."""

    def __init__(self, folder: Path) -> None:
        source = HERE / "native" / "harness.c"
        program = compile_c(folder / "harness", *SANITIZERS, str(source))
        work = folder / "work"
        work.mkdir()
        self._report = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the program
        self._program = subprocess.Popen(
            [str(program), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._report,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._program.stdin is not None and self._program.stdout is not None
        self._program.stdin.close()
        code = self._program.wait(30)
        self._program.stdout.close()
        report = self._reported()
        self._report.close()
        assert code == 0, report

    def _reported(self) -> str:
        self._report.seek(0)
        return self._report.read().decode(errors="replace")

    def ask(self, letter: str, data: bytes = b"") -> bytes:
        """One request. AssertionError with the sanitizer's report where it ends the program, or it
        does not come to an end."""
        assert self._program.stdin is not None and self._program.stdout is not None
        request = letter.encode() + data
        try:
            self._program.stdin.write(struct.pack("=I", len(request)) + request)
            self._program.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(self._reported()) from None
        head = self._program.stdout.read(4)
        if len(head) < 4:
            raise AssertionError(f"{self._program.wait(30)}: {self._reported()}")
        return self._program.stdout.read(struct.unpack("=I", head)[0])
