"""A request and its answer every second, to try outputs with."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

from replaykit.records.message import Builder, Message, Messages

REQUEST = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: replaykit\r\nAccept-Encoding: gzip\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class DummyInput:
    ruled = False
    measured = False

    def __init__(self, every_s: float = 1.0) -> None:
        self.name = "dummy"
        self._every = every_s
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def batches(self) -> AsyncIterator[Messages]:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._stopping.wait()
                return
            except TimeoutError:
                out, identifier, now = Builder(), secrets.token_hex(12), time.time_ns()
                out.push(Message(1, identifier, now, 0, REQUEST))
                out.push(Message(2, identifier, now + 1, 1, RESPONSE))
                yield out.messages()
