"""Forecasts and what they find: on the labelled set, and from an archive by command."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.anomalies import DAY, HISTORY, series
from replaykit.attribution.anomalies import Detector, Naive, Seasonal, forecast
from replaykit.errors import UsageError
from replaykit.outputs.files import DirectoryOutput
from replaykit.outputs.output import Rotation
from tests.outputs.conftest import batch, run


def test_the_seasonal_forecast_follows_days_and_weeks() -> None:
    past = [
        1000 * (2 + math.sin(2 * math.pi * n / 24)) * (0.5 if n // 24 % 7 >= 5 else 1) for n in range(24 * 28)
    ]
    ahead = Seasonal((24, 168)).ahead(past, 24)
    wanted = [1000 * (2 + math.sin(2 * math.pi * n / 24)) for n in range(24)]
    assert max(abs(a - w) / w for a, w in zip(ahead, wanted, strict=True)) < 0.1


def test_labelled_anomalies_are_found_in_time() -> None:
    values, labels = series(1)
    detector = Detector(forecast("seasonal", (DAY, 7 * DAY)), DAY)
    detector.learn(values[: HISTORY * DAY])
    odd = {step for step in range(HISTORY * DAY, (HISTORY + 3) * DAY) if detector.judge(values[step]).anomaly}
    wanted = [(b, e) for b, e, _ in labels if e < (HISTORY + 3) * DAY]
    found = [(b, e) for b, e in wanted if any(b <= s < e for s in odd)]
    quiet = 3 * DAY - sum(e - b for b, e in wanted)
    false = [s for s in odd if not any(b <= s < e for b, e in wanted)]
    assert len(found) >= 0.6 * len(wanted) and len(false) < 0.02 * quiet


def test_an_anomaly_teaches_nothing() -> None:
    """A day three times as large is flagged, and the day after it is expected as before."""
    detector = Detector(Naive((24,)), 24)
    detector.learn([100_000.0 + n % 24 for n in range(24 * 7)])
    assert all(detector.judge(300_000.0).anomaly for _ in range(24))
    after = [detector.judge(100_000.0) for _ in range(24)]
    assert not any(j.anomaly for j in after) and all(abs(j.expected - 100_000) < 100 for j in after)


@pytest.mark.slow
def test_the_lstm() -> None:
    past = [1000 * (2 + math.sin(2 * math.pi * n / 24)) for n in range(24 * 20)]
    ahead = forecast("lstm", (24,)).ahead(past, 24)
    assert len(ahead) == 24 and sum(abs(a - p) for a, p in zip(ahead, past[:24], strict=True)) < 0.2 * sum(
        past[:24]
    )


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """Hourly traffic of five days; one hour of the last has ten times as much."""
    begin = int(datetime(2026, 11, 15, tzinfo=UTC).timestamp())
    output = DirectoryOutput(str(tmp_path / "archive"), Rotation())
    for hour in range(24 * 5):
        at = (begin + hour * 3600) * 10**9
        output.exchanges(batch(at, (10 + 5 * (hour % 24 > 12)) * (10 if hour == 24 * 4 + 6 else 1)))
    output.close()
    place = str(tmp_path / "archive")
    arguments = ("--until", "2026-11-20", "--step", "1h", "--days", "4", "--format", "json")
    done = run("anomalies", place, *arguments, "--forecast", "median")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [f["time"][:13] for f in found] == ["2026-11-19T06"], done.stderr
    assert found[0]["endpoint"] == "/users/{id}" and found[0]["bytes"] > 8 * found[0]["expected_bytes"]
    assert run("anomalies", place, *arguments).returncode == 0
    for more, said in (
        (("--days", "2"), "at least 3"),
        (("--step", "7m"), "a part of a day"),
        (("--until", "2026-11-17"), "are needed"),
    ):
        wrong = run("anomalies", place, "--step", "1h", *more)
        assert wrong.returncode == 2 and said in wrong.stderr and "Traceback" not in wrong.stderr, (
            wrong.stderr
        )
    with pytest.raises(UsageError):
        forecast("tea leaves", (24,))
