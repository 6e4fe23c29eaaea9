"""In one process: the loop that only walks packet headers, and the engine with columns and Parquet.

`python -m bench.floor FILE` prints both wall times in seconds, the engine's CPU time, and packets.
"""

from __future__ import annotations

import argparse
import json
import mmap
import sys
import tempfile
import time
from pathlib import Path

from replaykit import _core
from replaykit.cli.exchanges import run
from replaykit.cli.options.looking import ExchangesOptions

SAMPLE = Path(__file__).parents[1] / "samples" / "shop.pcap.gz"


def walk(path: Path) -> tuple[float, int]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begun = time.perf_counter()
        packets = _core.walk_headers(data)[0]
        return time.perf_counter() - begun, packets


def engine(path: Path) -> tuple[float, float]:
    """All columns and Parquet, through what the command line uses."""
    with tempfile.TemporaryDirectory() as name:
        args = ExchangesOptions(files=(str(path),), quiet=True, overwrite=True, to=(f"{name}/x.parquet",))
        begun, cpu = time.perf_counter(), time.process_time()
        run(args)
        return time.perf_counter() - begun, time.process_time() - cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    engine(SAMPLE)  # loads what a first run loads
    walked, packets = walk(args.file)
    wall, cpu = engine(args.file)
    print(json.dumps({"walk_s": walked, "engine_s": wall, "engine_cpu_s": cpu, "packets": packets}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
