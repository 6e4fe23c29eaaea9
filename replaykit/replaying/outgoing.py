"""Recorded requests made ready for sending to a target.

Owns what changes on the way: Host, a prefix or a fixed target, and the fields that speak of the
recorded connection and not of this one (RFC 9110 §7.6.1). What is sent is one message, ended by its own
framing: bytes beyond it are left out and counted, what has no clear end is not sent. A row for every
record of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from replaykit.core import core
from replaykit.records.message import Messages

# What a row is. Not to be sent: no request, one that is not whole, a method that needs a tunnel, a request
# that does not say where it ends.
NO_REQUEST, CUT, TUNNEL, UNFRAMED = 0, 1, 2, 3
# To be sent: without a body in the response; safe or idempotent by method (RFC 9110 §9.2); neither.
HEAD, IDEMPOTENT, OTHER = 4, 5, 6
NOT_SENT = {CUT: "not whole in the recording", TUNNEL: "CONNECT", UNFRAMED: "does not say where it ends"}
"""Why a request is not sent, in words."""


@dataclass(frozen=True)
class Aim:
    """host: None keeps the recorded Host. prefix: put in front of every target. fixed: takes every
    target's place."""

    host: bytes | None = None
    prefix: bytes = b""
    fixed: bytes | None = None


@dataclass(frozen=True)
class Outgoing:
    """`data[start:end]` is what to send; `what` see above; requests of one recorded connection share
    `session`; ids are ranges of `gor`; `beyond` counts bytes of the record that follow its request."""

    data: memoryview
    gor: bytes | memoryview
    what: Sequence[int]
    time_ns: Sequence[int]
    start: Sequence[int]
    end: Sequence[int]
    session: Sequence[int]
    id_start: Sequence[int]
    id_end: Sequence[int]
    beyond: Sequence[int]
    names: Sequence[bytes] = ()
    """Ids that tell apart what shares one, where someone asked for them."""

    def id(self, row: int) -> bytes:
        return bytes(self.gor[self.id_start[row] : self.id_end[row]])

    def name(self, row: int) -> bytes:
        return self.names[row] if self.names else self.id(row)


def prepare(messages: Messages, aim: Aim) -> Outgoing:
    """A batch made ready; its rows are the batch's."""
    data, index = core.outgoing(messages.gor, *messages.places(), aim.host, aim.prefix, aim.fixed)
    array = pa.Array._import_from_c_capsule(*data)
    columns = pa.RecordBatch._import_from_c_capsule(*index)
    raw = memoryview(array.buffers()[1]) if len(array) else memoryview(b"")
    numbers: list[Any] = [_numbers(column) for column in columns.columns]
    return Outgoing(raw, messages.gor, *numbers)


def _numbers(column: pa.Array) -> Sequence[int]:
    """A column as it lies there: nothing is copied, so no other thread waits."""
    if not len(column):
        return []
    raw = memoryview(column.buffers()[1]).cast("B")
    match column.type.bit_width:
        case 8:
            return raw[: len(column)]
        case 32:
            return raw.cast("I")[: len(column)]
        case _:
            return raw.cast("q")[: len(column)]
