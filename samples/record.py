"""Records recorded-*.pcap.gz from real servers, and what the servers and clients themselves counted. `python
-m samples.record`.

The expectations, recorded.jsonl, come from nginx's log, curl's own counters, and the programs that sent the
messages: nothing of replaykit is in them. Needs tcpdump, nginx, nghttpd, curl and the privilege to capture.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from ci.servers import free_port, grpc_calls, nghttpd, nginx

HERE = Path(__file__).parent
EXPECTED = HERE / "recorded.jsonl"

Seen = list[dict[str, Any]]
"""Columns of exchanges, as far as the other side counts them."""


@contextmanager
def _recording(name: str, port: int) -> Iterator[None]:
    with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
        command = ["tcpdump", "-i", "lo", "-U", "-Z", "root", "-w", file.name, "tcp", "port", str(port)]
        dump = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert dump.stderr is not None and "listening" in dump.stderr.readline()
        try:
            yield
            time.sleep(1.5)
        finally:
            dump.terminate()
            dump.wait(10)
        (HERE / name).write_bytes(gzip.compress(Path(file.name).read_bytes(), 9, mtime=0))


def _curl(*arguments: str) -> Seen:
    """What curl says of each transfer of one call."""
    form = '{"method":"%{method}","status":%{response_code},"url":"%{url_effective}","body":%{size_download},"sent":%{size_upload}}\n'  # noqa: E501
    command = ["curl", "-s", "-w", form, *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    out = []
    for line in filter(lambda line: line.startswith('{"method"'), said.splitlines()):
        found = json.loads(line)
        target = "/" + found["url"].split("/", 3)[3]
        out.append(
            {
                "method": found["method"],
                "target": target,
                "status": found["status"],
                "request_body_bytes": found["sent"],
                "response_body_bytes": found["body"],
            }
        )
    return out


def http1(root: Path) -> Seen:
    """nginx's log: what it received and sent, heads and bodies; uploads as curl was told."""
    with nginx(root) as server, _recording("recorded-nginx.pcap.gz", server.port):
        url = f"http://127.0.0.1:{server.port}"
        null = ("-o", "/dev/null")
        _curl(*null, f"{url}/api/users/7", *null, f"{url}/files/1k.bin", *null, f"{url}/missing")
        _curl(*null, "-I", f"{url}/files/100k.bin")
        _curl(*null, "-d", "q" * 3000, f"{url}/api/orders")
        _curl(*null, "-H", "Transfer-Encoding: chunked", "-d", "c" * 2500, f"{url}/api/chunked")
        _curl(*null, "-r", "100-4999", f"{url}/files/100k.bin")
        _curl(*null, "--http1.0", f"{url}/files/100k.bin")
        _curl(*null, "-H", "If-None-Match: *", "-H", "Accept-Encoding: gzip", f"{url}/api/v1/health")
        time.sleep(1.2)
        log = server.log.read_text()
    # nginx does not read the bodies of what it refuses: that is what was given to curl.
    uploads = {"/api/orders": {"request_body_bytes": 3000}, "/api/chunked": {"request_body_bytes": 2500}}
    return [
        {
            "method": method,
            "target": target,
            "status": int(status),
            "response_wire_bytes": int(answered),
            **uploads.get(target, {"request_wire_bytes": int(asked)}),
        }
        for _, method, target, status, asked, answered, *_ in map(str.split, log.splitlines())
    ]


def http2(root: Path) -> Seen:
    """curl's own counters."""
    (root / "file.bin").write_bytes(b"x" * 30_000)
    (root / "small.json").write_text("{}")
    out: Seen = []
    with nghttpd(root) as port, _recording("recorded-nghttpd.pcap.gz", port):
        url = f"http://127.0.0.1:{port}"
        for more in (["file.bin"], ["small.json?x=1"], ["none"], ["small.json", "--data-binary", "u" * 9000]):
            out += _curl("--http2-prior-knowledge", "-o", "/dev/null", f"{url}/{more[0]}", *more[1:])
    return out


def websocket(root: Path) -> Seen:
    """What the two programs sent, without compression."""
    port, out = free_port(), [{"method": "GET", "target": "/live", "status": 101}]
    said = ["hello", "x" * 200, b"y" * 70_000, "", b"z"]

    async def talk() -> None:
        async def echo(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(message * 2)

        async with serve(echo, "127.0.0.1", port, compression=None):
            with _recording("recorded-websockets.pcap.gz", port):
                async with connect(f"ws://127.0.0.1:{port}/live", compression=None) as client:
                    for message in said:
                        await client.send(message)
                        answer = await client.recv()
                        assert answer == message * 2
                    await (await client.ping(b"now"))

    asyncio.run(talk())
    for message in said:
        kind = "TEXT" if isinstance(message, str) else "BINARY"
        out.append({"method": kind, "target": "/live", "request_body_bytes": len(message)})
        out.append({"method": kind, "target": "/live", "response_body_bytes": 2 * len(message)})
    return [
        *out,
        {"method": "PING", "target": "/live", "request_body_bytes": 3},
        {"method": "PONG", "target": "/live", "response_body_bytes": 3},
        {"method": "CLOSE", "target": "/live", "status": 1000, "request_body_bytes": 2},
        {"method": "CLOSE", "target": "/live", "status": 1000, "response_body_bytes": 2},
    ]


def grpcs(root: Path) -> Seen:
    """What the two programs sent: gRPC's messages, without their prefixes."""

    out: Seen = []

    def seen(method: str, status: int, sent: list[int], received: list[int]) -> None:
        out.append(
            {
                "method": "POST",
                "target": method,
                "status": 200,
                "grpc_status": status,
                "request_messages": len(sent),
                "request_message_bytes": sum(sent),
                "response_messages": len(received),
                "response_message_bytes": sum(received),
            }
        )

    with (
        grpc_calls("shop.Orders") as port,
        _recording("recorded-grpc.pcap.gz", port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        add = channel.unary_unary("/shop.Orders/Add")
        for size in (10, 5000):
            assert len(add(b"a" * size, metadata=(("trace-bin", b"\0\1\2"),))) == 2 * size
            seen("/shop.Orders/Add", 0, [size], [2 * size])
        assert len(list(channel.unary_stream("/shop.Orders/Watch")(b"w" * 300))) == 5
        seen("/shop.Orders/Watch", 0, [300], [300] * 5)
        try:
            channel.unary_unary("/shop.Orders/None")(b"n")
        except grpc.RpcError:
            seen("/shop.Orders/None", 12, [1], [])
    return out


def main() -> None:
    parts: dict[str, Callable[[Path], Seen]] = {
        "recorded-nginx.pcap.gz": http1,
        "recorded-nghttpd.pcap.gz": http2,
        "recorded-websockets.pcap.gz": websocket,
        "recorded-grpc.pcap.gz": grpcs,
    }
    lines = []
    for name, record in parts.items():
        with tempfile.TemporaryDirectory() as root:
            found = record(Path(root))
        about = (record.__doc__ or "").rstrip(".")
        lines.append(json.dumps({"file": name, "counted_by": about, "exchanges": found}))
    EXPECTED.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
