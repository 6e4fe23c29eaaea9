"""An output of your own: `--to webhook-totals://HOST:PORT/PATH` posts each endpoint's bytes when a command
ends.

Name it in the pyproject.toml of your package:

    [project.entry-points."replaykit.outputs"]
    webhook-totals = "custom_output:open_totals"
"""

from __future__ import annotations

import json
import urllib.request
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from replaykit import UsageError
from replaykit.outputs.output import Rotation
from replaykit.records.message import Messages

SCHEME = "webhook-totals://"


class Totals:
    wants_messages = False

    def __init__(self, target: str) -> None:
        self.target = target
        self.bytes: Counter[str] = Counter()

    def exchanges(self, batch: pa.RecordBatch) -> None:
        size = pc.add(
            *(pc.fill_null(batch.column(f"{side}_wire_bytes"), 0) for side in ("request", "response"))
        )
        for endpoint, count in zip(batch.column("endpoint").to_pylist(), size.to_pylist(), strict=True):
            self.bytes[endpoint or "(unknown)"] += count

    def messages(self, messages: Messages) -> None:
        """None are asked for."""

    def flush(self) -> None:
        """All of it goes at the end."""

    def close(self) -> None:
        data = json.dumps(self.bytes).encode()
        url = "http://" + self.target.removeprefix(SCHEME)
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except OSError as error:
            raise UsageError(f"{self.target}: {error}") from None


def open_totals(target: str, rotation: Rotation) -> Totals | None:
    return Totals(target) if target.startswith(SCHEME) else None
