"""The same traffic, asked in every way: the same requests and bytes per endpoint, or the difference that is
said.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from replaykit.cli.main import main
from samples.make import OUT

Found = dict[str, tuple[int, int]]
"""Endpoint to requests and wire bytes."""


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: str) -> dict:  # type: ignore[type-arg]
        capfd.readouterr()
        assert main([*arguments, "--format", "json"]) == 0
        return json.loads(capfd.readouterr().out)  # type: ignore[no-any-return]

    return call


def _report(document: dict) -> Found:  # type: ignore[type-arg]
    assert document["measure"] == "wire"
    rows = document["rows"]
    return {r["endpoint"]: (r["requests"], r["request_wire_bytes"] + r["response_wire_bytes"]) for r in rows}


def _gate(document: dict) -> Found:  # type: ignore[type-arg]
    assert document["measure"] == "wire"
    return {e["endpoint"]: (e["exchanges"], e["bytes"]) for e in document["endpoints"]}


def _lines(path: Path) -> Found:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line in path.read_text().splitlines():
        row = json.loads(line)
        at = sums[row.get("endpoint", "(unknown)")]
        at[0] += 1
        at[1] += row.get("request_wire_bytes", 0) + row.get("response_wire_bytes", 0)
    return {n: (a, b) for n, (a, b) in sums.items()}


def _elastic(url: str, index: str) -> Found:
    terms = {"field": "replaykit.endpoint", "size": 1000, "missing": "(unknown)"}
    moved = {"bytes": {"sum": {"field": "network.bytes"}}}
    body = {"size": 0, "aggs": {"e": {"terms": terms, "aggs": moved}}}
    request = urllib.request.Request(
        f"{url}/{index}/_search", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        buckets = json.load(answer)["aggregations"]["e"]["buckets"]
    return {b["key"]: (b["doc_count"], round(b["bytes"]["value"])) for b in buckets}


def test_the_same_traffic_gives_the_same_answer(ask, elastic: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    parquet, gor, lines, ledger = (tmp_path / n for n in ("a.parquet", "a.gor", "a.jsonl", "usage.db"))
    store = f"elasticsearch://{elastic.removeprefix('http://')}/same?spool={tmp_path / 'spool'}"
    outputs = [f"--to={o}" for o in (parquet, gor, lines, f"sqlite:///{ledger}", store)]
    assert main(["exchanges", str(OUT), "--quiet", *outputs]) == 0

    expected = _report(ask("report", str(OUT), "--top", "0", "--quiet"))
    assert sum(n for n, _ in expected.values()) == 315
    found = {
        "report of Parquet": _report(ask("report", str(parquet), "--top", "0", "--quiet")),
        "gate of pcap": _gate(ask("gate", str(OUT), "--threshold", "1GB", "--quiet")),
        "gate of Parquet": _gate(ask("gate", str(parquet), "--threshold", "1GB", "--quiet")),
        "JSONL": _lines(lines),
        "ledger": {
            r["subject"]: (r["requests"], r["total_bytes"])
            for r in ask("export", str(ledger), "--period", "total", "--since", "2020-01-01")["rows"]
        },
    }
    changed = ask("diff", str(OUT), str(parquet), "--quiet")
    assert changed["bytes_before"] == changed["bytes_after"] == sum(b for _, b in expected.values())
    deadline = time.monotonic() + 30
    while True:  # a search sees what was refreshed
        found["Elasticsearch"] = _elastic(elastic, "same-exchanges*")
        if found["Elasticsearch"] == expected or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for name, answer in found.items():
        assert answer == expected, name

    # A .gor holds whole HTTP messages: what it lacks is what was incomplete or no HTTP request.
    document = ask("report", str(gor), "--top", "0", "--quiet")
    reported = _report(document)
    assert document["left_out"]["exchanges"] == 315 - sum(n for n, _ in reported.values())
    assert document["left_out"]["wire_bytes"] == sum(b for _, b in expected.values()) - sum(
        b for _, b in reported.values()
    )
    gated = _gate(ask("gate", str(gor), "--threshold", "1GB", "--quiet"))
    assert reported == gated
    lacking = defaultdict(int)
    for row in pq.read_table(parquet).to_pylist():
        if not row["complete"] or row["endpoint"] is None:
            lacking[row["endpoint"] or "(unknown)"] += 1
    for name, (requests, size) in expected.items():
        had, bytes_had = reported.get(name, (0, 0))
        assert requests - lacking[name] <= had <= requests and bytes_had <= size, name
        if not lacking[name]:
            assert had == requests, name
