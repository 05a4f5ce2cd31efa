"""`make test-vm`: the machine under Debian's stock kernel: what it is made of, and its every end.

The last tests start a real one, where qemu is and the kernel is in the cache: `make test-vm` gets
both.
"""

from __future__ import annotations

import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VM = ROOT / "packaging" / "vm"
sys.path.insert(0, str(VM))

import initramfs  # noqa: E402
import kernel  # noqa: E402
import machine  # noqa: E402

VERSION = "6.1.0-1-amd64"
DEPENDENCIES = """\
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko
kernel/net/9p/9pnet.ko:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko
kernel/fs/netfs/netfs.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/char/virtio-console.ko:
kernel/drivers/net/wireguard/wireguard.ko: kernel/net/ipv4/udp_tunnel.ko
"""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arbiter" / "vm"


# --- what it is made of -----------------------------------------------------------------------


def fake_kernel(home: Path) -> kernel.Kernel:
    modules = home / "lib/modules" / VERSION
    for line in DEPENDENCIES.splitlines():
        path = modules / line.partition(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (modules / "modules.dep").write_text(DEPENDENCIES)
    for name in ("alias", "symbols", "builtin"):
        (modules / f"modules.{name}").touch()
    (home / "bin").mkdir()
    (home / "bin/busybox").write_bytes(b"busybox!!")
    (home / "image").touch()
    return kernel.Kernel(VERSION, home / "image", modules, home / "bin/busybox")


def files(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file of a cpio archive in the newc format, in its order."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + fields[11]]
        at += (110 + fields[11] + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return found
        found[name.rstrip(b"\0").decode()] = (fields[1], archive[at : at + fields[6]])
        at += (fields[6] + 3) // 4 * 4


def test_the_first_files_are_busybox_the_modules_that_are_needed_and_init(tmp_path: Path) -> None:
    found = files(initramfs.build(fake_kernel(tmp_path)))
    base = f"lib/modules/{VERSION}"
    assert found["init"] == (0o100755, (VM / "init.sh").read_bytes())
    assert found["bin/busybox"] == (0o100755, b"busybox!!")
    assert found["bin/sh"] == (0o120777, b"busybox")
    assert found[f"{base}/modules.dep"] == (0o100644, DEPENDENCIES.encode())
    assert {Path(name).name for name in found if ".ko" in name} == {
        *("9p.ko", "9pnet.ko", "9pnet_virtio.ko.xz", "netfs.ko", "overlay.ko"),
        "virtio-console.ko",
    }
    names = list(found)
    for name in names:
        for parent in Path(name).parents[:-1]:
            assert names.index(str(parent)) < names.index(name), f"{name} comes before its folder"
            assert found[str(parent)] == (0o040755, b"")


def test_a_kernel_packed_with_xz_is_unpacked_and_every_other_is_left_to_itself() -> None:
    plain = b"\x7fELF" + bytes(5000)
    assert kernel.unpacked(b"MZ" + bytes(300) + lzma.compress(plain) + b"tail") == plain
    for image in (b"MZ" + bytes(300), b"MZ" + lzma.compress(b"no kernel")):
        assert kernel.unpacked(image) == image


def test_the_machine_cannot_change_this_one(tmp_path: Path) -> None:
    stock = fake_kernel(tmp_path)
    for accelerator in ("kvm", "tcg"):
        argv = machine.Machine(stock, tmp_path, accelerator, 64).argv()
        shared = [word for word in argv if "mount_tag" in word]
        assert len(shared) == 1 and ",readonly=on," in shared[0]
        assert not {"-nic", "-netdev", "-net", "-drive", "-hda"} & set(argv)
        assert "-nodefaults" in argv, "which would bring a network"
        assert argv[:3] == ["setpriv", "--pdeathsig", "KILL"]


def test_the_command_gets_its_words_as_they_are_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k 'a b'")
    monkeypatch.delenv("TEST_PATIENCE", raising=False)
    stock = fake_kernel(tmp_path)
    for accelerator, patience in (("kvm", "none"), ("tcg", machine.EMULATED_PATIENCE)):
        made = machine.Machine(stock, tmp_path, accelerator, 64)
        show = 'printf "%s|" "$@" "$PYTEST_ADDOPTS" "${API_TOKEN-none}" "${TEST_PATIENCE-none}"'
        machine.write_job(made, ["sh", "-c", show, "sh", "it's", "$HOME *"])
        done = subprocess.run(
            ["env", "-i", "sh", tmp_path / "command.sh"], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"it's|$HOME *|-k 'a b'|none|{patience}|"


SKIPPED = """
import pytest

@pytest.mark.skipif(True, reason="KERNEL TEST NOT RUN: this kernel has no netem")
def test_marked(): pass

def test_said(): pytest.skip("this kernel or machine lacks nft")

def test_no_lack(): pytest.skip("nft has both families in one transaction")
"""


@pytest.mark.parametrize("stock", ["", VERSION])
@pytest.mark.skipif(os.geteuid() != 0, reason="without root every kernel test is skipped first")
def test_what_the_stock_kernel_is_said_to_lack_has_failed(tmp_path: Path, stock: str) -> None:
    shutil.copy(ROOT / "tests/kernel/conftest.py", tmp_path)
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    argv = [sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if name != "CI"}
    env["STOCK_KERNEL"] = stock
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=tmp_path)
    counted = ("1 failed, 1 skipped", "1 error") if stock else ("3 skipped",)
    assert all(part in done.stdout for part in counted), done.stdout
    assert done.returncode == bool(stock)
    if stock:
        assert f"under kernel {VERSION} it must run: " in done.stdout
        assert "this kernel has no netem" in done.stdout


# --- every end, with a qemu that is none -------------------------------------------------------


def tools(folder: Path, qemu: str = "exit 1", image: str = f"linux-image-{VERSION}") -> Path:
    """A PATH with such a qemu, an apt that knows such a kernel, and what makes its indexes."""
    folder.mkdir()
    for name, text in {
        "qemu-system-x86_64": qemu,
        "depmod": "exit 0",
        "apt-cache": f"echo '  Depends: {image}'",
        "apt-get": "echo 'E: Failed to fetch' >&2; exit 100",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def started(home: Path, path: Path | str, *argv: str) -> subprocess.Popen[str]:
    env = os.environ | {"XDG_CACHE_HOME": str(home / "cache"), "PATH": f"{path}:/usr/bin:/bin"}
    return subprocess.Popen(
        [sys.executable, str(VM / "vm.py"), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def cached(home: Path) -> Path:
    """A cache that has that kernel."""
    folder = home / "cache/arbiter/vm"
    (folder / VERSION).mkdir(parents=True)
    fake_kernel(folder / VERSION)
    return folder


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    return process.returncode, error


def test_without_qemu_it_says_what_to_install(tmp_path: Path) -> None:
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path)}
    argv = [sys.executable, str(VM / "vm.py"), "--", "true"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr == "vm: `qemu-system-x86_64` is not there: apt install qemu-system-x86\n"


def test_without_that_kernel_in_apt_it_says_so(tmp_path: Path) -> None:
    code, said = ended(started(tmp_path, tools(tmp_path / "bin", image="other"), "true"))
    assert code == 125
    assert "apt knows no linux-image-amd64" in said


def test_a_cache_whose_path_qemu_would_misread_is_refused(tmp_path: Path) -> None:
    code, said = ended(started(tmp_path / "a,b", tools(tmp_path / "bin"), "true"))
    assert code == 125
    assert "a,b/cache/arbiter/vm: set XDG_CACHE_HOME" in said
    assert not (tmp_path / "a,b").exists()


def test_a_download_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    code, said = ended(started(tmp_path, tools(tmp_path / "bin"), "true"))
    assert code == 125
    assert "E: Failed to fetch: are the package lists old? apt-get update" in said
    assert list((tmp_path / "cache/arbiter/vm").iterdir()) == []


def test_a_machine_that_dies_says_its_last_words(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    qemu = tools(tmp_path / "bin", "echo 'qemu: no such CPU' >&2; exit 1")
    code, said = ended(started(tmp_path, qemu, "true"))
    assert code == 125
    assert "the machine died:\nqemu: no such CPU" in said
    assert [path.name for path in cache.iterdir()] == [VERSION]


HANGS = "echo up; echo $$ >{}; exec sleep 1000"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_ends_it_ends_the_machine(tmp_path: Path, how: signal.Signals) -> None:
    cache, pid = cached(tmp_path), tmp_path / "pid"
    process = started(tmp_path, tools(tmp_path / "bin", HANGS.format(pid)), "true")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    running = Path("/proc", eventually_text(pid))
    assert running.exists()
    process.send_signal(how)
    code, _ = ended(process)
    assert code == (-how if how == signal.SIGKILL else 128 + how)
    until = time.monotonic() + 10
    while running.exists() and "State:\tZ" not in (running / "status").read_text():
        assert time.monotonic() < until, "the machine outlived it"
        time.sleep(0.05)
    if how != signal.SIGKILL:
        assert [path.name for path in cache.iterdir()] == [VERSION]


def eventually_text(path: Path) -> str:
    until = time.monotonic() + 10
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.02)
    return path.read_text().strip()


def test_the_time_limit_ends_the_machine(tmp_path: Path) -> None:
    cached(tmp_path)
    qemu = tools(tmp_path / "bin", HANGS.format(tmp_path / "pid"))
    code, said = ended(started(tmp_path, qemu, "--minutes", "0.02", "--", "true"))
    assert code == 124
    assert "the time is over: ended after 0.02 minutes" in said


def test_a_reader_that_goes_away_ends_the_machine(tmp_path: Path) -> None:
    cached(tmp_path)
    qemu = tools(tmp_path / "bin", "while echo line; do sleep 0.1; done")
    process = started(tmp_path, qemu, "true")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 128 + signal.SIGPIPE
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


# --- a real one -------------------------------------------------------------------------------

real = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None or not list(CACHE.glob("*-amd64/image")),
    reason="NOT RUN: no qemu, or no kernel in the cache: `make test-vm` gets them",
)
LOOK = """
uname -r; id -u; pwd; echo "$STOCK_KERNEL"; echo 'on stderr' >&2; ls /sys/class/net
nft -f - <<-END && echo 'nft has a queue'
	table inet t { chain c { type filter hook output priority 0; queue num 1; }; }
END
unshare -n ip link add wg0 type wireguard && echo 'WireGuard, too'
echo changed >README.md; cat README.md; sleep 1000 & exit 7
"""


@real
def test_a_command_runs_under_the_stock_kernel_and_changes_nothing_here() -> None:
    before = (ROOT / "README.md").read_text()
    argv = [sys.executable, str(VM / "vm.py"), "--minutes", "4", "--", "sh", "-c", LOOK]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 7, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == lines[3] != os.uname().release
    assert lines[0].endswith("-amd64")
    assert lines[1:3] == ["0", str(ROOT)]
    assert lines[4:] == ["on stderr", "lo", "nft has a queue", "WireGuard, too", "changed"]
    assert (ROOT / "README.md").read_text() == before
