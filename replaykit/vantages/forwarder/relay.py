"""Bytes between two sockets, without ever holding them: the kernel moves them through a pipe (splice(2)).

Owns one connection's two directions. Each reads only what it may (flow limit, rates), counts what it read,
and stops reading while the other side does not take it: a slow reader costs one pipe. A side that has
finished sending is half closed, and the other may go on. An idle connection holds no pipe.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from replaykit.vantages.forwarder.meter import EXCEEDED, Meter

CHUNK = 1 << 20
TURNS = 4
"""Chunks before others have a turn."""
_F_SETPIPE_SZ = 1031
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if hasattr(os, "SPLICE_F_MOVE") else 3
_MOST_IDLE_PIPES = 64
_BURST = 1 << 16
_YIELDS = 8
_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),  # a peer that vanished is found within two minutes
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
_TCP_CLOSE = 7
_idle: list[tuple[int, int]] = []


def _pipe() -> tuple[int, int]:
    if _idle:
        return _idle.pop()
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):  # beyond the user's limit of pipe pages it stays small
        import fcntl

        fcntl.fcntl(ends[1], _F_SETPIPE_SZ, CHUNK)
    return ends


def _splice(source: int, target: int, want: int, burst: bool) -> int:
    """As splice(2).

    Amid a burst the one who would have to be waited for may run first: to sleep and wake costs more than
    that.
    """
    for _ in range(_YIELDS if burst else 0):
        try:
            return os.splice(source, target, want, flags=_FLAGS)
        except BlockingIOError:
            os.sched_yield()
    return os.splice(source, target, want, flags=_FLAGS)


class Direction:
    """From one socket to another. count: is told of every read."""

    def __init__(self, relay: Relay, source: socket.socket, target: socket.socket, received: bool) -> None:
        self._relay, self._source, self._target, self._received = relay, source, target, received
        self._from, self._to = source.fileno(), target.fileno()
        self._pipe: tuple[int, int] | None = None
        self._held = 0
        self._reading = self._writing = self._waiting = False
        self._ended = False
        self.done = False

    def start(self) -> None:
        self._read_on()

    def _read_on(self) -> None:
        if not self._reading and not self.done:
            self._reading = True
            self._relay.loop.add_reader(self._from, self._readable)

    def _read_off(self) -> None:
        if self._reading:
            self._reading = False
            self._relay.loop.remove_reader(self._from)

    def _readable(self) -> None:
        meter, count = self._relay.meter, 0
        try:
            for _ in range(TURNS):
                want = meter.allowance(CHUNK, self._resume)
                if want < 0:
                    self._relay.exceeded()
                    return
                if not want:
                    self._read_off()
                    self._waiting = True
                    return
                if self._pipe is None:
                    self._pipe = _pipe()
                count = _splice(self._from, self._pipe[1], want, count >= _BURST)
                if not count:
                    self._ended = True
                    self._read_off()
                    self._finish()
                    return
                self._held += count
                if self._received:
                    self._relay.rx += count
                    meter.count(count, 0)
                else:
                    self._relay.tx += count
                    meter.count(0, count)
                if not self._drain():
                    return
        except BlockingIOError:
            self._release()
        except OSError as error:
            self._relay.failed(error)

    def _resume(self) -> None:
        self._waiting = False
        if not self.done and not self._relay.closed:
            self._readable()
            if not self._waiting and not self._writing and not self._ended:
                self._read_on()

    def _drain(self) -> bool:
        """Whether all of it went."""
        assert self._pipe is not None
        try:
            while self._held:
                self._held -= _splice(self._pipe[0], self._to, self._held, self._held >= _BURST)
        except BlockingIOError:
            self._read_off()
            if not self._writing:
                self._writing = True
                self._relay.loop.add_writer(self._to, self._writable)
            return False
        return True

    def _writable(self) -> None:
        try:
            if not self._drain():
                return
        except OSError as error:
            self._relay.failed(error)
            return
        self._writing = False
        self._relay.loop.remove_writer(self._to)
        if self._ended:
            self._finish()
        else:
            self._read_on()

    def _finish(self) -> None:
        """The source has ended and everything is handed on: the target is told."""
        if self._held:
            return
        self.done = True
        self._release()
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)
        self._relay.finished()

    def _release(self) -> None:
        if self._pipe is not None and not self._held:
            if len(_idle) < _MOST_IDLE_PIPES:
                _idle.append(self._pipe)
            else:
                _close(self._pipe)
            self._pipe = None

    def close(self) -> None:
        self._read_off()
        if self._writing:
            self._writing = False
            self._relay.loop.remove_writer(self._to)
        self.done = True
        if self._pipe is not None:
            if self._held:
                _close(self._pipe)
                self._pipe = None
            else:
                self._release()


class Relay:
    """A visitor and a target, connected, both non-blocking. ended: called once, with why."""

    def __init__(
        self, visitor: socket.socket, target: socket.socket, meter: Meter, ended: Callable[[str], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.meter, self._ended, self.closed = meter, ended, False
        self.rx = self.tx = 0
        self._sockets = (visitor, target)
        for one in self._sockets:
            with suppress(OSError):
                for level, name, value in _OPTIONS:
                    one.setsockopt(level, name, value)
        self._in = Direction(self, visitor, target, True)
        self._out = Direction(self, target, visitor, False)

    def start(self) -> None:
        self._in.start()
        self._out.start()

    def finished(self) -> None:
        if self._in.done and self._out.done:
            self.close("")

    def check(self) -> None:
        """Ends it if a side that has finished sending is dead: nobody listens to that side any more, so
        nothing said so.
        """
        if self._in.done != self._out.done:
            for one in self._sockets:
                if one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
                    self.close("reset")
                    return

    def failed(self, error: OSError) -> None:
        gone = error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT)
        self.close("reset" if gone else error.strerror or str(error))

    def exceeded(self) -> None:
        self.meter.cut_spent()
        self.close(EXCEEDED)

    def close(self, why: str = "") -> None:
        if self.closed:
            return
        self.closed = True
        self._in.close()
        self._out.close()
        for one in self._sockets:
            (reset if why else socket.socket.close)(one)
        self._ended(why)


def reset(one: socket.socket) -> None:
    """Cut: the other side shall notice at once, and not take it for a whole response."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def _close(ends: tuple[int, int]) -> None:
    for end in ends:
        os.close(end)
