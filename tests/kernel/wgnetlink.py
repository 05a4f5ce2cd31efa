"""WireGuard interfaces set up over generic netlink (linux/wireguard.h), as wg(8) would."""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Iterable

from arbiter.kernel.netlink import attributes, pack_attribute
from arbiter.kernel.netlinkcalls import NetlinkCalls

GENERIC = 16  # NETLINK_GENERIC
_HEADER = struct.Struct("=BBH")  # struct genlmsghdr
_NESTED = 0x8000  # NLA_F_NESTED
_ID_CTRL, _GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_GET_DEVICE, _SET_DEVICE = 0, 1
_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _LISTEN_PORT, _FWMARK, _PEERS = 2, 3, 4, 6, 7, 8
_PEER_KEY, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_ALLOWED = 1, 3, 4, 9
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_LENGTH = 1, 2, 3
_AF = {4: 2, 6: 10}


class WireGuard(NetlinkCalls):
    """The interfaces of the network namespace that it was made in. Keys are 32 bytes."""

    def __init__(self) -> None:
        super().__init__(GENERIC)
        body = _HEADER.pack(_GETFAMILY, 1, 0) + pack_attribute(_FAMILY_NAME, b"wireguard\0")
        found = _attributes(self.get(_ID_CTRL, body, "looking for WireGuard"))
        self._family = int.from_bytes(found[_FAMILY_ID], sys.byteorder)

    def set(self, device: str, secret: bytes, port: int = 0, mark: int = 0) -> None:
        """Its own key, its UDP port (0: any), and the mark of its outer packets (0: none)."""
        self._set(
            device,
            pack_attribute(_PRIVATE_KEY, secret)
            + pack_attribute(_LISTEN_PORT, struct.pack("=H", port))
            + pack_attribute(_FWMARK, struct.pack("=I", mark)),
        )

    def add(
        self,
        device: str,
        key: bytes,
        allowed: Iterable[str] = (),
        endpoint: tuple[str, int] | None = None,
    ) -> None:
        """A peer, by its public key; of one that is there: more networks, another endpoint."""
        peer = pack_attribute(_PEER_KEY, key) + pack_attribute(_PEER_FLAGS, bytes(4))
        if endpoint is not None:
            peer += pack_attribute(_PEER_ENDPOINT, _endpoint(*endpoint))
        networks = b"".join(pack_attribute(_NESTED, _network(text)) for text in allowed)
        peer += pack_attribute(_PEER_ALLOWED | _NESTED, networks)
        self._set(device, pack_attribute(_PEERS | _NESTED, pack_attribute(_NESTED, peer)))

    def public_key(self, device: str) -> bytes:
        """That of the interface's own."""
        return self._device(device)[_PUBLIC_KEY]

    def peers(self, device: str) -> list[bytes]:
        """The public keys of its peers, of few."""
        found = attributes(self._device(device).get(_PEERS, b""))
        return [dict(attributes(peer))[_PEER_KEY] for _, peer in found]

    def _set(self, device: str, more: bytes) -> None:
        body = _HEADER.pack(_SET_DEVICE, 1, 0) + _name(device) + more
        self.ask(self._family, 0, body, f"setting {device}")

    def _device(self, device: str) -> dict[int, bytes]:
        body = _HEADER.pack(_GET_DEVICE, 1, 0) + _name(device)
        (found,) = self.dump(self._family, body, f"reading {device}")
        return _attributes(found.payload)


def _attributes(payload: bytes) -> dict[int, bytes]:
    return dict(attributes(payload[_HEADER.size :]))


def _name(device: str) -> bytes:
    return pack_attribute(_IFNAME, device.encode() + b"\0")


def _endpoint(address: str, port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    ip = ipaddress.ip_address(address)
    head = struct.pack("=H", _AF[ip.version]) + struct.pack("!H", port)
    return head + (ip.packed + bytes(8) if ip.version == 4 else bytes(4) + ip.packed + bytes(4))


def _network(text: str) -> bytes:
    network = ipaddress.ip_network(text)
    return (
        pack_attribute(_ALLOWED_FAMILY, struct.pack("=H", _AF[network.version]))
        + pack_attribute(_ALLOWED_ADDRESS, network.network_address.packed)
        + pack_attribute(_ALLOWED_LENGTH, bytes([network.prefixlen]))
    )
