"""gor's files: what is read, how chunks are named, what a crash or a full disk leaves."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from replaykit.goreplay.inputs.file import _go
from replaykit.goreplay.outputs.file import FileOutput, FileSettings, expand, index_of, with_index
from replaykit.records.message import SEPARATOR, Builder, Message, Messages
from tests.target import Rec, get, gor, identifier, paths, post, run_gor, target, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def records(data: bytes) -> list[bytes]:
    parts = data.split(SEPARATOR)
    assert parts[-1] == b""
    return parts[:-1]


def payloads(data: bytes) -> list[bytes]:
    return [r.split(b"\n", 1)[1] for r in records(data)]


def batch(*payloads: bytes, kind: int = 1) -> Messages:
    out = Builder()
    for n, payload in enumerate(payloads):
        out.push(Message(kind, f"{n:024x}", n, 0, payload))
    return out.messages()


def write(template: Path, batches: Sequence[Messages], **how: Any) -> FileOutput:
    async def go() -> FileOutput:
        output = FileOutput(str(template), FileSettings(**how), lambda level, text: None)
        for each in batches:
            await output.write(each)
        await output.close()
        return output

    return asyncio.run(go())


def test_names_and_indexes() -> None:
    assert [with_index(n, 3) for n in ("a.gor", "a_1.gor", "a_x.gor", "a.gor.gz")] == [
        "a_3.gor",
        "a_3.gor",
        "a_x_3.gor",
        "a.gor_3.gz",
    ]
    assert [index_of(n) for n in ("a.gor", "a_7.gor", "a_b")] == [-1, 7, -1]
    text = expand("/tmp/%Y-%m-%d-%H-%M-%S-%NS_%r_%t_%i", 0.25, "id/../x", 2)
    assert re.fullmatch(r"/tmp/19[67]\d-\d\d-\d\d-\d\d-\d\d-\d\d-250000000_id_\.\._x_2_[a-zA-Z]{8}", text), (
        text
    )


def test_chunks_by_count_and_size(tmp_path: Path) -> None:
    write(tmp_path / "a.gor", [batch(b"x") for _ in range(5)], count=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_0.gor", "a_1.gor", "a_2.gor"]
    assert [len(records((tmp_path / f"a_{n}.gor").read_bytes())) for n in range(3)] == [2, 2, 1]
    write(tmp_path / "b.gor", [batch(b"x" * 100) for _ in range(4)], size=200, count=0)
    assert [len(records((tmp_path / f"b_{n}.gor").read_bytes())) for n in range(2)] == [2, 2]


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "a.gor", [batch(b"one")])
    write(tmp_path / "a.gor", [batch(b"two")])
    assert [payloads((tmp_path / f"a_{n}.gor").read_bytes()) for n in range(2)] == [[b"one"], [b"two"]]


def test_appending(tmp_path: Path) -> None:
    for word in (b"one", b"two"):
        write(tmp_path / "a.gor", [batch(word)] * 300, append=True)
    assert payloads((tmp_path / "a.gor").read_bytes()) == [b"one"] * 300 + [b"two"] * 300
    assert (tmp_path / "a.gor").stat().st_mode & 0o777 == 0o600
    for word in (b"one", b"two"):
        write(tmp_path / "a.gor.gz", [batch(word)], append=True)
    assert payloads(gzip.decompress((tmp_path / "a.gor.gz").read_bytes())) == [b"one", b"two"]


def test_a_file_for_each_message(tmp_path: Path) -> None:
    write(tmp_path / "%t_%r.gor", [batch(b"q"), batch(b"a", kind=2)], append=True)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [f"1_{0:024x}.gor", f"2_{0:024x}.gor"]


def test_a_bound_on_everything(tmp_path: Path) -> None:
    output = write(tmp_path / "a.gor", [batch(b"x" * 1000) for _ in range(10)], total=3000, append=True)
    assert len(records((tmp_path / "a.gor").read_bytes())) == 3 and output.lost == 7


def test_file_to_file_is_byte_for_byte(tmp_path: Path) -> None:
    data = gor([Rec(get("/a"), 0), Rec(OK, 1, 2), Rec(post("/b", b"x\ny"), 2), Rec(OK, 3, 3)])
    (tmp_path / "in.gor").write_bytes(data)
    done = run_gor(
        "--input-file",
        str(tmp_path / "in.gor"),
        "--output-file",
        str(tmp_path / "out.gor"),
        "--output-file-append",
        "--output-file-flush-interval",
        "10ms",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.gor").read_bytes() == data
    chunks = run_gor(
        "--input-file",
        str(tmp_path / "in.gor"),
        "--output-file",
        str(tmp_path / "c.gor"),
        "--output-file-queue-limit",
        "1",
        "--output-file-size-limit",
        "1kb",
        "--output-file-max-size-limit",
        "1gb",
        "-output-null",
    )
    assert chunks.returncode == 0
    assert b"".join((tmp_path / f"c_{n}.gor").read_bytes() for n in range(4)) == data


def test_globs_compression_and_order(tmp_path: Path) -> None:
    (tmp_path / "1.gor").write_bytes(gor([Rec(get(f"/a{n}"), n * 2) for n in range(50)]))
    (tmp_path / "2.gor.gz").write_bytes(
        gzip.compress(gor([Rec(get(f"/b{n}"), n * 2 + 1) for n in range(50)]))
    )
    shuffled = [Rec(get(f"/c{n}"), 200 + (n ^ 3)) for n in range(20)]
    (tmp_path / "3.gor").write_bytes(gor(shuffled))
    done = run_gor(
        "--input-file", str(tmp_path / "*.gor*"), "--output-stdout", "--input-file-read-depth", "50"
    )
    found = paths(payloads(done.stdout))
    assert found[:100] == [f"/{side}{n}" for n in range(50) for side in "ab"]
    assert found[100:] == [f"/c{n ^ 3}" for n in range(20)]


@pytest.mark.slow
def test_pace_speed_and_longest_wait(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(get(f"/{n}"), n * 400) for n in range(6)]))

    def takes(*arguments: str) -> float:
        begun = time.monotonic()
        assert run_gor("--input-file", *arguments, "--output-null").returncode == 0
        return time.monotonic() - begun

    name = str(tmp_path / "a.gor")
    assert takes(name) >= 2.0
    assert takes(name + "|50%", "--input-file-max-wait", "100ms") < takes(
        name + "|50%", "--exit-after", "30s"
    )
    begun = time.monotonic()
    assert (
        run_gor(
            "--input-file", name, "--input-file-loop", "--output-null", "--exit-after", "500ms"
        ).returncode
        == 0
    )
    assert time.monotonic() - begun < 30


@pytest.mark.slow
def test_loops_until_stopped(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(get("/a"), 0), Rec(get("/b"), 5)]))
    out = tmp_path / "out.gor"
    done = run_gor(
        "--input-file",
        str(tmp_path / "a.gor"),
        "--input-file-loop",
        "--output-file",
        str(out),
        "--output-file-append",
        "--exit-after",
        "2s",
    )
    assert done.returncode == 0 and len(records(out.read_bytes())) > 20


def test_dry_run(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(
        gor([Rec(get("/a"), 0), Rec(get("/b"), 1500), Rec(get("/c"), 500), Rec(get("/d"), 62_500)])
    )
    done = run_gor("--input-file", str(tmp_path / "a.gor"), "--input-file-dry-run", "--output-null")
    text = done.stdout.decode()
    assert done.returncode == 0
    assert (
        "Records found: 4\nFiles processed: 1\n" in text
        and "Max wait: 1m1s\nMin wait: 500ms\nFirst wait: 500ms\n" in text
    )
    assert (
        "It will take `1m2.5s` to replay at current speed.\nFound 1 records with out of order timestamp\n"
        in text
    )
    fast = run_gor("--input-file", str(tmp_path / "a.gor") + "|200%", "--input-file-dry-run", "--output-null")
    assert b"`31.25s`" in fast.stdout
    assert [_go(ns) for ns in (0, 5, 1500, 3_723_000_000_000)] == ["0s", "5ns", "1.5µs", "1h2m3s"]


def test_a_file_cut_in_the_middle_of_a_record(tmp_path: Path) -> None:
    data = gor([Rec(get(f"/{n}")) for n in range(10)])
    (tmp_path / "a.gor").write_bytes(data[:-40])
    with target() as there:
        done = run_gor("--input-file", str(tmp_path / "a.gor"), "--output-http", there.url)
    assert sorted(paths(there.payloads)) == [f"/{n}" for n in range(9)]
    assert b"cut short" in done.stderr


def test_rules_and_size_bound_and_split(tmp_path: Path) -> None:
    data = gor(
        [r for n in range(6) for r in (Rec(post(f"/a/{n}", b"x" * 300), n), Rec(OK, n, 2))]
        + [Rec(get("/b"), 9)]
    )
    (tmp_path / "a.gor").write_bytes(data)
    out = str(tmp_path / "out.gor")
    done = run_gor(
        "--input-file",
        str(tmp_path / "a.gor"),
        "--output-file",
        out,
        "--output-file-append",
        "--copy-buffer-size",
        "100",
        "--http-allow-url",
        "^/a",
        "--http-disallow-url",
        "/0",
        "--http-black-list",
        "/1",
        "--http-allow-method",
        "POST",
        "--http-allow-header",
        "Host:recorded",
        "--http-disallow-header",
        "X-None",
        "--http-set-header",
        "X-New: 1",
        "--http-set-param",
        "k=v",
        "--http-rewrite-url",
        "^/a/(.*):/z/$1",
        "--http-rewrite-header",
        "Host: (.*),$1.test",
        "--http-header-limiter",
        "user:50%",
        "--http-param-limiter",
        "u:50%",
        "--http-basic-auth-filter",
        "^me:",
    )
    assert done.returncode == 0, done.stderr
    found = payloads(Path(out).read_bytes())
    assert len(found) == 8 and paths(found[::2]) == [f"/z/{n}?k=v" for n in range(2, 6)]
    assert found[0].startswith(b"POST /z/2?k=v HTTP/1.1\r\nX-New: 1\r\nHost: recorded.example.test\r\n")

    def split(*more: str) -> list[list[bytes]]:
        files = [tmp_path / f"split{i}{len(more)}.gor" for i in range(2)]
        outputs = [a for f in files for a in ("--output-file", str(f))]
        assert (
            run_gor(
                "--input-file",
                str(tmp_path / "a.gor"),
                *outputs,
                "--output-file-append",
                "--split-output",
                *more,
            ).returncode
            == 0
        )
        return [records(f.read_bytes()) if f.exists() else [] for f in files]

    one, two = split()
    assert abs(len(one) - len(two)) <= 1 and sorted(one + two) == sorted(records(data))
    ids = [{r.split(b" ")[1] for r in side} for side in (one, two)]
    assert not ids[0] & ids[1]  # an answer goes where its request went
    one, two = split("--recognize-tcp-sessions")
    assert sorted(map(len, (one, two))) == [0, 13]  # all are of one recorded connection


def test_limits_on_inputs_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(get(f"/{n}")) for n in range(100)]))
    for where in ("input", "output"):
        out = tmp_path / f"{where}.gor"
        source, to = str(tmp_path / "a.gor"), str(out)
        done = run_gor(
            "--input-file",
            source + ("|10" if where == "input" else ""),
            "--output-file",
            to + ("|10" if where == "output" else ""),
            "--output-file-append",
            "--verbose",
            "1",
        )
        assert done.returncode == 0 and len(records(out.read_bytes())) == 10


def test_prettify(tmp_path: Path) -> None:
    body = gzip.compress(b"hello world")
    zipped = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    (tmp_path / "a.gor").write_bytes(gor([Rec(get("/a")), Rec(zipped, 1, 2), Rec(chunked, 2, 3)]))
    done = run_gor("--input-file", str(tmp_path / "a.gor"), "--output-stdout", "--prettify-http")
    assert payloads(done.stdout)[1:] == [b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"] * 2


def test_stats_as_json_lines(tmp_path: Path) -> None:
    import json

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000
    (tmp_path / "a.gor").write_bytes(
        gor([r for n in range(5) for r in (Rec(get("/big")), Rec(answer, 1, 2))])
    )
    done = run_gor("--input-file", str(tmp_path / "a.gor"), "--output-null", "--stats")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["total_requests"] == 5 and found["top_endpoints"][0]["path"] == "/big"


@pytest.mark.slow
def test_dummy_input() -> None:
    done = run_gor("--input-dummy", "", "--output-stdout", "--exit-after", "2500ms")
    assert done.returncode == 0
    kinds = [r[:1] for r in records(done.stdout)]
    assert kinds in ([b"1", b"2"], [b"1", b"2"] * 2)


def test_a_full_disk_loses_nothing_uncounted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        data = gor([Rec(post(f"/{n}", b"x" * 10_000), n) for n in range(300)])
        (tmp_path / "a.gor").write_bytes(data)
        done = run_gor(
            "--input-file",
            str(tmp_path / "a.gor") + "|1000%",
            "--output-file",
            str(disk / "a.gor"),
            "--output-file-append",
            "--output-file-flush-interval",
            "5ms",
        )
        written = records((disk / "a.gor").read_bytes())
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 2 and 0 < len(written) < 300
    said = done.stderr.decode()
    assert "no space left" in said and f"{300 - len(written)} messages were lost" in said


def test_what_was_flushed_survives_kill_9(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(get(f"/{n}"), n * 10) for n in range(2000)]))
    out = tmp_path / "out.gor.gz"
    command = [
        sys.executable,
        "-m",
        "replaykit.cli.gor",
        "--input-file",
        str(tmp_path / "a.gor"),
        "--output-file",
        str(out),
        "--output-file-append",
        "--output-file-flush-interval",
        "20ms",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until(lambda: out.exists() and out.stat().st_size > 2000)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    found = payloads(gzip.decompress(out.read_bytes()))
    assert paths(found) == [f"/{n}" for n in range(len(found))] and found


def test_a_signal_ends_it_with_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(get(f"/{n}"), n * 20) for n in range(3000)]))
    out = tmp_path / "out.gor"
    command = [
        sys.executable,
        "-m",
        "replaykit.cli.gor",
        "--input-file",
        str(tmp_path / "a.gor"),
        "--output-file",
        str(out),
        "--output-file-append",
        "--output-file-flush-interval",
        "20ms",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until(lambda: out.exists() and out.stat().st_size > 500)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1
    assert records(out.read_bytes())


def test_ids_are_kept() -> None:
    assert identifier(0, 1) == "9c4000500a00000100000001"


@pytest.mark.parametrize("name", ["a.gor", "a.gor.gz", "%r.gor"])
@pytest.mark.parametrize("append", [True, False])
@pytest.mark.parametrize("total", [700, 5_000, 90_000])
def test_the_bound_of_what_is_written_holds_to_the_record(
    tmp_path: Path, name: str, append: bool, total: int
) -> None:
    """Whatever a batch holds; compressed files are measured as they are on the disk."""
    noise = [random.Random(n).randbytes(300).hex().encode() for n in range(500)]
    output = write(tmp_path / name, [batch(*noise[:250]), batch(*noise[250:])], total=total, append=append)
    files = list(tmp_path.iterdir())
    size = sum(p.stat().st_size for p in files)
    kept = sum(
        len(records(gzip.decompress(p.read_bytes()) if name.endswith("z") else p.read_bytes())) for p in files
    )
    assert total <= size < total + 700 and kept + output.lost == 500


def test_the_first_example_of_the_documentation(tmp_path: Path) -> None:
    """What --output-file NAME wrote, in chunks, is read by that name."""
    kept = tmp_path / "requests.gor"
    source = tmp_path / "source.gor"
    source.write_bytes(gor([Rec(get(f"/{n}")) for n in range(30)]))
    done = run_gor("--input-file", str(source), "--output-file", str(kept), "--output-file-queue-limit", "2")
    assert done.returncode == 0 and (tmp_path / "requests_14.gor").exists() and not kept.exists()
    with target() as there:
        done = run_gor("--input-file", str(kept), "--output-http", there.url)
    assert done.returncode == 0 and len(there.requests) == 30, done.stderr
    missing = run_gor("--input-file", str(tmp_path / "other.gor"), "--output-null")
    assert missing.returncode == 2 and b"no such file" in missing.stderr
