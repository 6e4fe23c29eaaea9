"""HAProxy's PROXY protocol, versions 1 and 2: who the visitor is, said before its first byte.

Source: HAProxy's doc/proxy-protocol.txt, §2.1 and §2.2.
"""

from __future__ import annotations

import ipaddress

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
Address = tuple[str, int]


def header(version: str, source: Address, destination: Address) -> bytes:
    """version: v1 or v2."""
    ends = [ipaddress.ip_address(host.partition("%")[0]) for host, _ in (source, destination)]
    ends = [e.ipv4_mapped or e if isinstance(e, ipaddress.IPv6Address) else e for e in ends]
    if len({e.version for e in ends}) > 1:  # one of each: both as IPv6
        ends = [ipaddress.ip_address(f"::ffff:{e}") if e.version == 4 else e for e in ends]
    four = ends[0].version == 4
    ports = (source[1], destination[1])
    if version == "v1":
        kind = "TCP4" if four else "TCP6"
        return f"PROXY {kind} {ends[0]} {ends[1]} {ports[0]} {ports[1]}\r\n".encode()
    body = ends[0].packed + ends[1].packed + b"".join(p.to_bytes(2, "big") for p in ports)
    return SIGNATURE + bytes([0x21, 0x11 if four else 0x21]) + len(body).to_bytes(2, "big") + body


def parse(data: bytes) -> tuple[int, Address | None] | None:
    """The length of the header that data begins with, and who it says the visitor is; None of whom: the proxy
    itself.

    None where more bytes are needed. Raises ValueError where there is no such header.
    """
    if data and data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _second(data)
    if data and data[:6] == b"PROXY "[: len(data)]:
        return _first(data)
    raise ValueError("no PROXY header")


def _first(data: bytes) -> tuple[int, Address | None] | None:
    end = data.find(b"\r\n", 0, 107)
    if end < 0:
        if len(data) >= 107:
            raise ValueError("a PROXY line without end")
        return None
    parts = data[:end].decode("ascii", "replace").split(" ")
    if parts[1:2] == ["UNKNOWN"]:
        return end + 2, None
    if (
        len(parts) != 6
        or parts[1] not in ("TCP4", "TCP6")
        or not (parts[4].isdigit() and int(parts[4]) < 65_536)
    ):
        raise ValueError("a PROXY line of another form")
    return end + 2, (str(ipaddress.ip_address(parts[2])), int(parts[4]))


def _second(data: bytes) -> tuple[int, Address | None] | None:
    if len(data) < 16:
        return None
    length = 16 + int.from_bytes(data[14:16], "big")
    if data[12] >> 4 != 2 or length > 16 + 2048:
        raise ValueError("a PROXY header of another version")
    if len(data) < length:
        return None
    size = {1: 4, 2: 16}.get(data[13] >> 4)
    if data[12] & 15 == 0 or size is None or length < 16 + 2 * size + 4:
        return length, None
    port = int.from_bytes(data[16 + 2 * size : 18 + 2 * size], "big")
    return length, (str(ipaddress.ip_address(data[16 : 16 + size])), port)
