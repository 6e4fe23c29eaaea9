"""Recorded responses beside replayed ones: what differs, per endpoint.

Owns the pairing by id and what counts as a difference: status, chosen header fields, content. Sizes
and latencies are shown beside it. Content is compared without its codings, exactly or as JSON with
paths left out. Memory is bounded: responses that wait too long for their other half are counted.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from replaykit.engine import head
from replaykit.engine.content import parse
from replaykit.engine.endpoint import Templates
from replaykit.replaying.response import final

MAX_WAITING = 256 << 20
EXAMPLES = 5

BodyRule = Literal["exact", "json", "none"]


@dataclass(frozen=True, slots=True)
class Side:
    """A response, and how long it took from its request on; None where that is not known."""

    payload: bytes
    latency_ns: int | None = None
    request: bytes = b""


@dataclass
class Differences:
    """Of one endpoint. Sizes in bytes, latencies in ns, summed over pairs."""

    pairs: int = 0
    same: int = 0
    status: int = 0
    header: int = 0
    body: int = 0
    recorded_bytes: int = 0
    replayed_bytes: int = 0
    recorded_ns: int = 0
    replayed_ns: int = 0
    timed: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        timed = self.timed or 1
        return {
            "pairs": self.pairs,
            "same": self.same,
            "status": self.status,
            "header": self.header,
            "body": self.body,
            "recorded_bytes": self.recorded_bytes,
            "replayed_bytes": self.replayed_bytes,
            "recorded_latency_ms": self.recorded_ns / timed / 1e6 if self.timed else None,
            "replayed_latency_ms": self.replayed_ns / timed / 1e6 if self.timed else None,
            "examples": self.examples,
        }


class Numbers:
    """How often an id was seen before: files of GoReplay 1.x have one for a whole connection. Bounded."""

    def __init__(self, most: int = 1_000_000) -> None:
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._most = most

    def next(self, identifier: bytes) -> bytes:
        """A name of its own for each time."""
        count = self._seen[identifier] = self._seen.pop(identifier, 0) + 1
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return identifier if count == 1 else identifier + b" #%d" % count


class Comparison:
    """headers: names of fields that are compared. ignore: paths into JSON such as `data.*.id`."""

    def __init__(
        self,
        headers: Sequence[str] = (),
        body: BodyRule = "exact",
        ignore: Sequence[str] = (),
        patterns: Sequence[str] = (),
    ) -> None:
        self._headers = [h.lower().encode() for h in headers]
        self._body = body
        self._ignore = [_path(text) for text in ignore]
        self._templates = Templates(patterns)
        self._waiting: OrderedDict[tuple[bytes, bool], deque[Side]] = OrderedDict()
        self._bytes = 0
        self.endpoints: dict[str, Differences] = {}
        self.unpaired = 0

    def recorded(self, identifier: bytes, side: Side) -> None:
        self._put(identifier, False, side)

    def replayed(self, identifier: bytes, side: Side) -> None:
        self._put(identifier, True, side)

    def _put(self, identifier: bytes, replayed: bool, side: Side) -> None:
        """Sides of one id are paired in their order: files of GoReplay 1.x have one for a connection."""
        others = self._waiting.get((identifier, not replayed))
        if others is not None:
            other = others.popleft()
            if not others:
                del self._waiting[identifier, not replayed]
            self._bytes -= len(other.payload)
            self._compare(identifier, *((other, side) if replayed else (side, other)))
            return
        self._waiting.setdefault((identifier, replayed), deque()).append(side)
        self._bytes += len(side.payload)
        while self._bytes > MAX_WAITING:
            key, oldest = next(iter(self._waiting.items()))
            self._bytes -= len(oldest.popleft().payload)
            self.unpaired += 1
            if not oldest:
                del self._waiting[key]

    def finish(self) -> None:
        """What still waits has no other half."""
        self.unpaired += sum(map(len, self._waiting.values()))
        self._waiting.clear()

    @property
    def different(self) -> int:
        """Pairs that differ."""
        return sum(d.pairs - d.same for d in self.endpoints.values())

    def _compare(self, identifier: bytes, recorded: Side, replayed: Side) -> None:
        found = self.endpoints.setdefault(self._endpoint(replayed.request), Differences())
        found.pairs += 1
        found.recorded_bytes += len(recorded.payload)
        found.replayed_bytes += len(replayed.payload)
        if recorded.latency_ns is not None and replayed.latency_ns is not None:
            found.recorded_ns += recorded.latency_ns
            found.replayed_ns += replayed.latency_ns
            found.timed += 1
        what = self._differences(recorded.payload, replayed.payload)
        found.same += not what
        for name in {name for name, _, _ in what}:
            setattr(found, name, getattr(found, name) + 1)
        if what and len(found.examples) < EXAMPLES:
            name, before, after = what[0]
            target = recorded.request or replayed.request
            found.examples.append(
                {
                    "id": identifier.decode("latin-1"),
                    "request": target.partition(b" HTTP/")[0].decode("latin-1")[:200],
                    "what": name,
                    "recorded": before,
                    "replayed": after,
                }
            )

    def _endpoint(self, request: bytes) -> str:
        line = head.request(request)
        if line is None:
            return "(unknown)"
        target = request[slice(*line[1])].decode("latin-1")
        return self._templates.endpoint(target.partition("?")[0])

    def _differences(self, a: bytes, b: bytes) -> list[tuple[str, str, str]]:
        out = []
        (recorded, a), (replayed, b) = final(a), final(b)
        if recorded != replayed:
            out.append(("status", str(recorded or "none"), str(replayed or "none")))
        one, two = a[: head.end(a)], b[: head.end(b)]
        for name in self._headers:
            before, after = (_field(h, name) for h in (one, two))
            if before != after:
                shown = name.decode("latin-1")
                out.append(("header", f"{shown}: {_shown(before)}", f"{shown}: {_shown(after)}"))
        if self._body != "none":
            x, y = _content(a), _content(b)
            if x != y and not (self._body == "json" and self._json_same(x, y)):
                at = next(
                    (i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y))
                )
                out.append(("body", _around(x, at), _around(y, at)))
        return out

    def _json_same(self, x: bytes, y: bytes) -> bool:
        try:
            one, two = json.loads(x), json.loads(y)
        except (ValueError, RecursionError):
            return False
        for path in self._ignore:
            _drop(one, path)
            _drop(two, path)
        return bool(one == two)


def _field(h: bytes, name: bytes) -> bytes | None:
    at = head.value(h, name)
    return None if at is None else h[slice(*at)]


def _shown(value: bytes | None) -> str:
    return "(absent)" if value is None else value.decode("latin-1")[:100]


def _content(payload: bytes) -> bytes:
    content = parse(payload)
    if content is None:
        return payload[head.end(payload) :]
    plain = content.decoded()
    return content.body if plain is None else plain


def _around(content: bytes, at: int) -> str:
    begin = max(at - 20, 0)
    return f"byte {at}: {content[begin : at + 40].decode('utf-8', 'replace')!r} of {len(content)} bytes"


def _path(text: str) -> list[str]:
    """`$.data.items[*].id` and `data.items.*.id` are the same path."""
    plain = text.removeprefix("$").replace("[", ".").replace("]", "")
    return [part for part in plain.split(".") if part]


def _drop(value: Any, path: Sequence[str]) -> None:
    """Removes what the path names; `*` is any key or element."""
    if not path:
        return
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        for key in [k for k in value if first in ("*", k)]:
            if rest:
                _drop(value[key], rest)
            else:
                del value[key]
    elif isinstance(value, list):
        for i in [i for i in range(len(value)) if first in ("*", str(i))]:
            if rest:
                _drop(value[i], rest)
            else:
                value[i] = None
