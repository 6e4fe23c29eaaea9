"""UDP: datagrams of a visitor go to the target from a socket of their own, and what comes back goes to the visitor.

A visitor that is silent for IDLE_S is forgotten. Datagrams over a limit are dropped, as a full line would; they are counted.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from contextlib import suppress

from replaykit.forwarder.meter import EXCEEDED, TOO_MANY
from replaykit.forwarder.tcp import Route, bound

IDLE_S = 60.0
MOST_SESSIONS = 8192
LARGEST = 65_535
_TURNS = 64


class Session:
    """One visitor, by address and port."""

    def __init__(self, listener: UdpListener, visitor: tuple[str, int]) -> None:
        self._listener, self.visitor, self.address = listener, visitor, visitor[0]
        family, target = listener.route.targets[0]
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.connect(target)
        self.seen = listener.loop.time()
        self.rx = self.tx = 0
        listener.loop.add_reader(self.socket.fileno(), self._back)
        listener.route.meter.begin(self)

    def _back(self) -> None:
        for _ in range(_TURNS):
            try:
                data = self.socket.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError as error:  # the target's port is closed; it may be opened yet
                self._listener.route.trouble((error.strerror or str(error)).lower())
                return
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
        self._listener.loop.remove_reader(self.socket.fileno())
        self.socket.close()
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
                session.socket.send(data)
            except OSError as error:
                self.route.trouble((error.strerror or str(error)).lower())

    def _begin(self, visitor: tuple[str, int]) -> Session | None:
        why = self.route.refusal(visitor[0])
        if not why and len(self.sessions) >= MOST_SESSIONS:
            why = TOO_MANY
        if why:
            self.route.trouble(why)
            return None
        try:
            session = Session(self, visitor)
        except (OSError, IndexError):
            self.route.trouble("no way to the target")
            return None
        self.sessions[visitor] = session
        return session

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
