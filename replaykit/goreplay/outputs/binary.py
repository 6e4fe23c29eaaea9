"""Payloads of any protocol to an address, over a connection for each recorded one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from replaykit.goreplay.outputs.tcp import where
from replaykit.goreplay.pipeline import Log
from replaykit.records.message import Builder, Message, Messages
from replaykit.replaying.own import OwnConnections

_QUIET_S = 0.05
"""A response is whole when the target has been silent so long."""
_IDLE = 1000
"""Connections kept for recorded ones that may go on."""


@dataclass(frozen=True)
class BinarySettings:
    """workers: connections at a time, 0 for one a recorded connection.

    timeout_s: for a response's first byte.
    """

    workers: int = 0
    timeout_s: float = 5.0
    buffer: int = 100 << 10
    track: bool = False


class BinaryOutput:
    """Also an input, of the responses. `lost`: payloads that could not be sent."""

    ruled = True
    measured = False

    def __init__(
        self, address: str, settings: BinarySettings, log: Log, own: OwnConnections | None = None
    ) -> None:
        self._own = own
        self.name = f"binary {address}"
        self._host, self._port = where(address)
        self._settings, self._log = settings, log
        self._lanes: OrderedDict[bytes, tuple[asyncio.Queue[Message | None], asyncio.Task[None]]] = (
            OrderedDict()
        )
        self._responses: asyncio.Queue[Message | None] = asyncio.Queue()
        self.lost = 0
        self.sent = 0

    async def write(self, messages: Messages) -> None:
        for message in messages:
            if message.kind != 1:
                continue
            name = message.id.encode("latin-1", "replace")
            lane = name[:16] if len(name) == 24 else name
            if self._settings.workers:
                lane = b"%d" % (hash(lane) % self._settings.workers)
            if lane not in self._lanes:
                queue: asyncio.Queue[Message | None] = asyncio.Queue(100)
                self._lanes[lane] = queue, asyncio.create_task(self._work(queue))
                if len(self._lanes) > _IDLE:
                    _, (oldest, task) = self._lanes.popitem(last=False)
                    await oldest.put(None)
                    await task
            self._lanes.move_to_end(lane)
            await self._lanes[lane][0].put(message)

    async def _work(self, queue: asyncio.Queue[Message | None]) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (message := await queue.get()) is not None:
            begun = time.time_ns()
            try:
                if streams is None:
                    async with asyncio.timeout(self._settings.timeout_s):
                        streams = await asyncio.open_connection(self._host, self._port)
                    if self._own is not None:
                        self._own.opened(streams[1].get_extra_info("sockname"))
                reader, writer = streams
                writer.write(message.payload)
                await writer.drain()
                self.sent += 1
                response, ended = await self._response(reader)
            except (OSError, TimeoutError) as error:
                self.lost += 1
                self._close(streams)
                streams = None
                if self.lost in (1, 10, 100, 1000):
                    reason = getattr(error, "strerror", None) or type(error).__name__
                    self._log(0, f"{self.name}: {reason.lower()}; {self.lost} payloads lost")
                continue
            if ended:
                self._close(streams)
                streams = None
            if self._settings.track and response:
                took = time.time_ns() - begun
                self._responses.put_nowait(Message(3, message.id, begun, took, response))
        self._close(streams)

    def _close(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
        if streams is not None:
            streams[1].close()
            if self._own is not None:
                self._own.closed(streams[1].get_extra_info("sockname"))

    async def _response(self, reader: asyncio.StreamReader) -> tuple[bytes, bool]:
        """What the target says until it is silent; the bytes beyond the bound are left out."""
        out, wait = bytearray(), self._settings.timeout_s if self._settings.track else _QUIET_S
        while True:
            try:
                async with asyncio.timeout(wait):
                    data = await reader.read(1 << 16)
            except TimeoutError:
                return bytes(out), False
            if not data:
                return bytes(out), True
            out += data[: max(self._settings.buffer - len(out), 0)]
            wait = _QUIET_S

    def stop(self) -> None:
        self._responses.put_nowait(None)

    async def batches(self) -> AsyncIterator[Messages]:
        while (message := await self._responses.get()) is not None:
            out = Builder()
            out.push(message)
            yield out.messages()

    async def drain(self) -> None:
        lanes = list(self._lanes.values())
        self._lanes.clear()
        for queue, _ in lanes:
            await queue.put(None)
        await asyncio.gather(*(task for _, task in lanes))

    async def close(self) -> None:
        await self.drain()
