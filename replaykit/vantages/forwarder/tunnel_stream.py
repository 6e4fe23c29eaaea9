"""A visitor's connection through a tunnel: a socket at this end, a stream of HTTP/2 beyond."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from replaykit.vantages.forwarder.meter import EXCEEDED, Meter
from replaykit.vantages.forwarder.relay import reset
from replaykit.vantages.forwarder.tunnel_frames import HEAD

if TYPE_CHECKING:
    from replaykit.vantages.forwarder.tunnel import Line

_TURNS = 4


class Stream:
    """A socket here, a stream of the tunnel beyond.

    meter: counts and limits; None at the end behind the NAT.
    """

    def __init__(
        self, line: Line, number: int, near: socket.socket, meter: Meter | None, ended: Callable[[str], None]
    ) -> None:
        self._line, self.number, self._near, self._meter, self._ended = line, number, near, meter, ended
        self._fd = near.fileno()
        self._arrived: deque[memoryview] = deque()
        self._reading = self._writing = self._near_over = self._far_over = self._shut = False
        self._waiting = self._stalled = False
        self.closed = False
        self.rx = self.tx = self.held = self.credit = self.untold = 0
        """Bytes moved; bytes from the far end that wait here; what it takes beyond its first window; taken
        and not told.
        """

    def introduce(self, data: bytes) -> None:
        """To the far end's target before all else; the visitor's side did not send it."""
        self._line.scratch[HEAD : HEAD + len(data)] = data
        self._line.send(self, len(data))

    def start(self) -> None:
        """The far end is connected: what comes from here may go."""
        self.go_on()

    def go_on(self) -> None:
        """Reads from the near end as long as there is room."""
        if not (self._reading or self._near_over or self.closed or self._line.full or self._waiting):
            self._reading = True
            self._line.loop.add_reader(self._fd, self._readable)

    def hold(self) -> None:
        if self._reading:
            self._reading = False
            self._line.loop.remove_reader(self._fd)

    def _allowed(self, want: int, resume: Callable[[], None]) -> int:
        """As `Meter.allowance`."""
        return want if self._meter is None else self._meter.allowance(want, resume)

    def _count(self, rx: int, tx: int) -> None:
        self.rx += rx
        self.tx += tx
        if self._meter is not None:
            self._meter.count(rx, tx)

    def _readable(self) -> None:
        try:
            for _ in range(_TURNS):
                room = self._line.room(self)
                if room <= 0 or self._line.full:
                    self.hold()
                    return
                want = self._allowed(room, self._resume)
                if want <= 0:
                    self.hold()
                    self._waiting = want == 0
                    if want < 0:
                        self._exceeded()
                    return
                count = self._near.recv_into(self._line.scratch[HEAD : HEAD + want])
                if not count:
                    self._near_over = True
                    self.hold()
                    self._line.end(self.number)
                    self._over()
                    return
                self._count(count, 0)
                self._line.send(self, count)
        except BlockingIOError:
            return
        except OSError:
            self.close("reset")

    def _resume(self) -> None:
        self._waiting = False
        self.go_on()

    def arrived(self, data: memoryview) -> None:
        """From the far end; its window opens again when the near end has taken it.

        The view is good until this returns.
        """
        self.held += len(data)
        if not (self._arrived or self._writing or self._stalled):
            data = self._given(data)
        if data and not self.closed:
            self._arrived.append(memoryview(bytes(data)))

    def _given(self, piece: memoryview) -> memoryview:
        """As much as the near end takes now; the rest."""
        try:
            while piece:
                want = self._allowed(len(piece), self._deliver)
                if want <= 0:
                    self._write_off()
                    self._stalled = want == 0
                    if want < 0:
                        self._exceeded()
                    return piece
                count = self._near.send(piece[:want])
                self._count(0, count)
                self.held -= count
                self._line.taken(self, count)
                piece = piece[count:]
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._line.loop.add_writer(self._fd, self._writable)
        except OSError:
            self.close("reset")
        return piece

    def _deliver(self) -> None:
        """A rate has room again."""
        self._stalled = False
        if not self.closed:
            self._writable()

    def far_over(self) -> None:
        self._far_over = True
        if not (self._writing or self._stalled):
            self._writable()

    def _writable(self) -> None:
        while self._arrived:
            rest = self._given(self._arrived[0])
            if self.closed:
                return
            if rest:
                self._arrived[0] = rest
                return
            self._arrived.popleft()
        self._write_off()
        if self._far_over and not self._shut:
            self._shut = True
            with suppress(OSError):
                self._near.shutdown(socket.SHUT_WR)
            self._over()

    def _write_off(self) -> None:
        if self._writing:
            self._writing = False
            self._line.loop.remove_writer(self._fd)

    def _exceeded(self) -> None:
        if self._meter is not None:
            self._meter.cut_spent()
        self.close(EXCEEDED)

    def _over(self) -> None:
        if self._near_over and self._shut:
            self.close()

    def close(self, why: str = "") -> None:
        if self.closed:
            return
        self.closed = True
        self.hold()
        self._write_off()
        if self.held:  # what nobody will take gives its room on the connection back
            self._line.taken(None, self.held)
            self._arrived.clear()
        self._line.forget(self.number, bool(why))
        (reset if why else socket.socket.close)(self._near)
        self._ended(why)
