"""The end of a tunnel that is behind the NAT: it dials, and connects to the targets that the public end asks
for.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

from replaykit.vantages.forwarder.tunnel import Line
from replaykit.vantages.forwarder.tunnel_datagrams import Datagrams
from replaykit.vantages.forwarder.tunnel_stream import Stream
from replaykit.vantages.forwarder.tunnel_target import Asked

CONNECT_S = 10.0
LARGEST = 65_535
_LONGEST_WAIT_S = 30.0
_TURNS = 64
LOOPBACK = ("127.0.0.1:*", "localhost:*", "[[]::1]:*")
"""What may be asked for unless told."""


class Agent:
    """allow: globs of `host:port` that may be asked for. say: takes a line for the log."""

    def __init__(
        self,
        server: tuple[str, int],
        context: ssl.SSLContext,
        allow: Sequence[str] = LOOPBACK,
        say: Callable[[str], None] = print,
    ) -> None:
        self._server, self._context, self._allow, self._say = server, context, tuple(allow), say
        self.line: Line | None = None

    async def run(self) -> None:
        """Until it is cancelled: connects, and connects again after a while that grows."""
        wait, trouble = 1.0, ""
        try:
            while True:
                gone = asyncio.Event()
                try:
                    await asyncio.wait_for(self._connect(gone), CONNECT_S)
                    wait, trouble = 1.0, ""
                    self._say(f"tunnel to {self._server[0]}:{self._server[1]} is connected")
                    await gone.wait()
                    self._say("the tunnel is gone; connecting again")
                except (OSError, ssl.SSLError, TimeoutError) as error:
                    text = str(
                        getattr(error, "verify_message", "")
                        or getattr(error, "strerror", "")
                        or error
                        or "no response"
                    )
                    if text != trouble:
                        trouble = text
                        self._say(f"{self._server[0]}:{self._server[1]}: {text}")
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, _LONGEST_WAIT_S)
        finally:
            if self.line is not None:
                self.line.close()

    async def _connect(self, gone: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()

        def down(line: Line, error: Exception | None) -> None:
            self.line = None
            gone.set()
            if not opened.done():
                opened.set_exception(error or ConnectionError("closed by the other side"))

        def up(line: Line) -> None:
            self.line = line
            if not opened.done():
                opened.set_result(None)

        near, trouble = None, OSError("no such host")
        for family, _, _, _, address in await loop.getaddrinfo(*self._server, type=socket.SOCK_STREAM):
            near = _socket(family, socket.SOCK_STREAM)
            try:
                await loop.sock_connect(near, address)
                break
            except OSError as error:
                near.close()
                near, trouble = None, error
            except BaseException:
                near.close()
                raise
        if near is None:
            raise trouble
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Line(near, self._context, self._server[0], public=False, up=up, down=down, asked=self._asked)
        await opened

    def _asked(self, line: Line, number: int, wanted: Asked) -> None:
        if not any(fnmatch.fnmatchcase(wanted.target, pattern) for pattern in self._allow):
            self._say(f"{wanted.target}: asked for, and not allowed (see --allow)")
            line.refuse(number, 403)
            return
        task = asyncio.ensure_future(self._dial(line, number, wanted))
        task.add_done_callback(lambda t: None if t.cancelled() else t.exception())

    async def _dial(self, line: Line, number: int, wanted: Asked) -> None:
        host, _, port = wanted.target.rpartition(":")
        loop = asyncio.get_running_loop()
        status = 502
        kind = socket.SOCK_DGRAM if wanted.datagrams else socket.SOCK_STREAM
        try:
            addresses = await loop.getaddrinfo(host.strip("[]"), int(port), type=kind)
        except (OSError, ValueError):
            addresses = []
        for family, _, _, _, address in addresses:
            near = _socket(family, kind)
            try:
                await asyncio.wait_for(loop.sock_connect(near, address), CONNECT_S)
            except TimeoutError:
                status = 504
            except OSError as error:
                status = 504 if error.errno == errno.ETIMEDOUT else 502
            else:
                if wanted.datagrams:
                    _datagrams(line, number, near)
                    return
                with suppress(OSError):
                    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream = Stream(line, number, near, None, lambda why: None)
                line.streams[number] = stream
                line.accept(number)
                stream.start()
                return
            near.close()
        line.refuse(number, status)


def _datagrams(line: Line, number: int, near: socket.socket) -> None:
    """What a connected UDP socket gives goes to the tunnel, and the other way."""

    def readable() -> None:
        for _ in range(_TURNS):
            try:
                stream.send(near.recv(LARGEST))
            except OSError:  # nothing more, or the target's port is closed, and may be opened yet
                return

    def received(data: bytes) -> None:
        with suppress(OSError):
            near.send(data)

    def ended(why: str) -> None:
        line.loop.remove_reader(near.fileno())
        near.close()

    stream = Datagrams(line, number, received, ended)
    line.streams[number] = stream
    line.accept(number)
    line.loop.add_reader(near.fileno(), readable)


def _socket(family: int, kind: int) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
