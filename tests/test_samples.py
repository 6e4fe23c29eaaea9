"""The sample capture is what its script makes, and what the golden file says it holds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from replaykit.attribution.summary import Summary
from replaykit.report.conservation import conservation
from replaykit.report.render import rows
from replaykit.wire.engine import open_engine
from replaykit.wire.options import Options
from samples.make import OUT, packets
from tests.mutate import write
from tests.talk import ENGINES

GOLDEN = Path(__file__).parent / "shop.json"


def test_the_script_makes_it() -> None:
    assert gzip.decompress(OUT.read_bytes()) == write(packets())


@pytest.mark.parametrize("engine", ENGINES)
def test_it_holds_what_the_golden_file_says(engine: str) -> None:
    """After a wanted change: python -m tests.test_samples, and read the difference."""
    assert _found(engine) == json.loads(GOLDEN.read_text())


def _found(name: str) -> dict[str, object]:
    data = gzip.decompress(OUT.read_bytes())
    engine = open_engine(Options(), name)  # type: ignore[arg-type]
    engine.feed_file(data, 0, len(data))
    engine.finish()
    summary = Summary(("endpoint", "method", "status"))
    summary.add(engine.take_exchanges())
    return {"conservation": conservation(engine.account()), "rows": rows(summary, None)}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(_found("readable"), indent=1) + "\n")
