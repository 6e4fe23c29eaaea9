"""Reports over a directory of Parquet: a window of time, and nothing read in vain."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from replaykit.archive import partitions as archive
from replaykit.archive.partitions import Window, parse_time
from replaykit.archive.store import Folder
from replaykit.errors import UsageError
from replaykit.outputs.files import DirectoryOutput, ParquetOutput
from replaykit.outputs.output import Rotation
from tests.outputs.conftest import batch, report

REPLAYKIT = [sys.executable, "-m", "replaykit"]
HOUR = 3_600_000_000_000
DAY = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp()) * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three exchanges in each of 30 hours."""
    output = DirectoryOutput(str(tmp_path / "archive"), Rotation())
    for hour in range(30):
        output.exchanges(batch(DAY + hour * HOUR))
    output.close()
    return tmp_path / "archive"


def requests(*arguments: str) -> int:
    return int(report(*arguments)["total"]["requests"])


def test_windows(folder: Path) -> None:
    assert requests(str(folder)) == 90
    assert requests(str(folder), "--since", "2026-11-20T10:00", "--until", "2026-11-20T12:00") == 6
    assert requests(str(folder), "--since", "2026-11-21") == 18
    assert requests(str(folder), "--until", "2026-11-20T01:00:00+01:00") == 0
    (one,) = archive.files(Folder(str(folder)), Window(DAY + 5 * HOUR, DAY + 6 * HOUR))
    assert "date=2026-11-20/hour=05" in str(one)
    assert requests(str(one), "--since", "2026-11-20T05:00:00.000400") == 2


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    name = str(tmp_path / "a.parquet")
    output = ParquetOutput(name, Rotation())
    for hour in (0, 5):
        output.exchanges(batch(DAY + hour * HOUR))
        output._file._save(finish=True)  # type: ignore[union-attr]
    output.close()
    (found,) = archive.read(name, Window(since=DAY + HOUR), {"endpoint", "weight"})
    assert (
        found.num_rows == 3
        and found.column("endpoint").null_count == 0
        and found.column("host").null_count == 3
    )
    import pyarrow.parquet as pq

    assert archive._groups(pq.ParquetFile(name), Window(since=DAY + HOUR)) == [1]
    assert archive._groups(pq.ParquetFile(name), Window(until=DAY + HOUR)) == [0]


def test_other_commands_take_directories_too(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = subprocess.run(
        [*REPLAYKIT, "exchanges", str(folder), "--until", "2026-11-20T01:00", "--to", str(out), "--quiet"],
        check=False,
    )
    assert done.returncode == 0 and len(out.read_text().splitlines()) == 3
    gate = subprocess.run(
        [*REPLAYKIT, "gate", str(folder), "--threshold", "1kB", "--since", "2026-11-21T05:00"],
        capture_output=True,
        check=False,
    )
    assert gate.returncode == 0, gate.stdout
    assert (
        subprocess.run(
            [*REPLAYKIT, "gate", str(folder), "--threshold", "1kB"], capture_output=True, check=False
        ).returncode
        == 1
    )


def test_times_in_words() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert parse_time("--since", "2h", now) == DAY + 34 * HOUR
    assert parse_time("--since", "now", now) == DAY + 36 * HOUR
    assert parse_time("--since", "2026-11-20T02:00:00+02:00", now) == DAY
    with pytest.raises(UsageError, match="--since yesterday"):
        parse_time("--since", "yesterday", now)


def test_wrong_use(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([str(tmp_path / "empty")], "a directory without Parquet"),
        ([str(folder), "--since", "soon"], "--since soon"),
        (["samples/shop.pcap.gz", "--since", "2h"], "are for Parquet"),
    ):
        done = subprocess.run([*REPLAYKIT, "report", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
