"""What could be spared, per endpoint: compression, responses sent again, requests repeated.

Owns the estimate of what gzip and Brotli would spare of bodies sent without (measured on a sample of
each endpoint's), the count of responses that a 304 would have done for, and of requests that a client
repeated within a second. Memory is bounded: the oldest responses and requests are forgotten.
"""

from __future__ import annotations

import gzip
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from replaykit.attribution.bodies import Pair
from replaykit.engine.content import Content, parse

SAMPLED_FIRST, SAMPLED_EVERY = 20, 20
"""Of an endpoint's bodies: the first ones, and then each so-manieth."""
MIN_BODY, MAX_BODY = 256, 1 << 20
REPEAT_NS = 1_000_000_000
MAX_REMEMBERED = 200_000

_PACKED = (
    "image/",
    "video/",
    "audio/",
    "font/woff",
    "application/zip",
    "application/gzip",
    "application/x-7z",
    "application/vnd.openxmlformats",
    "application/zstd",
    "application/x-br",
)


@dataclass
class Saving:
    """One endpoint. Bytes are of bodies as sent; `*_spared_bytes` are estimates."""

    responses: int = 0
    body_bytes: int = 0
    plain_bytes: int = 0
    sampled: int = 0
    sampled_bytes: int = 0
    sampled_gzip_bytes: int = 0
    sampled_br_bytes: int = 0
    unchanged: int = 0
    unchanged_bytes: int = 0
    repeated: int = 0
    repeated_bytes: int = 0

    def _spared(self, packed: int) -> int:
        if not self.sampled_bytes:
            return 0
        return max(round(self.plain_bytes * (1 - packed / self.sampled_bytes)), 0)

    @property
    def gzip_spared_bytes(self) -> int:
        return self._spared(self.sampled_gzip_bytes)

    @property
    def br_spared_bytes(self) -> int:
        return self._spared(self.sampled_br_bytes)

    @property
    def spared_bytes(self) -> int:
        """By the better compression, and by not sending again."""
        return max(self.gzip_spared_bytes, self.br_spared_bytes) + self.unchanged_bytes

    def as_dict(self, endpoint: str) -> dict[str, Any]:
        return {
            "endpoint": endpoint,
            "responses": self.responses,
            "response_body_bytes": self.body_bytes,
            "uncompressed_bytes": self.plain_bytes,
            "sampled": self.sampled,
            "gzip_spared_bytes": self.gzip_spared_bytes,
            "br_spared_bytes": self.br_spared_bytes,
            "unchanged": self.unchanged,
            "unchanged_bytes": self.unchanged_bytes,
            "repeated_within_1s": self.repeated,
            "repeated_bytes": self.repeated_bytes,
        }


class _Recent(OrderedDict[Hashable, Any]):
    def swap(self, key: Hashable, value: Any) -> Any:
        """Remembers a value and gives back the one before."""
        before = self.pop(key, None)
        self[key] = value
        if len(self) > MAX_REMEMBERED:
            self.popitem(last=False)
        return before


class Savings:
    """Looks at batches of exchanges with their bodies."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Saving] = {}
        self._responses = _Recent()
        self._requests = _Recent()

    def visit(self, batch: pa.RecordBatch, pairs: list[Pair]) -> None:
        names = (
            "endpoint",
            "method",
            "host",
            "target",
            "client_ip",
            "status",
            "time",
            "response_body_bytes",
            "request_wire_bytes",
            "response_wire_bytes",
        )
        columns = (batch.column(n).cast(pa.int64()) if n == "time" else batch.column(n) for n in names)
        for row, (request, response) in zip(
            zip(*(c.to_pylist() for c in columns), strict=True), pairs, strict=True
        ):
            endpoint, method, host, target, client, status, time, size, asked, answered = row
            if endpoint is None or method is None:
                continue
            saving = self.endpoints.setdefault(endpoint, Saving())
            sent = None if response is None else parse(response)
            if size is not None:
                saving.responses += 1
                saving.body_bytes += size
            if sent is not None and size and 200 <= (status or 0) < 300:
                self._compression(saving, sent)
                if method == "GET" and status == 200:
                    mark = sent.etag if sent.etag and not sent.etag.startswith(b"W/") else _hash(sent.body)
                    if self._responses.swap((client, host, target), mark) == mark:
                        saving.unchanged += 1
                        saving.unchanged_bytes += size
            question = None if request is None else parse(request)
            content = b"" if question is None else question.body
            before = self._requests.swap((client, method, host, target, _hash(content)), time)
            if before is not None and time is not None and 0 <= time - before < REPEAT_NS:
                saving.repeated += 1
                saving.repeated_bytes += (asked or 0) + (answered or 0)

    def _compression(self, saving: Saving, sent: Content) -> None:
        kind = sent.content_type.decode("latin-1").lower()
        packed = kind.startswith(_PACKED) and not kind.startswith("image/svg")
        if sent.encoding or packed or len(sent.body) < MIN_BODY:
            return
        n = saving.plain_bytes and saving.responses
        saving.plain_bytes += len(sent.body)
        if saving.sampled >= SAMPLED_FIRST and n % SAMPLED_EVERY:
            return
        body = sent.body[:MAX_BODY]
        saving.sampled += 1
        saving.sampled_bytes += len(body)
        saving.sampled_gzip_bytes += len(gzip.compress(body, 6))
        saving.sampled_br_bytes += len(pa.Codec("brotli", 5).compress(body))

    def top(self, n: int | None) -> list[tuple[str, Saving]]:
        """Endpoints where most could be spared."""
        found = sorted(self.endpoints.items(), key=lambda item: (-item[1].spared_bytes, item[0]))
        return found[:n]


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
