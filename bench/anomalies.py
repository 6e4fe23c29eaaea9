"""Which forecast finds anomalies of bandwidth best: precision, recall and delay on a synthetic set with
labels.

Eight endpoints, four weeks of history and one to judge, steps of five minutes. Shaped like public sets of web
traffic (Numenta's NAB, Yahoo S5): a day's curve, weekends, growth, bursts that follow a gamma distribution.
Labelled anomalies: a spike (x 1.9 for 20 minutes), a plateau (x 1.4 for 4 hours), a drop (x 0.5 for an hour),
a batch job at a wrong hour.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Sequence

from replaykit.attribution.anomalies import Detector, forecast

DAY = 288
HISTORY, JUDGED = 28, 7
KINDS = {"spike": (4, 1.9), "plateau": (48, 1.4), "drop": (12, 0.5), "batch": (6, 1.6)}


def series(number: int) -> tuple[list[float], list[tuple[int, int, str]]]:
    """Values, and the labelled stretches in the days that are judged."""
    chance = random.Random(number)
    level, daily, weekend, growth = (
        chance.uniform(1e6, 5e7),
        chance.uniform(0.3, 0.9),
        chance.uniform(0.5, 1.0),
        chance.uniform(0, 0.004),
    )
    shift, noise = chance.uniform(0, DAY), chance.uniform(0.04, 0.12)
    values = []
    for step in range((HISTORY + JUDGED) * DAY):
        day = step // DAY
        curve = (
            1
            + daily * math.sin(2 * math.pi * (step + shift) / DAY)
            + 0.2 * math.sin(4 * math.pi * (step + shift) / DAY)
        )
        factor = (weekend if day % 7 >= 5 else 1.0) * (1 + growth * day)
        values.append(level * max(curve, 0.05) * factor * chance.gammavariate(1 / noise**2, noise**2))
    labels = []
    at = HISTORY * DAY + DAY // 3
    while at < (HISTORY + JUDGED) * DAY - DAY // 2:
        kind = chance.choice(list(KINDS))
        length, factor = KINDS[kind]
        for step in range(at, at + length):
            values[step] *= factor
        labels.append((at, at + length, kind))
        at += chance.randint(DAY // 2, DAY)
    return values, labels


def score(name: str, numbers: Sequence[int]) -> list[str]:
    """Precision (of stretches that were flagged), recall (of labelled ones), mean delay in minutes, seconds
    of CPU a series.
    """
    found = wanted = right = flagged = 0
    delays: list[int] = []
    begun = time.process_time()
    for number in numbers:
        values, labels = series(number)
        detector = Detector(forecast(name, (DAY, 7 * DAY)), DAY)
        detector.learn(values[: HISTORY * DAY])
        odd = [step for step in range(HISTORY * DAY, len(values)) if detector.judge(values[step]).anomaly]
        wanted += len(labels)
        for begin, end, _ in labels:
            hits = [s for s in odd if begin <= s < end]
            if hits:
                found += 1
                delays.append(hits[0] - begin)
        stretches: list[list[int]] = []
        for step in odd:
            if stretches and step - stretches[-1][1] <= 3:
                stretches[-1][1] = step
            else:
                stretches.append([step, step])
        flagged += len(stretches)
        right += sum(
            any(b <= label_end + 3 and e >= label_begin for label_begin, label_end, _ in labels)
            for b, e in stretches
        )
    cpu = (time.process_time() - begun) / len(numbers)
    delay = 5 * sum(delays) / len(delays) if delays else float("nan")
    precision, recall = right / flagged if flagged else 0.0, found / wanted
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return [f"{precision:.2f}", f"{recall:.2f}", f"{f1:.2f}", f"{delay:.1f} min", f"{cpu:.1f} s"]


def results(names: Sequence[str] = ("median", "seasonal", "lstm")) -> tuple[str, list[list[str]]]:
    """A text and a table for bench/RESULTS.md. The LSTM judges fewer series: it takes minutes for each."""
    rows = [["forecast", "series", "precision", "recall", "F1", "delay", "CPU a series"]]
    for name in names:
        series_of = range(2 if name == "lstm" else 8)
        rows.append([name, str(len(series_of)), *score(name, series_of)])
    return (
        (
            "Five minutes a step, four weeks learned, one judged; labelled anomalies (`bench/anomalies.py`)."
            " The default is `seasonal`.\n\n"
        ),
        rows,
    )


if __name__ == "__main__":
    text, rows = results(sys.argv[1:] or ("median", "seasonal", "lstm"))
    print(text + "\n".join(" | ".join(row) for row in rows))
