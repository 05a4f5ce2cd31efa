"""arbiter/identity.py: every id form, option parsing of interpreters, and what cannot be forged."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from arbiter.identity import (
    NAME_LIMIT,
    Facts,
    ScriptArg,
    container_of,
    find_script,
    identify,
    interpreter_name,
    note,
    script_candidates,
    stable_path,
    unit_of,
)
from arbiter.model import AppKind

HEX = "0123456789abcdef" * 4
NIX = "/nix/store/0c3bnn5bi5d0qvzrskxm5ayzxhpzbddb"


@pytest.mark.parametrize(
    ("path", "stable"),
    [
        ("/usr/bin/curl", "/usr/bin/curl"),
        ("/usr/bin/python3.11", "/usr/bin/python3"),
        ("/usr/bin/perl5.36.0", "/usr/bin/perl"),
        ("/usr/bin/php8.2", "/usr/bin/php"),
        ("/usr/bin/gcc-12.2.0", "/usr/bin/gcc-12.2.0"),
        ("/opt/app/7/bin/x", "/opt/app/7/bin/x"),
        ("/opt/app/7.1/bin/x", "/opt/app/*/bin/x"),
        ("/home/u/.nvm/versions/node/v20.1.0/bin/node", "/home/u/.nvm/versions/node/*/bin/node"),
        ("/opt/idea-IC-233.11799.241/jbr/bin/x", "/opt/idea-IC-*/jbr/bin/x"),
        ("/opt/foo-1.2-rc1/x", "/opt/foo-*/x"),
        ("/opt/x86_64-linux-gnu/a.b/x", "/opt/x86_64-linux-gnu/a.b/x"),
        (f"{NIX}-curl-8.4.0-bin/bin/curl", "/nix/store/*-curl/bin/curl"),
        (f"{NIX}-python3-3.11.6/bin/python3.11", "/nix/store/*-python3/bin/python3"),
        (f"{NIX}-firefox-wrapped/bin/x", "/nix/store/*-firefox-wrapped/bin/x"),
        ("/nix/store/short-curl-1.0/bin/curl", "/nix/store/short-curl-*/bin/curl"),
        ("/tmp/app/7.1/bin/x", "/tmp/app/7.1/bin/x"),
        ("/var/tmp/a-1.2/x", "/var/tmp/a-1.2/x"),
        ("/dev/shm/1.2/x", "/dev/shm/1.2/x"),
        ("", ""),
    ],
)
def test_a_stable_path_is_the_same_for_every_version(path: str, stable: str) -> None:
    assert stable_path(path) == stable


@given(st.text(alphabet="/ab-.*v0123456789\n", max_size=40))
def test_stable_paths_are_stable_and_keep_the_first_directory(path: str) -> None:
    once = stable_path(path)
    assert stable_path(once) == once
    assert once.count("/") == path.count("/")


@pytest.mark.parametrize("prefix", ["/tmp/", "/var/tmp/", "/dev/shm/"])
@given(directory=st.from_regex(r"(v?\d+\.\d+|[a-z]+-\d\.\d)", fullmatch=True))
def test_directories_that_anyone_may_make_are_never_merged(prefix: str, directory: str) -> None:
    assert stable_path(f"{prefix}{directory}/x") == f"{prefix}{directory}/x"


PY, SH = "/usr/bin/python3.11", "/usr/bin/dash"


@pytest.mark.parametrize(
    ("exe", "line", "found"),
    [
        (PY, "python3 a.py -c x", "a.py"),
        (PY, "python3 -u -X dev -Wignore -W error a.py", "a.py"),
        (PY, "python3 -Bu -- -a.py", "-a.py"),
        (PY, "python3 --check-hash-based-pycs never a.py", "a.py"),
        (PY, "python3 -m http.server 80", "-m http.server"),
        (PY, "python3 -Ibm pip install", "-m pip"),
        (PY, "python3 -mpip", "-m pip"),
        (PY, "python3 -Ic code a.py", None),
        (PY, "python3 -c code a.py", None),
        (PY, "python3 - a.py", None),
        (PY, "python3 -m", None),
        (PY, "python3", None),
        (PY, "gunicorn:_master_[app]", None),
        (SH, "sh -e ./x.sh", "./x.sh"),
        (SH, "sh -euo pipefail x.sh -c", "x.sh"),
        (SH, "sh +x -o posix x.sh", "x.sh"),
        (SH, "sh -ec x.sh", None),
        (SH, "sh -s x.sh", None),
        (SH, "sh - x.sh", "x.sh"),
        ("/bin/bash", "bash --norc --rcfile /rc x", "x"),
        ("/bin/zsh", "-zsh", None),
        ("/usr/bin/perl", "perl -T -I lib -Mstrict x.pl", "x.pl"),
        ("/usr/bin/perl", "perl -ne print x", None),
        ("/usr/bin/perl", "perl -pi.bak -e s/// x", None),
        ("/usr/bin/perl", "perl -pie x", "x"),
        ("/usr/bin/ruby3.1", "ruby -w -r json -Ilib x.rb", "x.rb"),
        ("/usr/bin/node", "node --inspect --require ./a.js -r b.js app.js", "app.js"),
        ("/usr/bin/node", "node --title=x app.js", "app.js"),
        ("/usr/bin/node", "node -p 1", None),
        ("/usr/bin/node", "node --eval 1 app.js", None),
        ("/usr/bin/php8.2", "php -d a=b -c /etc/php.ini -f x.php", "x.php"),
        ("/usr/bin/php8.2", "php -r code", None),
        ("/usr/bin/lua5.4", "lua -l socket -e a=1 x.lua", "x.lua"),
        ("/usr/lib/jvm/j/bin/java", "java -Xmx1g -cp a.jar:b.jar -jar x.jar", "x.jar"),
        ("/usr/lib/jvm/j/bin/java", "java -cp a.jar com.example.Main -jar y", "com.example.Main"),
        ("/usr/lib/jvm/j/bin/java", "java --module-path m -m a/b.C", "-m a/b.C"),
        ("/usr/lib/jvm/j/bin/java", "java -version", None),
        ("/usr/bin/mono-sgen", "mono --debug --config f x.exe", "x.exe"),
        ("/usr/lib/wine/wine64-preloader", r"C:\games\g.exe -x", r"C:\games\g.exe"),
        ("/usr/lib/wine/wine64-preloader", "/usr/bin/wine64 g.exe", "g.exe"),
        ("/bin/busybox", "sh -x a.sh", "a.sh"),
        ("/bin/busybox", "busybox sh a.sh", "a.sh"),
        ("/bin/busybox", "busybox wget a.sh", None),
        ("/usr/bin/deno", "deno run --allow-net x.ts", "x.ts"),
        ("/usr/lib/electron27/electron", "electron --type=renderer", None),
        ("/usr/bin/curl", "python3 a.py", None),
    ],
)
def test_the_script_is_found_behind_the_options(exe: str, line: str, found: str | None) -> None:
    script = find_script(exe, tuple(line.split(" ")))
    assert (script.text if script else None) == found


def test_modules_and_windows_paths_are_not_files() -> None:
    assert find_script(PY, ("python3", "-m", "a")) == ScriptArg("-m a", file=False)
    assert find_script("/usr/bin/wine", (r"C:\x.exe",)) == ScriptArg(r"C:\x.exe", file=False)


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/cups-browsed.service", "cups-browsed.service"),
        ("/system.slice/system-wg.slice/wg-quick@wg0.service", "wg-quick@wg0.service"),
        ("/system.slice/postgresql@15-main.service", "postgresql@15-main.service"),
        ("/system.slice/nginx.service/worker", "nginx.service"),
        ("/mine.slice/own.service", "own.service"),
        ("/system.slice/echo@3-10.0.0.1:22-10.0.0.9:5000.service", "echo@.service"),
        ("/system.slice/echo@3-fe80::1:22-fe80::2:5000.service", "echo@.service"),
        ("/system.slice/coredump@0-2042-0.service", "coredump@.service"),
        ("/system.slice/cron.service", ""),
        ("/system.slice/ssh.service", ""),
        ("/system.slice/system-getty.slice/getty@tty1.service", ""),
        ("/system.slice/docker-x.scope/system.slice/nginx.service", ""),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/cups.service", ""),
        ("/user.slice/cups.service", ""),
        ("/machine.slice/systemd-nspawn@a.service/payload/system.slice/cups.service", ""),
        ("/init.scope", ""),
        ("/cups.service", ""),
        ("/system.slice/.service", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_a_unit_is_what_systemd_alone_can_name(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"/system.slice/docker-{HEX}.scope", HEX[:12]),
        (f"/docker/{HEX}", HEX[:12]),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{HEX}.scope", HEX[:12]),
        (f"/machine.slice/libpod-{HEX}.scope/container", HEX[:12]),
        (f"/user.slice/user-7.slice/user@7.service/libpod-{HEX}.scope", f"u7-{HEX[:12]}"),
        (f"/user.slice/docker-{HEX}.scope", f"u?-{HEX[:12]}"),
        ("/lxc.payload.web/init.scope", "web"),
        ("/lxc/web/x", "web"),
        ("/machine.slice/systemd-nspawn@deb.service/payload", "deb"),
        ("/machine.slice/machine-a b.scope", "?"),
        ("/user.slice/user-7.slice/session-1.scope", "?"),
        ("", "?"),
    ],
)
def test_a_container_has_the_name_its_manager_gave_it(cgroup: str, container: str) -> None:
    assert container_of(cgroup) == container


SNAP = "/user.slice/user-7.slice/user@7.service/app.slice/snap.firefox.firefox-1.scope"
MOUNTED = "/tmp/.mount_FooX/usr/bin/foo"


@pytest.mark.parametrize(
    ("facts", "app", "kind", "name"),
    [
        (Facts("/snap/firefox/12/f", cgroup=SNAP, own_mounts=False), "snap:firefox", "snap", ""),
        (
            Facts("/var/lib/snapd/snap/lxd/1/bin/lxd", cgroup="/system.slice/snap.lxd.d.service"),
            "snap:lxd",
            "snap",
            "",
        ),
        (Facts("/snap/firefox/12/f", cgroup="/"), "/snap/firefox/12/f", "path", "f"),
        (Facts("/home/u/f", cgroup=SNAP), "/home/u/f", "path", "f"),
        (Facts("/snap/firefox/12/f", cgroup=SNAP, exe_here=False), None, "foreign", "f"),
        (Facts("/snap/other/12/f", cgroup=SNAP), "/snap/other/12/f", "path", "f"),
        (
            Facts(MOUNTED, exe_here=False, appimage="/h/Foo.AppImage"),
            "appimage:/h/Foo.AppImage",
            "appimage",
            "Foo",
        ),
        (Facts("/usr/bin/x", appimage="/h/Foo.AppImage"), "/usr/bin/x", "path", "x"),
        (Facts("/x", own_mounts=False, flatpak="org.a.Ab"), "flatpak:org.a.Ab", None, "Ab"),
        (Facts("/x", flatpak="org.a.Steam"), "/x", "path", "x"),
        (Facts("/x", exe_here=False, own_mounts=False), "foreign:?:/x", "foreign", "x"),
        (
            Facts(PY, argv=("p", "a.py"), script="/s/a.py", script_here=False, own_mounts=False),
            "foreign:?:/usr/bin/python3.11:/s/a.py",
            "foreign",
            "a.py",
        ),
        (
            Facts(PY, argv=("p", "a.py"), script="/s/1.2/a.py", cgroup="/system.slice/a.service"),
            "script:/usr/bin/python3:/s/*/a.py",
            "script",
            "a.py",
        ),
        (
            Facts(PY, argv=("p", "-c", "x"), cgroup="/system.slice/a.service"),
            "unit:a.service",
            "unit",
            "a",
        ),
        (Facts(PY, argv=("p", "-m", "http.server")), "script:/usr/bin/python3:-m http.server",
         "script", "http.server"),
        (Facts(PY, argv=("p", "-c", "x")), "/usr/bin/python3", "path", "python3"),
        (Facts("/home/u/python3", argv=("p", "a"), script="/a"), "script:/home/u/python3:/a",
         "script", "a"),
        (Facts("", comm="kworker", kernel_thread=True), "foreign:kernel:[kworker]", None, None),
        (Facts("", comm="curl"), "foreign:hidden:?", "foreign", "curl"),
        (Facts("(unreachable)/x"), "foreign:?:(unreachable)/x", "foreign", "x"),
    ],
)  # fmt: skip
def test_every_kind_of_app_has_its_id(
    facts: Facts, app: str | None, kind: str | None, name: str | None
) -> None:
    found = identify(facts)
    assert app is None or found.id == app
    assert kind is None or found.kind == kind
    assert not name or found.name == name


def test_notes_say_what_a_person_must_know() -> None:
    assert note(Facts("/x")) == ""
    assert note(Facts("/x", exe_deleted=True)) == "its executable was replaced or deleted"
    assert "not reachable by its path" in note(Facts("/x", exe_here=False))
    assert "another mount namespace" in note(Facts("/x", exe_here=False, own_mounts=False))
    assert "not permitted" in note(Facts("", comm="x"))
    assert note(Facts("", comm="x", kernel_thread=True)) == ""
    foreign = Facts(PY, argv=("p", "a"), script="/a", script_here=False)
    assert note(foreign) == "its script is in another mount namespace"


def test_script_candidates_are_absolute_and_never_of_the_daemon_itself() -> None:
    assert script_candidates("a.py", "/srv", "/home/u") == ("/srv/a.py", "/home/u/a.py")
    assert script_candidates("a.py", "/", "relative") == ("/a.py",)
    assert script_candidates("/a.py", "/srv", "") == ("/a.py",)
    for ours in ("/dev/fd/3", "//proc/self/fd/3", "/dev/stdin", "a\0b"):
        assert script_candidates(ours, "/srv", "/") == ()


words = st.text(max_size=12) | st.sampled_from(
    ["-", "--", "-c", "-m", "-jar", "/a", "a.py", "-euo", "/usr/bin/python3.11", "\udcff"]
)
groups = st.lists(
    st.sampled_from(
        ["user.slice", "system.slice", "cups.service", "snap.a.b.scope", f"docker-{HEX}.scope", ""]
    )
    | st.text(max_size=8)
).map("/".join)
facts_of_anything = st.builds(
    Facts,
    exe=st.sampled_from(["/usr/bin/curl", PY, "/usr/bin/java", "/snap/a/1/x", "", MOUNTED])
    | st.text(max_size=30),
    exe_here=st.booleans(),
    exe_deleted=st.booleans(),
    own_mounts=st.booleans(),
    argv=st.lists(words, max_size=6).map(tuple),
    script=words,
    script_here=st.booleans(),
    cgroup=groups,
    flatpak=words | st.just("org.a.b"),
    appimage=words,
    appimage_claim=words,
    comm=words,
    kernel_thread=st.booleans(),
)
PREFIX = {
    AppKind.PATH: "/",
    AppKind.SCRIPT: "script:",
    AppKind.UNIT: "unit:",
    AppKind.FLATPAK: "flatpak:",
    AppKind.SNAP: "snap:",
    AppKind.APPIMAGE: "appimage:",
    AppKind.FOREIGN: "foreign:",
}


@given(facts_of_anything)
def test_identify_is_total_and_ids_say_their_kind(facts: Facts) -> None:
    app = identify(facts)
    assert app.id.startswith(PREFIX[app.kind])
    assert len(app.name) <= NAME_LIMIT
    assert isinstance(note(facts), str)


@given(facts_of_anything)
def test_an_executable_that_is_not_here_never_has_a_path_or_script_id(facts: Facts) -> None:
    app = identify(structs.replace(facts, exe_here=False))
    assert app.kind not in (AppKind.PATH, AppKind.SCRIPT, AppKind.SNAP)


@given(facts_of_anything, st.lists(words, max_size=6).map(tuple), words, words)
def test_what_a_process_chooses_does_not_change_the_app_of_a_program(
    facts: Facts, argv: tuple[str, ...], comm: str, claim: str
) -> None:
    if interpreter_name(facts.exe.rpartition("/")[2]) or not facts.exe:
        return
    other = structs.replace(facts, argv=argv, comm=comm, appimage_claim=claim)
    if not facts.kernel_thread:
        assert identify(other) == identify(facts)


@given(groups)
def test_nothing_below_user_slice_is_a_unit_or_a_system_container(below: str) -> None:
    assert unit_of("/user.slice/" + below) == ""
    assert re.match(r"\?$|u(\d+|\?)-", container_of("/user.slice/" + below))
