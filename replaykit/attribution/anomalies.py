"""What bandwidth was to be expected, and what is not: forecasts with a season, by endpoint.

Owns the judging: a value is an anomaly where it lies outside of what the past makes likely, and the past is
never taught by anomalies. The forecasts are a library's (statsmodels, the extra `forecast`) or an LSTM's
(Keras, the extra `lstm`). Cost: a forecast of a day ahead per series and day; the LSTM learns once a week.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from replaykit.errors import UsageError
from replaykit.extras import needs

LEVELS = 4.0
"""So many robust deviations from the forecast make an anomaly."""


class Forecast(Protocol):
    """Learns a series of equal steps, and says what comes next."""

    name: str

    def ahead(self, past: Sequence[float], steps: int) -> list[float]:
        """The next values. `past`: whole seasons, oldest first."""


@dataclass
class Seasonal:
    """MSTL on a logarithmic scale (statsmodels): the last trend, and each season as it was last.

    season: steps of a day, a week.
    """

    season: tuple[int, ...]
    name: str = "seasonal"

    def ahead(self, past: Sequence[float], steps: int) -> list[float]:
        try:
            import numpy as np
            from statsmodels.tsa.seasonal import MSTL
        except ImportError:
            raise needs("anomalies need statsmodels", "forecast") from None
        usable = [s for s in self.season if len(past) > 2 * s]  # MSTL takes no longer ones
        if not usable:
            return [sum(past) / len(past)] * steps
        jump = max(usable[0] // 24, 1)
        how = {"seasonal_deg": 0, "seasonal_jump": jump, "trend_jump": 4 * jump, "low_pass_jump": 4 * jump}
        values = np.log1p(np.asarray(past, dtype=np.float64))
        found = MSTL(values, periods=usable, windows=[25] * len(usable), iterate=1, stl_kwargs=how).fit()
        seasons = found.seasonal.reshape(len(values), -1)
        ahead = np.full(steps, float(found.trend[-1]))
        for column, season in enumerate(usable):
            last = seasons[-season:, column]
            ahead += np.resize(last, steps)
        return [max(float(v), 0.0) for v in np.expm1(ahead)]


@dataclass
class Naive:
    """The median of the same step in the last seasons: the baseline that the others have to beat."""

    season: tuple[int, ...]
    seasons: int = 7
    name: str = "seasonal median"

    def ahead(self, past: Sequence[float], steps: int) -> list[float]:
        day = self.season[0]
        out = []
        for n in range(steps):
            same = [past[i] for i in range(len(past) - day + n % day, -1, -day) if i < len(past)][
                : self.seasons
            ]
            out.append(_median(same) if same else 0.0)
        return out


@dataclass
class Lstm:
    """One LSTM layer over the last day, the time of day beside each value; the next day in one piece
    (Keras).
    """

    season: tuple[int, ...]
    epochs: int = 15
    units: int = 32
    name: str = "LSTM"
    _model: Any = None
    _asked: int = 0

    def ahead(self, past: Sequence[float], steps: int) -> list[float]:
        import os

        os.environ.setdefault("KERAS_BACKEND", "jax")
        try:
            import keras
            import numpy as np
        except ImportError:
            raise needs("the LSTM needs Keras", "lstm") from None
        day = self.season[0]
        keras.utils.set_random_seed(1)
        values = np.log1p(np.asarray(past, dtype=np.float32))
        middle, spread = float(values.mean()), float(values.std()) or 1.0
        values = (values - middle) / spread
        phase = 2 * math.pi * (np.arange(len(values)) % day) / day
        rows = np.stack([values, np.sin(phase), np.cos(phase)], axis=1).astype(np.float32)
        begins = range(0, len(values) - day - steps + 1, max(day // 24, 1))
        inputs = np.stack([rows[b : b + day] for b in begins])
        outputs = np.stack([values[b + day : b + day + steps] for b in begins])
        model = keras.Sequential(
            [keras.Input((day, 3)), keras.layers.LSTM(self.units), keras.layers.Dense(steps)]
        )
        model.compile("adam", "mae")
        model.fit(inputs, outputs, epochs=self.epochs, batch_size=32, verbose=0)
        found = model.predict(rows[-day:][None], verbose=0)[0]
        return [max(float(v), 0.0) for v in np.expm1(found * spread + middle)]


def forecast(name: str, season: tuple[int, ...]) -> Forecast:
    """`seasonal`, `median` or `lstm`. Raises UsageError."""
    kinds: dict[str, Any] = {"seasonal": Seasonal, "median": Naive, "lstm": Lstm}
    if name not in kinds:
        raise UsageError(f"forecast {name!r}: choose from {', '.join(kinds)}")
    made: Forecast = kinds[name](season)
    return made


@dataclass(frozen=True)
class Judged:
    """A step: what was seen and expected, and by how many deviations it was off."""

    step: int
    value: float
    expected: float
    deviations: float

    @property
    def anomaly(self) -> bool:
        return abs(self.deviations) > LEVELS


class Detector:
    """Judges a series day by day; days are forecast from the days before, with anomalies replaced by what was
    expected.

    day: steps of a day. days: of the past that are kept.
    """

    def __init__(self, how: Forecast, day: int, days: int = 28) -> None:
        self._how, self._day, self._most = how, day, day * days
        self._past: list[float] = []
        self._errors: list[float] = []
        self._expected: list[float] = []
        self._step = 0

    def learn(self, past: Sequence[float]) -> None:
        """Takes whole days as they are, and the usual error of the last of them."""
        whole = list(past)[-self._most :]
        cut = len(whole) - self._day
        if cut >= 2 * self._day:
            trial = self._how.ahead(whole[:cut], self._day)
            self._errors = [_relative(v, e) for v, e in zip(whole[cut:], trial, strict=True)]
        self._past = whole
        self._step = len(past)

    def judge(self, value: float) -> Judged:
        """The next step."""
        if not self._expected:
            self._expected = self._how.ahead(self._past, self._day)
        expected = self._expected.pop(0)
        error = _relative(value, expected)
        found = Judged(self._step, value, expected, error / self._scale())
        self._past = [*self._past, expected if found.anomaly else value][-self._most :]
        if not found.anomaly:
            self._errors = [*self._errors, error][-7 * self._day :]
        self._step += 1
        return found

    def _scale(self) -> float:
        """A robust standard deviation of the usual errors (1.4826 x the median of their sizes), never below 2
        %.
        """
        return max(1.4826 * _median([abs(e) for e in self._errors]), 0.02) if self._errors else 0.5


def _relative(value: float, expected: float) -> float:
    """Errors on a logarithmic scale, since traffic varies by factors; small numbers count as little."""
    floor = 1000.0
    return math.log((value + floor) / (expected + floor))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        return 0.0
    return ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
