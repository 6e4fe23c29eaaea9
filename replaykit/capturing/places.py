"""Where a capture listens: interfaces, addresses, ports."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from replaykit.errors import UsageError


@dataclass(frozen=True)
class Place:
    """`[IFACE]:PORT`: an interface name, `any` (or nothing) for all; an address selects by host."""

    interface: str
    ports: tuple[int, ...]
    host: str | None = None
    listen: tuple[str, int] | None = None
    """Mirrored traffic is sent to this address and UDP port."""


def parse_place(text: str) -> Place:
    """Reads `eth0:80`, `:8080`, `any:80,443`, `lo:8000-8010`, `127.0.0.1:80`, `[::1]:80`.

    `vxlan://[ADDRESS]:4789/80` listens for mirrored traffic, on 127.0.0.1 unless told.
    Raises UsageError.
    """
    if text.startswith("vxlan://"):
        where, _, inner = text.removeprefix("vxlan://").partition("/")
        address, _, listen = where.rpartition(":")
        if not listen.isdecimal() or not 1 <= int(listen) <= 65_535:
            raise UsageError(f"{text!r}: give a UDP port from 1 to 65535, as in vxlan://0.0.0.0:4789/80")
        ports = parse_place(f":{inner}").ports if inner else ()
        return Place("", ports, listen=(address.strip("[]") or "127.0.0.1", int(listen)))
    name, colon, ports_text = text.rpartition(":")
    if not colon:
        raise UsageError(f"{text!r}: name a port as in eth0:80, or :80 for all interfaces")
    numbers: list[int] = []
    for part in ports_text.split(","):
        first, dash, last = part.partition("-")
        try:
            begin, end = int(first), int(last) if dash else int(first)
        except ValueError:
            raise UsageError(f"{text!r}: {part!r} is no port number") from None
        if not 1 <= begin <= end <= 65_535:
            raise UsageError(f"{text!r}: port {part} is out of range; ports are 1 to 65535")
        numbers += range(begin, end + 1)
    name = name.strip("[]")
    try:
        host = str(ipaddress.ip_address(name))
    except ValueError:
        interface = "any" if name in ("", "any") else name
        known = [n for _, n in socket.if_nameindex()]
        if interface != "any" and interface not in known:
            raise UsageError(
                f"{text!r}: there is no interface {interface!r}; there are {', '.join(known)}"
            ) from None
        return Place(interface, tuple(numbers))
    return Place("lo" if ipaddress.ip_address(host).is_loopback else "any", tuple(numbers), host)


def parse_ports(text: str | None) -> tuple[int, ...]:
    """`80,8000-8010` as numbers; None: none. Raises UsageError."""
    return () if text is None else parse_place(f"any:{text}").ports
