"""Records in, sums out: exact, whatever comes twice, late, or through a kill."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.cleanup import Retention, cleanup, retain
from replaykit.ledger.history import Gap, gaps, history, spans, subjects, totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger, Written
from replaykit.records.usage import Reading, Usage
from replaykit.reporting import usage as shown
from replaykit.reporting.usage_page import as_html
from tests.ledger.conftest import BERLIN, NOON, stands, used

DAY = 86_400


def whole(
    ledger: Ledger, since: int = 0, until: int = 4 * 10**9, **selection: str
) -> dict[str, tuple[int, int]]:
    return {
        s.subject: (s.rx_bytes, s.tx_bytes) for s in totals(ledger, since, until, Selection(**selection)).sums
    }  # type: ignore[arg-type]


def test_a_record_written_twice_counts_once(ledger: Ledger) -> None:
    record = used("30009", NOON, 10, 20)
    assert ledger.write([record, record]) == Written(new=1, repeated=1)
    assert ledger.write([record]) == Written(repeated=1)
    assert ledger.write([used("30009", NOON, 15, 20)]) == Written(changed=1)  # the bucket has grown
    assert ledger.write([used("30009", NOON, 1, 2, source="another host")]) == Written(new=1)
    assert whole(ledger) == {"30009": (16, 22)}
    for period in calendar.PERIODS:
        (row,) = history(ledger, period, NOON, NOON + 60)
        assert (row.rx_bytes, row.tx_bytes, row.bytes) == (16, 22, 38)


record_lists = st.lists(
    st.builds(
        used,
        st.sampled_from(["a", "b", "c"]),
        st.integers(NOON // 60 - 3 * 1440, NOON // 60 + 3 * 1440).map(lambda m: m * 60),
        st.integers(0, 10**12),
        st.integers(0, 10**12),
        source=st.sampled_from(["", "x"]),
        requests=st.integers(0, 5),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record_lists, st.sampled_from([BERLIN, "Asia/Kathmandu", "Australia/Lord_Howe"]), st.randoms())
def test_any_order_any_repeats_any_window(records: list[Usage], zone: str, chance: random.Random) -> None:
    ledger = Ledger("sqlite://", zone)
    sent = records + chance.sample(records, len(records) // 2)
    while sent:
        cut = chance.randint(1, len(sent))
        ledger.write(sent[:cut])
        sent = sent[cut:]
    truth: dict[tuple[str, str, int], Usage] = {}
    sent = [*records]
    ledger.write(sent)  # the last version of each
    for record in sent:
        truth[record.subject, record.source, record.time] = record
    low, high = sorted(chance.choices(range(NOON // 60 - 4400, NOON // 60 + 4400), k=2))
    since, until = low * 60, high * 60
    for name in ("a", "b", "c"):
        wanted = sum(r.rx_bytes for r in truth.values() if r.subject == name and since <= r.time < until)
        assert whole(ledger, since, until).get(name, (0, 0))[0] == wanted
    edges = [since, *(chance.randint(low, high) * 60 for _ in range(3)), until]
    parts = sorted(edges)
    split = sum(sum(v[1] for v in whole(ledger, a, b).values()) for a, b in itertools.pairwise(parts))
    assert split == sum(v[1] for v in whole(ledger, since, until).values())
    for period in calendar.PERIODS:
        rows = history(ledger, period, 0, 4 * 10**9, by="all")
        assert sum(r.requests for r in rows) == sum(r.requests for r in truth.values())
        assert [r.time for r in rows] == [calendar.floor(period, r.time, ledger.zone) for r in rows]
    ledger.close()


def test_a_month_is_one_bucket(ledger: Ledger) -> None:
    since, until = (calendar.moment(t, ledger.zone) for t in ("2026-03-01", "2026-05-01"))
    assert spans(ledger, since, until) == [("month", since, until)]
    inside = spans(ledger, since + 60, until + 60)
    assert [p for p, _, _ in inside] == ["minute", "hour", "day", "month", "minute"]
    assert inside[0][1] == since + 60 and all(a[2] == b[1] for a, b in itertools.pairwise(inside))


def test_asked_by_label_and_glob(ledger: Ledger) -> None:
    ledger.write(
        [
            used("30009", NOON, 1, labels={"client": "home", "mode": "tcp"}),
            used("30010", NOON, 2, labels={"client": "home"}),
            used("40000", NOON, 4, labels={"client": "office"}),
            used("home", NOON, 3, subject_kind="client"),
            used("GET /files/[id]", NOON, 8, vantage="wire", subject_kind="endpoint"),
        ]
    )
    asked = Selection("forwarder", "mapping", labels={"client": ("ho*",)})
    assert {s.name for s in subjects(ledger, asked)} == {"30009", "30010"}
    by = totals(ledger, 0, 4 * 10**9, Selection("forwarder", "mapping"), by="label:client").sums
    assert {(s.subject, s.rx_bytes) for s in by} == {("office", 4), ("home", 3)}
    assert [
        s.rx_bytes for s in totals(ledger, 0, 4 * 10**9, Selection("forwarder", "mapping"), by="all").sums
    ] == [7]
    assert set(whole(ledger, kind="mapping")) == {"30009", "30010", "40000"}
    few = totals(ledger, 0, 4 * 10**9, Selection(names=("3*",), exclude=("30010",))).sums
    assert [s.subject for s in few] == ["30009"]
    assert [s.name for s in subjects(ledger, Selection(names=("GET /files/[id]",)))] == ["GET /files/[id]"]
    with pytest.raises(UsageError, match="label:NAME"):
        totals(ledger, 0, 1, by="colour")
    ledger.write([used("30009", NOON, 1, labels={"client": "office"})])
    assert {s.name for s in subjects(ledger, Selection(labels={"client": ("office",)}))} == {"30009", "40000"}


def test_counters_that_are_reset(ledger: Ledger) -> None:
    at = [NOON + 60 * n for n in range(9)]
    ledger.read([stands("alice", at[0], 1000, 50)])  # where it begins
    ledger.read([stands("alice", at[1], 1500, 70)])
    ledger.read([stands("alice", at[1], 1500, 70)])  # a repeat
    ledger.read([stands("alice", at[2], 100, 80)])  # rx was reset
    ledger.read([stands("alice", at[3], 300, 90, epoch="boot 2")])  # both were, though neither went back
    ledger.read([stands("alice", at[0], 9999, 9999)])  # late
    assert whole(ledger) == {"alice": (500 + 100 + 300, 20 + 10 + 90)}
    ledger.read(
        [stands("bob", at[4], 7, 8, fresh=True), stands("bob", at[4], 1, 1, counter="second", fresh=True)]
    )
    ledger.read([stands("bob", at[4] + 5, 9, 8), stands("bob", at[4] + 5, 1, 4, counter="second")])
    assert whole(ledger)["bob"] == (10, 12)
    again = Ledger(ledger.database.url.render_as_string(), BERLIN)  # what they stood at outlives the process
    again.read([stands("alice", at[5], 310, 95, epoch="boot 2")])
    assert whole(again)["alice"] == (910, 125)
    again.close()


def test_what_a_counter_moved_is_spread_over_the_time_between(ledger: Ledger) -> None:
    """At an hour's edge each side gets its part, and what missed polls hid is no spike; sums stay exact."""
    hour = NOON - NOON % 3600
    ledger.read([stands("vm", hour - 45, 0, 0)])
    ledger.read([stands("vm", hour + 15, 1001, 2)])  # 45 s before the hour, 15 s after
    assert [(r.time, r.rx_bytes) for r in history(ledger, "hour", hour - 3600, hour + 3600)] == [
        (hour - 3600, 750),
        (hour, 251),
    ]
    ledger.read([stands("vm", hour + 15 + 600, 7001, 2)])  # ten minutes in which nobody asked
    minutes = history(ledger, "minute", hour + 60, hour + 600)
    assert [r.rx_bytes for r in minutes] == [600] * 9 and whole(ledger)["vm"] == (7001, 2)
    ledger.read([stands("vm", hour + 40 * 86_400, 8_007_001, 2)])  # and forty days
    assert whole(ledger)["vm"] == (8_007_001, 2)
    days = [r.rx_bytes for r in history(ledger, "day", hour + 86_400, hour + 39 * 86_400)]
    assert len(days) == 39 and max(days) - min(days) < 20_000


def test_where_readings_are_missing_is_kept(ledger: Ledger) -> None:
    """Three in a row and two minutes; a counter that began anew since is not missed before its begin."""
    at = NOON - NOON % 3600
    for time_, size in ((0, 0), (60, 10), (170, 20), (300, 30), (2100, 9_000_030)):
        ledger.read([stands("vm", at + time_, size), stands("always", at + time_, size)], every_s=40)
    ledger.read([stands("vm", at + 9000, 7, epoch="2", began=at + 8950)], every_s=40)  # it was off
    ledger.read([stands("always", at + 2130, 9_000_040)], every_s=40)
    ledger.read([stands("always", at + 3000, 9_000_050)])  # nobody says how often
    assert gaps(ledger, 0, at + 10**6) == [
        Gap(at + 170, at + 300, 2, "always"),
        Gap(at + 300, at + 2100, 2, "always"),
    ]
    assert gaps(ledger, at + 299, at + 300, Selection(names=("vm",))) == [Gap(at + 170, at + 300, 1, "vm")]
    minutes = history(ledger, "minute", at + 8940, at + 9060, Selection(names=("vm",)))
    assert [(r.time - at, r.rx_bytes) for r in minutes] == [(8940, 7)]
    ledger.read([stands("vm", at + 20_000, 7, epoch="2")], every_s=40)  # nothing moved: unknown all the same
    assert gaps(ledger, at + 10_000, at + 11_000) == [Gap(at + 9000, at + 20_000, 1, "vm")]
    cleanup(ledger, Selection(names=("vm",)), at, at + 3600)
    assert [g.subject for g in gaps(ledger, 0, at + 3600)] == ["always", "always"]
    retain(ledger, Retention(), at + 500 * 86_400)
    assert gaps(ledger, 0, at + 10**6) == []


def test_a_report_marks_what_was_not_read(ledger: Ledger) -> None:
    at = NOON - NOON % 3600
    ledger.read([stands("vm", at, 0)], 10)
    for n in range(1, 20):
        if not 5 < n < 12:
            ledger.read([stands("vm", at + 60 * n, n * 6_000_000)], 10)
    rows, missing = history(ledger, "minute", at, at + 1200), gaps(ledger, at, at + 1200)
    assert shown.unread(rows, missing) == {at + 60 * n for n in range(5, 12)}
    assert {r.rx_bytes for r in rows} == {6_000_000}
    said = "no readings from 2026-03-29 13:05 to 13:12 (vm): shown evenly"
    assert shown.in_words(missing, ledger.zone) == [said]
    page = as_html(rows, ledger.zone, "minute", "both", "t", False, missing)
    assert (
        f"<p>{said}</p>" in page and page.count('"decal": {') == 14
    )  # received and sent of the one there is
    assert json.loads(shown.as_json(rows, ledger.zone, {}, missing))["gaps"] == [
        {
            "since": "2026-03-29T13:05:00+02:00",
            "until": "2026-03-29T13:12:00+02:00",
            "subjects": 1,
            "subject": "vm",
        }
    ]
    assert shown.as_png(rows, ledger.zone, "minute", "both", "t", True, missing)[:4] == b"\x89PNG"
    caption = str(shown.table(rows, ledger.zone, "minute", "both", missing).caption)
    assert caption.splitlines() == [said, f"times: {ledger.zone}"]


def test_wrong_records_are_refused_whole(ledger: Ledger) -> None:
    for wrong in (
        used("x", NOON, -1),
        used("", NOON),
        used("x", -60),
        used("x", NOON, seconds=0),
        used("x", NOON, 2**63),
        used("y" * 5000, NOON),
    ):
        with pytest.raises(UsageError, match="usage of forwarder"):
            ledger.write([used("fine", NOON, 1), wrong])
    assert whole(ledger) == {}


def test_its_file_and_its_zone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "usage.db"
    ledger = Ledger(f"sqlite:///{path}", BERLIN)
    ledger.write([used("a", NOON, 1)])
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}
    ledger.close()
    assert Ledger(f"sqlite:///{path}").time_zone == BERLIN
    with pytest.raises(UsageError, match="days begin in Europe/Berlin"):
        Ledger(f"sqlite:///{path}", "UTC")
    for url, said in (
        ("nonsense", "no URL"),
        ("oracle://h/x", "there are sqlite"),
        (f"sqlite:///{tmp_path}", "directory"),
        ("sqlite:////proc/x/y.db", "proc"),
        ("postgresql://me:hidden@127.0.0.1:1/x", "127.0.0.1"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            Ledger(url)
        assert "hidden" not in str(error.value)
    (tmp_path / "text.db").write_text("this is no database, " * 99)
    with pytest.raises(UsageError, match="not a database"):
        Ledger(f"sqlite:///{tmp_path / 'text.db'}")


def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    import sqlite3

    url = f"sqlite:///{tmp_path / 'usage.db'}"
    Ledger(url).close()
    with sqlite3.connect(tmp_path / "usage.db") as connection:
        connection.execute("UPDATE ledger_version SET version_num = '9999'")
    with pytest.raises(UsageError, match="newer than this replaykit"):
        Ledger(url)


@pytest.mark.slow
def test_kill_9_a_hundred_times(tmp_path: Path) -> None:
    """Totals are what was flushed last, or one flush more: never less, never twice."""
    url = f"sqlite:///{tmp_path / 'usage.db'}"
    Ledger(url, "UTC").close()
    chance = random.Random(7)
    known = 0
    for run in range(100):
        receive, send = os.pipe()
        child = os.fork()
        if not child:
            try:
                writer, size = Ledger(url), 0
                for flush in range(100_000):
                    size += 1 + flush % 7
                    record = [used(str(n), NOON, size, source=f"run {run}") for n in range(5)]
                    os.write(send, f"{size} ".encode())
                    writer.write(record)
                    os.write(send, b"done ")
            finally:
                os._exit(1)
        os.close(send)
        first = os.read(receive, 5)  # it has begun
        time.sleep(chance.random() * 0.06)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = first
        while piece := os.read(receive, 65_536):
            said += piece
        os.close(receive)
        words = said.decode().split()
        sizes = [int(w) for w in words if w != "done"]
        flushed = sizes[words.count("done") - 1] if "done" in words else 0
        ledger = Ledger(url)
        there = whole(ledger)
        for period in calendar.PERIODS:
            assert {s.subject: (s.rx_bytes, 0) for s in history(ledger, period, 0, 4 * 10**9)} == there
        ledger.close()
        values = set(there.values()) or {(0, 0)}
        assert len(values) == 1  # a flush is whole
        (value,) = values
        assert value[0] - known in (flushed, sizes[-1])
        known = value[0]
    assert known > 0


def test_every_bucket_of_a_range_is_there(ledger: Ledger) -> None:
    """With nothing moved, with no readings, and the one that is not over."""
    from replaykit.ledger.history import buckets

    begin = calendar.moment("2026-10-24T08:00", ledger.zone)
    ledger.read([Reading(begin, "hypervisor", "machine", "vm", {}, 0)], 60)
    ledger.read([Reading(begin + 60, "hypervisor", "machine", "vm", {}, 600)], 60)
    ledger.read(
        [Reading(begin + 2 * 3600 + 60, "hypervisor", "machine", "vm", {}, 7800)], 60
    )  # two hours later
    now = begin + 2 * 3600 + 60
    missing = gaps(ledger, begin, now + 1, now=now)
    assert [tuple(b) for b in buckets(ledger, "hour", begin, now + 1, missing, now)] == [
        (begin, begin + 3600, 3600, 60, 3540),
        (begin + 3600, begin + 7200, 3600, 0, 3600),
        (begin + 7200, begin + 10_800, 60, 0, 60),
    ]
    # Nobody has read since: the gap lasts, and the rate is of the time that was read.
    now += 3600
    missing = gaps(ledger, begin, now + 1, now=now)
    assert missing[-1][:2] == (now - 3600, now + 1)
    last = buckets(ledger, "hour", begin, now + 1, missing, now)[-2:]
    assert [(b.seconds, b.covered_seconds, b.gap_seconds) for b in last] == [(60, 0, 3600), (1, 0, 60)]
    assert gaps(ledger, begin, now + 1)[-1].until == now - 3600
