"""Exchanges to ship, and what is read back."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from tests.mutate import write
from tests.talk import Talk
from tests.target import OK, get

REPLAYKIT = [sys.executable, "-m", "replaykit"]


def run(*arguments: str, timeout: float = 200, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*REPLAYKIT, *arguments], capture_output=True, text=True, check=False, timeout=timeout, **more
    )


def report(*arguments: str) -> dict[str, Any]:
    done = run("report", *arguments, "--format", "json", "--quiet")
    assert done.returncode in (0, 1), done.stderr
    found = dict(json.loads(done.stdout))
    assert done.returncode == int(not found["total"]["requests"]), done.stderr  # 1: nothing was measured
    return found


def capture(path: Path, exchanges: int, *headers: str, start: int = 1_700_000_000_000_000_000) -> Path:
    """A pcap with exchanges of /users/N."""
    path.write_bytes(_captured(exchanges, headers, start))
    return path


@cache
def _captured(exchanges: int, headers: tuple[str, ...], start: int) -> bytes:
    """Made once for all tests: two milliseconds an exchange."""
    talk = Talk(start=start).open()
    for n in range(exchanges):
        talk.client(get(f"/users/{n}", *headers)).server(OK)
    return write(talk.close().packets)


def batch(at: int, count: int = 3, path: str = "/users", answer: bytes = OK) -> pa.RecordBatch:
    """Exchanges that begin at a time, in ns."""
    engine = Engine(Options())
    talk = Talk(start=at).open()
    for n in range(count):
        talk.client(get(f"{path}/{n}")).server(answer)
    for p in talk.close().packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    return engine.take_exchanges()
