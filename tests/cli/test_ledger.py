"""`export` and `cleanup` as a person uses them."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from replaykit.ledger import calendar
from replaykit.ledger.store import Ledger
from tests.ledger.conftest import BERLIN, used
from tests.mutate import Packet, write
from tests.talk import Talk

pytestmark = pytest.mark.slow  # each runs the command some times


@pytest.fixture
def place(tmp_path: Path) -> Path:
    ledger = Ledger(f"sqlite:///{tmp_path / 'usage.db'}", BERLIN)
    start = calendar.moment("2026-10-24", ledger.zone)
    ledger.write(
        used(name, start + hour * 3600, size, 2 * size, labels={"client": client}, connections=1)
        for hour in range(49)  # two days, one of 25 hours
        for name, size, client in (
            ("30009", 1_000_000, "home"),
            ("30010", 3_000_000, "office"),
            ("<b>&$x", 7, "home"),
        )
    )
    ledger.close()
    return tmp_path / "usage.db"


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "replaykit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        input=text,
    )


SPAN = ("--since", "2026-10-24", "--until", "2026-10-26")


def test_export(place: Path, tmp_path: Path) -> None:
    done = run("export", str(place), *SPAN)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("2026")] == ["2026-10-24", "2026-10-25"]
    assert "75.0%" in lines[1] and "216 MB" in lines[1] and "144 MB" in lines[1]
    rows = list(
        csv.DictReader(
            run("export", str(place), *SPAN, "--format", "csv", "--subject", "30009").stdout.splitlines()
        )
    )
    assert [(r["time"], r["rx_bytes"]) for r in rows] == [
        ("2026-10-24T00:00:00+02:00", "24000000"),
        ("2026-10-25T00:00:00+02:00", "25000000"),
    ]
    found = json.loads(
        run(
            "export", str(place), *SPAN, "--format", "json", "--period", "total", "--by", "label:client"
        ).stdout
    )
    assert {r["subject"]: r["connections"] for r in found["rows"]} == {"home": 98, "office": 49}
    assert found["time_zone"] == BERLIN and found["until"] == "2026-10-26T00:00:00+01:00"
    hours = json.loads(
        run("export", str(place), *SPAN, "--format", "json", "--period", "hour", "--top", "1").stdout
    )["rows"]
    assert len(hours) == 49 and {r["subject"] for r in hours} == {"30010"}


def test_pictures(place: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    done = run("export", str(place), *SPAN, "--format", "html", "--output", str(page), "--dark")
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "&lt;b&gt;&amp;$x" in text and "\\u003cb\\u003e\\u0026$x" in text and "<b>&" not in text
    outside = text.replace((resources.files("replaykit") / "web/static/vendor/echarts.js").read_text(), "")
    assert len(outside) < len(text) and "http" not in outside and "<link" not in outside
    assert "src=" not in outside and page.stat().st_mode & 0o777 == 0o600
    assert run("export", str(place), *SPAN, "--format", "png", "--output", str(picture)).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_cleanup(place: Path) -> None:
    day = ("--subject", "30009", "--since", "2026-10-24", "--until", "2026-10-25")
    plan = run("cleanup", str(place), *day, "--dry-run")
    assert (
        plan.returncode == 0
        and "72.0 MB of 1 subjects" in plan.stdout
        and "24 minutes, 24 hours, 1 days, 0 months" in plan.stdout
    )
    unasked = run("cleanup", str(place), *day)
    assert unasked.returncode == 2 and "--yes" in unasked.stderr

    def days() -> list[str]:
        return run("export", str(place), *SPAN, "--format", "csv", "--subject", "30009").stdout.splitlines()[
            1:
        ]

    assert len(days()) == 2
    done = run("cleanup", str(place), *day, "--yes")
    assert done.returncode == 0 and done.stdout == plan.stdout + "deleted\n"
    assert len(days()) == 1
    kept = run("cleanup", str(place), "--keep-minutes", "1d", "--keep-hours", "2d")
    assert kept.returncode == 0 and "minutes" in kept.stdout
    assert len(days()) == 1
    assert run("cleanup", str(place), "--all", "--yes", "--quiet").stdout == ""
    assert days() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "nowhere.db"), "no such ledger"),
        (("export", "{place}", "--since", "today"), "'today' is no time"),
        (("export", "{place}", "--since", "2026-11-02", "--until", "2026-11-01"), "ends before it begins"),
        (("export", "{place}", "--by", "colour"), "label:NAME"),
        (("export", "{place}", "--label", "client"), "NAME=GLOB"),
        (("export", "{place}", "--output", "/proc/x/y.csv", "--format", "csv"), "/proc/x/y.csv: cannot be written"),  # noqa: E501
        (("export", "oracle://h/x"), "there are sqlite://"),
        (("cleanup", "{place}"), "say what is to be deleted"),
        (("cleanup", "{place}", "--before", "2026-01-01", "--all"), "one of these"),
        (("cleanup", "{place}", "--keep-minutes", "9"), "no duration"),
        (("cleanup", "{place}", "--keep-minutes", "9d", "--keep-hours", "2d"), "minutes may not be kept longer"),  # noqa: E501
    ],
)  # fmt: skip
def test_wrong_use(place: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(*(a.format(place=place) for a in arguments))
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


RULES = """
rules:
  - { name: quota, kind: mapping, subjects: ["300*"], period: day, limit: 100MB, actions: [block] }
  - { name: much, period: day, limit: 1TB, actions: [{ command: [touch, SAID] }] }
"""


def test_rules(place: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.replace("SAID", str(tmp_path / "said")))
    both = ("--rules", str(rules), "--ledger", str(place))
    done = run("rules", "check", "--rules", str(rules))
    assert done.stdout.splitlines() == ["quota: 100 MB in a day", "much: 1.00 TB in a day"]
    done = run("rules", "explain", "300*", *both, "--at", "2026-10-25T20:00")
    assert "used 198 MB of 100 MB (198%)" in done.stdout
    assert done.stdout.count("=> block by quota; until 2026-10-26T00:00:00+01:00") == 1
    assert run("rules", "run", *both, "--once").stdout == ""  # today nobody used anything
    for arguments, said in (
        (("explain", "nobody", *both), "no such subject"),
        (("explain", *both), "name the subject"),
        (("check",), "give --rules"),
        (("log",), "give --ledger"),
        (("check", "--rules", str(place)), "cannot be read"),
    ):
        wrong = run("rules", *arguments)
        assert wrong.returncode == 2 and said in wrong.stderr and "Traceback" not in wrong.stderr, (
            wrong.stderr
        )


def test_rules_that_act_on_what_is_used_now(tmp_path: Path) -> None:
    import time

    place, rules = tmp_path / "usage.db", tmp_path / "rules.yaml"
    ledger = Ledger(f"sqlite:///{place}", BERLIN)
    ledger.write([used("30009", int(time.time()) // 60 * 60, 2 * 10**12)])
    ledger.close()
    rules.write_text(RULES.replace("SAID", str(tmp_path / "said")))
    both = ("--rules", str(rules), "--ledger", str(place))
    dry = run("rules", "run", *both, "--once", "--dry-run")
    assert "30009: block would" in dry.stdout and not (tmp_path / "said").exists()
    done = run("rules", "log", "--ledger", str(place), "--format", "json")
    assert [(e["action"], e["outcome"]) for e in json.loads(done.stdout)] == [
        ("block", "would"),
        ("command", "would"),
    ]
    assert "would" in run("rules", "log", "--ledger", str(place)).stdout
    assert json.loads(run("rules", "effects", "--ledger", str(place), "--format", "json").stdout) == []


def test_exchanges_into_a_ledger(tmp_path: Path) -> None:
    """The same file twice counts once, and the sums are those of the report."""
    from samples.make import OUT

    url = f"sqlite:///{tmp_path / 'usage.db'}"
    for _ in range(2):
        done = run("exchanges", str(OUT), "--quiet", "--to", url)
        assert done.returncode == 0, done.stderr
    report = json.loads(run("report", str(OUT), "--format", "json", "--quiet").stdout)
    rows = json.loads(
        run(
            "export",
            str(tmp_path / "usage.db"),
            "--since",
            "2020-01-01",
            "--period",
            "total",
            "--format",
            "json",
        ).stdout
    )["rows"]
    assert {r["subject"]: (r["requests"], r["rx_bytes"], r["tx_bytes"]) for r in rows} == {
        r["endpoint"]: (r["requests"], r["request_wire_bytes"], r["response_wire_bytes"])
        for r in report["rows"]
    }
    assert {(r["vantage"], r["subject_kind"]) for r in rows} == {("wire", "endpoint")}


def test_a_cleanup_of_nothing_says_so(place: Path) -> None:
    for chosen in (("--kind", "machine"), ("--subject", "nobody")):
        done = run("cleanup", str(place), "--all", *chosen, "--yes")
        assert done.returncode == 1 and "nothing is deleted" in done.stderr
    done = run("cleanup", str(place), "--before", "2001-01-01", "--yes")
    assert done.returncode == 0 and "nothing is deleted" in done.stderr, done
    assert run("cleanup", str(place), "--all", "--subject", "30009", "--yes").returncode == 0


def test_a_long_download_counts_in_the_minutes_in_which_it_moved(tmp_path: Path) -> None:
    """Of a file, too: of its four kB a minute, none is put where the download began."""
    talk = Talk().open().client(b"GET /long HTTP/1.1\r\nHost: h\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
    for _ in range(4):
        talk.server(b"x" * 1000)
    begun = 1_792_800_000 * 10**9
    packets = [
        Packet(begun + n * 10**6 + max(n - 5, 0) * 60 * 10**9, p.link, p.orig, p.data)
        for n, p in enumerate(talk.close().packets)
    ]
    capture, usage = tmp_path / "a.pcap", tmp_path / "usage.db"
    capture.write_bytes(write(packets))
    assert run("exchanges", str(capture), "--quiet", "--to", f"sqlite:///{usage}").returncode == 0
    with sqlite3.connect(usage) as database:
        found = database.execute(
            "select time, requests, tx_bytes from ledger_minute order by time"
        ).fetchall()
    first = begun // 10**9
    assert [(time - first, size) for time, _, size in found if size] == [
        (0, 1041),
        (60, 1000),
        (120, 1000),
        (180, 1000),
    ]
    assert sum(requests for _, requests, _ in found) == 1
