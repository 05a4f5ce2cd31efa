"""`make fuzz`: the targets, guided by coverage (atheris).

    python tests/fuzz/run.py [--seconds N] [--target NAME]... [--list]

Each target runs in a process of its own, from its seeds in fixtures/fuzz and from what it learned
in earlier runs (.fuzz/NAME). What breaks a promise is written to .fuzz/NAME-crash-…: run the target
on it, mend the code, and keep the input as fixtures/fuzz/NAME/found-….
Exit codes: 0 nothing found, 1 something found, 2 usage, or there is no atheris here.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]
WORK = ROOT / ".fuzz"
NO_ATHERIS = (
    "fuzz: atheris is not installed (it is not made for every Python): .venv/bin/pip install"
    " atheris; without it, make test ARGS=tests/fuzz tries inputs at random"
)
KEPT = ("crash", "timeout", "oom")
"""How libFuzzer names inputs that it keeps."""
SLOWEST = 20
"""Seconds that one input may take."""


def main(args: list[str]) -> int:
    """Run the targets one after another; see above for the exit code."""
    if args[:1] == ["--only"]:
        return fuzz(args[1], args[2:])
    options = _parser().parse_args(args)
    from targets import TARGETS

    if options.list:
        print("\n".join(TARGETS))
        return 0
    unknown = [name for name in options.target if name not in TARGETS]
    if unknown:
        print(f"fuzz: no target {unknown[0]}; there is: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if not _installed():
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    bad = [name for name in options.target or TARGETS if not _run(name, options.seconds)]
    for name in bad:
        kept = [path for kind in KEPT for path in WORK.glob(f"{name}-{kind}-*")]
        inputs = ", ".join(str(path.relative_to(ROOT)) for path in sorted(kept))
        print(f"fuzz: {name}: {inputs or 'it did not run to its end'}", file=sys.stderr)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz arbiter's decoders.")
    parser.add_argument("--seconds", type=int, default=5, help="for each target; 5 unless given")
    parser.add_argument("--target", action="append", default=[], help="this one only; repeatable")
    parser.add_argument("--list", action="store_true", help="list the targets")
    return parser


def _installed() -> bool:
    try:
        return importlib.util.find_spec("atheris") is not None
    except ValueError:  # it is there and may not be imported
        return False


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own, and say what came of it."""
    from seeds import folders

    learned, log = WORK / name, WORK / f"{name}.log"
    learned.mkdir(parents=True, exist_ok=True)
    print(f"fuzz: {name}, {seconds} s: ", end="", flush=True)
    with log.open("w") as file:
        done = subprocess.run(
            [
                *(sys.executable, __file__, "--only", name),
                *(f"-max_total_time={seconds}", f"-timeout={SLOWEST}", "-rss_limit_mb=2048"),
                *(f"-artifact_prefix={WORK}/{name}-", "-max_len=4096", "-print_final_stats=1"),
                *(str(folder) for folder in (learned, *folders(name))),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = log.read_text(errors="replace")
    tried = re.search(r"number_of_executed_units: ([0-9]+)", text)
    if done.returncode == 0 and tried:
        print(f"{tried[1]} inputs, nothing found")
        return True
    found = re.search(r"=== Uncaught.*?(?=\n\n==|\Z)|ERROR: libFuzzer.*", text, re.DOTALL)
    what = "a promise is broken" if found else "it ended early"
    print(f"{what}, see {log.relative_to(ROOT)}\n{found[0] if found else text[-2000:]}")
    return False


def fuzz(name: str, args: list[str]) -> int:
    """One target, in this process; `args` are libFuzzer's."""
    import atheris

    with atheris.instrument_imports(include=["arbiter"]):
        from targets import TARGETS
    atheris.Setup([name, *args], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
