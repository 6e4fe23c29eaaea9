"""TCP: a visitor is accepted, checked, connected to its target, and relayed. Hosts share a port and are told
apart here.

Owns a connection from accept to end. Nothing waits: each step is a callback of the event loop, and each has a
deadline.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from replaykit.errors import UsageError
from replaykit.vantages.forwarder import peek, proxy_protocol
from replaykit.vantages.forwarder.meter import EXCEEDED
from replaykit.vantages.forwarder.relay import Relay, reset
from replaykit.vantages.forwarder.route import Route
from replaykit.vantages.forwarder.tunnel import Line
from replaykit.vantages.forwarder.tunnel_stream import Stream

CONNECT_S = 10.0
FIRST_BYTES_S = 15.0
_ACCEPTS = 128
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connection:
    """A visitor of a route, from its acceptance to its end."""

    def __init__(self, route: Route, visitor: socket.socket, address: str, port: int | None = None) -> None:
        """address, port: of the visitor, where a proxy says so not the socket's."""
        self.route, self.visitor, self.address, self._port = route, visitor, address, port
        self.loop = asyncio.get_running_loop()
        self.relay: Relay | Stream | None = None
        self._target: socket.socket | None = None
        self._left: list[tuple[int, tuple[str, int]]] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._ended = False
        route.meter.begin(self)

    @property
    def rx(self) -> int:
        """Bytes from the visitor."""
        return 0 if self.relay is None else self.relay.rx

    @property
    def tx(self) -> int:
        """Bytes to the visitor."""
        return 0 if self.relay is None else self.relay.tx

    def connect(self) -> None:
        if self.route.line is not None:
            self._through(self.route.line())
            return
        self._left = list(self.route.targets)
        self._next("no address is known")

    def _through(self, line: Line | None) -> None:
        """By a tunnel, whose other end connects to the target."""
        asked = self.route.asked
        number = (
            line.connect(asked, lambda status: self._answered(line, number, status))
            if line is not None
            else None
        )
        if number is None or line is None:
            self.close("no tunnel is connected")
            return
        self._deadline = self.loop.call_later(
            CONNECT_S + 5, self.close, f"{asked.target}: no response through the tunnel"
        )

    def _answered(self, line: Line, number: int | None, status: int) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if number is None or self._ended:
            if number is not None and status == 200:
                line.forget(number, True)
            return
        if status != 200:
            self.close(self.route.asked.refused(status))
            return
        stream = Stream(line, number, self.visitor, self.route.meter, self._over)
        line.streams[number] = self.relay = stream
        version = self.route.mapping.proxy_protocol
        if version:
            stream.introduce(self._introduction(version))
        stream.start()

    def _next(self, why: str) -> None:
        if not self._left:
            m = self.route.mapping
            self.close(f"{m.target_host}:{m.target_port}: {why}")
            return
        family, address = self._left.pop(0)
        try:
            target = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self.close((error.strerror or str(error)).lower())
            return
        self._target = target
        status = target.connect_ex(address)
        if status in (0, errno.EINPROGRESS):
            self._deadline = self.loop.call_later(CONNECT_S, self._failed, "does not answer")
            self.loop.add_writer(target.fileno(), self._connected)
        else:
            self._failed(os.strerror(status).lower())

    def _failed(self, why: str) -> None:
        self._forget()
        self._next(why)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._target is not None:
            self.loop.remove_writer(self._target.fileno())
            self._target.close()
            self._target = None

    def _connected(self) -> None:
        assert self._target is not None and self._deadline is not None
        status = self._target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            self._failed(os.strerror(status).lower())
            return
        self._deadline.cancel()
        self._deadline = None
        self.loop.remove_writer(self._target.fileno())
        target, self._target = self._target, None
        version = self.route.mapping.proxy_protocol
        if version:
            try:
                target.send(self._introduction(version))
            except OSError as error:
                target.close()
                self.close((error.strerror or str(error)).lower())
                return
        self.relay = Relay(self.visitor, target, self.route.meter, self._over)
        self.relay.start()

    def _introduction(self, version: str) -> bytes:
        """Who the visitor is, for the target."""
        port = self.visitor.getpeername()[1] if self._port is None else self._port
        return proxy_protocol.header(version, (self.address, port), self.visitor.getsockname()[:2])

    def _over(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            if why:
                self.route.trouble(why)
            self.route.meter.end(self)

    def close(self, why: str = "") -> None:
        if self.relay is not None:
            self.relay.close(why)
            return
        self._forget()
        self.visitor.close()
        self._over(why)


class Listener:
    """A listening socket, and what becomes of those who come. Raises UsageError where it cannot listen."""

    def __init__(self, address: str, port: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.unknown = 0
        self._undecided: dict[socket.socket, Callable[[bytes], bool]] = {}
        self._socket = bound(address, port, socket.SOCK_STREAM)
        self._socket.listen(4096)
        self.port = int(self._socket.getsockname()[1])
        self.loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                visitor, address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _FULL:  # nothing is lost: they wait in the kernel's queue
                    self.loop.remove_reader(self._socket.fileno())
                    self.loop.call_later(0.1, self._again)
                return
            visitor.setblocking(False)
            try:
                self.visited(visitor, address[0])
            except OSError:
                visitor.close()

    def _again(self) -> None:
        if self._socket.fileno() >= 0:
            self.loop.add_reader(self._socket.fileno(), self._accept)

    def visited(self, visitor: socket.socket, address: str) -> None:
        raise NotImplementedError

    def look(self, visitor: socket.socket, decide: Callable[[bytes], bool]) -> None:
        """Shows `decide` the first bytes, which stay where they are, until it says that they were enough."""
        self._undecided[visitor] = decide
        self.loop.add_reader(visitor.fileno(), self._peeked, visitor)
        self.loop.call_later(FIRST_BYTES_S, self._late, visitor)

    def _peeked(self, visitor: socket.socket) -> None:
        decide = self._undecided.get(visitor)
        if decide is None:
            return
        self.loop.remove_reader(visitor.fileno())
        try:
            data = visitor.recv(peek.MOST, socket.MSG_PEEK)
        except BlockingIOError:
            self.loop.add_reader(visitor.fileno(), self._peeked, visitor)
            return
        except OSError:
            data = b""
        if decide(data):
            self._undecided.pop(visitor, None)
        else:
            # The part that is there stays readable: asked again after a while, not at once.
            self.loop.call_later(0.02, self._peeked, visitor)

    def _late(self, visitor: socket.socket) -> None:
        """Somebody who does not say whom they want."""
        if self._undecided.pop(visitor, None) is not None:
            self.loop.remove_reader(visitor.fileno())
            self.unknown += 1
            visitor.close()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self.loop.remove_reader(self._socket.fileno())
            self._socket.close()
        for visitor in self._undecided:
            self.loop.remove_reader(visitor.fileno())
            visitor.close()
        self._undecided.clear()


class PortListener(Listener):
    """All who come go to one target."""

    def __init__(self, route: Route) -> None:
        self.route = route
        super().__init__(route.mapping.listen, route.mapping.source_port)

    def visited(self, visitor: socket.socket, address: str) -> None:
        if self.route.mapping.accept_proxy:
            self.look(visitor, lambda data: self._introduced(visitor, data))
        else:
            self._admit(visitor, address)

    def _introduced(self, visitor: socket.socket, data: bytes) -> bool:
        """A proxy says who it comes for."""
        try:
            found = proxy_protocol.parse(data)
        except ValueError as error:
            self.route.trouble(str(error))
            reset(visitor)
            return True
        if found is None:
            return False
        length, source = found
        visitor.recv(length)
        address, port = source or visitor.getpeername()[:2]
        self._admit(visitor, address, port)
        return True

    def _admit(self, visitor: socket.socket, address: str, port: int | None = None) -> None:
        why = self.route.refusal(address)
        if why:
            self.route.trouble(why)
            reset(visitor)
            return
        Connection(self.route, visitor, address, port).connect()


class HostListener(Listener):
    """A port of many hosts: the first bytes say which.

    They are looked at, not taken, so that they count like all others.
    """

    def __init__(self, address: str, port: int) -> None:
        self.routes: dict[str, Route] = {}
        super().__init__(address, port)

    def route_of(self, host: str) -> Route | None:
        """The exact name, else the longest that begins with `*.`, else `*`."""
        found = self.routes.get(host)
        name = host
        while found is None and "." in name:
            name = name.partition(".")[2]
            found = self.routes.get(f"*.{name}")
        return found or self.routes.get("*")

    def visited(self, visitor: socket.socket, address: str) -> None:
        self.look(visitor, lambda data: self._asked(visitor, address, data))

    def _asked(self, visitor: socket.socket, address: str, data: bytes) -> bool:
        host = peek.host(data) if data else ""
        if host is None:
            return False
        route = self.route_of(host) if host else None
        if route is None:
            self.unknown += 1
            respond(visitor, data, 404, "no such host")
            return True
        why = route.refusal(address)
        if why:
            route.trouble(why)
            respond(visitor, data, 429 if why == EXCEEDED else 503, why)
            return True
        Connection(route, visitor, address).connect()
        return True


class TunnelListener(Listener):
    """Those who come are the other ends of tunnels, if the context accepts their certificate."""

    def __init__(
        self,
        address: str,
        port: int,
        context: ssl.SSLContext,
        up: Callable[[Line], None],
        down: Callable[[Line, Exception | None], None],
    ) -> None:
        self._context, self._up, self._down = context, up, down
        super().__init__(address, port)

    def visited(self, visitor: socket.socket, address: str) -> None:
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Line(visitor, self._context, None, public=True, up=self._up, down=self._down)


def respond(visitor: socket.socket, data: bytes, status: int, text: str) -> None:
    """One line for who speaks HTTP in the clear; the end for everybody else."""
    if data and data[:1] != b"\x16":
        words = {404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}
        body = f"{text}\n".encode()
        head = (
            f"HTTP/1.1 {status} {words[status]}\r\nContent-Type: text/plain\r\nContent-Length:"
            f" {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with suppress(OSError):
            visitor.recv(peek.MOST)  # what is unread would turn the end into a reset
            visitor.send(head.encode() + body)
            visitor.shutdown(socket.SHUT_WR)
    visitor.close()


def bound(address: str, port: int, kind: int) -> socket.socket:
    """Raises UsageError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise UsageError(f"{address} port {port}: {(error.strerror or str(error)).lower()}") from None
    return made
