"""What very many exchanges in flight cost: a slice's end, the list of them, and memory.

`python -m bench.run --only "In flight"`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from bench.captures import _segment
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options

START_NS = 1_700_000_000 * 10**9
SECOND_NS = 10**9
SERVER = 0x0A0A0A0A
RECORD_HEADER = 16
REQUEST = b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 200


def _feed(
    engine: Engine,
    time_ns: int,
    n: int,
    sequence: tuple[int, int],
    flags: int,
    data: bytes,
    back: bool = False,
) -> None:
    ends = (0x0A000000 + n // 50_000, SERVER, 10_000 + n % 50_000, 80)
    src, dst, sport, dport = (ends[1], ends[0], ends[3], ends[2]) if back else ends
    frame = _segment(time_ns, src, dst, sport, dport, *sequence, flags, data)[RECORD_HEADER:]
    engine.feed_packet(1, time_ns, len(frame), frame)


def _open(count: int, answered: bool) -> Engine:
    """An engine with so many connections, each with a request, and the beginning of its response or none."""
    engine = Engine(Options(slice_ns=SECOND_NS, max_connections=2 * count))
    for n in range(count):
        _feed(engine, START_NS, n, (0, 0), 2, b"")
        _feed(engine, START_NS, n, (0, 1), 18, b"", back=True)
        _feed(engine, START_NS, n, (1, 1), 24, REQUEST)
        if answered:
            _feed(engine, START_NS, n, (1, 1 + len(REQUEST)), 24, ANSWER, back=True)
    return engine


def _ms(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


def _slices(count: int) -> list[tuple[float, float, float]]:
    """Ends of slices in which all moved and in which one did, and the list of those in flight; ms, some
    times.
    """
    engine, found = _open(count, True), []
    for turn in range(1, 5):
        now, at = START_NS + 2 * turn * SECOND_NS, 1 + len(ANSWER) + (turn - 1) * 100
        for n in range(count):
            _feed(engine, now, n, (at, 1 + len(REQUEST)), 24, b"y" * 100, back=True)
        moved = _ms(lambda now=now: engine.advance(now + SECOND_NS))  # type: ignore[misc]
        still = _ms(lambda now=now: engine.advance(now + 2 * SECOND_NS))  # type: ignore[misc]
        engine.take_increments()
        found.append((moved, still, _ms(engine.in_flight)))
    return found[1:]  # the first one makes room for the others


def _resident_mb() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))


def _memory(count: int) -> None:
    """Prints what so many connections take, in MB, in a process of its own."""
    before = _resident_mb()
    engine = _open(count, False)
    assert engine.held[0] == count
    print(round(_resident_mb() - before))


def results() -> tuple[str, list[list[str]]]:
    moved, still, listed = (min(ms) for ms in zip(*_slices(100_000), strict=True))
    code = "from bench.in_flight import _memory; _memory(1_000_000)"
    memory = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return "", [
        ["100,000 exchanges in flight", ""],
        ["a slice's end, all have moved", f"{moved:.0f} ms"],
        ["a slice's end, none has", f"{still:.0f} ms"],
        ["the list of those in flight", f"{listed:.0f} ms"],
        ["memory of 1,000,000 connections, each with a request in flight", f"{int(memory):,} MB"],
    ]
