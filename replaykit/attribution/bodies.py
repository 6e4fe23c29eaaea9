"""Bodies beside their exchanges: decoded sizes, decoded messages, and whoever wants to look at both.

Owns bringing an exchange's row together with its request and response, which an engine hands out
apart. Memory is bounded: a request whose exchange does not come is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from replaykit.engine.content import parse, pretty
from replaykit.engine.engine import Engine
from replaykit.records.message import Builder, Messages

MAX_WAITING = 64 << 20
"""Bytes of messages that wait for their exchange."""

Pair = tuple[bytes | None, bytes | None]
Visit = Callable[[pa.RecordBatch, list[Pair]], None]
"""A batch, and for each row the request and the response as far as they are whole."""


class Bodies(Engine):
    """Takes the place of an engine. decode: fills `request_decoded_bytes` and `response_decoded_bytes`.
    prettify: messages are handed out decoded. responses: they are handed out too. visit: looks at every
    batch."""

    def __init__(
        self,
        inner: Engine,
        *,
        decode: bool = False,
        prettify: bool = False,
        responses: bool = True,
        visit: Visit | None = None,
    ) -> None:
        vars(self).update(vars(inner))  # the same engine, whose results pass through here
        self.inner = inner
        self._decode, self._prettify, self._responses, self._visit = decode, prettify, responses, visit
        self._looks = decode or visit is not None
        self._pairs: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()
        self._waiting = 0
        self._out = Builder()
        self._batches: list[Messages] = []

    def _collect(self) -> None:
        if not self.inner.message_bytes:
            return
        messages = self.inner.take_messages()
        changed = self._prettify or not self._responses
        if not changed:
            self._batches.append(messages)
        for m in messages if changed or self._looks else ():
            if changed and (self._responses or m.kind == 1):
                self._out.push(replace(m, payload=pretty(m.payload)) if self._prettify else m)
            if self._looks:
                pair = self._pairs.setdefault((m.connection, m.stream), [None, None])
                pair[m.kind != 1] = m.payload
                self._waiting += len(m.payload)
        while self._waiting > MAX_WAITING:
            self._forget(next(iter(self._pairs)))

    def _forget(self, key: tuple[int, int]) -> Pair:
        request, response = self._pairs.pop(key, (None, None))
        self._waiting -= len(request or b"") + len(response or b"")
        return request, response

    def take_exchanges(self) -> pa.RecordBatch:
        self._collect()
        batch = self.inner.take_exchanges()
        if not self._looks:
            return batch
        keys = zip(batch.column("connection").to_pylist(), batch.column("stream").to_pylist(), strict=True)
        pairs = [self._forget(key) for key in keys]
        if self._visit is not None:
            self._visit(batch, pairs)
        return _with_sizes(batch, pairs) if self._decode else batch

    @property
    def message_bytes(self) -> int:
        self._collect()
        return len(self._out.gor) + sum(len(m.gor) for m in self._batches)

    def take_messages(self) -> Messages:
        """One batch at a time; `message_bytes` says whether there is more."""
        self._collect()
        if self._batches:
            return self._batches.pop(0)
        out, self._out = self._out, Builder()
        return out.messages()


def _with_sizes(batch: pa.RecordBatch, pairs: list[Pair]) -> pa.RecordBatch:
    for i, name in enumerate(("request_decoded_bytes", "response_decoded_bytes")):
        at = batch.schema.get_field_index(name)
        known = batch.column(at).to_pylist()
        sizes = [_decoded(pair[i]) if size is None else size for size, pair in zip(known, pairs, strict=True)]
        batch = batch.set_column(at, batch.schema.field(at), pa.array(sizes, pa.int64()))
    return batch


def _decoded(payload: bytes | None) -> int | None:
    content = None if payload is None else parse(payload)
    plain = None if content is None else content.decoded()
    return None if plain is None else len(plain)
