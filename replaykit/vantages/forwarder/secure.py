"""TLS on a non-blocking socket of the event loop. What arrives is shown where it was decrypted, what leaves
is sent in whole pieces: asyncio's own TLS copies each byte twice more, and at a gigabyte a second copies are
most of the cost.

Owns the socket, the handshake with its deadline, what is encrypted and not sent yet, and the goodbye.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

HANDSHAKE_S = 10.0
GOODBYE_S = 5.0
HIGH = 1 << 20
"""Bytes that may wait for the network before `full`."""
_READ = 1 << 18
_RECORD = 1 << 14
_SENT = 1 << 17
_TURNS = 4


class Secure:
    """opened: after the handshake. arrived: takes a view of what was decrypted, good until it returns.
    drained: no longer full. lost: once, with the reason, if it was not `close`.
    """

    def __init__(
        self,
        near: socket.socket,
        context: ssl.SSLContext,
        server_name: str | None,
        *,
        opened: Callable[[], None],
        arrived: Callable[[memoryview], None],
        drained: Callable[[], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        """server_name: whom to expect, for the side that dialled; None: this is the server."""
        self.loop = asyncio.get_running_loop()
        self._socket, self._opened, self._arrived = near, opened, arrived
        self._drained, self._lost = drained, lost
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server_name is None, server_hostname=server_name
        )
        self._cipher = memoryview(bytearray(_READ))
        self._clear = memoryview(bytearray(_READ))
        self._piece = memoryview(b"")
        self._shaken = self._writing = self._soon = self.full = self.closed = self._closing = False
        self._deadline = self.loop.call_later(HANDSHAKE_S, self._lose, TimeoutError("no TLS handshake"))
        self.loop.add_reader(near.fileno(), self._readable)
        if server_name is not None:
            self._shake()

    @property
    def common_name(self) -> str:
        """Of the other side's certificate."""
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        names = [v for parts in certificate.get("subject", ()) for k, v in parts if k == "commonName"]
        return str(names[0]) if names else ""

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the other side is told why
            self._lose(error)
            return
        self._deadline.cancel()
        self._shaken = True
        self._opened()
        self._flush()

    def _readable(self) -> None:
        for _ in range(_TURNS):
            try:
                count = self._socket.recv_into(self._cipher)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error)
                return
            if not count:
                self._lose(ConnectionError("closed by the other side"))
                return
            self._in.write(self._cipher[:count])
            if not self._shaken:
                self._shake()
            if self._shaken and not self.closed:
                self._decrypt()
            if self.closed or count < _READ:
                return

    def _decrypt(self) -> None:
        have = 0
        try:
            while not self.closed:
                try:
                    count = self._tls.read(_READ - have, self._clear[have:])
                except ssl.SSLWantReadError:
                    break
                if not count:
                    raise ssl.SSLZeroReturnError("closed by the other side")
                have += int(count)
                if have > _READ - _RECORD:
                    self._arrived(self._clear[:have])
                    have = 0
            if have and not self.closed:
                self._arrived(self._clear[:have])
        except ssl.SSLError as error:
            self._lose(error)

    def write(self, data: bytes | memoryview) -> None:
        """Encrypted now, sent at the end of this turn of the loop."""
        if self.closed or self._closing:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._lose(error)
            return
        self.full = self._out.pending + len(self._piece) > HIGH
        if not self._soon and not self._writing:
            self._soon = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._soon = False
        if self.closed:
            return
        try:
            while self._piece or self._out.pending:
                if not self._piece:
                    self._piece = memoryview(self._out.read(_SENT))
                count = self._socket.send(self._piece)
                self._piece = self._piece[count:]
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self.loop.add_writer(self._socket.fileno(), self._flush)
        except OSError as error:
            self._lose(error)
            return
        else:
            if self._writing:
                self._writing = False
                self.loop.remove_writer(self._socket.fileno())
            if self._closing:
                self._lose(None)
                return
        if self.full and self._out.pending + len(self._piece) <= HIGH // 2:
            self.full = False
            self._drained()

    def close(self) -> None:
        """Says goodbye when everything is sent, or after GOODBYE_S."""
        if self.closed or self._closing:
            return
        with suppress(ssl.SSLError):  # it has not answered our goodbye yet, and need not
            self._tls.unwrap()
        self._closing = True
        self._deadline.cancel()
        self._deadline = self.loop.call_later(GOODBYE_S, self._lose, None)
        self._flush()

    def abort(self) -> None:
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        self._deadline.cancel()
        self.loop.remove_reader(self._socket.fileno())
        if self._writing:
            self.loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._lost(error)
