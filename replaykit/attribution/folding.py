"""Endpoints that differ in one segment with very many values are one: `/users/alice`, `/users/bob` … are
`/users/{name}`.

What has been learned is kept in the core (`core/attribution`), for all who name endpoints: tables, the gate,
differences, outputs. Once a place is folded it stays so, also over restarts where a file keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from replaykit.atomic_files import write_whole
from replaykit.core import core
from replaykit.plain import say

MOST = 100
"""Different values of one segment, beside each other, that keep their names."""
MOST_NODES = 200_000
"""Segments that are remembered; names beyond them stay as they are."""


class Folding:
    """Learns from each name that it is shown."""

    def __init__(self, most: int = MOST, most_nodes: int = MOST_NODES) -> None:
        self.core: Any = core.Folding(most, most_nodes)

    def learn(self, endpoint: str) -> str:
        """What the endpoint is called now."""
        self.learn_all([endpoint])
        return self.name(endpoint)

    def learn_all(self, endpoints: Iterable[str | None]) -> None:
        self.core.learn(list(endpoints))

    def name(self, endpoint: str) -> str:
        """What it is called, without learning from it."""
        [name] = self.core.names([endpoint])
        return str(name)

    def take_news(self) -> list[str]:
        """Places that were folded since somebody asked, such as `/users/{name}/*`."""
        return list(self.core.take_news())

    def rename(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with its endpoints' names of now; what they teach is learned."""
        at = batch.schema.get_field_index("endpoint")
        column = batch.column(at)
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        texts = column.dictionary.to_pylist()
        self.learn_all(texts)
        names = self.core.names(texts)
        if names == texts:
            return batch
        field = batch.schema.field(at)
        renamed = pa.array(names, pa.string()).take(column.indices).dictionary_encode()
        return batch.set_column(at, field, renamed.cast(field.type))

    def places(self) -> list[str]:
        """Every folded place, as a pattern: `*` is what follows it."""
        return list(self.core.places())

    def fold_at(self, places: Iterable[str]) -> None:
        """Folds what `places` of an earlier run says."""
        self.core.fold_at(list(places))


class KeptFolding(Folding):
    """A folding that a file keeps, so that the next run names endpoints as this one did.

    Raises UsageError.
    """

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
        news = self.take_news()
        if news:
            if not self._quiet:
                say(
                    *(
                        f"replaykit: more than {MOST} names of endpoints beside each other: they are one"
                        f" now, {n}"
                        for n in news
                    )
                )
            both = sorted({*self.places(), *self._kept()})  # another capture may have learned more
            write_whole(self._path, json.dumps({"folded": both}, indent=1).encode())
        return renamed
