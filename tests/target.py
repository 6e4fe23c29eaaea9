"""Targets and recordings for replay tests: a real HTTP server that logs, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from replaykit.records.message import SEPARATOR

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RESET, CLOSE = b"reset", b"close"

Answer = Callable[[bytes], bytes]


@dataclass
class Target:
    """`requests`: each as it came, with the number of its connection."""

    port: int
    requests: list[tuple[int, bytes]] = field(default_factory=list)
    connections: int = 0
    clients: list[socket.socket] = field(default_factory=list)
    listener: socket.socket | None = None

    def kill(self) -> None:
        """Ends as a killed process does: nothing listens, every connection is gone."""
        assert self.listener is not None
        self.listener.shutdown(socket.SHUT_RDWR)
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def payloads(self) -> list[bytes]:
        return [r for _, r in self.requests]


def _whole(data: bytes) -> int | None:
    """Bytes of the first request; None while it is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = 0
    for line in data[:end].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line[15:])
    if b"transfer-encoding: chunked" in data[:end].lower():
        last = data.find(b"0\r\n\r\n", end)
        return None if last < 0 else last + 5
    return end + 4 + length if len(data) >= end + 4 + length else None


@contextmanager
def target(answer: Answer = lambda request: OK, tls: tuple[str, str] | None = None) -> Iterator[Target]:
    """Answers each request with what `answer` gives; RESET and CLOSE end the connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    found = Target(listener.getsockname()[1], listener=listener)
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    stopping = threading.Event()

    def serve(client: socket.socket, number: int) -> None:
        held = b""
        try:
            with client:
                while True:
                    size = _whole(held)
                    if size is None:
                        data = client.recv(1 << 20)
                        if not data:
                            return
                        held += data
                        continue
                    request, held = held[:size], held[size:]
                    found.requests.append((number, request))
                    said = answer(request)
                    if said == RESET:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if said in (RESET, CLOSE):
                        return
                    client.sendall(said)
        except (OSError, ssl.SSLError):
            return

    def accept() -> None:
        while not stopping.is_set():
            try:
                client, _ = listener.accept()
                if context is not None:
                    client = context.wrap_socket(client, server_side=True)
            except (OSError, ssl.SSLError):
                if listener.fileno() < 0 or stopping.wait(0.01):
                    return
                continue
            found.connections += 1
            found.clients.append(client)
            threading.Thread(target=serve, args=(client, found.connections), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stopping.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@dataclass(frozen=True)
class Rec:
    """A record; `session`: its recorded connection."""

    payload: bytes
    at_ms: float = 0
    kind: int = 1
    session: int = 0
    latency_ns: int = 0


START = 1_700_000_000_000_000_000


def identifier(session: int, number: int) -> str:
    return f"{40_000 + session:04x}00500a000001{number:08x}"


def gor(records: Sequence[Rec]) -> bytes:
    """A .gor file; an answer has the id of the request before it."""
    out, number = bytearray(), 0
    for r in records:
        number += r.kind == 1
        time_ns = START + int(r.at_ms * 1e6)
        out += b"%d %s %d %d\n" % (r.kind, identifier(r.session, number).encode(), time_ns, r.latency_ns)
        out += r.payload + SEPARATOR
    return bytes(out)


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: recorded.example", *lines, "", ""]).encode()


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: recorded.example\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def paths(payloads: Sequence[bytes]) -> list[str]:
    return [p.split(b" ")[1].decode() for p in payloads]


def run_gor(*arguments: str, stdin: bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
    """`gor`, to its end."""
    command = [sys.executable, "-m", "replaykit.cli.gor", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=timeout)


@contextmanager
def gor_running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`gor` beside the test; ended by SIGTERM."""
    command = [sys.executable, "-m", "replaykit.cli.gor", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def until(true: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
