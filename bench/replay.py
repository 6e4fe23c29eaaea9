"""Replay and reading of .gor files, side by side with GoReplay and wrk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import measure
from bench.measure import Cost
from ci.servers import nginx

ROUNDS = 3
REQUESTS = 300_000
SEPARATOR = "\n🐵🙈🙉\n".encode()
GOR = [sys.executable, "-m", "replaykit.cli.gor"]
REPLAYKIT = [sys.executable, "-m", "replaykit"]

Rows = list[list[str]]


def request(n: int) -> bytes:
    """As wrk sends them in the other parts."""
    head = (
        f"GET /api/users/{n % 997} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux"
        " x86_64)\r\n"
    )
    rest = (
        "Accept: application/json\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\nCookie:"
        " session=8c3d1e2f\r\n\r\n"
    )
    return (head + rest).encode()


def recording(path: Path, count: int, gap_ns: int, sessions: int = 32) -> Path:
    """`count` requests, `gap_ns` apart, on so many recorded connections."""
    with path.open("wb") as file:
        for n in range(count):
            identifier = f"{40_000 + n % sessions:04x}00507f000001{n & 0xFFFFFFFF:08x}"
            file.write(f"1 {identifier} {1_700_000_000_000_000_000 + n * gap_ns} 0\n".encode())
            file.write(request(n) + SEPARATOR)
    return path


LUA = """
local file = assert(io.open("%s", "rb"))
local all, requests, at = file:read("*a"), {}, 0
for one in string.gmatch(all, "(GET .-\\r\\n\\r\\n)") do requests[#requests + 1] = one end
request = function() at = at %% #requests + 1; return requests[at] end
"""


def _wrk(port: int, root: Path) -> float:
    (root / "requests.txt").write_bytes(b"".join(request(n) for n in range(997)))
    (root / "same.lua").write_text(LUA % (root / "requests.txt"))
    command = [
        "wrk",
        "-t",
        "1",
        "-c",
        "32",
        "-d",
        "5s",
        "-s",
        str(root / "same.lua"),
        f"http://127.0.0.1:{port}",
    ]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(next(line.split()[1] for line in out.splitlines() if line.startswith("Requests/sec")))


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _goreplay(program: str, path: Path, port: int, log: Path, seconds: float = 10) -> tuple[float, float]:
    """Requests a second and CPU seconds a request, for so long."""
    command = [program, "--input-file", f"{path}|100000%", "--output-http", f"http://127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    cpu = measure.process_cpu_s(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    time.sleep(1.5)  # nginx writes its log once a second
    served = _lines(log)
    return served / seconds, cpu / max(served, 1)


def fast(goreplay: str) -> tuple[str, Rows]:
    """As fast as possible."""
    rates: dict[str, list[float]] = {"wrk": [], "GoReplay": [], "replaykit": []}
    each: dict[str, list[float]] = {"GoReplay": [], "replaykit": []}
    logged = 0
    with tempfile.TemporaryDirectory() as name:
        path = recording(Path(name) / "max.gor", REQUESTS, 1_000_000)
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as root, nginx(Path(root)) as server:
                rates["wrk"].append(_wrk(server.port, Path(root)))
            with tempfile.TemporaryDirectory() as root, nginx(Path(root)) as server:
                url = f"http://127.0.0.1:{server.port}"
                cost = measure.run(
                    [*REPLAYKIT, "replay", str(path), "--to", url, "--speed", "max", "--quiet"]
                )
                rates["replaykit"].append(REQUESTS / cost.wall_s)
                each["replaykit"].append(cost.cpu_s / REQUESTS)
                time.sleep(1.5)
                logged = _lines(server.log)
            with tempfile.TemporaryDirectory() as root, nginx(Path(root)) as server:
                rate, cpu = _goreplay(goreplay, path, server.port, server.log)
                rates["GoReplay"].append(rate)
                each["GoReplay"].append(cpu)
    best = {label: max(found) for label, found in rates.items()}
    cpu_us = {label: min(found) * 1e6 for label, found in each.items()}
    rows = [["", "requests/s", "CPU a request"]]
    for label, rate in best.items():
        rows.append([label, f"{rate:,.0f}", f"{cpu_us[label]:.1f} µs" if label in cpu_us else ""])
    text = (
        f"{REQUESTS:,} requests of one .gor file to one nginx, start-up included; {logged:,} of them in its"
        f" log. replaykit reaches **{best['replaykit'] / best['wrk']:.2f} of wrk's rate**,"
        f" **{best['replaykit'] / best['GoReplay']:.0f} x** GoReplay's; GoReplay takes"
        f" **{cpu_us['GoReplay'] / cpu_us['replaykit']:.1f} x** the CPU of a request.\n\n"
    )
    return text, rows


SLEEPER = """
import json, time
late, when = [], time.monotonic_ns()
for _ in range(25_000):
    when += 200_000
    while (left := when - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)
    late.append(time.monotonic_ns() - when)
late.sort()
print(json.dumps([late[len(late) * p // 1000] / 1e6 for p in (500, 990)]))
"""


def _stolen_ms() -> int:
    """Time that both cores were ready to run and the hypervisor ran something else."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) * 1000 // measure.TICKS


def paced(goreplay: str) -> tuple[str, Rows]:
    """5,000 a second, as recorded."""
    rows = [["", "sent", "late, median", "late, 99th percentile", "taken by the hypervisor"]]
    tails = []
    with tempfile.TemporaryDirectory() as name:
        path = recording(Path(name) / "paced.gor", 60_000, 200_000)
        for _ in range(5):
            before = _stolen_ms()
            with tempfile.TemporaryDirectory() as root, nginx(Path(root), log=False) as server:
                url = f"http://127.0.0.1:{server.port}"
                command = [*REPLAYKIT, "replay", str(path), "--to", url, "--format", "json"]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            stolen, before = _stolen_ms() - before, _stolen_ms()
            idle = subprocess.run(
                [sys.executable, "-c", SLEEPER], capture_output=True, text=True, check=True
            ).stdout
            median, tail = json.loads(idle)
            lag = found["lag_ms"]
            tails.append(lag["p99"])
            rows.append(
                [
                    f"replaykit, {found['seconds']:.2f} s",
                    f"{found['answered']:,}",
                    f"{lag['p50']:.2f} ms",
                    f"{lag['p99']:.2f} ms",
                    f"{stolen} ms",
                ]
            )
            rows.append(
                [
                    "a loop that only sleeps, 5 s",
                    "",
                    f"{median:.2f} ms",
                    f"{tail:.2f} ms",
                    f"{_stolen_ms() - before} ms",
                ]
            )
    text = (
        "60,000 requests recorded 200 µs apart; in turn with a loop that sleeps 200 µs at a time, nothing"
        f" else running. Best 99th percentile: **{min(tails):.2f} ms**.\n\n"
    )
    return text, rows


def _dry_run(program: str, path: Path) -> Cost:
    """GoReplay's reader, to the line that tells what it found."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [program, "--input-file", str(path), "--input-file-dry-run", "--output-null"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"It will take"):
            break
    cost = Cost(time.perf_counter() - begun, measure.process_cpu_s(process.pid))
    process.kill()
    process.wait(10)
    process.stdout.close()
    return cost


def reading(goreplay: str) -> tuple[str, Rows]:
    """A 1 GB file, with a filter."""
    theirs, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        path = recording(Path(name) / "big.gor", 3_600_000, 0)
        size = path.stat().st_size
        for _ in range(ROUNDS):
            measure.warm(path)
            ours.append(
                measure.run(
                    [
                        *GOR,
                        "--input-file",
                        str(path),
                        "--output-null",
                        "--http-allow-url",
                        "^/api/users/1",
                        "--http-disallow-header",
                        "User-Agent: curl",
                    ]
                )
            )
            measure.warm(path)
            theirs.append(_dry_run(goreplay, path))
    a, b = (
        Cost(min(c.wall_s for c in x), min(c.cpu_s for c in x), max(c.peak_mb for c in x))
        for x in (theirs, ours)
    )
    rows = [
        ["", "wall", "CPU", "peak memory"],
        ["GoReplay, dry run (reads, filters nothing)", f"{a.wall_s:.2f} s", f"{a.cpu_s:.2f} s", ""],
        [
            "replaykit, two filters",
            f"{b.wall_s:.2f} s",
            f"{b.cpu_s:.2f} s",
            f"{b.peak_mb:.0f} MB, pages of the file included",
        ],
    ]
    return (
        (
            f"{size / 1e6:,.0f} MB, 3,600,000 requests: replaykit is **{a.wall_s / b.wall_s:.1f} x** as"
            " fast.\n\n"
        ),
        rows,
    )


def middleware(goreplay: str) -> tuple[str, Rows]:
    """An echo as a program, and in process."""
    count = 100_000
    with tempfile.TemporaryDirectory() as name:
        path = recording(Path(name) / "a.gor", count, 0)
        (Path(name) / "bench_echo.py").write_text("def echo(message):\n    return message\n")
        os.environ["PYTHONPATH"] = name
        found = {}
        for label, command in (("a program (cat)", "cat"), ("in process", "py://bench_echo:echo")):
            found[label] = min(
                measure.run(
                    [*GOR, "--input-file", str(path), "--output-null", "--middleware", command]
                ).wall_s
                for _ in range(ROUNDS)
            )
    rows = [["", "messages/s"], *([label, f"{count / s:,.0f}"] for label, s in found.items())]
    return f"{count:,} messages through an echo, start-up included.\n\n", rows
