"""What a command costs: wall time, CPU time, peak memory, from the kernel's own accounting."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float
    peak_mb: float = 0.0


def warm(path: Path) -> None:
    """Reads a file and touches as much page cache as writing it anew takes; not timed."""
    with path.open("rb") as source, tempfile.TemporaryFile() as sink:
        while piece := source.read(16 << 20):
            sink.write(piece)


def run(command: Sequence[str]) -> Cost:
    """Runs a command to its end; raises if it fails."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        # The kernel's ru_maxrss begins at the parent's size, so the program's own is looked at while it runs.
        peak, ended = 0.0, os.pidfd_open(process.pid)
        while not select.select([ended], [], [], 0.02)[0]:
            peak = max(peak, _peak_mb(process.pid))
        os.close(ended)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {errors.read().decode()}")
    return Cost(wall, used.ru_utime + used.ru_stime, peak)


def goreplay_file(program: str, capture: Path, port: int, out: Path, seconds: int = 120) -> Cost:
    """GoReplay from a capture file to .gor with responses, timed to its `stopped reading`.

    It does not end by itself: it is ended after its output has settled.
    """
    command = [program, "--input-raw", f"{capture}:{port}", "--input-raw-engine", "pcap_file"]
    command += ["--input-raw-track-response", "--output-file", str(out), "--output-file-append"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--exit-after", f"{seconds}s"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    cost = None
    for line in process.stderr:
        if b"stopped reading" in line:
            wall = time.perf_counter() - begun
            cost = Cost(wall, process_cpu_s(process.pid), _peak_mb(process.pid))
            break
    time.sleep(4)  # its output is flushed once a second, unpaired messages expire after two
    process.terminate()
    process.wait(30)
    process.stderr.close()
    if cost is None:
        raise RuntimeError("GoReplay never said that it stopped reading")
    return cost


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def process_cpu_s(pid: int) -> float:
    """CPU time of a running process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
