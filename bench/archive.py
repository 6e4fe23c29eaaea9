"""A day of 100 million exchanges in Parquet: bytes an exchange, and reports over an hour and over the day.

Synthetic, of the shape of a busy API: 200 endpoints of uneven weight, ids in paths, 50,000 clients,
connections that carry some 20 exchanges each, sizes and durations spread as such things are, a tenth answered
with 304, times to the nanosecond. Files are written by the same writer that a capture uses, five minutes
each, and compacted.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from replaykit.outputs.files import ParquetFile
from replaykit.records.exchange import BATCH_SCHEMA

DAY = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp()) * 10**9
FOLDER = Path(__file__).parent / "data" / "archive"
BATCH = 65_536
REPLAYKIT = [sys.executable, "-m", "replaykit"]


def batches(hour: int, rows: int, seed: int = 7) -> Iterator[pa.RecordBatch]:
    """The exchanges of an hour, in the order in which they end."""
    random = np.random.default_rng(seed * 1000 + hour)
    endpoints = [
        f"/api/v1/{name}/{{id}}" if n % 2 else f"/api/v1/{name}"
        for n, name in enumerate(f"thing{i}" for i in range(200))
    ]
    weights = 1 / np.arange(1, 201) ** 1.1
    weights /= weights.sum()
    typical = np.exp(random.normal(7, 1.5, 200)).astype(np.int64) + 100
    clients = [f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i in range(50_000)]
    connection = (hour + 1) * 1_000_000_000
    open_connections = np.arange(connection, connection + 4000)
    positions = np.ones(4000, np.int32)
    owner = random.integers(0, 50_000, 4000)
    ports = random.integers(32_768, 61_000, 4000)
    connection += 4000
    at, step = DAY + hour * 3_600_000_000_000, 3_600_000_000_000 / rows
    for begin in range(0, rows, BATCH):
        n = min(BATCH, rows - begin)
        gaps = random.exponential(step, n)
        gaps *= (n * step) / gaps.sum()
        started = at + np.cumsum(gaps).astype(np.int64)
        at = int(started[-1])
        which = random.choice(200, n, p=weights)
        slot = random.integers(0, 4000, n)
        first = (np.exp(random.normal(14.5, 0.8, n))).astype(np.int64)  # some 2 ms
        took = first + (random.exponential(80_000, n)).astype(np.int64)
        status = np.where(random.random(n) < 0.1, 304, np.where(random.random(n) < 0.01, 500, 200)).astype(
            np.int16
        )
        body = np.where(
            status == 304, 0, (typical[which] * np.exp(random.normal(0, 0.4, n))).astype(np.int64)
        )
        request_head = 320 + which % 40 + random.integers(0, 3, n)
        response_head = np.where(status == 304, 160, 240 + which % 7).astype(np.int64)
        request_body = np.where(which % 5 == 0, random.integers(50, 400, n), 0).astype(np.int64)
        packets = 1 + (body + response_head) // 1448
        ids = random.integers(0, 100_000, n)
        targets = [
            f"/api/v1/thing{w}/{i}" if w % 2 else f"/api/v1/thing{w}"
            for w, i in zip(which.tolist(), ids.tolist(), strict=True)
        ]
        stream = positions[slot]
        text: dict[str, Any] = {
            "protocol": _constant("http/1.1", n), "client_ip": _chosen(clients, owner[slot]),
            "server_ip": _chosen(["10.200.0.10", "10.200.0.11"], owner[slot] % 2),
            "method": _chosen(["GET", "POST"], (which % 5 == 0).astype(np.int32)),
            "scheme": _constant("http", n),
            "host": _chosen(["api.example.com", "www.example.com"], which % 2),
            "target": pa.array(targets).dictionary_encode(), "endpoint": _chosen(endpoints, which),
            "content_type": _constant("application/json", n),
            "content_encoding": _chosen(["gzip", None], (which % 3 == 0).astype(np.int32)),
            "trace_id": _nothing(n), "anomaly": _nothing(n), "alpn": _nothing(n),
        }  # fmt: skip
        text["path"] = text["target"]
        numbers: dict[str, Any] = {
            "time": started, "response_time": started + first, "duration_ns": took, "first_byte_ns": first,
            "connection": open_connections[slot].astype(np.uint64), "stream": stream,
            "client_port": ports[slot].astype(np.uint16), "server_port": np.full(n, 80, np.uint16),
            "status": status, "request_header_bytes": request_head, "response_header_bytes": response_head,
            "request_body_bytes": request_body, "response_body_bytes": body,
            "request_wire_bytes": request_head + request_body, "response_wire_bytes": response_head + body,
            "request_packets": np.ones(n, np.int64), "response_packets": packets,
            "link_bytes": request_head + request_body + response_head + body + 66 * (packets + 1),
            "retransmitted_bytes": np.zeros(n, np.int64), "missing_bytes": np.zeros(n, np.int64),
            "complete": np.ones(n, bool), "weight": np.ones(n),
        }  # fmt: skip
        columns = []
        for field in BATCH_SCHEMA:
            if field.name in text:
                columns.append(text[field.name])
            elif field.name in numbers:
                columns.append(pa.array(numbers[field.name]).cast(field.type))
            else:
                columns.append(pa.nulls(n, field.type))
        yield pa.RecordBatch.from_arrays(columns, schema=BATCH_SCHEMA)
        np.add.at(positions, slot, 1)
        ended = np.flatnonzero(positions > 20)
        open_connections[ended] = np.arange(connection, connection + len(ended))
        positions[ended], owner[ended] = 1, random.integers(0, 50_000, len(ended))
        ports[ended] = random.integers(32_768, 61_000, len(ended))
        connection += len(ended)


def _constant(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))


def _chosen(texts: list[Any], which: Any) -> pa.Array:
    if None in texts:
        at = texts.index(None)
        indices = pa.array(which.astype(np.int32), mask=which == at)
        return pa.DictionaryArray.from_arrays(indices, pa.array([t for t in texts if t is not None]))
    return pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), pa.array(texts))


def _nothing(n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.nulls(n, pa.int32()), pa.array([], pa.string()))


def make(rows: int, hours: int = 24) -> Path:
    """The archive, once; an hour a file, as after compaction."""
    folder = FOLDER / f"{rows}"
    if (folder / "whole").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for hour in range(hours):
        when = datetime.fromtimestamp(DAY / 1e9 + hour * 3600, UTC)
        file = ParquetFile(
            folder / f"date={when:%Y-%m-%d}" / f"hour={when:%H}" / "compact-0.parquet", BATCH_SCHEMA
        )
        for batch in batches(hour, rows // hours):
            file.write(batch)
        file.close()
    (folder / "whole").touch()
    return folder


def report(folder: Path, *arguments: str) -> tuple[float, float, float, int]:
    """Wall and CPU seconds, peak memory in MB, and the exchanges reported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    command = [*REPLAYKIT, "report", str(folder), "--format", "json", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1024, int(json.loads(done.stdout)["total"]["requests"])


def day(rows: int = 100_000_000) -> tuple[str, list[list[str]]]:
    """A text and a table for bench/RESULTS.md."""
    folder = make(rows)
    size = sum(p.stat().st_size for p in folder.glob("date=*/**/*.parquet"))
    table = [["report", "wall", "CPU", "peak memory", "exchanges"]]
    for name, arguments in (
        ("one hour", ["--since", "2026-11-20T08:00", "--until", "2026-11-20T09:00"]),
        (
            "one hour by host and status",
            ["--since", "2026-11-20T08:00", "--until", "2026-11-20T09:00", "--by", "host,status"],
        ),
        ("five minutes", ["--since", "2026-11-20T08:00", "--until", "2026-11-20T08:05"]),
        ("the day", []),
    ):
        wall, cpu, memory, found = min(
            report(folder, *arguments) for _ in range(1 if name == "the day" else 3)
        )
        table.append([name, f"{wall:.2f} s", f"{cpu:.2f} s", f"{memory:.0f} MB", f"{found:,}"])
    text = (
        f"{rows:,} synthetic exchanges of one day (`bench/archive.py`), Parquet with zstd: {size / 1e9:.2f}"
        f" GB, **{size / rows:.1f} bytes an exchange**.\n\n"
    )
    return text, table


if __name__ == "__main__":
    text, table = day(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000_000)
    print(text + "\n".join(" | ".join(row) for row in table))
