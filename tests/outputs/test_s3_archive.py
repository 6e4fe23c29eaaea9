"""Parquet in S3 and its care: upload, a store that is away, reports, compaction, retention."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ci.servers import free_port
from replaykit.archive import compaction
from replaykit.archive.compaction import compact, expire
from replaykit.archive.partitions import Window, files, partition, read
from replaykit.archive.store import Folder, Store, counting, open_store
from replaykit.errors import UsageError
from replaykit.outputs.files import DirectoryOutput
from replaykit.outputs.output import Rotation
from replaykit.outputs.s3_archive import S3Archive
from samples.make import OUT
from tests.outputs.conftest import batch, capture, report, run

HOUR = 3_600_000_000_000
DAY = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp()) * 10**9


def rows(store: Store) -> list[tuple[Any, ...]]:
    """Every exchange that counts: when, and what."""
    out = []
    for name in files(store, Window()):
        for piece in read(name):
            out += zip(
                piece.column("time").cast(pa.int64()).to_pylist(),
                piece.column("target").to_pylist(),
                strict=True,
            )
    return sorted(out)


def test_to_the_store_and_reported_from_there(store: Any, tmp_path: Path) -> None:
    target = f"s3://traffic/web/?staging={tmp_path / 'staging'}"
    done = run("exchanges", str(OUT), "--to", target)
    assert done.returncode == 0 and "hidden" not in done.stderr, done.stderr
    keys = [e["Key"] for e in store.list_objects_v2(Bucket="traffic")["Contents"]]
    assert keys and all(k.startswith("web/date=") and partition(k) for k in keys)
    here, there = report(str(OUT)), report("s3://traffic/web/")
    assert (there["total"], there["rows"]) == (here["total"], here["rows"])
    begin = partition(keys[0])
    assert begin is not None
    inside = datetime.fromtimestamp(begin[0] / 1e9, UTC).isoformat()
    assert report("s3://traffic/web/", "--since", inside)["total"]["requests"] == here["total"]["requests"]
    assert report("s3://traffic/web/", "--since", "now")["total"]["requests"] == 0
    assert list((tmp_path / "staging").glob("**/*.parquet")) == []


def test_a_store_that_is_away_gets_it_later(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, there = f"s3://traffic/late/?staging={tmp_path / 'staging'}", "s3://traffic/late/"
    monkeypatch.setattr("replaykit.outputs.s3_archive._LAST_S", 0.5)
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        away.setenv("AWS_MAX_ATTEMPTS", "1")
        output = S3Archive(target, Rotation())
        output.exchanges(batch(DAY))
        with pytest.raises(UsageError, match="uploaded by the next run"):
            output.close()
    second = S3Archive(target, Rotation())
    with pytest.raises(UsageError, match="another process"):
        S3Archive(target, Rotation())
    second.exchanges(batch(DAY + HOUR))
    second.close()
    assert report(there)["total"]["requests"] == 6


def test_a_full_staging_directory_drops_the_oldest_and_counts(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("replaykit.outputs.s3_archive._LAST_S", 0.5)
    output = S3Archive(f"s3://traffic/full/?staging={tmp_path}&staging-size=20KB", Rotation(max_bytes=1))
    for hour in range(5):
        output.exchanges(batch(DAY + hour * HOUR))
    left = sorted(tmp_path.glob("date=*/hour=*/*.parquet"))
    assert 0 < len(left) < 5 and output.dropped == 3 * (5 - len(left))
    with pytest.raises(UsageError):
        output.close()


@pytest.fixture(params=["folder", "bucket"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Four files in each of three hours."""
    folder = tmp_path / "archive"
    for n in range(4):
        output = DirectoryOutput(str(folder), Rotation())
        output._run = f"run{n}"
        for hour in range(3):
            output.exchanges(batch(DAY + hour * HOUR + n * 10**9))
        output.close()
    if request.param == "folder":
        return Folder(str(folder))
    client = request.getfixturevalue("store")
    for path in folder.glob("**/*.parquet"):
        client.upload_file(str(path), "traffic", f"care/{path.relative_to(folder).as_posix()}")
    return open_store("s3://traffic/care/")


LATER = (DAY + 4 * HOUR) / 1e9


def test_compaction_keeps_every_exchange_once(archive: Store) -> None:
    before = rows(archive)
    assert len(before) == 36
    would = compact(archive, LATER, dry=True)
    assert (would.files, would.rows, would.made) == (12, 36, 3) and len(counting(archive)) == 12
    done = compact(archive, LATER)
    assert (done.files, done.rows, done.made) == (12, 36, 3)
    assert len(archive.names()) == 3 and rows(archive) == before
    assert compact(archive, LATER).made == 0


def test_an_hour_that_may_still_be_written_is_left_alone(archive: Store) -> None:
    assert compact(archive, (DAY + HOUR) / 1e9 + compaction.GRACE_S - 1).made == 0


@pytest.mark.parametrize("step", range(1, 8))
def test_a_crash_between_any_two_steps_costs_nothing(
    archive: Store, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each put and delete is a step; whatever was done before the crash, a reader sees every exchange
    once.
    """
    before, left = rows(archive), step

    class Crash(Exception):
        pass

    class Crashing:
        place = archive.place

        def __getattr__(self, name: str) -> Any:
            def stepped(*arguments: Any) -> Any:
                nonlocal left
                left -= 1
                if left <= 0:
                    raise Crash
                return getattr(archive, name)(*arguments)

            return stepped if name in ("put", "delete") else getattr(archive, name)

    with pytest.raises(Crash):
        compact(Crashing(), LATER)  # type: ignore[arg-type]
    assert rows(archive) == before
    compact(archive, LATER)
    assert rows(archive) == before and len(archive.names()) == 3


def test_retention(archive: Store) -> None:
    would = expire(archive, DAY + 2 * HOUR, dry=True)
    assert (would.files, would.rows) == (8, 24) and len(rows(archive)) == 36
    expire(archive, DAY + 2 * HOUR)
    assert len(rows(archive)) == 12 and min(rows(archive))[0] >= DAY + 2 * HOUR


def test_the_command(tmp_path: Path) -> None:
    pcap = capture(tmp_path / "a.pcap", 5)
    for _ in range(2):
        assert run("exchanges", str(pcap), "--to", f"{tmp_path / 'archive'}/").returncode == 0
    place = str(tmp_path / "archive")
    assert (
        "2 files with 10 exchanges would be joined into 1"
        in run("archive", place, "--compact", "--dry-run").stdout
    )
    assert "joined into 1" in run("archive", place, "--compact").stdout
    assert report(place)["total"]["requests"] == 10
    assert "1 files with 10 exchanges" in run("archive", place, "--keep", "90d").stdout
    for arguments, said in (
        (["--compact"], "no such directory"),
        ([], "nothing to do"),
        (["--keep", "soon"], "duration"),
    ):
        done = run("archive", str(tmp_path / "none"), *arguments)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_bucket_that_is_not_there_is_said_at_once(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("exchanges", str(OUT), "--quiet", "--to", f"s3://nowhere/x/?staging={tmp_path}", timeout=20)
    assert done.returncode == 2 and done.stderr == "replaykit: s3://nowhere: there is no such bucket\n"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    done = run("exchanges", str(OUT), "--quiet", "--to", f"s3://traffic/x/?staging={tmp_path}", timeout=20)
    assert done.returncode == 2 and "credentials" in done.stderr and "Traceback" not in done.stderr
