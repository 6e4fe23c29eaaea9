"""Captures of real servers that lie in samples/, against what those servers and their clients counted."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from typing import Any

import pytest

from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from samples.record import EXPECTED, HERE
from tests.talk import outcome

CASES = [json.loads(line) for line in EXPECTED.read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_the_servers_counted_the_same(case: dict[str, Any]) -> None:
    data = gzip.decompress((HERE / case["file"]).read_bytes())
    engine = Engine(Options())
    assert engine.feed_file(data, 0, len(data)) == len(data)
    rows = outcome(engine).rows
    assert all(row["complete"] or row["grpc_status"] for row in rows) and len(rows) == len(case["exchanges"])
    wanted = Counter(tuple(sorted(seen.items())) for seen in case["exchanges"])
    for names in {tuple(sorted(seen)) for seen in case["exchanges"]}:
        found = Counter(tuple((name, row[name]) for name in names) for row in rows)
        alike = Counter({seen: n for seen, n in wanted.items() if tuple(name for name, _ in seen) == names})
        assert alike <= found, alike - found
