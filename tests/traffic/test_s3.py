"""S3 in and out, against moto's server."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.servers import free_port
from tests.target import Rec, get, gor, listens, run_gor, until
from tests.traffic.test_gor_files import records


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import boto3

    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hidden"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        until(lambda: listens(port), 60)
        client = boto3.client("s3")
        client.create_bucket(Bucket="traffic")
        yield client
    finally:
        process.terminate()
        process.wait(20)


def test_out_and_in_again(store: Any, tmp_path: Path) -> None:
    data = gor([Rec(get(f"/{n}"), n) for n in range(25)])
    (tmp_path / "in.gor").write_bytes(data)
    done = run_gor(
        "--input-file", str(tmp_path / "in.gor"), "--output-file", "s3://traffic/logs/a.gor.gz", "--output-file-queue-limit",
        "10", "--output-file-buffer", str(tmp_path),
    )  # fmt: skip
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
    done = run_gor("--input-file", str(tmp_path / "in.gor"), "--output-file", "s3://nowhere/a.gor", "--output-file-buffer",
                   str(tmp_path))  # fmt: skip
    assert b"the chunk stays at" in done.stderr
    assert len(list(tmp_path.rglob("a_0.gor"))) == 1
    missing = run_gor("--input-file", "s3://traffic/none", "--output-null")
    assert missing.returncode == 2 and b"no such file" in missing.stderr
