"""Our own connections, known by their ends, so that a capture leaves out what we send ourselves.

A key is what GoReplay's id says of a client: its port and the last four bytes of its address.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from replaykit.records.message import Messages

_LATE_S = 10.0
"""So long after its end a connection's packets may still be on their way through the capture."""


def _key(end: Any) -> bytes | None:
    if not isinstance(end, tuple) or len(end) < 2:
        return None
    address = ipaddress.ip_address(str(end[0]).partition("%")[0])
    return b"%04x" % end[1] + address.packed[-4:].hex().encode()


class OwnConnections:
    """`left_out`: messages that were ours."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._ended: dict[bytes, float | None] = {}
        self._clock = clock
        self.left_out = 0

    def opened(self, end: Any) -> None:
        """A connection of ours begins at this address and port."""
        key = _key(end)
        if key is not None:
            self._ended[key] = None

    def closed(self, end: Any) -> None:
        key, now = _key(end), self._clock()
        if key is not None:
            self._ended.pop(key, None)  # to the end of the order
            self._ended[key] = now
        for old, ended in list(self._ended.items())[:2]:
            if ended is not None and now - ended > _LATE_S:
                del self._ended[old]

    def _ours(self, identifier: bytes) -> bool:
        return len(identifier) == 24 and self._is_ours(identifier[:4] + identifier[8:16])

    def _is_ours(self, key: bytes | None) -> bool:
        ended = 0.0 if key is None else self._ended.get(key, 0.0)
        return ended is None or (ended > 0 and self._clock() - ended < _LATE_S)

    def without_exchanges(self, exchanges: pa.RecordBatch) -> pa.RecordBatch:
        if not self._ended:
            return exchanges
        ends = zip(
            exchanges.column("client_ip").to_pylist(),
            exchanges.column("client_port").to_pylist(),
            strict=True,
        )
        ours = [ip is not None and self._is_ours(_key((ip, port or 0))) for ip, port in ends]
        return exchanges.filter(pa.array([not own for own in ours])) if any(ours) else exchanges

    def without(self, messages: Messages) -> Messages:
        """The messages of others."""
        if not self._ended:
            return messages
        rows = [row for row, identifier in enumerate(messages.ids()) if not self._ours(identifier)]
        self.left_out += len(messages) - len(rows)
        return messages.pick(rows)
