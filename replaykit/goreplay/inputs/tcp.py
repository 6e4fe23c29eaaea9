"""Records sent by another instance over TCP, as GoReplay's --output-tcp sends them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

from replaykit.engine.gor_records import open_records
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.goreplay.pipeline import Log
from replaykit.records.message import Messages

_PIECE = 1 << 20
MAX_RECORD = 256 << 20


def listen_address(text: str) -> tuple[str | None, int]:
    """`:28020`, `127.0.0.1:28020`, `[::1]:28020`. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"{text!r} is no address to listen on: write HOST:PORT, or :PORT for all interfaces")
    return host.strip("[]") or None, int(port)


def server_context(certificate: str | None, key: str | None) -> ssl.SSLContext:
    """A server's TLS. Raises UsageError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate or "", key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"certificate {certificate} and key {key}: {error}") from None
    return context


class TcpInput:
    """`port`: where it listens, once `start` has returned."""

    ruled = False
    measured = False

    def __init__(self, address: str, log: Log, tls: ssl.SSLContext | None = None) -> None:
        self.name = f"tcp {address}"
        self._address, self._log, self._tls = listen_address(address), log, tls
        self._queue: asyncio.Queue[Messages | None] = asyncio.Queue(64)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.port = 0
        self.bad = 0

    async def start(self) -> None:
        """Raises UsageError if it cannot listen there."""
        host, port = self._address
        try:
            self._server = await asyncio.start_server(self._client, host, port, ssl=self._tls)
        except OSError as error:
            raise UsageError(
                f"{self.name}: cannot listen: {(error.strerror or str(error)).lower()}"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        asyncio.get_running_loop().create_task(self._queue.put(None))

    async def batches(self) -> AsyncIterator[Messages]:
        if self._server is None:
            await self.start()
        while (messages := await self._queue.get()) is not None:
            yield messages

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._read(reader)
        except (OSError, ssl.SSLError) as error:
            self._log(1, f"{self.name}: {error}")
        except asyncio.CancelledError:
            return  # asked to end
        finally:
            self._clients.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        records, held = open_records(Rules()), bytearray()
        while data := await reader.read(_PIECE):
            held += data
            took = records.feed(held, 0, len(held))
            del held[:took]
            if records.rows:
                await self._queue.put(records.take(True))
            bad = records.counts().bad
            if bad or len(held) > MAX_RECORD:
                self.bad += 1
                self._log(0, f"{self.name}: what a client sends are no records; its connection is closed")
                return
        del held[: records.feed(held, 0, len(held), True)]
        if records.rows:
            await self._queue.put(records.take(True))
        if held:
            self.bad += 1
            self._log(0, f"{self.name}: a client ended within a record of {len(held)} bytes")
