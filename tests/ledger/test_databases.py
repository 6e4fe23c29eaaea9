"""The same records into SQLite, PostgreSQL and MariaDB: the same answers, byte for byte."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ci.servers import mariadb, postgresql
from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.cleanup import DAY_S, Retention, cleanup, retain
from replaykit.ledger.files import open_url
from replaykit.ledger.history import history, subjects, totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Usage
from replaykit.vantages.forwarder.keys import make
from tests.conftest import needs
from tests.ledger.conftest import BERLIN, NOON, stands, used
from tests.target import until
from tests.vantages.hypervisor.pve import Cluster, Guest, pve
from tests.vantages.hypervisor.test_machines import configured

EVER = 4 * 10**9


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    needs("pg_ctlcluster", "mariadbd")
    root = tmp_path_factory.mktemp("databases")
    with postgresql(root / "postgresql") as one, mariadb(root / "mariadb") as two:
        yield [f"sqlite:///{root / 'usage.db'}", one, two, f"files:{root / 'files'}"]


def answers(ledger: Ledger) -> list[Any]:
    """All that can be asked."""
    found: list[Any] = [history(ledger, p, 0, EVER) for p in calendar.PERIODS]
    found += [totals(ledger, NOON - 5 * DAY_S + 60 * n, NOON + 5 * DAY_S - 3600 * n) for n in range(4)]
    found += [
        subjects(ledger),
        totals(ledger, 0, EVER, Selection(labels={"client": ("Ä*",)}), by="label:client"),
    ]
    return found


def test_all_databases_answer_alike(urls: list[str]) -> None:
    chance = random.Random(3)
    names = ["30009", "GET /Käse", "GET /käse", "get /kase", "GET /kase ", "🐵", "x" * 4000]
    records = [
        used(
            chance.choice(names),
            NOON + 60 * chance.randint(-5000, 5000),
            chance.randint(0, 2**40),
            chance.randint(0, 9),
            labels={"client": chance.choice(["Ä", "ä"])},
            source=chance.choice(["", "a"]),
            connections=1,
        )
        for _ in range(1500)
    ]
    given: list[list[Any]] = []
    for url in urls:
        ledger = open_url(url, BERLIN)
        for part in range(0, len(records), 400):
            ledger.write(records[part : part + 400])
            ledger.write(records[max(0, part - 100) : part + 100])
        ledger.read([stands("alice", NOON, 5, 5)])
        ledger.read([stands("alice", NOON + 60, 2**41, 1)])
        found = [answers(ledger)]
        found.append(
            [cleanup(ledger, Selection(names=("GET*",)), NOON - DAY_S, NOON + 1800), answers(ledger)]
        )
        found.append(
            [retain(ledger, Retention(minute=DAY_S, hour=3 * DAY_S), NOON + 4 * DAY_S), answers(ledger)]
        )
        given.append(found)
        ledger.close()
    assert {s.name for s in given[0][0][8]} == {*names, "alice"}
    assert given[0] == given[1] == given[2] == given[3]


def test_many_writers_at_once(urls: list[str]) -> None:
    """Each from its own connection, all of the same subjects, some of them new."""
    for url in urls:
        troubles: list[Exception] = []

        def write(url: str, source: str, troubles: list[Exception]) -> None:
            try:
                ledger = open_url(url)
                for n in range(20):
                    rows: list[Usage] = [
                        used(
                            f"s{(n * 7 + m) % 40}",
                            NOON + 30 * DAY_S + 60 * n,
                            1,
                            0,
                            source=source,
                            vantage="many",
                        )
                        for m in range(25)
                    ]
                    ledger.write(rows)
                ledger.close()
            except Exception as error:
                troubles.append(error)

        threads = [threading.Thread(target=write, args=(url, f"w{n}", troubles)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert troubles == [], url
        ledger = open_url(url)
        for period in calendar.PERIODS:
            rows = history(ledger, period, 0, EVER, Selection("many"), by="all")
            assert sum(r.rx_bytes for r in rows) == 4 * 20 * 25, (url, period)
        ledger.close()


def test_opened_for_the_first_time_by_several(tmp_path: Path) -> None:
    troubles: list[Exception] = []

    def use() -> None:
        try:
            Ledger(f"sqlite:///{tmp_path / 'usage.db'}", "UTC").close()
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []


@pytest.mark.parametrize("number", [1, 2])
def test_machines_on_a_server(urls: list[str], number: int, tmp_path: Path) -> None:
    """pve-traffic-monitor's own storage lines; killed amid it, nothing counts twice and the limit is known
    again.
    """
    url = sa.make_url(urls[number])
    place, who = f"{url.host}:{url.port}", f"{url.username}:{url.password}"
    storage = (
        {
            "type": "postgres",
            "dsn": (
                f"host={url.host} port={url.port} user={url.username} password={url.password} dbname=usage"
            ),
        }
        if number == 1
        else {"type": "mysql", "dsn": f"{who}@tcp({place})/usage?charset=utf8mb4&parseTime=True&loc=Local"}
    )
    make(tmp_path, ["127.0.0.1"], ["x"])
    guest = Guest(name="web", config={"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"})
    name, log = str(7000 + number), tmp_path / "log"
    with pve(tmp_path, Cluster({int(name): guest})) as port:
        path = configured(tmp_path, tmp_path, port)
        config = {**json.loads(path.read_text()), "storage": storage}
        config["rules"] = [
            {
                "name": "day",
                "enabled": True,
                "period": "day",
                "limit_gb": 1,
                "action": "rate_limit",
                "rate_limit_mb": 10,
            }
        ]
        path.write_text(json.dumps(config))
        for moved in (2 << 30, 1 << 30):
            with log.open("w") as out:
                command = [sys.executable, "-m", "replaykit", "machines", "-config", str(path)]
                process = subprocess.Popen(command, stdout=out, stderr=out)
            try:
                until(lambda: "polls" in log.read_text(), 30, log.read_text())
                time.sleep(1.5)
                guest.netin += moved
                until(lambda: received(urls[number], name) == guest.netin, 30, log.read_text())
                if moved == 2 << 30:
                    until(lambda: "rate_limit" in log.read_text(), 30)
                assert "rate=10" in guest.config["net0"]
            finally:
                process.kill()
                process.wait(10)
        assert "rate_limit" not in log.read_text()  # it was limited already
        done = subprocess.run(
            [*command, "-export", name, "-period", "day", "-format", "json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "long-secret" not in done.stdout + done.stderr + log.read_text()
        (written,) = (tmp_path / "exports").glob(f"vm_{name}_*.json")
        assert json.loads(written.read_text())["rows"][0]["rx_bytes"] == 3 << 30


def received(url: str, name: str) -> int:
    ledger = open_url(url)
    rows = totals(ledger, 0, EVER, Selection("hypervisor", "machine", (name,))).sums
    ledger.close()
    return sum(r.rx_bytes for r in rows)


def test_a_wrong_password_is_not_shown(urls: list[str]) -> None:
    for url in urls[1:3]:
        with pytest.raises(UsageError) as error:
            Ledger(url.replace("long-secret", "wrong-secret"))
        assert "wrong-secret" not in str(error.value) and "127.0.0.1" in str(error.value)


def test_views_of_pve_traffic_monitor(urls: list[str]) -> None:
    """The same of each: bytes as they stood, a number for an id, times that are times."""
    found = []
    for url in urls:
        ledger = open_url(url, BERLIN)
        at = 1_795_000_020
        ledger.write(
            [
                used(name, at + 60 * n, 10 + n, 5, vantage="hypervisor", subject_kind="machine")
                for n in range(3)
                for name in ("100", "200@1700000000", "9a-name")
            ]
        )
        with ledger.database.reading() as connection:
            stamp = "`timestamp`" if ledger.database.kind == "mysql" else '"timestamp"'
            rows = connection.exec_driver_sql(
                "SELECT vmid, rx_bytes, total_bytes FROM traffic_records WHERE vmid IN (100, 200) ORDER BY"
                f" vmid, {stamp}"
            ).all()
            names = connection.exec_driver_sql(
                "SELECT COUNT(*) FROM traffic_records WHERE vmid IS NULL"
            ).scalar_one()
            for view in ("action_logs", "vm_states"):
                connection.exec_driver_sql(f"SELECT * FROM {view}").all()
        found.append(([tuple(map(int, r)) for r in rows], names))
        ledger.close()
    stood = [(10, 15), (21, 31), (33, 48)]
    assert found[0] == ([(vmid, *s) for vmid in (100, 200) for s in stood], 3)
    assert all(f == found[0] for f in found)
