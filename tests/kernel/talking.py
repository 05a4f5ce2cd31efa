"""A program whose one socket does what the test says, when it says it."""

from __future__ import annotations

import subprocess

from running import Arbiter, python

CODE = """
import errno, socket, sys
proto, address, local = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
sock = None

def open_():
    global sock
    sock = socket.socket(family, socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM)
    sock.settimeout(2.0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", local))
    sock.connect((address, 7))
    while proto == "tcp" and sock.recv(1) != b"\\n":
        pass  # the server's first line

def send():
    sock.send(b"x")
    if not sock.recv(100):
        raise EOFError

for line in sys.stdin:
    try:
        {"open": open_, "send": send, "close": lambda: sock.close()}[line.strip()]()
        end = "done"
    except OSError as error:
        end = errno.errorcode.get(error.errno, type(error).__name__)
    print(end, flush=True)
"""
REFUSED = {
    *("EPERM", "EACCES", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EHOSTUNREACH", "EPIPE"),
    "EDESTADDRREQ",
}
"""How a program hears that it may not: by a reset, an ICMP error, the send itself, or because its
socket was ended."""


class Talk:
    """`proto` to port 7 of an address, from local port `local`. What it does gives "done", or how
    it was refused."""

    def __init__(self, arbiter: Arbiter, proto: str, address: str, local: int) -> None:
        pipe = subprocess.PIPE
        argv = python(CODE, proto, address, str(local))
        self.local = local
        self.program = arbiter.lab.popen(
            argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        arbiter.programs.append(self.program)
        assert self("open") == "done"

    def __call__(self, what: str) -> str:
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(f"{what}\n")
        self.program.stdin.flush()
        said: str = self.program.stdout.readline()
        return said.strip()
