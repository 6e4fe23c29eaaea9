"""The end of a tunnel that is behind the NAT: it dials, and connects to the targets that the public end asks for."""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

from replaykit.forwarder.tunnel import Line, Stream

CONNECT_S = 10.0
_LONGEST_WAIT_S = 30.0
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
                        or "no answer"
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
        def down(line: Line) -> None:
            self.line = None
            gone.set()

        def up(line: Line) -> None:
            self.line = line

        await asyncio.get_running_loop().create_connection(
            lambda: Line(False, up, down, self._asked),
            *self._server,
            ssl=self._context,
            server_hostname=self._server[0],
        )

    def _asked(self, line: Line, number: int, target: str) -> None:
        if not any(fnmatch.fnmatchcase(target, pattern) for pattern in self._allow):
            self._say(f"{target}: asked for, and not allowed (see --allow)")
            line.refuse(number, 403)
            return
        task = asyncio.ensure_future(self._dial(line, number, target))
        task.add_done_callback(lambda t: None if t.cancelled() else t.exception())

    async def _dial(self, line: Line, number: int, target: str) -> None:
        host, _, port = target.rpartition(":")
        loop = asyncio.get_running_loop()
        status = 502
        try:
            addresses = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            addresses = []
        for family, _, _, _, address in addresses:
            near = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                await asyncio.wait_for(loop.sock_connect(near, address), CONNECT_S)
            except TimeoutError:
                status = 504
            except OSError as error:
                status = 504 if error.errno == errno.ETIMEDOUT else 502
            else:
                with suppress(OSError):
                    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream = Stream(line, number, near, None, lambda why: None)
                line.streams[number] = stream
                line.accept(number)
                stream.start()
                return
            near.close()
        line.refuse(number, status)
