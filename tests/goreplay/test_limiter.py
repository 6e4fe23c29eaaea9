"""Shares and rates, as GoReplay's own tests show them, with a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from replaykit.errors import UsageError
from replaykit.goreplay.limiter import Limiter, split_limit
from replaykit.records.message import Builder, Message, Messages


def batch(count: int, kind: int = 1, first: int = 0) -> Messages:
    out = Builder()
    for n in range(first, first + count):
        out.push(Message(kind, f"{n:024x}", n, 0, b"x"))
    return out.messages()


def test_so_many_a_second() -> None:
    now = 100.0
    limiter = Limiter("10", clock=lambda: now)
    assert len(limiter(batch(100))) == 10 and len(limiter(batch(5))) == 0
    now += 0.999
    assert len(limiter(batch(5))) == 0
    now += 0.001
    assert len(limiter(batch(7))) == 7 and len(limiter(batch(7))) == 3
    assert limiter.dropped == 90 + 5 + 5 + 4


def test_shares() -> None:
    assert len(Limiter("0%")(batch(100))) == 0 and len(Limiter("100%")(batch(100))) == 100
    lots = random.Random(7)
    assert 200 < len(Limiter("25%", chance=lots.random)(batch(1000))) < 300


def test_answers_share_the_fate_of_their_request() -> None:
    limiter = Limiter("50%", chance=random.Random(1).random)
    passed = limiter(batch(200)).ids()
    assert limiter(batch(200, kind=2)).ids() == passed


def test_words() -> None:
    assert split_limit("a:1|10%") == ("a:1", "10%") and split_limit("a:1") == ("a:1", None)
    for bad in ("x", "-1", "10 %%", ""):
        with pytest.raises(UsageError, match="write a share"):
            Limiter(bad)
