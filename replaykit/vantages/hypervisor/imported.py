"""The data folder of pve-traffic-monitor: its samples become usage.

`vm_{id}/traffic_YYYY-MM-DD.jsonl` holds a record a line, older `.json` files a list of them: counters as they
stood, by time. Reading the same folder twice counts it once.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from replaykit.errors import UsageError
from replaykit.ledger.store import Ledger
from replaykit.ledger.sums import spread
from replaykit.records.usage import Usage

_FOLDER = re.compile(r"vm_(\d+)")


def read_folder(ledger: Ledger, folder: Path) -> tuple[int, int]:
    """Samples that were taken over, and lines that could not be read. Raises UsageError."""
    machines = [(m[1], p) for p in sorted(folder.glob("vm_*")) if (m := _FOLDER.fullmatch(p.name))]
    if not machines:
        raise UsageError(f"{folder}: holds no vm_100 or the like: not a data folder of pve-traffic-monitor")
    count = bad = 0
    for vmid, place in machines:
        samples: dict[int, tuple[int, int]] = {}
        for path in sorted([*place.glob("traffic_*.jsonl"), *place.glob("traffic_*.json")]):
            for record in _records(path):
                sample = _sample(record)
                if sample is None:
                    bad += 1
                else:
                    samples[sample[0]] = sample[1]
                    count += 1
        ledger.write(_usage(vmid, sorted(samples.items())))
    return count, bad


def _records(path: Path) -> Iterator[Any]:
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError:
            found = [None]
        yield from found if isinstance(found, list) else [found]
        return
    for line in text.splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield None


def _sample(record: Any) -> tuple[int, tuple[int, int]] | None:
    try:
        if record.get("network_interface", "all") not in ("", "all"):
            return None
        # Go writes nanoseconds, which Python's reader does not take.
        text = re.sub(r"(\.\d{6})\d+", r"\1", record["timestamp"])
        return int(datetime.fromisoformat(text).timestamp()), (
            int(record["rx_bytes"]),
            int(record["tx_bytes"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _usage(vmid: str, samples: list[tuple[int, tuple[int, int]]]) -> Iterator[Usage]:
    sums: dict[int, list[int]] = {}
    for (since, before), (until, now) in itertools.pairwise(samples):
        reset = any(n < b for b, n in zip(before, now, strict=True))  # the guest was started anew
        moved = now if reset else tuple(n - b for b, n in zip(before, now, strict=True))
        if any(moved):
            for minute, part in spread(since, until, moved):
                at = sums.setdefault(minute, [0, 0])
                at[0] += part[0]
                at[1] += part[1]
    labels = {"vmid": vmid}
    for minute, (rx, tx) in sums.items():
        yield Usage(minute, 60, "hypervisor", "machine", vmid, labels, rx, tx, source="pve-traffic-monitor")
