"""A summary fits the terminal it is shown on: what does not fit is named, and the key is never
squeezed away.
"""

from __future__ import annotations

import pyarrow as pa
import pytest
from rich.cells import cell_len
from rich.console import Console

from replaykit.attribution.summary import Summary
from replaykit.records.exchange import SCHEMA
from replaykit.reporting import terminal
from replaykit.reporting.render import cut, table
from tests.hostile import NAMES

PATHS = [
    "/",
    "/reports/{date}/export.json",
    "/" + "long/" * 40 + "end",
    "/製品/一覧/" + "価格" * 30,
    "/🦀🦀🦀/x",
    *NAMES[:-2],
]


def _summary(by: tuple[str, ...] = ("endpoint",)) -> Summary:
    summary = Summary(by)
    rows = [
        {
            "endpoint": path,
            "host": "shop.example",
            "weight": 1.0,
            "complete": True,
            "duration_ns": 5_000_000 * (n + 1),
            **{name: 1000 * (n + 1) for name in SCHEMA.names if name.endswith("_bytes")},
        }
        for n, path in enumerate(PATHS)
    ]
    full = [{name: row.get(name) for name in SCHEMA.names} for row in rows]
    loose = pa.schema([f.with_nullable(True) for f in SCHEMA])
    summary.add(pa.RecordBatch.from_pylist(full, loose))
    return summary


@pytest.mark.parametrize("by", [("endpoint",), ("endpoint", "host")])
@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_it_fits(width: int, by: tuple[str, ...]) -> None:
    console = Console(width=width, markup=False, emoji=False, highlight=False, force_terminal=False)
    with console.capture() as captured:
        console.print(table(_summary(by), None, width))
    lines = captured.get().splitlines()
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    body = [line for line in lines if "…" in line or "/reports" in line]
    assert any("/reports/{da" in line and "export.json" in line for line in body)
    assert not any(line.startswith("… ") for line in lines)
    heads = " ".join(lines[:2])
    for name in ("share", "total", "(wire)"):
        assert name in heads
    assert "requests" in heads or (width, len(by)) == (60, 2)
    assert ("p95" in heads) or width < 80 or len(by) > 1
    if width < 130:
        assert any("more columns in a wider terminal or a pipe:" in line for line in lines)
    else:
        assert "over-" in heads and not any("more columns" in line for line in lines)


def test_a_pipe_has_everything() -> None:
    text = terminal.as_text(table(_summary(), None))
    assert "/" + "long/" * 40 + "end" in text and "…" not in text


@pytest.mark.parametrize("most", [8, 9, 24, 40])
def test_names_are_cut_in_the_middle(most: int) -> None:
    for text in ("/reports/2026/07/export.json", "/製品/一覧/価格", "short"):
        shown = cut(text, most)
        assert cell_len(shown) <= most and (
            shown == text or (shown[0] == text[0] and shown[-1] == text[-1] and "…" in shown)
        )
