"""Minutes under load with flat memory: `python -m tests.soak --seconds 600`.

nginx, wrk and four downloads that last on loopback; a capture that prints its figures and writes .gor
(rotated, and deleted behind it) and Parquet, and a quiet one. Resident memory is read every few seconds.
Fails if it grows by more than a tenth after warming up.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ci.servers import nginx, wrk

WARM_S = 30
LONG_BYTES = 2 << 30


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    args = parser.parse_args()
    samples: dict[str, list[tuple[float, float]]] = {"with figures": [], "quiet": []}
    with tempfile.TemporaryDirectory() as name, nginx(Path(name), log=False) as server:
        root = Path(name)
        with (root / "www" / "long.bin").open("wb") as file:
            file.truncate(LONG_BYTES)
        capture = [sys.executable, "-m", "replaykit", "capture", f"lo:{server.port}"]
        figures = subprocess.Popen(
            [
                *capture,
                "--stats",
                "--interval",
                "10s",
                "--to",
                f"{root}/out.gor",
                "--rotate-size",
                "256MB",
                "--rotate-time",
                "60s",
                "--to",
                f"{root}/out/",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        quiet = subprocess.Popen(
            [*capture, "--quiet", "--to", f"{root}/quiet.parquet", "--rotate-time", "30s"]
        )
        captures = {"with figures": figures, "quiet": quiet}
        time.sleep(2)
        url = f"http://127.0.0.1:{server.port}/"
        load = threading.Thread(target=lambda: wrk(url, args.seconds, 64, root=root), daemon=True)
        slow = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "--limit-rate",
            "2M",
            "--max-time",
            str(args.seconds),
            f"{url}long.bin",
        ]
        long = [subprocess.Popen(slow) for _ in range(4)]
        load.start()
        begun = time.monotonic()
        while load.is_alive():
            time.sleep(5)
            seconds = time.monotonic() - begun
            for label, process in captures.items():
                samples[label].append((seconds, _resident_mb(process.pid)))
            print(
                f"{seconds:6.0f} s",
                *(f"{label} {s[-1][1]:7.1f} MB" for label, s in samples.items()),
                flush=True,
            )
            for old in sorted(root.glob("out-*.gor"))[:-1]:
                old.unlink()
        for process in long:
            process.wait(20)
        for process in captures.values():
            process.send_signal(signal.SIGINT)
        stdout, _ = figures.communicate(timeout=60)
        quiet.wait(60)
    last = json.loads(stdout.splitlines()[-1])
    print(
        f"{last['total_requests']:,} exchanges in {args.seconds} s, {last['dropped_by_kernel']} packets"
        " dropped"
    )
    return max(_grew(label, found, args.seconds) for label, found in samples.items())


def _grew(label: str, samples: list[tuple[float, float]], seconds: int) -> int:
    warm = [m for s, m in samples if s >= min(WARM_S, seconds / 3)]
    print(
        f"{label}: resident {warm[0]:.0f} MB after warming up, {max(warm):.0f} MB at most, {warm[-1]:.0f} MB"
        " at the end"
    )
    return 1 if max(warm) > warm[0] * 1.1 + 16 else 0


if __name__ == "__main__":
    sys.exit(main())
