"""Files of exchanges: what is in them, and that they are never torn."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replaykit.errors import UsageError
from replaykit.ship.files import CsvOutput, DirectoryOutput, JsonlOutput, ParquetOutput
from replaykit.ship.output import Rotation, open_output
from replaykit.wire.engine import open_engine
from replaykit.wire.exchange import SCHEMA
from replaykit.wire.options import Options
from tests.talk import START, Talk, rows

HOUR = 3_600_000_000_000


def batch(n: int = 3, start: int = START) -> pa.RecordBatch:
    engine = open_engine(Options())
    talk = Talk(start=start).open()
    for i in range(n):
        talk.client(b'GET /x%d?q="a,b" HTTP/1.1\r\nHost: h\r\n\r\n' % i).server(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        )
    for p in talk.close().packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    return engine.take_exchanges()


def test_parquet_holds_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    output = ParquetOutput(str(path), Rotation())
    output.exchanges(batch())
    output.exchanges(batch(2))
    assert not path.exists()  # written aside until it is whole
    output.close()
    table = pq.read_table(path)
    assert table.schema.remove_metadata().equals(SCHEMA, check_metadata=False)
    assert rows(table.slice(0, 3).to_batches()[0]) == rows(batch())
    meta = pq.ParquetFile(path).metadata
    assert meta.row_group(0).column(0).compression == "ZSTD"
    assert meta.row_group(0).column(0).statistics.has_min_max
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_rotation_by_size(tmp_path: Path) -> None:
    for _ in range(2):  # a second run goes on with the numbers
        output = ParquetOutput(str(tmp_path / "a.parquet"), Rotation(max_bytes=1))
        output.exchanges(batch())
        output.exchanges(batch())
        output.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a-{n:06d}.parquet" for n in (1, 2, 3, 4)]


def test_directory_is_partitioned_by_hour(tmp_path: Path) -> None:
    output = DirectoryOutput(str(tmp_path) + "/", Rotation())
    output.exchanges(batch(1))
    output.exchanges(batch(2, START + HOUR))
    output.close()
    table = pq.read_table(tmp_path, partitioning="hive")
    assert sorted(zip(table["date"].to_pylist(), table["hour"].to_pylist(), strict=True)) == [
        ("2023-11-14", 22), ("2023-11-14", 23), ("2023-11-14", 23)
    ]  # fmt: skip


def test_jsonl_and_csv_hold_the_same(tmp_path: Path) -> None:
    for kind, name in ((JsonlOutput, "a.jsonl"), (CsvOutput, "a.csv")):
        for _ in range(2):  # appended to
            output = kind(str(tmp_path / name), Rotation())
            output.exchanges(batch())
            output.close()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    with (tmp_path / "a.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(lines) == len(table) == 6
    assert list(table[0]) == SCHEMA.names
    for line, row in zip(lines, table, strict=True):
        assert line["time"] == row["time"] == "2023-11-14T22:13:20.000300000Z"[:20] + line["time"][20:]
        assert line["target"] == row["target"] and '"a,b"' in line["target"]
        assert str(line["link_bytes"]) == row["link_bytes"]


def test_a_full_disk_tears_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        lines = JsonlOutput(str(small / "a.jsonl"), Rotation())
        with pytest.raises(UsageError, match="no space left on device"):
            for _ in range(500):
                lines.exchanges(batch(20))
        lines.close()
        text = (small / "a.jsonl").read_text()
        assert text.endswith("\n") and [json.loads(line) for line in text.splitlines()]
        (small / "a.jsonl").unlink()
        parquet = ParquetOutput(str(small / "b.parquet"), Rotation())
        with pytest.raises(UsageError, match="cannot be written"):
            big = batch(2000)
            for _ in range(2000):
                parquet.exchanges(big)
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("target", "what"), [("x.xls", "unknown kind"), ("/proc/none/a.csv", "cannot be written")]
)
def test_targets_that_cannot_be(target: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        open_output(target, Rotation())
