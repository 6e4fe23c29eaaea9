"""Buckets that neither overlap nor leave a gap, in zones whose clocks do odd things."""

from __future__ import annotations

import itertools
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaykit.errors import UsageError
from replaykit.ledger.calendar import PERIODS, buckets, floor, following, moment, show

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Pacific/Apia", "Africa/Casablanca",
)  # fmt: skip
TIMES = st.integers(1_000_000_000, 2_000_000_000)


def at(text: str, zone: str) -> int:
    return moment(text, ZoneInfo(zone))


@given(TIMES, st.sampled_from(ZONES), st.sampled_from(PERIODS), st.integers(1, 31))
def test_buckets_fill_time(time: int, name: str, period: str, start_day: int) -> None:
    zone = ZoneInfo(name)
    start = floor(period, time, zone, start_day)
    end = following(period, start, zone, start_day)
    assert start <= time < end
    assert floor(period, start, zone, start_day) == start == floor(period, end - 1, zone, start_day)
    assert floor(period, end, zone, start_day) == end
    assert buckets(period, start, end, zone, start_day) == [start]


@given(TIMES, st.sampled_from(ZONES))
def test_larger_buckets_are_made_of_smaller(time: int, name: str) -> None:
    zone = ZoneInfo(name)
    for small, large in itertools.pairwise(PERIODS):
        start = floor(large, time, zone)
        end = following(large, start, zone)
        inside = buckets(small, start, end, zone) if large != "month" else [start, end]
        assert inside[0] == start and (large == "month" or following(small, inside[-1], zone) == end)
        assert floor(small, end, zone) == end


def test_the_day_of_a_change_has_23_or_25_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)):
        start = at(day, "Europe/Berlin")
        end = following("day", start, berlin)
        assert len(buckets("hour", start, end, berlin)) == hours
    twice = [
        show(h, berlin)
        for h in buckets(
            "hour", at("2026-10-25", "Europe/Berlin"), at("2026-10-25T04:00", "Europe/Berlin"), berlin
        )
    ]
    assert twice[2:4] == ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"]
    # Lord Howe's clock goes back by half an hour: two buckets of the hour from one to two.
    howe = ZoneInfo("Australia/Lord_Howe")
    start = at("2026-04-05", "Australia/Lord_Howe")
    lengths = [following("hour", h, howe) - h for h in buckets("hour", start, start + 4 * 3600, howe)]
    assert 1800 in lengths and max(lengths) == 3600


def test_months_that_begin_on_another_day() -> None:
    zone = ZoneInfo("Asia/Shanghai")
    assert floor("month", at("2026-03-14", "Asia/Shanghai"), zone, 15) == at("2026-02-15", "Asia/Shanghai")
    assert floor("month", at("2026-03-15", "Asia/Shanghai"), zone, 15) == at("2026-03-15", "Asia/Shanghai")
    assert floor("month", at("2026-03-30", "Asia/Shanghai"), zone, 31) == at("2026-02-28", "Asia/Shanghai")
    assert following("month", at("2026-02-28", "Asia/Shanghai"), zone, 31) == at(
        "2026-03-31", "Asia/Shanghai"
    )


def test_times_as_people_write_them() -> None:
    assert at("1700000000", "UTC") == 1_700_000_000
    assert at("2026-11-25T08:00", "Asia/Shanghai") == int(
        datetime.fromisoformat("2026-11-25T00:00+00:00").timestamp()
    )
    with pytest.raises(UsageError, match="yesterday"):
        at("yesterday", "UTC")
