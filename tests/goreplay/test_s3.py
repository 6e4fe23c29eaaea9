"""S3 in and out, against moto's server."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from tests.goreplay.test_gor_files import records
from tests.target import Rec, get, gor, run_gor


def test_out_and_in_again(store: Any, tmp_path: Path) -> None:
    data = gor([Rec(get(f"/{n}"), n) for n in range(25)])
    (tmp_path / "in.gor").write_bytes(data)
    done = run_gor(
        "--input-file",
        str(tmp_path / "in.gor"),
        "--output-file",
        "s3://traffic/logs/a.gor.gz",
        "--output-file-queue-limit",
        "10",
        "--output-file-buffer",
        str(tmp_path),
    )
    assert done.returncode == 0 and b"hidden" not in done.stderr, done.stderr
    keys = sorted(e["Key"] for e in store.list_objects_v2(Bucket="traffic")["Contents"])
    assert keys == ["logs/a.gor_0.gz", "logs/a.gor_1.gz", "logs/a.gor_2.gz"]
    content = b"".join(
        gzip.decompress(store.get_object(Bucket="traffic", Key=k)["Body"].read()) for k in keys
    )
    assert content == data
    assert list(tmp_path.iterdir()) == [tmp_path / "in.gor"]
    again = run_gor("--input-file", "s3://traffic/logs/", "--output-stdout")
    assert records(again.stdout) == records(data)


def test_a_chunk_that_cannot_be_uploaded_stays(store: Any, tmp_path: Path) -> None:
    (tmp_path / "in.gor").write_bytes(gor([Rec(get("/a"))]))
    done = run_gor(
        "--input-file",
        str(tmp_path / "in.gor"),
        "--output-file",
        "s3://nowhere/a.gor",
        "--output-file-buffer",
        str(tmp_path),
    )
    assert b"the chunk stays at" in done.stderr
    assert len(list(tmp_path.rglob("a_0.gor"))) == 1
    missing = run_gor("--input-file", "s3://traffic/none", "--output-null")
    assert missing.returncode == 2 and b"no such file" in missing.stderr
