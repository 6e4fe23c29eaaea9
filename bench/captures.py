"""Captures to measure with: real ones of nginx under wrk, and large regular ones for scaling.

They are kept in bench/data, which is not committed, and made when they are missing.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ci.servers import BODY, namespaces, nghttpd, nginx, wrk

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Recorded:
    """A capture file, the server's port, and how many exchanges nginx logged."""

    path: Path
    port: int
    exchanges: int
    packets: int


def _known(path: Path) -> Recorded | None:
    about = path.with_suffix(".json")
    if not (path.exists() and about.exists()):
        return None
    found = json.loads(about.read_text())
    return Recorded(path, found["port"], found["exchanges"], found["packets"])


def _record(
    path: Path, interface: str, port: int, prefix: list[str], log: Path, load: list[object]
) -> Recorded:
    """Captures with tcpdump while `load` runs."""
    command = [
        *prefix,
        "tcpdump",
        "-i",
        interface,
        "-n",
        "-s",
        "0",
        "-B",
        "524288",
        "-Z",
        "root",
        "-w",
        str(path),
    ]
    with tempfile.TemporaryFile("w+") as said:
        dump = subprocess.Popen([*command, f"tcp port {port}"], stderr=said)
        while "listening on" not in _said(said):
            time.sleep(0.05)
        try:
            for run in load:
                run()  # type: ignore[operator]
        except BaseException:
            dump.kill()
            raise
        size = -1
        while size != path.stat().st_size:
            size = path.stat().st_size
            time.sleep(1.5)
        dump.terminate()
        dump.wait(60)
        text = _said(said)
    dropped = int(text.split(" packets dropped by kernel")[0].split()[-1])
    packets = int(text.split(" packets captured")[0].split()[-1])
    if dropped:
        raise RuntimeError(f"tcpdump lost {dropped} packets: make the capture again")
    recorded = Recorded(path, port, len(log.read_text().splitlines()), packets)
    path.with_suffix(".json").write_text(
        json.dumps({"port": port, "exchanges": recorded.exchanges, "packets": packets})
    )
    return recorded


def _said(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read())  # type: ignore[attr-defined]


def loopback(seconds: int = 30) -> Recorded:
    """Small API exchanges over loopback: JSON of 0.7 kB, five endpoints, a tenth POST, 64 connections."""
    path = DATA / "loopback.pcap"
    if (known := _known(path)) is not None:
        return known
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root, nginx(Path(root)) as server:
        url = f"http://127.0.0.1:{server.port}/"
        return _record(
            path, "lo", server.port, [], server.log, [lambda: wrk(url, seconds, 64, root=Path(root))]
        )


def veth(seconds: int = 25) -> Recorded:
    """The same between two namespaces, offloads off: packets of at most 1,500 bytes."""
    path = DATA / "veth.pcap"
    if (known := _known(path)) is not None:
        return known
    DATA.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as root,
        namespaces("rk-bench") as (client, side),
        nginx(Path(root), "10.77.0.2", 80, prefix=side) as server,
    ):
        load = [
            lambda: wrk("http://10.77.0.2/", seconds, 64, prefix=client, root=Path(root)),
            lambda: wrk("http://10.77.0.2/files/100k.bin", 1, 4, mix=False, prefix=client),
        ]
        return _record(path, "veth0", 80, side, server.log, load)  # type: ignore[arg-type]


def http2(requests: int = 240_000) -> Recorded:
    """The small API exchanges of `loopback` over HTTP/2: h2load and nghttpd, 16 connections of 10 streams."""
    path = DATA / "http2.pcap"
    if (known := _known(path)) is not None:
        return known
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "item.json").write_text(BODY)
        with nghttpd(Path(root)) as port:
            load = [
                "h2load",
                "-n",
                str(requests),
                "-c",
                "16",
                "-m",
                "10",
                f"http://127.0.0.1:{port}/item.json",
            ]
            log = Path(root) / "log"

            def run() -> None:
                said = subprocess.run(load, capture_output=True, text=True, check=True).stdout
                done = int(said.split(" succeeded")[0].split()[-1])
                log.write_text("done\n" * done)

            return _record(path, "lo", port, [], log, [run])


def http1_alike(requests: int = 240_000) -> Recorded:
    """As many HTTP/1 exchanges of the same file, by h2load too."""
    path = DATA / "http1-alike.pcap"
    if (known := _known(path)) is not None:
        return known
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root, nginx(Path(root)) as server:
        (Path(root) / "www" / "item.json").write_text(BODY)
        url = f"http://127.0.0.1:{server.port}/item.json"
        load = ["h2load", "--h1", "-n", str(requests), "-c", "16", "-m", "1", url]

        def run() -> None:
            subprocess.run(load, capture_output=True, check=True)
            time.sleep(1.5)

        return _record(path, "lo", server.port, [], server.log, [run])


def tls(requests: int = 20_000) -> tuple[Recorded, Path]:
    """TLS 1.3 with its key log: answers of 16 kB, h2load's client through Python's own TLS."""
    path, keys = DATA / "tls.pcap", DATA / "tls.keys"
    if (known := _known(path)) is not None and keys.exists():
        return known, keys
    DATA.mkdir(exist_ok=True)
    keys.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as root:
        pem = Path(root) / "pem"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-keyout",
                str(pem),
                "-out",
                f"{pem}.crt",
            ],
            check=True,
            capture_output=True,
        )
        files = Path(root)
        (files / "16k.bin").write_bytes(bytes(range(256)) * 64)
        with nghttpd(files, str(pem), f"{pem}.crt") as port:
            log = Path(root) / "log"

            def run() -> None:
                environment = {**os.environ, "SSLKEYLOGFILE": str(keys)}
                config = Path(root) / "curl"
                one = f'url = "https://localhost:{port}/16k.bin"\noutput = "/dev/null"\n'
                config.write_text(one * requests)
                subprocess.run(["curl", "-sk", "--http2", "-K", str(config)], env=environment, check=True)
                log.write_text("done\n" * requests)

            return _record(path, "lo", port, [], log, [run]), keys


def cleartext(requests: int = 20_000) -> Recorded:
    """What `tls` holds, without TLS."""
    path = DATA / "cleartext.pcap"
    if (known := _known(path)) is not None:
        return known
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "16k.bin").write_bytes(bytes(range(256)) * 64)
        with nghttpd(Path(root)) as port:
            log = Path(root) / "log"

            def run() -> None:
                url = f"http://127.0.0.1:{port}/16k.bin"
                load = ["h2load", "-n", str(requests), "-c", "1", "-m", "1", url]
                subprocess.run(load, capture_output=True, check=True)
                log.write_text("done\n" * requests)

            return _record(path, "lo", port, [], log, [run])


_ETHERNET = bytes(12) + b"\x08\x00"
REQUEST = b"GET /api/items/%06d HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 120\r\n\r\n" + b"x" * 120


def regular(packets: int, connections: int) -> Path:
    """About `packets` packets of `connections` connections taking turns: request, answer, request ..."""
    path = DATA / f"regular-{packets}-{connections}.pcap"
    if path.exists():
        return path
    DATA.mkdir(exist_ok=True)
    rounds = max(packets // connections // 2, 1)
    length = len(REQUEST % 0)
    time_ns = 1_700_000_000 * 10**9
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
        for turn in range(rounds):
            out = bytearray()
            client_seq, server_seq = 1 + turn * length, 1 + turn * len(ANSWER)
            for c in range(connections):
                address, port = 0x0A000000 + c // 50_000, 10_000 + c % 50_000
                time_ns += 2_000
                if turn == 0:
                    out += _segment(time_ns, address, 0x0A0A0A0A, port, 80, 0, 0, 2, b"")
                    out += _segment(time_ns, 0x0A0A0A0A, address, 80, port, 0, 1, 18, b"")
                request = REQUEST % (c % 1000)
                out += _segment(time_ns, address, 0x0A0A0A0A, port, 80, client_seq, server_seq, 24, request)
                ack = client_seq + length
                out += _segment(time_ns + 500, 0x0A0A0A0A, address, 80, port, server_seq, ack, 24, ANSWER)
            file.write(out)
    return path


def scattered(exchanges: int = 500_000) -> Path:
    """Every exchange has a path and a host of its own, as a scanner asks for them."""
    path = DATA / f"scattered-{exchanges}.pcap"
    if path.exists():
        return path
    DATA.mkdir(exist_ok=True)
    connections, time_ns = 2000, 1_700_000_000 * 10**9
    sent = [[1, 1] for _ in range(connections)]
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
        for n in range(exchanges):
            c, time_ns = n % connections, time_ns + 20_000
            client, port = 0x0A000000 + c, 10_000 + c
            if n < connections:
                file.write(_segment(time_ns, client, 0x0A0A0A0A, port, 80, 0, 0, 2, b""))
                file.write(_segment(time_ns, 0x0A0A0A0A, client, 80, port, 0, 1, 18, b""))
            a, b, host = (n * factor % (1 << 40) for factor in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D))
            request = f"GET /{a:x}/{b:x} HTTP/1.1\r\nHost: {host:x}.example\r\n\r\n".encode()
            answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % (n % 900) + b"x" * (n % 900)
            client_seq, server_seq = sent[c]
            file.write(_segment(time_ns, client, 0x0A0A0A0A, port, 80, client_seq, server_seq, 24, request))
            ack = client_seq + len(request)
            file.write(_segment(time_ns + 500, 0x0A0A0A0A, client, 80, port, server_seq, ack, 24, answer))
            sent[c] = [ack, server_seq + len(answer)]
    return path


def _segment(
    time_ns: int, src: int, dst: int, sport: int, dport: int, seq: int, ack: int, flags: int, payload: bytes
) -> bytes:
    size = 54 + len(payload)
    return (
        struct.pack("<IIII", time_ns // 10**9, time_ns % 10**9, size, size)
        + _ETHERNET
        + struct.pack("!BBHIBBHII", 0x45, 0, size - 14, 0, 64, 6, 0, src, dst)
        + struct.pack("!HHIIBBHI", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 512, 0)
        + payload
    )
