"""The ledger with 10,000 subjects: a minute's write, and questions about a month."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from replaykit.ledger import calendar
from replaykit.ledger.history import history, totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Usage

SUBJECTS, DAYS = 10_000, 31


def records(minute: int, size: int) -> list[Usage]:
    labels = [{"client": f"client {n % 100}"} for n in range(100)]
    return [
        Usage(
            minute,
            60,
            "forwarder",
            "mapping",
            str(10_000 + n),
            labels[n % 100],
            size + n,
            2 * size + n,
            connections=1,
        )
        for n in range(SUBJECTS)
    ]


def timed(call: Callable[[], object], rounds: int = 5) -> float:
    """Median seconds."""
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def results() -> tuple[str, list[list[str]]]:
    """A text and a table for bench/RESULTS.md."""
    with tempfile.TemporaryDirectory() as name:
        ledger = Ledger(f"sqlite:///{Path(name) / 'usage.db'}", "Europe/Berlin")
        start = calendar.moment("2026-10-01", ledger.zone)
        end = calendar.following("month", start, ledger.zone)
        for day in range(DAYS):
            ledger.write(records(start + day * 86_400 + 7200, day))
        minutes = iter(range(start + 30 * 86_400, end, 60))
        writes = timed(lambda: ledger.write(records(next(minutes), 5)), 9)
        last = next(minutes)
        ledger.write(records(last, 5))
        sizes = iter(range(6, 99))
        grown = timed(lambda: ledger.write(records(last, next(sizes))))
        one, client = Selection(names=("10007",)), Selection(labels={"client": ("client 7",)})
        questions: list[tuple[str, Callable[[], object]]] = [
            ("a calendar month, every subject", lambda: totals(ledger, start, end)),
            ("a calendar month, by client", lambda: totals(ledger, start, end, by="label:client")),
            ("a month of days of one subject", lambda: history(ledger, "day", start, end, one)),
            (
                "a month of days of a client's 100 subjects",
                lambda: history(ledger, "day", start, end, client),
            ),
            ("30 days that begin on the second, every subject", lambda: totals(ledger, start + 86_400, end)),
        ]
        rows = [["", "time"], ["a minute of 10,000 subjects written", f"{writes * 1e3:,.0f} ms"]]
        rows.append(["the same minute again, grown", f"{grown * 1e3:,.0f} ms"])
        rows += [[text, f"{timed(call) * 1e3:,.0f} ms"] for text, call in questions]
        size = sum(p.stat().st_size for p in Path(name).iterdir())
        ledger.close()
    return (
        (
            f"SQLite, 10,000 subjects, {DAYS} days of which one with minutes; the file has {size / 1e6:,.0f}"
            " MB.\n\n"
        ),
        rows,
    )


if __name__ == "__main__":
    text, table = results()
    print(text + "\n".join(" | ".join(row) for row in table))
