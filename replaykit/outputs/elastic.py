"""Exchanges, statistics by minute and this host's counters into Elasticsearch, by way of a spool on disk.

Owns what a record of the spool becomes. Whoever measures never waits for the server: results go into the
spool first, whole, and nothing is lost before the spool's bound.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from replaykit.outputs import ecs
from replaykit.outputs.bulk import Bulk, Operation
from replaykit.outputs.delivery.drain import Drain
from replaykit.outputs.elastic_place import Place, connect, parse_place
from replaykit.outputs.elastic_setup import set_up
from replaykit.outputs.output import Output, Rotation
from replaykit.records.message import Messages

_OF, _EXCHANGES, _MINUTES = b"replaykit.of", b"exchanges", b"minutes"
"""What a record of the spool is for; for both where it does not say."""
ROWS = 4096
MINUTES_ROWS = 65_536
"""Of a record where only statistics are sent: more exchanges share a document."""


class Documents:
    """What records of the spool become, and where each document goes."""

    def __init__(self, place: Place, client: Any) -> None:
        self._place, self._client = place, client
        self._streams = False

    def prepare(self) -> None:
        """Raises UsageError where the server cannot be set up."""
        self._streams = set_up(self._client, self._place.name)

    def operations(self, record: bytes) -> list[Operation]:
        observer = self._place.observer
        if record[:1] == b"{":
            found = json.loads(record)
            return self._create("hosts", ecs.host(found["time"], observer, found["run"], found["status"]))
        out: list[Operation] = []
        with pa.ipc.open_stream(record) as stream:
            for batch in stream:
                ids = ecs.identities(batch)
                of = (batch.schema.metadata or {}).get(_OF)
                if of != _MINUTES and "exchanges" in self._place.what:
                    out += self._create("exchanges", ecs.exchanges(batch, observer, ids))
                if of != _EXCHANGES and "minutes" in self._place.what:
                    out += self._create("minutes", ecs.minutes(batch, observer, ids))
        return out

    def _create(self, kind: str, documents: ecs.Documents) -> list[Operation]:
        name = f"{self._place.name}-{kind}"
        day = "" if self._streams else "-%s"
        heads = {
            d: f'{{"create":{{"_index":"{name}{day and day % d}","_id":"'.encode()
            for d in set(documents.days)
        }
        return [
            (b'%s%s"}}' % (heads[d], i.encode()), line)
            for i, d, line in zip(documents.ids, documents.days, documents.lines, strict=True)
        ]


class ElasticOutput:
    """`elasticsearch://host:9200/name`. Exchanges go into the spool; a thread sends them."""

    wants_messages = False

    def __init__(self, target: str, rotation: Rotation) -> None:
        self.place = parse_place(target)
        self.target = f"{self.place.url}/{self.place.name}"
        self._run = uuid.uuid4().hex[:12]
        self._before: dict[tuple[str, str], int] = {}
        self._rows = ROWS if "exchanges" in self.place.what else MINUTES_ROWS
        self._drain = Drain(self.place.spool, self.place.spool_bytes, self._connect)

    def _connect(self) -> Bulk:
        client = connect(self.place)
        documents = Documents(self.place, client)
        return Bulk(client, documents.operations, documents.prepare)

    def exchanges(self, batch: pa.RecordBatch) -> None:
        for begin in range(0, batch.num_rows, self._rows):
            part = batch.slice(begin, self._rows)
            self._drain.put(to_record(part), part.num_rows)

    def take(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        """Documents are of exchanges, minutes of all that moved."""
        if "exchanges" in self.place.what:
            self.exchanges(exchanges.replace_schema_metadata({_OF: _EXCHANGES}))
        if "minutes" in self.place.what:
            self.exchanges(moved.replace_schema_metadata({_OF: _MINUTES}))

    def observe(self, status: Mapping[str, Any]) -> None:
        """This host's counters, as a document of the kind `hosts`: what they grew by, so that sums
        are right.
        """
        now = {**status, "spool": {n: v for n, v in self.state.items() if n != "trouble"}}
        grown = {
            group: {
                n: v if n == "waiting_bytes" else v - self._before.get((group, n), 0)
                for n, v in counts.items()
            }
            for group, counts in now.items()
        }
        self._before = {(group, n): v for group, counts in now.items() for n, v in counts.items()}
        record = {"time": time.time_ns(), "run": self._run, "status": grown}
        self._drain.put(json.dumps(record).encode(), 0)

    def messages(self, messages: Messages) -> None:
        """Elasticsearch gets exchanges only."""

    def flush(self) -> None:
        """What was taken is in the spool."""

    @property
    def state(self) -> dict[str, Any]:
        """See `Drain.state`."""
        return self._drain.state

    def close(self) -> None:
        """Raises UsageError if something was refused, dropped, or is left in the spool."""
        self._drain.finish(self.target)


def to_record(batch: pa.RecordBatch) -> bytes:
    """A batch as a record of a spool."""
    batch = _trimmed(batch)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _trimmed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A slice has the dictionaries of all that it was cut from: without what it does not use, everything
    after is cheaper.
    """
    columns = [
        (
            c.dictionary_decode().dictionary_encode()
            if pa.types.is_dictionary(c.type) and len(c.dictionary) > batch.num_rows // 4
            else c
        )
        for c in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def open_place(target: str, rotation: Rotation) -> Output | None:
    """Entry point: `elasticsearch://`."""
    return ElasticOutput(target, rotation) if target.startswith("elasticsearch://") else None
