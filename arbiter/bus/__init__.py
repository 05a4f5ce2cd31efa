"""What NetworkManager, ModemManager and systemd-resolved know of links, read over D-Bus.

values.py bounds what a service sends; read.py makes facts of it; sieve.py drops what is too large
to be parsed (all three pure). calls.py is a connection with time limits; services.py what is asked
of each service; follow.py keeps up with one service; watch.py with the bus. The only code that
imports dbus-fast.
"""

from arbiter.bus.watch import FactsWatch

__all__ = ["FactsWatch"]
