"""Records to other instances, over TCP or WebSocket, as GoReplay's --input-tcp takes them.

Owns a few connections, each with a bounded queue. A connection that breaks is opened again and what
it had not taken is sent there; who is too slow holds up the pipeline.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from replaykit.engine.rewriting import fnv
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.goreplay.pipeline import Log, QueueStat
from replaykit.records.message import SEPARATOR, Messages
from replaykit.replaying.own import OwnConnections
from replaykit.replaying.target import tls_context

_RETRY_S = 1.0
_CONNECT_S = 5.0
_LAST_S = 5.0
"""So long an end waits for what is still to be sent."""


@dataclass(frozen=True)
class TcpSettings:
    """sticky: messages of one id go over one connection."""

    workers: int = 10
    sticky: bool = False
    secure: bool = False
    verify: bool = True
    queue: int = 100


class Line(Protocol):
    """An open connection. end: its address and port here."""

    end: Any

    async def send(self, records: list[bytes]) -> None: ...

    async def close(self) -> None: ...


class _Tcp:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.end = writer.get_extra_info("sockname")

    async def send(self, records: list[bytes]) -> None:
        if self._writer.transport.is_closing():
            raise ConnectionResetError("closed by the other side")
        self._writer.write(b"".join(records))
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class _WebSocket:
    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.end = socket.local_address

    async def send(self, records: list[bytes]) -> None:
        for record in records:
            await self._socket.send(record.removesuffix(SEPARATOR))

    async def close(self) -> None:
        await self._socket.close()


Connect = Callable[[], Awaitable[Line]]


def where(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; without a host, this machine. Raises UsageError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"{address!r}: write HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


class TcpOutput:
    """Raises UsageError for an address that is none. `lost`: messages that nobody took.

    own: is told of every connection.
    """

    def __init__(
        self, address: str, settings: TcpSettings, log: Log, own: OwnConnections | None = None
    ) -> None:
        self.name = f"tcp {address}"
        host, port = where(address)
        self._start(settings, log, own)
        context = tls_context(settings.verify, None) if settings.secure else None

        async def connect() -> Line:
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            return _Tcp(writer)

        self._connect: Connect = connect

    _separated = True
    """Records follow one another in a stream, so what looks like a separator is escaped."""

    def _start(self, settings: TcpSettings, log: Log, own: OwnConnections | None) -> None:
        self.lost = 0
        self._own = own or OwnConnections()
        self._settings, self._log = settings, log
        self._queues: list[asyncio.Queue[bytes]] = [
            asyncio.Queue(settings.queue) for _ in range(max(settings.workers, 1))
        ]
        self._workers: list[asyncio.Task[None]] = []
        self._turn = 0
        self._said = False
        self._in_hand = 0
        self._lines: set[Line] = set()
        self.queue = QueueStat()

    async def write(self, messages: Messages) -> None:
        if not self._workers:
            self._workers = [asyncio.create_task(self._work(queue)) for queue in self._queues]
        if self._separated:
            messages, _ = messages.storable()
        index = messages.index
        columns = (index[c].tolist() for c in ("kind", "record", "end"))
        for identifier, kind, record, end in zip(messages.ids(), *columns, strict=True):
            if kind == 3:
                continue  # replayed responses stay here, as with GoReplay
            self._turn += 1
            which = (fnv(identifier) if self._settings.sticky else self._turn) % len(self._queues)
            queue = self._queues[which]
            await queue.put(bytes(messages.gor[record : end + len(SEPARATOR)]))
            self.queue.note(queue.qsize())

    async def _work(self, queue: asyncio.Queue[bytes]) -> None:
        line: Line | None = None
        while True:
            records = [await queue.get()]
            while not queue.empty() and len(records) < 64:
                records.append(queue.get_nowait())
            self._in_hand += len(records)
            while True:
                try:
                    if line is None:
                        async with asyncio.timeout(_CONNECT_S):
                            line = await self._connect()
                            self._own.opened(line.end)
                            self._lines.add(line)
                    await line.send(records)
                    break
                except Exception as error:
                    if not _network(error):
                        raise
                    if line is not None:
                        self._own.closed(line.end)
                        self._lines.discard(line)
                    line = None
                    if not self._said:
                        self._said = True
                        self._log(
                            0,
                            f"{self.name}: {error or type(error).__name__}; tried again every {_RETRY_S:g} s",
                        )
                    await asyncio.sleep(_RETRY_S)
            self._in_hand -= len(records)
            for _ in records:
                queue.task_done()

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_LAST_S):
                await asyncio.gather(*(queue.join() for queue in self._queues))
        except TimeoutError:
            self.lost += self._in_hand + sum(queue.qsize() for queue in self._queues)
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        # What was handed over is still on its way out; closing waits for it.
        closing = [asyncio.create_task(line.close()) for line in self._lines]
        if closing:
            await asyncio.wait(closing, timeout=_LAST_S)
        if self.lost:
            self._log(0, f"{self.name}: {self.lost} messages could not be sent")


def _network(error: Exception) -> bool:
    if isinstance(error, OSError | ssl.SSLError | TimeoutError):
        return True
    return type(error).__module__.partition(".")[0] == "websockets"


class WebSocketOutput(TcpOutput):
    """The same over WebSocket: a binary message a record (the extra `ws`). Raises UsageError."""

    def __init__(self, url: str, settings: TcpSettings, log: Log, own: OwnConnections | None = None) -> None:
        try:
            from websockets.asyncio.client import connect as open_socket
        except ImportError:
            raise needs("--output-ws needs the package websockets", "ws") from None
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise UsageError(f"{url!r}: write ws://HOST[:PORT]/PATH or wss://...")
        plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
        self.name = f"ws {plain}"
        self._separated = False
        self._start(settings, log, own)
        headers = {}
        if parts.username is not None:
            user = f"{parts.username}:{parts.password or ''}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(user).decode()
        context = tls_context(settings.verify, None) if parts.scheme == "wss" else None
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)

        async def connect() -> Line:
            # Known as ours before the handshake is sent: a capture may see it at once.
            opened = await asyncio.to_thread(socket.create_connection, (host, port), _CONNECT_S)
            opened.setblocking(False)
            self._own.opened(opened.getsockname())
            try:
                line = await open_socket(
                    plain, sock=opened, ssl=context, additional_headers=headers, max_size=None
                )
            except BaseException:
                self._own.closed(opened.getsockname())
                opened.close()
                raise
            return _WebSocket(line)

        self._connect = connect
