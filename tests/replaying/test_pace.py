"""Schedules: when each message is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaykit.replaying.pace import Flat, Rate, Recorded

MS = 1_000_000


def test_the_recorded_pace_and_factors_of_it() -> None:
    times = [7 * MS, 17 * MS, 17 * MS, 37 * MS]
    assert Recorded().due(times) == [0, 10 * MS, 10 * MS, 30 * MS]
    assert Recorded(2.0).due(times) == [0, 5 * MS, 5 * MS, 15 * MS]
    assert Recorded(0.5).due(times) == [0, 20 * MS, 20 * MS, 60 * MS]
    assert Recorded(1.0, 12 * MS).due(times) == [0, 10 * MS, 10 * MS, 22 * MS]


def test_batches_go_on_where_the_last_ended_and_a_loop_begins_anew() -> None:
    pace = Recorded()
    assert pace.due([0, 10]) == [0, 10] and pace.due([15]) == [15]
    pace.again()
    assert pace.due([0, 10]) == [15, 25]


def test_what_is_out_of_order_is_due_at_once() -> None:
    assert Recorded().due([100, 50, 200]) == [0, 0, 100]


def test_rates() -> None:
    assert Rate(1000).due([0] * 4) == [0, MS, 2 * MS, 3 * MS]
    assert Flat().due([1, 2]) is None


def test_a_ramp_reaches_its_rate() -> None:
    due = Rate(10, 100, 2.0).due([0] * 400)
    assert due is not None
    assert len([d for d in due if d < 2e9]) == pytest.approx(110, abs=1)  # the mean of both rates
    assert due[300] - due[299] == pytest.approx(1e7, rel=1e-6)


@given(st.floats(1, 1e4), st.floats(1, 1e4), st.floats(0, 100))
def test_a_schedule_never_goes_back(start: float, end: float, ramp: float) -> None:
    due = Rate(start, end, ramp).due([0] * 200)
    assert due is not None and due == sorted(due) and due[0] == 0
