"""Files of exchanges: what is in them, and that they are never torn."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replaykit.archive import parquet_file
from replaykit.archive.parquet_file import is_written, left_behind, whole
from replaykit.atomic_files import Existing, NotWritten
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.outputs.files import CsvOutput, DirectoryOutput, JsonlOutput, ParquetOutput
from replaykit.outputs.output import Rotation, open_output
from replaykit.records.exchange import SCHEMA
from replaykit.records.message import SEPARATOR, Builder, Message, Messages
from tests.talk import START, Talk, rows

HOUR = 3_600_000_000_000


def batch(n: int = 3, start: int = START) -> pa.RecordBatch:
    engine = Engine(Options())
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
        ("2023-11-14", 22),
        ("2023-11-14", 23),
        ("2023-11-14", 23),
    ]


def test_jsonl_and_csv_hold_the_same(tmp_path: Path) -> None:
    for kind, name in ((JsonlOutput, "a.jsonl"), (CsvOutput, "a.csv")):
        for _ in range(2):
            output = kind(str(tmp_path / name), Rotation(existing="append"))
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
        taken = 0
        with pytest.raises(NotWritten, match="no space left on device") as full:
            for _ in range(500):
                taken += 200
                lines.exchanges(batch(200))
        lines.close()
        text = (small / "a.jsonl").read_text()
        kept = [json.loads(line) for line in text.splitlines()]
        assert text.endswith("\n") and len(kept) + full.value.lost == taken and full.value.lost < 200
        (small / "a.jsonl").unlink()
        parquet, big, taken = ParquetOutput(str(small / "b.parquet"), Rotation()), batch(2000), 0
        with pytest.raises(NotWritten, match="cannot be written") as full:
            for _ in range(2000):
                taken += 2000
                parquet.exchanges(big)
        with suppress(UsageError):  # there may be no room to join the parts
            parquet.close()
        assert (
            sum(pq.read_metadata(p).num_rows for p in whole(small / "b.parquet")) + full.value.lost == taken
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("target", "what"), [("x.xls", "unknown kind"), ("/proc/none/a.csv", "cannot be written")]
)
def test_targets_that_cannot_be(target: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        open_output(target, Rotation())


KINDS = ["a.jsonl", "a.csv", "a.lp", "a.gor", "a.gor.gz", "a.parquet"]


def _record(name: str, existing: Existing, count: int) -> None:
    output = open_output(name, Rotation(existing=existing))
    if count and output.wants_messages:
        output.messages(messages(count))
    elif count:
        output.exchanges(batch(count))
    output.close()


def messages(count: int) -> Messages:
    built = Builder()
    for n in range(count):
        built.push(Message(1, f"{n:024x}", START, 0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
    return built.messages()


def _records(path: Path) -> int:
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.suffix == ".lp":
        return sum(int(float(n)) for n in re.findall(rb"exchanges=([0-9.]+)", data))
    return data.count(SEPARATOR) if ".gor" in path.name else data.count(b"\n") - (path.suffix == ".csv")


@pytest.mark.parametrize("name", KINDS)
def test_an_existing_file_is_refused_added_to_or_replaced(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    _record(str(path), "refuse", 3)
    before = path.read_bytes()
    with pytest.raises(
        UsageError, match=r"there is such a file already: give --append to add to it, or --overwrite"
    ):
        _record(str(path), "refuse", 3)
    _record(str(path), "overwrite", 0)
    assert path.read_bytes() == before  # nothing came: nothing is replaced
    _record(str(path), "append", 0)
    assert path.read_bytes() == before
    _record(str(path), "append", 4)
    assert _records(path) == 7
    _record(str(path), "overwrite", 2)
    assert _records(path) == 2
    assert [p.name for p in tmp_path.iterdir()] == [name] and path.stat().st_mode & 0o777 == 0o600


def test_parts_become_one_file_with_row_groups_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "ROW_GROUP", 50)
    path = tmp_path / "a.parquet"
    output = ParquetOutput(str(path), Rotation())
    expected = []
    for n in range(5):
        output.exchanges(batch(30, START + n * HOUR))
        expected += rows(batch(30, START + n * HOUR))
    assert [p.name for p in left_behind(path)] == ["000001.part", "000002.part"] and is_written(path)
    output.close()
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [60, 60, 30]
    assert metadata.row_group(1).column(0).statistics.has_min_max
    assert [r for b in pq.read_table(path).to_batches() for r in rows(b)] == expected


RUN = """
import sys, time
from replaykit.archive import parquet_file
from replaykit.outputs.output import Rotation, open_output
from tests.outputs.test_files import batch
parquet_file.SAVE_S = 0.0
output = open_output(sys.argv[1], Rotation(existing="append"))
for n in range(3):
    output.exchanges(batch(10))
    output.flush()
parquet_file.SAVE_S = 3600.0
output.exchanges(batch(10))
print("flushed", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("target", ["a.parquet", "archive/"])
def test_what_a_killed_run_flushed_is_read_kept_and_counts_once(target: str, tmp_path: Path) -> None:
    place = str(tmp_path / target) + ("/" if target.endswith("/") else "")
    run = subprocess.Popen([sys.executable, "-c", RUN, place], stdout=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.readline() == b"flushed\n"
    if target == "a.parquet":  # its own lock keeps a second writer out
        with pytest.raises(UsageError, match="another process is writing it"):
            open_output(place, Rotation(existing="append"))
    run.kill()
    run.wait()

    def reported() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "replaykit", "report", place.rstrip("/"), "--format", "json"],
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)["total"]["requests"], done.stderr

    assert reported()[0] == 30
    if target == "a.parquet":
        assert "left in" in reported()[1]
        with pytest.raises(UsageError, match="an earlier run that did not end left 30 exchanges"):
            open_output(place, Rotation())
    output = open_output(place, Rotation(existing="append"))
    output.exchanges(batch(5))
    output.close()
    assert reported() == (35, "")
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize("at", ["join", "name", "clear"])
def test_a_crash_while_closing_counts_nothing_twice(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    _record(str(path), "refuse", 3)
    output = open_output(str(path), Rotation(existing="append"))
    output.exchanges(batch(4))
    where = {"join": (parquet_file, "write_whole"), "name": (os, "replace"), "clear": (shutil, "rmtree")}[at]
    real = getattr(*where)

    def crash(*arguments: object, **more: object) -> None:
        if at != "name" or str(arguments[1]).endswith("a.parquet"):
            raise KeyboardInterrupt
        real(*arguments, **more)

    monkeypatch.setattr(*where, crash)
    with pytest.raises(KeyboardInterrupt):
        output.close()
    monkeypatch.undo()
    assert sum(pq.read_metadata(p).num_rows for p in whole(path)) == 7
    again = open_output(str(path), Rotation(existing="append"))
    again.exchanges(batch(1))
    again.close()
    assert pq.read_metadata(path).num_rows == 8


def test_a_run_after_a_crash_in_clearing_up_outlives_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    _record(str(path), "refuse", 3)
    output = open_output(str(path), Rotation(existing="append"))
    output.exchanges(batch(4))

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        output.close()
    monkeypatch.undo()
    monkeypatch.setattr(parquet_file, "SAVE_S", 0.0)
    second = open_output(str(path), Rotation(existing="append"))
    second.exchanges(batch(5))
    second.flush()  # and killed here
    assert sum(pq.read_metadata(p).num_rows for p in whole(path)) == 12
