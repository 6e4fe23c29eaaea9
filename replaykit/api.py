"""replaykit in Python: what the commands do, as calls of the same names. `import replaykit` has all of it.

Names of options and their values are those of the commands: sizes such as `500MB`, times such as `5m`. Wrong
use and unreadable input raise `replaykit.UsageError` with the line that a command would print.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

import pyarrow as pa

from replaykit.attribution.gate import Limits, Verdict, judge
from replaykit.attribution.measured import Measured, fold, measured
from replaykit.attribution.measured import columns as measured_columns
from replaykit.attribution.summary import MEASURES, Summary, parse_keys
from replaykit.attribution.summary import columns as summary_columns
from replaykit.capturing.places import parse_place
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.pipeline.options import Filters
from replaykit.pipeline.reading import Reader
from replaykit.records.exchange import BATCH_SCHEMA
from replaykit.records.increment import BATCH_SCHEMA as INCREMENT_SCHEMA
from replaykit.records.increment import NUMBER
from replaykit.records.message import Messages
from replaykit.reporting.render import rows
from replaykit.units import parse_duration

if TYPE_CHECKING:
    import pandas
    import polars

    from replaykit.ledger.store import Ledger as LedgerStore
    from replaykit.replaying.compare import Comparison
    from replaykit.replaying.stats import Stats

Source: TypeAlias = str | pa.Table
"""A file as the commands take it, or a table of exchanges."""


@dataclass(frozen=True)
class Recording:
    """What files hold. exchanges: a row each, its columns are those of docs/columns.md.

    increments: what exchanges moved in slices of time, where `slice` asked for them; their column `exchange`
    is that of `exchanges`, and 0 there is an exchange that began and ended within a slice, or comes from
    Parquet. account: where every byte of the captures went; None where there was no capture. troubles: a line
    for each file that was cut short or broken.
    """

    exchanges: pa.Table
    increments: pa.Table | None = None
    account: dict[str, int] | None = None
    troubles: list[str] = field(default_factory=list)

    def to_pandas(self) -> pandas.DataFrame:
        """The exchanges. Raises UsageError where pandas is not installed."""
        try:
            return self.exchanges.to_pandas()
        except ModuleNotFoundError:
            raise UsageError("this needs pandas: pip install pandas") from None

    def to_polars(self) -> polars.DataFrame:
        """The exchanges. Raises UsageError where polars is not installed."""
        try:
            import polars as pl
        except ModuleNotFoundError:
            raise UsageError("this needs polars: pip install polars") from None
        return cast("polars.DataFrame", pl.from_arrow(self.exchanges))


def read(
    *files: str,
    slice: str | None = None,
    workers: int | None = None,
    filters: Filters | None = None,
) -> Recording:
    """Reads captures (.pcap, .pcapng), .gor and Parquet files or directories, all of them into memory.

    slice: also increments, by slices of this length of packet time, such as `1s`. workers: threads; None: as
    many as are of use. Raises UsageError.
    """
    increments: list[pa.RecordBatch] = []
    slice_ns = 0 if slice is None else int(parse_duration(slice) * 1e9)
    chosen = (filters or Filters()).options(False, False, slice_ns)
    reader = Reader(chosen, increments=increments.append if slice_ns else None, workers=workers, report=_warn)
    schema = pa.schema([*BATCH_SCHEMA, INCREMENT_SCHEMA.field(NUMBER)]) if slice_ns else BATCH_SCHEMA
    batches = [_in_schema(piece, schema) for piece in reader.read(files) if isinstance(piece, pa.RecordBatch)]
    return Recording(
        pa.Table.from_batches(batches, schema).unify_dictionaries(),
        pa.Table.from_batches(increments, INCREMENT_SCHEMA).unify_dictionaries() if slice_ns else None,
        reader.account(),
        reader.troubles,
    )


def _in_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Exchanges of captures and of Parquet alike; what is in Parquet has no increments."""
    columns = []
    for wanted in schema:
        if wanted.name in batch.schema.names:
            column = batch.column(wanted.name)
        else:
            column = (
                pa.array([0] * batch.num_rows, wanted.type)
                if wanted.name == NUMBER
                else pa.nulls(batch.num_rows, wanted.type)
            )
        columns.append(column if column.type == wanted.type else column.cast(wanted.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class Captured:
    """A part of a live capture. exchanges: those that have ended. moved: all that moved, whether its exchange
    has ended or not, with `time` in the slice in which it moved and `ended`. drops: packets that the kernel
    could not hand over, since the capture began.
    """

    exchanges: pa.RecordBatch
    moved: pa.RecordBatch
    drops: int


def capture(
    *places: str,
    duration: str | None = None,
    interval: str = "1s",
    headers_only: bool = False,
    sample: float = 1.0,
    filters: Filters | None = None,
) -> Iterator[Captured]:
    """Captures live traffic, `eth0:80` or `:8080`, and gives what came of it, as it comes, until it is
    closed.

    duration: ends after so long. interval: the length of slices. sample: the share of connections kept. Needs
    the privilege of raw sockets. Raises UsageError.
    """
    from replaykit.capturing.live import Capture, Settings  # loaded only here: needs Linux's sockets
    from replaykit.capturing.results import results

    slice_s = parse_duration(interval)
    settings = Settings(
        [parse_place(place) for place in places],
        sample=sample,
        headers_only=headers_only,
        slice_s=slice_s,
        report=_warn,
    )
    if not places:
        raise UsageError("name a port as in eth0:80, or :80 for all interfaces")
    running = Capture(settings, (filters or Filters()).options(False, False))
    found = results(running, lambda: False, None if duration is None else parse_duration(duration))
    try:
        for result in found:
            if result is not None and result.exchanges is not None and result.moved is not None:
                yield Captured(result.exchanges, result.moved, running.totals().kernel_drops)
    finally:
        found.close()
        running.close()


def report(
    source: Source | Iterable[pa.RecordBatch],
    by: str = "endpoint",
    top: int | None = None,
    measure: str = MEASURES[0],
) -> pa.Table:
    """Who used the bandwidth: a row for each key, the largest first, with the fields of `replaykit report
    --format json`.

    by: `endpoint`, `host,client`, … top: so many, and the rest as `(other)`. Raises UsageError.
    """
    if measure not in MEASURES:
        raise UsageError(f"measure {measure!r}: choose from {', '.join(MEASURES)}")
    summary = Summary(parse_keys(by), measure=measure)
    for batch in _batches(source, summary_columns(summary.by)):
        summary.add(batch)
    found = rows(summary, top)
    return (
        pa.Table.from_pylist(found)
        if found
        else pa.table({name: pa.array([], pa.string()) for name in summary.by})
    )


def gate(
    source: Source,
    *,
    baseline: Source | None = None,
    threshold: str | None = None,
    per_endpoint: Sequence[str] = (),
    per_request: str | None = None,
    max_share: str | None = None,
    max_increase: str | None = None,
    max_total_increase: str | None = None,
    budget: Sequence[str] = (),
    measure: str = MEASURES[0],
) -> Verdict:
    """Holds traffic against limits: `verdict.passed`, and `verdict.failures` with a line of `text` each.

    Limits are those of `replaykit gate`. Raises UsageError where nothing was measured or compared.
    """
    limits = Limits.of(
        threshold=threshold,
        per_endpoint=per_endpoint,
        per_request=per_request,
        max_share=max_share,
        max_increase=max_increase,
        max_total_increase=max_total_increase,
        budget=budget,
        compared=baseline is not None,
    )
    now = _measured(source, measure)
    before = None if baseline is None else _measured(baseline, measure)
    fold(now, *([] if before is None else [before]))
    verdict = judge(now, limits, before)
    verdict.require()
    return verdict


def _measured(source: Source, measure: str) -> Measured:
    found = measured(_batches(source, measured_columns(measure)), measure)
    if not found.endpoints:
        name = source if isinstance(source, str) else "a table"
        raise UsageError(f"{name}: no exchange was measured, so nothing can pass")
    return found


def _batches(source: Source | Iterable[pa.RecordBatch], columns: Collection[str]) -> Iterator[pa.RecordBatch]:
    """columns: those that are needed; of Parquet files no others are read."""
    if isinstance(source, str):
        reader = Reader(Filters().options(False, False), columns=columns, report=_warn)
        yield from (piece for piece in reader.read([source]) if not isinstance(piece, Messages))
        for trouble in reader.troubles:
            _warn(trouble)
    elif isinstance(source, pa.Table):
        yield from source.to_batches()
    else:
        yield from source


@dataclass(frozen=True)
class Replayed:
    """What came of a replay. comparison: of recorded and new responses, where it was asked for.

    troubles: of the files.
    """

    stats: Stats
    seconds: float
    comparison: Comparison | None
    troubles: list[str]


def replay(
    *files: str,
    to: str,
    speed: str = "1x",
    rate: float | None = None,
    limit: int | None = None,
    duration: str | None = None,
    connections: int | None = None,
    timeout: str = "5s",
    http2: bool = False,
    all_methods: bool = False,
    compare: bool = False,
) -> Replayed:
    """Sends recorded requests to a target and waits for the responses; options are those of `replaykit
    replay`.

    Works where an event loop runs already, such as in a notebook. Raises UsageError.
    """
    from replaykit.replaying.options import ReplayOptions
    from replaykit.replaying.plan import plan  # loaded only here: most programs send nothing
    from replaykit.replaying.reading import Read
    from replaykit.replaying.runner import Replay

    read = Read()
    asked = ReplayOptions.of(
        {
            "files": files,
            "to": to,
            "speed": speed,
            "rate": rate,
            "limit": limit,
            "duration": duration,
            "connections": connections,
            "timeout": timeout,
            "http2": http2,
            "all_methods": all_methods,
            "compare": compare,
        }
    )
    todo = plan(asked, read, Rules())

    begun: list[tuple[asyncio.AbstractEventLoop, Replay]] = []

    async def send() -> Replayed:
        run = Replay(todo)
        begun.append((asyncio.get_running_loop(), run))
        stats = await run.run()
        return Replayed(stats, run.seconds, todo.comparison, read.troubles)

    with ThreadPoolExecutor(1) as alone:  # a loop may run in this thread
        sending = alone.submit(lambda: asyncio.run(send()))
        try:
            return sending.result()
        except KeyboardInterrupt:
            for loop, run in begun:
                loop.call_soon_threadsafe(run.stop)
            raise


def Ledger(url: str, time_zone: str | None = None) -> LedgerStore:
    """A ledger by URL: `sqlite:///usage.db`, `files:FOLDER`, `postgresql://…`, `mysql://…`.

    Raises UsageError.
    """
    try:
        from replaykit.ledger.files import open_url
    except ModuleNotFoundError:
        raise needs("a ledger needs sqlalchemy", "ledger") from None
    return open_url(url, time_zone)


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)
