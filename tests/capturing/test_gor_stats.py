"""gor --stats of what is captured: every tick, both directions, also where responses are not handed on."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path

import pytest

from replaykit.goreplay.outputs.stats import StatsOutput
from replaykit.records.message import Builder, Message
from tests.capturing.test_gor_live import ask
from tests.target import get, gor_running, target

BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("flags", [[], ["--input-raw-track-response"]])
def test_both_directions_at_every_tick(tmp_path: Path, flags: list[str]) -> None:
    out = tmp_path / "out.gor"
    with target(lambda request: BIG) as there:
        command = [
            "--input-raw",
            f"127.0.0.1:{there.port}",
            "--stats",
            *flags,
            "--output-file",
            str(out),
            "--output-file-append",
        ]
        with gor_running(*command) as process:
            until = time.monotonic() + 12
            while time.monotonic() < until:
                ask(there.port, "/big")
                time.sleep(0.1)
            process.terminate()
            said, _ = process.communicate(timeout=60)
    lines = [json.loads(line) for line in said.splitlines()]
    assert 3 <= len(lines) <= 4  # two ticks, perhaps three, and the end
    for line in lines:
        assert (
            line["total_requests"] > 0
            and 4.9 < line["avg_response_size"] < 5.2
            and line["avg_request_size"] > 0
        )
    assert [line["total_requests"] for line in lines] == sorted(line["total_requests"] for line in lines)
    assert (b"x" * 5000 in out.read_bytes()) == bool(flags)


def test_requests_without_answers_are_counted_at_every_tick() -> None:
    async def told() -> list[int]:
        to, batch = io.StringIO(), Builder()
        stats = StatsOutput(to)
        for n in range(3):
            batch.push(Message(1, f"{n:024x}", n, 0, get(f"/{n}")))
            await stats.write(batch.messages())
            batch = Builder()
            stats.tell()
        await stats.close()
        return [json.loads(line)["total_requests"] for line in to.getvalue().splitlines()]

    assert asyncio.run(told()) == [1, 2, 3, 3]
