"""Counters into usage: whose it was, when, and what is written when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replaykit.ledger.history import gaps, history, totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.vantages.netfilter.counters import Counters
from replaykit.vantages.netfilter.users import UserMap
from replaykit.vantages.netfilter.watch import Watch
from tests.vantages.netfilter.test_month import Kernel

AT = 1_790_000_040


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path / 'usage.db'}", "UTC")
    yield made
    made.close()


def used(ledger: Ledger, kind: str) -> dict[str, int]:
    return {s.subject: s.rx_bytes for s in totals(ledger, 0, 4 * 10**9, Selection("netfilter", kind)).sums}


def belongs(path: Path, **users: str) -> None:
    path.write_text("users:\n" + "".join(f"  - {{code: {n}, addresses: [{a}]}}\n" for n, a in users.items()))
    os.utime(path, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns + 10**9))


def test_an_address_changes_hands(ledger: Ledger, tmp_path: Path) -> None:
    """What was moved before stays whose it was; also over a restart, and when it comes back."""
    path, kernel = tmp_path / "users.yaml", Kernel()
    belongs(path, alice="10.0.0.1", bob="10.0.0.2, 10.0.0.3")
    watch = Watch(ledger, kernel, [], UserMap(str(path)))

    def step(now: int, *moves: int) -> None:
        for number, size in enumerate(moves, 1):
            kernel.move(f"10.0.0.{number}", size)
        watch.step(now)
        watch.flush()

    kernel.move("10.0.0.1", 1)  # before anybody read
    step(AT)
    step(AT + 60, 100, 10, 5)
    belongs(path, alice="10.0.0.2", bob="10.0.0.1")
    step(AT + 120, 1000, 200)
    assert used(ledger, "user") == {"alice": 100 + 200, "bob": 15 + 1000}
    kernel.move("10.0.0.1", 7)
    watch = Watch(ledger, kernel, [], UserMap(str(path)))  # the next program, which is given another map
    belongs(path, alice="10.0.0.1", carol="10.0.0.2, 10.0.0.3")
    watch = Watch(ledger, kernel, [], UserMap(str(path)))
    step(AT + 180, 0, 0, 3)
    step(AT + 240, 20, 30, 40)
    found = used(ledger, "user")
    assert found == {"alice": 300 + 7 + 20, "bob": 1015, "carol": 3 + 30 + 40}
    assert sum(found.values()) == sum(used(ledger, "host").values())
    assert {p: c.rx_bytes for p, c in watch.places.items() if c.rx_bytes}["carol", "10.0.0.3"] >= 43


def test_what_stands_still_is_not_written_and_no_gap(ledger: Ledger, tmp_path: Path) -> None:
    """An idle hour, then something moves: it moved just now, not during the hour."""
    kernel = Kernel()
    watch = Watch(ledger, kernel, [], UserMap(None), every_s=60)
    watch.step(AT)
    kernel.move("10.0.0.1", 10)
    watch.step(AT + 60)
    watch.flush()
    writes: list[int] = []
    read = ledger.read
    ledger.read = lambda readings, every_s=None: (
        writes.append(len(list(readings))),
        read(readings, every_s),
    )[1]  # type: ignore[method-assign, func-returns-value]
    for n in range(2, 60):
        watch.step(AT + 60 * n)
        watch.flush()
    assert set(writes) == {0}
    kernel.move("10.0.0.1", 600)
    watch.step(AT + 3600)
    watch.flush()
    assert writes[-1] == 2  # where it stood a minute ago, and where it stands
    rows = history(ledger, "minute", AT, AT + 4000, Selection("netfilter", "host", ("10.0.0.1",)))
    assert [(r.time, r.rx_bytes) for r in rows] == [(AT, 10), (AT + 3540, 600)]
    assert gaps(ledger, 0, AT + 4000) == []
    watch.flush(True)
    assert writes[-1] == 2  # all others
    kernel.move("10.0.0.2", 60)
    watch.step(AT + 7200)  # nobody read for an hour
    watch.flush()
    assert [(g.since, g.until, g.subjects) for g in gaps(ledger, 0, AT + 9000)] == [(AT + 3600, AT + 7200, 2)]


def test_several_readings_in_a_second(ledger: Ledger) -> None:
    """A counter moves, is written, moves again and is gone, or begins anew, all within the ledger's second:
    nothing is lost.
    """
    kernel = Kernel()
    watch = Watch(ledger, kernel, [], UserMap(None))
    watch.step(AT)
    for size in (10, 7):
        kernel.move("10.0.0.1", size)
        kernel.move("10.0.0.2", size)
        watch.step(AT + 1)
        watch.flush()
    stands = kernel.stands.pop("10.0.0.1")  # a rule is deleted
    kernel.stands["10.0.0.2"] = Counters(3, 0, 1, 0)  # another zeroed
    watch.step(AT + 1)
    watch.flush()
    watch.step(AT + 2)
    watch.flush()
    assert stands.rx_bytes == 17 and used(ledger, "host") == {"10.0.0.1": 17, "10.0.0.2": 17 + 3}
