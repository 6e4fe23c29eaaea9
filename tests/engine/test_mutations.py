"""Hostile captures through the engine: no crash, no byte unaccounted for, however the bytes come.

A short run of `tests/fuzz.py`; `make fuzz` is the long one.
"""

from __future__ import annotations

import pytest

from tests.fuzz import run


@pytest.mark.slow
def test_mutated_captures() -> None:
    assert run(first=0, count=3000, report=lambda line: None) == []
