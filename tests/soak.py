"""Minutes under load with flat memory: `python -m tests.soak --seconds 600`.

nginx and wrk on loopback, a capture into .gor (a rotated one that is deleted behind it) and Parquet;
resident memory is read every few seconds. Fails if it grows by more than a tenth after warming up.
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


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    args = parser.parse_args()
    samples: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name, nginx(Path(name), log=False) as server:
        root = Path(name)
        command = [
            sys.executable,
            "-m",
            "replaykit",
            "capture",
            f"lo:{server.port}",
            "--stats",
            "--interval",
            "10s",
        ]
        command += [
            "--to",
            f"{root}/out.gor",
            "--rotate-size",
            "256MB",
            "--rotate-time",
            "60s",
            "--to",
            f"{root}/out/",
        ]
        capture = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(2)
        load = threading.Thread(
            target=lambda: wrk(f"http://127.0.0.1:{server.port}/", args.seconds, 64, root=root), daemon=True
        )
        load.start()
        begun = time.monotonic()
        while load.is_alive():
            time.sleep(5)
            seconds, memory = time.monotonic() - begun, _resident_mb(capture.pid)
            samples.append((seconds, memory))
            print(f"{seconds:6.0f} s  {memory:7.1f} MB", flush=True)
            for old in sorted(root.glob("out-*.gor"))[:-1]:
                old.unlink()
        capture.send_signal(signal.SIGINT)
        stdout, _ = capture.communicate(timeout=60)
    last = json.loads(stdout.splitlines()[-1])
    warm = [m for s, m in samples if s >= min(WARM_S, args.seconds / 3)]
    print(
        f"{last['total_requests']:,} exchanges in {args.seconds} s, {last['dropped_by_kernel']} packets dropped; "
        f"resident {warm[0]:.0f} MB after warming up, {max(warm):.0f} MB at most, {warm[-1]:.0f} MB at the end"
    )
    return 1 if max(warm) > warm[0] * 1.1 + 16 else 0


if __name__ == "__main__":
    sys.exit(main())
