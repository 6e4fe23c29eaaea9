"""UDP: datagrams of a visitor go to the target from a socket of their own, or by a stream of a tunnel, and
what comes back goes to the visitor.

A visitor that is silent for IDLE_S is forgotten. Datagrams over a limit are dropped, as a full line would;
they are counted.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from replaykit.vantages.forwarder.meter import EXCEEDED, TOO_MANY
from replaykit.vantages.forwarder.route import Route
from replaykit.vantages.forwarder.tcp import bound
from replaykit.vantages.forwarder.tunnel import Line
from replaykit.vantages.forwarder.tunnel_datagrams import Datagrams

IDLE_S = 60.0
MOST_SESSIONS = 8192
LARGEST = 65_535
_TURNS = 64
_MOST_WAITING = 64


class Far(Protocol):
    """The way to a target."""

    def send(self, data: bytes) -> None:
        """Raises OSError."""

    def close(self) -> None: ...


class Direct:
    """A socket of the visitor's own. Raises OSError and IndexError where there is no way."""

    def __init__(self, route: Route, back: Callable[[bytes], None]) -> None:
        family, target = route.targets[0]
        self._route, self._back, self._loop = route, back, asyncio.get_running_loop()
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.connect(target)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(_TURNS):
            try:
                data = self._socket.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError as error:  # the target's port is closed; it may be opened yet
                self._route.trouble((error.strerror or str(error)).lower())
                return
            self._back(data)

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()


class Tunnelled:
    """A stream of the tunnel; what is sent before the far end has answered waits.

    ended: it is over, with why.
    """

    def __init__(
        self, route: Route, line: Line | None, back: Callable[[bytes], None], ended: Callable[[str], None]
    ) -> None:
        self._route, self._line, self._back, self._ended = route, line, back, ended
        self._waiting: list[bytes] = []
        self._stream: Datagrams | None = None
        self._closed = False
        self._number = None if line is None else line.connect(route.asked, self._answered)
        if self._number is None:
            raise OSError(0, "no tunnel is connected")

    def _answered(self, status: int) -> None:
        assert self._line is not None and self._number is not None
        if self._closed:
            self._line.forget(self._number, True)
        elif status != 200:
            self._ended(self._route.asked.refused(status))
        else:
            self._stream = Datagrams(self._line, self._number, self._back, self._ended)
            self._line.streams[self._number] = self._stream
            for data in self._waiting:
                self._stream.send(data)
        self._waiting.clear()

    def send(self, data: bytes) -> None:
        if self._stream is None:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(data)
        elif not self._stream.send(data):
            raise OSError(0, "the tunnel is full")

    def close(self) -> None:
        self._closed = True
        if self._stream is not None:
            self._stream.close()


class Session:
    """One visitor, by address and port. Raises OSError where there is no way to the target."""

    def __init__(self, listener: UdpListener, visitor: tuple[str, int]) -> None:
        self._listener, self.visitor, self.address = listener, visitor, visitor[0]
        self.seen = listener.loop.time()
        self.rx = self.tx = 0
        route = listener.route
        self.far: Far = (
            Direct(route, self._back)
            if route.line is None
            else Tunnelled(route, route.line(), self._back, self.close)
        )
        route.meter.begin(self)

    def _back(self, data: bytes) -> None:
        if self._listener.passes(len(data)):
            self.seen = self._listener.loop.time()
            self.tx += len(data)
            self._listener.route.meter.count(0, len(data))
            with suppress(OSError):
                self._listener.socket.sendto(data, self.visitor)

    def close(self, why: str = "") -> None:
        if self._listener.sessions.pop(self.visitor, None) is None:
            return
        if why:
            self._listener.route.trouble(why)
        self.far.close()
        self._listener.route.meter.end(self)


class UdpListener:
    """A port and its sessions. Raises UsageError where it cannot be bound."""

    def __init__(self, route: Route) -> None:
        self.loop, self.route = asyncio.get_running_loop(), route
        self.socket = bound(route.mapping.listen, route.mapping.source_port, socket.SOCK_DGRAM)
        self.port = int(self.socket.getsockname()[1])
        self.sessions: OrderedDict[tuple[str, int], Session] = OrderedDict()
        self.loop.add_reader(self.socket.fileno(), self._arrived)
        self._timer = self.loop.call_later(IDLE_S / 4, self._sweep)

    def _arrived(self) -> None:
        for _ in range(_TURNS):
            try:
                data, visitor = self.socket.recvfrom(LARGEST)
            except (BlockingIOError, ConnectionError):
                return
            session = self.sessions.get(visitor) or self._begin(visitor)
            if session is None or not self.passes(len(data)):
                continue
            session.seen = self.loop.time()
            self.sessions.move_to_end(visitor)
            session.rx += len(data)
            self.route.meter.count(len(data), 0)
            try:
                session.far.send(data)
            except OSError as error:
                self.route.trouble((error.strerror or str(error)).lower())

    def _begin(self, visitor: tuple[str, int]) -> Session | None:
        why = self.route.refusal(visitor[0])
        if not why and self.full:
            why = TOO_MANY
        if why:
            self.route.trouble(why)
            return None
        try:
            session = Session(self, visitor)
        except (OSError, IndexError) as error:
            self.route.trouble(getattr(error, "strerror", None) or "no way to the target")
            return None
        self.sessions[visitor] = session
        return session

    @property
    def full(self) -> bool:
        """Whether no more visitors are taken."""
        return len(self.sessions) >= MOST_SESSIONS

    def passes(self, size: int) -> bool:
        """Whether a datagram may pass."""
        meter = self.route.meter
        left = meter.left()
        if meter.restraints or (left is not None and left < size):
            self.route.trouble(EXCEEDED)
            return False
        if any(b.allowed(size) < size for b in meter.buckets()):
            self.route.trouble("over the rate limit")
            return False
        return True

    def _sweep(self) -> None:
        self._timer = self.loop.call_later(IDLE_S / 4, self._sweep)
        while self.sessions:
            oldest = next(iter(self.sessions.values()))
            if self.loop.time() - oldest.seen < IDLE_S:
                return
            oldest.close()

    def close(self) -> None:
        self._timer.cancel()
        self.loop.remove_reader(self.socket.fileno())
        for session in list(self.sessions.values()):
            session.close()
        self.socket.close()
