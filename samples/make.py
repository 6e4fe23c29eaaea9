"""Makes shop.pcap.gz: a small shop's traffic, with what real traffic has. `python -m samples.make`.

Keep-alive, pipelining, chunked responses, uploads, HEAD, 304, errors, IPv6, VLANs, lost, late and
repeated packets, a connection that was already running, TLS that cannot be read.
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from scapy.layers.l2 import Dot1Q

from tests.mutate import Packet, write
from tests.talk import START, Talk

OUT = Path(__file__).parent / "shop.pcap.gz"


def _response(status: str, kind: str, body: bytes, chunked: bool = False) -> bytes:
    head = f"HTTP/1.1 {status}\r\nServer: shop\r\nContent-Type: {kind}\r\n"
    if not chunked:
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + 4096]), body[i : i + 4096]) for i in range(0, len(body), 4096)
    )
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


def _request(r: random.Random, method: str, path: str, body: bytes = b"") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: {r.choice(('web', 'app', 'bot'))}\r\n"
    )
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + "\r\n").encode() + body


def _visit(r: random.Random, talk: Talk) -> None:
    for _ in range(r.randrange(2, 9)):
        what = r.random()
        if what < 0.5:
            item = json.dumps({"id": r.randrange(10_000), "stock": r.randrange(50)}).encode()
            talk.client(_request(r, "GET", f"/products/{r.randrange(10_000)}")).server(
                _response("200 OK", "application/json", item)
            )
        elif what < 0.65:
            path = f"/images/{r.randbytes(8).hex()}.png"
            if r.random() < 0.3:
                talk.client(_request(r, "GET", path)).server(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
            else:
                talk.client(_request(r, "GET", path)).server(
                    _response("200 OK", "image/png", bytes(r.randrange(5_000, 40_000)))
                )
        elif what < 0.75:
            order = json.dumps({"items": list(range(r.randrange(1, 200)))}).encode()
            talk.client(_request(r, "POST", "/orders", order)).server(
                _response("201 Created", "application/json", b"{}")
            )
        elif what < 0.8:
            report = json.dumps([{"id": i, "name": "item"} for i in range(3000)]).encode()
            talk.client(_request(r, "GET", "/reports/2026-11-21/export.json")).server(
                _response("200 OK", "application/json", report, True)
            )
        elif what < 0.9:
            several = [_request(r, "GET", f"/products/{r.randrange(10_000)}") for _ in range(3)]
            talk.client(b"".join(several)).server(_response("200 OK", "application/json", b"{}") * 3)
        else:
            talk.client(_request(r, "HEAD", "/")).server(b"HTTP/1.1 200 OK\r\nContent-Length: 5120\r\n\r\n")


def packets() -> list[Packet]:
    """All of it, in the order of capture."""
    r = random.Random(2026)
    out: list[Packet] = []
    for n in range(60):
        source = {"src": f"fd00::{n:x}", "dst": "fd00::80"} if n % 7 == 0 else {"src": f"10.0.{n}.9"}
        start = START + r.randrange(5_000_000_000)
        talk = Talk(
            sport=40_000 + n, envelope=[Dot1Q(vlan=9)] if n % 5 == 0 else (), start=start, **source
        ).open()
        if n % 20 == 19:
            talk.client(b"\x16\x03\x01" + r.randbytes(500)).server(b"\x16\x03\x03" + r.randbytes(3000))
        else:
            _visit(r, talk)
        talk.close()
        mine = talk.packets[8:] if n % 11 == 10 else talk.packets
        for p in mine:
            dice = r.random()
            if dice < 0.004:
                continue  # lost
            out.append(p)
            if dice > 0.99:
                out.append(p)  # seen again
    out.sort(key=lambda p: p.time)
    for _ in range(40):
        at = r.randrange(len(out) - 3)
        out.insert(at + 3, out.pop(at))  # late
    return out


if __name__ == "__main__":
    OUT.write_bytes(gzip.compress(write(packets()), 9, mtime=0))
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
