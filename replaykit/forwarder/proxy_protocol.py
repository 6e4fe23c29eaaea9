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
