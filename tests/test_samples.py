"""The sample capture is what its script makes, and what the golden file says it holds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from replaykit.attribution.summary import Summary
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.reporting.conservation import conservation
from replaykit.reporting.render import rows
from samples.make import OUT, packets
from tests.mutate import write

GOLDEN = Path(__file__).parent / "shop.json"


def test_the_script_makes_it() -> None:
    assert gzip.decompress(OUT.read_bytes()) == write(packets())


def test_it_holds_what_the_golden_file_says() -> None:
    """After a wanted change: python -m tests.test_samples, and read the difference."""
    assert _found() == json.loads(GOLDEN.read_text())


def _found() -> dict[str, object]:
    data = gzip.decompress(OUT.read_bytes())
    engine = Engine(Options())
    engine.feed_file(data, 0, len(data))
    engine.finish()
    summary = Summary(("endpoint", "method", "status"))
    summary.add(engine.take_exchanges())
    return {"conservation": conservation(engine.account()), "rows": rows(summary, None)}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(_found(), indent=1) + "\n")
