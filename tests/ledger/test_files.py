"""A ledger in plain files: whole lines, whatever is killed, and the same answers without its index."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from replaykit.errors import UsageError
from replaykit.ledger.cleanup import DAY_S, Retention, cleanup, retain
from replaykit.ledger.files import FileLedger, folder_of
from replaykit.ledger.history import history, totals
from replaykit.ledger.selection import Selection
from tests.ledger.conftest import BERLIN, NOON, stands, used

EVER = 4 * 10**9


def lines(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        str(p.relative_to(folder)): [json.loads(line) for line in p.read_text().splitlines()]
        for p in sorted(folder.glob("*/*.jsonl"))
    }


def machine(time: int, rx: int, tx: int = 0, **more: Any) -> Any:
    return used("100", time, rx, tx, vantage="hypervisor", subject_kind="machine", **more)


def test_the_layout_of_document_004(tmp_path: Path) -> None:
    ledger = FileLedger(str(tmp_path), BERLIN)
    ledger.write([machine(NOON, 10, 5), machine(NOON + 60, 7, 1), machine(NOON + 11 * 3600, 1, 1)])
    ledger.write([machine(NOON + 60, 9, 1)])  # it has grown
    ledger.write([machine(NOON, 10, 5)])  # a repeat
    ledger.read([stands("alice/1", NOON, 5, fresh=True)])
    ledger.read([stands("alice/1", NOON + 5, 8)])
    ledger.close()
    found = lines(tmp_path)
    assert list(found) == [
        "netfilter_user_alice%2F1/traffic_2026-03-29.jsonl",
        "vm_100/traffic_2026-03-29.jsonl",
        "vm_100/traffic_2026-03-30.jsonl",
    ]
    first, second, third = found["vm_100/traffic_2026-03-29.jsonl"]
    assert {k: first[k] for k in ("vmid", "timestamp", "rx_bytes", "tx_bytes", "total_bytes")} == {
        "vmid": 100,
        "timestamp": "2026-03-29T13:00:00+02:00",
        "rx_bytes": 10,
        "tx_bytes": 5,
        "total_bytes": 15,
    }
    assert [r["total_bytes"] for r in (second, third)] == [23, 27]  # they only grow
    assert third["timestamp"] == "2026-03-29T13:01:00+02:00"
    assert (found["vm_100/traffic_2026-03-30.jsonl"][0]["rx_bytes"]) == 18
    assert [r["usage"]["rx_bytes"] for r in found["netfilter_user_alice%2F1/traffic_2026-03-29.jsonl"]] == [
        5,
        8,
    ]
    assert {p.stat().st_mode & 0o777 for p in tmp_path.glob("*/*.jsonl")} == {0o600}
    assert folder_of("wire", "endpoint", "/a/../b" + "x" * 5000) != folder_of(
        "wire", "endpoint", "/a/../b" + "x" * 5001
    )


def test_without_its_index(tmp_path: Path) -> None:
    ledger = FileLedger(str(tmp_path), BERLIN)
    chance = random.Random(2)
    for _ in range(30):
        ledger.write(
            [
                used(chance.choice("abc"), NOON + 60 * chance.randint(-3000, 3000), chance.randint(0, 99), 1)
                for _ in range(9)
            ]
        )
    ledger.read([stands("alice", NOON, 5, fresh=True)])
    before = [history(ledger, p, 0, EVER) for p in ("minute", "hour", "day", "month")]
    ledger.close()
    kept = lines(tmp_path)
    for place in tmp_path.glob(".index.db*"):
        place.unlink()
    with (tmp_path / "forwarder_mapping_a" / "traffic_2026-03-29.jsonl").open("a") as file:
        file.write('{"torn": ')
    again = FileLedger(str(tmp_path), BERLIN)
    assert [history(again, p, 0, EVER) for p in ("minute", "hour", "day", "month")] == before
    again.write([used("a", NOON + 5, 1)])  # where the torn line was
    again.close()
    now = lines(tmp_path)
    place = "forwarder_mapping_a/traffic_2026-03-29.jsonl"
    assert now.pop(place)[:-1] == kept.pop(place) and now == kept
    (tmp_path / ".index.db").unlink()
    (tmp_path / "vm_7").mkdir()
    (tmp_path / "vm_7" / "traffic_2026-03-29.jsonl").write_text("[1]\nnonsense\n")
    with pytest.raises(UsageError, match=r"vm_7/traffic_2026-03-29.jsonl:2: not a record"):
        FileLedger(str(tmp_path), BERLIN)


def test_deleting_takes_lines_away(tmp_path: Path) -> None:
    ledger = FileLedger(str(tmp_path), BERLIN)
    ledger.write(used(name, NOON + DAY_S * day, 1) for day in range(6) for name in "ab")
    cleanup(ledger, Selection(names=("a",)), NOON - 3600, NOON + 3600)
    assert sorted(p.parent.name[-1] for p in tmp_path.glob("*/traffic_2026-03-29.jsonl")) == ["b"]
    retain(ledger, Retention(minute=2 * DAY_S), NOON + 6 * DAY_S)
    assert {p.name for p in tmp_path.glob("*/*.jsonl")} == {
        "traffic_2026-04-02.jsonl",
        "traffic_2026-04-03.jsonl",
    }
    ledger.write([used("a", NOON + 5 * DAY_S + 60, 1)])
    assert {s.subject: s.rx_bytes for s in totals(ledger, 0, EVER).sums} == {"a": 6, "b": 6}
    ledger.close()
    assert sum(len(v) for v in lines(tmp_path).values()) == 5


@pytest.mark.slow
def test_kill_9_leaves_whole_lines_that_agree_with_the_index(tmp_path: Path) -> None:
    FileLedger(str(tmp_path), "UTC").close()
    chance = random.Random(3)
    for run in range(30):
        receive, send = os.pipe()
        child = os.fork()
        if not child:
            try:
                writer = FileLedger(str(tmp_path))
                for n in range(10_000):
                    writer.write(
                        [used(str(m), NOON + 60 * (n % 3), n, n, source=f"run {run}") for m in range(4)]
                    )
                    os.write(send, b".")
            finally:
                os._exit(1)
        os.close(send)
        os.read(receive, 1)
        time.sleep(chance.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(receive)
    ledger = FileLedger(str(tmp_path))
    truth = {s.subject: (s.rx_bytes, s.tx_bytes) for s in totals(ledger, 0, EVER).sums}
    ledger.close()
    last: dict[tuple[str, str, int], int] = {}
    for rows in lines(tmp_path).values():
        for row in rows:
            use = row["usage"]
            last[use["subject"], use["source"], use["time"]] = use["rx_bytes"]
        assert (rows[-1]["rx_bytes"], rows[-1]["tx_bytes"]) == truth[rows[-1]["usage"]["subject"]]
    for subject, (rx, _) in truth.items():
        assert sum(v for (s, _, _), v in last.items() if s == subject) == rx > 0
