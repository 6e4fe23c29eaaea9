"""Ledgers for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replaykit.ledger.store import Ledger
from replaykit.records.usage import Reading, Usage

BERLIN = "Europe/Berlin"
NOON = 1_774_782_000
"""2026-03-29 13:00 in Berlin, where the clock was put forward that night."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path / 'usage.db'}", BERLIN)
    yield made
    made.close()


def used(subject: str, time: int, rx: int = 0, tx: int = 0, **more: Any) -> Usage:
    given: dict[str, Any] = {"vantage": "forwarder", "subject_kind": "mapping", "seconds": 60, **more}
    return Usage(time=time, subject=subject, rx_bytes=rx, tx_bytes=tx, **given)


def stands(subject: str, time: int, rx: int = 0, tx: int = 0, **more: Any) -> Reading:
    given: dict[str, Any] = {"vantage": "netfilter", "subject_kind": "user", **more}
    return Reading(time=time, subject=subject, rx_bytes=rx, tx_bytes=tx, **given)
