"""An HTTP server as input: every request it gets is a message, and is answered with 200."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.goreplay.inputs.tcp import listen_address
from replaykit.records.message import Builder, Messages

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\nOK\n"
_ENDS = (("127.0.0.1", 0), ("127.0.0.1", 80))


class _Client(asyncio.Protocol):
    """One client; the engine that reads captures reads its requests too."""

    def __init__(self, owner: HttpInput, number: int) -> None:
        self._owner, self._number = owner, number
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._owner.clients.add(self._transport)
        self._owner.engine.open_stream(self._number, _ENDS)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        engine, now = self._owner.engine, time.time_ns()
        engine.feed_stream(self._number, False, now, data)
        if b"100-continue" in data.lower():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in range(self._owner.take()):
            self._transport.write(ANSWER)
            engine.feed_stream(self._number, True, now, ANSWER)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._owner.clients.discard(self._transport)
        self._owner.engine.close_stream(self._number)
        self._owner.take()


class HttpInput:
    """`port`: where it listens, once `start` has returned."""

    ruled = False
    measured = False

    def __init__(self, address: str, max_bytes: int = 64 << 20) -> None:
        self.name = f"http {address}"
        self._address = listen_address(address)
        options = Options(requests=True, max_message_bytes=max_bytes, max_buffer_bytes=4 * max_bytes)
        self.engine = Engine(options)
        self.clients: set[asyncio.Transport] = set()
        self._queue: asyncio.Queue[Messages | None] = asyncio.Queue()
        self._numbers = 0
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Raises UsageError if it cannot listen there."""
        loop = asyncio.get_running_loop()

        def client() -> _Client:
            self._numbers += 1
            return _Client(self, self._numbers)

        try:
            self._server = await loop.create_server(client, *self._address)
        except OSError as error:
            raise UsageError(
                f"{self.name}: cannot listen: {(error.strerror or str(error)).lower()}"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    def take(self) -> int:
        """Hands on the requests that are whole; returns their number."""
        if self.engine.rows:
            self.engine.take_exchanges()
        out = Builder()
        while self.engine.message_bytes:
            for m in self.engine.take_messages():
                out.push(replace(m, id=secrets.token_hex(12)))
        count = len(out)
        if count:
            self._queue.put_nowait(out.messages())
        return count

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for transport in list(self.clients):
            transport.close()
        self._queue.put_nowait(None)

    async def batches(self) -> AsyncIterator[Messages]:
        if self._server is None:
            await self.start()
        while (messages := await self._queue.get()) is not None:
            yield messages
