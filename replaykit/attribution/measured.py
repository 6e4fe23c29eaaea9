"""Bytes per endpoint, added up exactly: what the gate and differences are made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.attribution.folding import Folding
from replaykit.attribution.summary import MEASURES

_SIZES = {
    "wire": ("request_wire_bytes", "response_wire_bytes"),
    "link": ("link_bytes",),
    "body": ("request_body_bytes", "response_body_bytes"),
}


def columns(measure: str) -> tuple[str, ...]:
    """What is read of an exchange."""
    return ("endpoint", "weight", *_SIZES[measure])


@dataclass
class Endpoint:
    """requests and bytes (of both directions, by the measure) are weighted; largest: of one exchange, in
    bytes.
    """

    requests: float = 0.0
    bytes: float = 0.0
    largest: int = 0

    @property
    def per_request(self) -> float:
        return self.bytes / self.requests if self.requests else 0.0


@dataclass
class Measured:
    """By endpoint. Exchanges without one are `(unknown)`."""

    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    measure: str = MEASURES[0]

    def add(self, batch: pa.RecordBatch) -> None:
        size = reduce(pc.add, (pc.fill_null(batch.column(n), 0) for n in _SIZES[self.measure]))
        weight = batch.column("weight")
        table = pa.table(
            {
                "endpoint": pc.fill_null(batch.column("endpoint").cast(pa.string()), "(unknown)"),
                "size": size,
                "weighted": pc.multiply(pc.cast(size, pa.float64()), weight),
                "weight": weight,
            }
        )
        grouped = table.group_by("endpoint").aggregate(
            [("weight", "sum"), ("weighted", "sum"), ("size", "max")]
        )
        for row in grouped.to_pylist():
            found = self.endpoints.setdefault(row["endpoint"], Endpoint())
            found.requests += row["weight_sum"]
            found.bytes += row["weighted_sum"]
            found.largest = max(found.largest, row["size_max"])

    def fold(self, folding: Folding) -> None:
        """Names endpoints as the folding does."""
        joined: dict[str, Endpoint] = {}
        for name, e in self.endpoints.items():
            found = joined.setdefault(folding.name(name), Endpoint())
            found.requests += e.requests
            found.bytes += e.bytes
            found.largest = max(found.largest, e.largest)
        self.endpoints = joined

    @property
    def requests(self) -> float:
        return sum(e.requests for e in self.endpoints.values())

    @property
    def bytes(self) -> float:
        return sum(e.bytes for e in self.endpoints.values())

    def ordered(self) -> list[tuple[str, Endpoint]]:
        """The largest first."""
        return sorted(self.endpoints.items(), key=lambda item: (-item[1].bytes, item[0]))


def fold(*sides: Measured) -> None:
    """One naming for all that is compared."""
    folding = Folding()
    for side in sides:
        folding.learn_all(side.endpoints)
    for side in sides:
        side.fold(folding)


def measured(batches: Iterable[pa.RecordBatch], measure: str) -> Measured:
    out = Measured(measure=measure)
    for batch in batches:
        out.add(batch)
    return out
