"""Endpoints that differ in one segment with very many values are one: `/users/alice`, `/users/bob` … are `/users/{name}`.

Owns what has been learned, for all who name endpoints: tables, the gate, differences, outputs. Once a place is folded it
stays so, also over restarts where a file keeps it. Memory is bounded: MOST names a place, MOST_NODES in all; what comes
beyond keeps its own name. Cost: a look-up for a name that is known, a walk over its segments else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from replaykit.plain import say
from replaykit.ship.output import write_whole

MOST = 100
"""Different values of one segment, beside each other, that keep their names."""
MOST_NODES = 200_000
NAME = "{name}"
_ANY = "*"
_MOST_KNOWN = 100_000

Node = dict[str, Any]
"""Segments and what follows them; one that holds NAME is folded, and holds nothing else."""


class Folding:
    """Learns from each name that it is shown."""

    def __init__(self) -> None:
        self._roots: dict[int, Node] = {}
        """By the number of segments: only names of one length are siblings."""
        self._nodes = 0
        self._known: dict[str, str] = {}
        self.news: list[str] = []
        """Places that were folded since somebody looked, such as `/users/{name}/*`."""

    def learn(self, endpoint: str) -> str:
        """What the endpoint is called now."""
        known = self._known.get(endpoint)
        if known is not None:
            return known
        self._insert(endpoint.split("/"))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        name = self._known[endpoint] = self.name(endpoint)
        return name

    def learn_all(self, endpoints: Iterable[str]) -> None:
        for endpoint in endpoints:
            self.learn(endpoint)

    def name(self, endpoint: str) -> str:
        """What it is called, without learning from it."""
        segments = endpoint.split("/")
        node = self._roots.get(len(segments), {}).get(segments[0], {})
        out = segments[:1]
        for segment in segments[1:]:
            step = NAME if NAME in node else segment
            out.append(step)
            node = node.get(step, {})
        return "/".join(out)

    def _insert(self, segments: list[str]) -> None:
        path = segments[:1]
        node: Node = self._roots.setdefault(len(segments), {}).setdefault(segments[0], {})
        for n, segment in enumerate(segments[1:], 1):
            if NAME not in node and (segment == NAME or (segment not in node and len(node) >= MOST)):
                self._fold(node, [*path, NAME, *[_ANY] * (len(segments) - n - 1)])
            step = NAME if NAME in node else segment
            if step not in node:
                if self._nodes >= MOST_NODES:
                    return
                node[step] = {}
                self._nodes += 1
            path.append(step)
            node = node[step]

    def _fold(self, node: Node, place: list[str]) -> None:
        _collapse(node)
        self._known.clear()
        self.news.append("/".join(place))

    def rename(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with its endpoints' names of now; what they teach is learned."""
        at = batch.schema.get_field_index("endpoint")
        column = batch.column(at)
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        texts = column.dictionary.to_pylist()
        self.learn_all(t for t in texts if t is not None)
        names = [None if t is None else self.learn(t) for t in texts]
        if names == texts:
            return batch
        field = batch.schema.field(at)
        renamed = pa.array(names, pa.string()).take(column.indices).dictionary_encode()
        return batch.set_column(at, field, renamed.cast(field.type))

    def places(self) -> list[str]:
        """Every folded place, as a pattern: `*` is what follows it."""
        found: list[str] = []

        def walk(node: Node, path: list[str], left: int) -> None:
            for segment, child in node.items():
                if segment == NAME and path:
                    found.append("/".join([*path, NAME, *[_ANY] * (left - 1)]))
                walk(child, [*path, segment], left - 1)

        for length, root in self._roots.items():
            walk(root, [], length)
        return sorted(found)

    def fold_at(self, places: Iterable[str]) -> None:
        """Folds what `places` of an earlier run says."""
        for place in places:
            segments = place.split("/")
            last = max((n for n, s in enumerate(segments) if s == NAME), default=0)
            node = self._roots.setdefault(len(segments), {})
            for segment in segments[: last + 1]:
                if segment == NAME and NAME not in node:
                    self._fold(node, [])
                node = node.setdefault(segment, {})
        self.news.clear()


def _merge(into: Node, other: Node) -> None:
    """All that is below two nodes, below one."""
    if NAME in other and NAME not in into:
        _collapse(into)
    for segment, child in other.items():
        step = NAME if NAME in into else segment
        _merge(into.setdefault(step, {}), child)
    if NAME not in into and len(into) > MOST:
        _collapse(into)


def _collapse(node: Node) -> None:
    """All segments of a node become NAME; what followed each of them follows that."""
    merged: Node = {}
    for child in node.values():
        _merge(merged, child)
    node.clear()
    node[NAME] = merged


class KeptFolding(Folding):
    """A folding that a file keeps, so that the next run names endpoints as this one did. Raises UsageError."""

    def __init__(self, path: Path, quiet: bool = False) -> None:
        super().__init__()
        self._path, self._quiet = path, quiet
        self.fold_at(self._kept())

    def _kept(self) -> list[str]:
        try:
            return [str(place) for place in json.loads(self._path.read_text())["folded"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []  # a first run, or one whose file somebody cut: it is learned again

    def rename(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        renamed = super().rename(batch)
        if self.news:
            if not self._quiet:
                say(
                    *(
                        f"replaykit: more than {MOST} names of endpoints beside each other: they are one now, {n}"
                        for n in self.news
                    )
                )
            self.news.clear()
            both = sorted({*self.places(), *self._kept()})  # another capture may have learned more
            write_whole(self._path, json.dumps({"folded": both}, indent=1).encode())
        return renamed
