"""The captures that other projects test with, against what two other witnesses saw in them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from tests.talk import Outcome, outcome

CAPTURES = Path(__file__).parents[3] / "shared" / "captures"
EXPECTED = CAPTURES / "expected.jsonl"

pytestmark = pytest.mark.skipif(not EXPECTED.exists(), reason=f"no captures at {CAPTURES}")

# Entries that are not matched, each with what proves it.
EXCEPTIONS: dict[str, str] = {}

SIZES = ("request_header_bytes", "request_body_bytes", "response_header_bytes", "response_body_bytes")
KEY = ("method", "target", "status", "host", *SIZES)


def _cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in EXPECTED.read_text().splitlines()] if EXPECTED.exists() else []


def _read(name: str) -> Outcome:
    data = (CAPTURES / "files" / name).read_bytes()
    engine = Engine(Options())
    assert engine.feed_file(data, 0, len(data)) == len(data)
    return outcome(engine)


@pytest.mark.parametrize("case", _cases(), ids=lambda c: c["name"])
def test_matches_the_witnesses(case: dict[str, Any]) -> None:
    found = _read(case["name"])
    have = Counter(tuple(r[k] for k in KEY) for r in found.rows)
    want = Counter(tuple(e[k] for k in KEY) for e in case["http1"])
    missing = want - have
    if case["name"] in EXCEPTIONS:
        assert missing, "no exception is needed any more"
    else:
        assert not missing


@pytest.mark.parametrize("case", [c for c in _cases() if c["h2"]], ids=lambda c: c["name"])
def test_http2_matches_the_witness(case: dict[str, Any]) -> None:
    found = [r for r in _read(case["name"]).rows if r["protocol"] == "h2"]
    # After an upgrade the request of stream 1 travelled as HTTP/1.
    asked = [r for r in found if r["request_header_bytes"]]
    for column, key, rows in (
        ("method", "methods", asked),
        ("target", "paths", asked),
        ("status", "statuses", found),
    ):
        assert Counter(str(r[column]) for r in rows if r[column] is not None) == Counter(
            value for entry in case["h2"] for value in entry[key]
        )


OPCODES = {"1": "TEXT", "2": "BINARY", "8": "CLOSE", "9": "PING", "10": "PONG"}


@pytest.mark.parametrize("case", [c for c in _cases() if c["websocket"]], ids=lambda c: c["name"])
def test_websocket_matches_the_witness(case: dict[str, Any]) -> None:
    found = [r for r in _read(case["name"]).rows if r["protocol"] == "websocket"]
    frames = [
        (opcode, length, mask)
        for entry in case["websocket"]
        for opcode, length, mask in zip(entry["opcode"], entry["length7"], entry["mask"], strict=True)
    ]
    long = [int(n) for entry in case["websocket"] for n in entry["length16"]]
    begun = Counter((OPCODES[o], mask == "1") for o, _, mask in frames if o != "0")
    assert Counter((r["method"], r["request_packets"] is not None) for r in found) == begun
    assert sum((r["request_messages"] or 0) + (r["response_messages"] or 0) for r in found) == len(frames)
    if all(length != "127" for _, length, _ in frames):
        size = sum(int(n) for _, n, _ in frames if n != "126") + sum(long)
        assert sum((r["request_body_bytes"] or 0) + (r["response_body_bytes"] or 0) for r in found) == size


@pytest.mark.parametrize("case", [c for c in _cases() if c["disputed"]], ids=lambda c: c["name"])
def test_disputed_streams_do_not_vanish(case: dict[str, Any]) -> None:
    """Each of their bytes is in a row or under a cause that says why it is not."""
    found = _read(case["name"])
    assert found.account["connections"] >= len(case["disputed"])
    silent = found.account["not_tcp"] + found.account["connection_overhead"]
    assert found.rows or found.account["bytes"] > silent
    methods = {r["method"] for r in found.rows} | {e["method"] for e in case["http1"]}
    for stream in case["disputed"]:
        agreed = set(stream["tshark"][0]) & set(stream["cut"][0])
        assert agreed <= methods
