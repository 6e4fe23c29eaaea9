"""Rules that act: at the right time, once, undone, and through crashes at any point."""

from __future__ import annotations

import http.server
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.done import effects, log
from replaykit.ledger.selection import Subject
from replaykit.ledger.store import Ledger
from replaykit.rules.enforcement import Gone, Guard, watch
from replaykit.rules.limits import parse_rules
from tests.ledger.conftest import BERLIN, NOON, used
from tests.target import until

HOUR = 3600


class Crash(BaseException):
    """The process is gone."""


class Valve:
    """A vantage's subjects: a rate (None: none) and whether they are blocked.

    It outlives the guard, as a kernel would.
    """

    def __init__(self, **rates: int | None) -> None:
        self.state: dict[str, dict[str, Any]] = {
            n: {"rate_limit": r, "block": False} for n, r in rates.items()
        }
        self.crash = lambda: False
        self.trouble = ""
        self.calls = 0

    def _called(self, subject: Subject) -> dict[str, Any]:
        self.calls += 1
        if self.crash():
            raise Crash
        if self.trouble:
            raise UsageError(self.trouble)
        if subject.name not in self.state:
            raise Gone
        return self.state[subject.name]

    def original(self, subject: Subject, effect: str) -> Any:
        return self._called(subject)[effect]

    def enforce(self, subject: Subject, effect: str, value: Any) -> None:
        self._called(subject)[effect] = value
        if self.crash():
            raise Crash

    def holds(self, subject: Subject, effect: str, value: Any) -> bool:
        return bool(self._called(subject)[effect] == value)

    def restore(self, subject: Subject, effect: str, original: Any) -> None:
        self._called(subject)[effect] = original
        if self.crash():
            raise Crash


TWO = """
rules:
  - { name: hourly, kind: mapping, period: hour, limit: 1000, actions: [rate_limit: 500] }
  - { name: busy, kind: mapping, period: hour, limit: 1800, actions: [rate_limit: 100] }
  - { name: monthly, kind: mapping, period: month, limit: 20000, actions: [block] }
"""


def guard(ledger: Ledger, valve: Valve, text: str = TWO, **more: Any) -> Guard:
    return Guard(ledger, parse_rules(text), {"forwarder": valve}, **more)


def test_two_rules_that_end_in_any_order(ledger: Ledger) -> None:
    valve = Valve(a=9999, b=None)
    engine = guard(ledger, valve)
    ledger.write([used("a", NOON, 1500), used("b", NOON, 10)])
    assert [(e.action, e.value, e.outcome) for e in engine.step(NOON + 1)] == [("rate_limit", "500", "done")]
    assert engine.step(NOON + 2) == [] and valve.state["a"] == {"rate_limit": 500, "block": False}
    ledger.write([used("a", NOON, 30_000)])
    assert {(e.rule, e.action) for e in engine.step(NOON + 3)} == {
        ("busy", "rate_limit"),
        ("monthly", "block"),
    }
    assert valve.state["a"] == {"rate_limit": 100, "block": True}
    undone = engine.step(NOON + HOUR)  # the hour has turned, the month has not
    assert [(e.action, e.outcome) for e in undone] == [("rate_limit", "undone")]
    assert valve.state["a"] == {"rate_limit": 9999, "block": True}
    april = calendar.moment("2026-04-01", ledger.zone)
    assert engine.step(april - 1) == []
    assert [(e.rule, e.outcome) for e in engine.step(april)] == [("monthly", "undone")]
    assert valve.state == {
        "a": {"rate_limit": 9999, "block": False},
        "b": {"rate_limit": None, "block": False},
    }
    assert effects(ledger) == []
    assert [e.outcome for e in log(ledger)] == ["done", "done", "done", "undone", "undone"]
    assert "used 1.50 kB of 1.00 kB (150%)" in log(ledger)[0].reason


def test_what_somebody_changes_is_put_right(ledger: Ledger) -> None:
    valve = Valve(a=None)
    engine = guard(ledger, valve)
    ledger.write([used("a", NOON, 1500)])
    engine.step(NOON)
    valve.state["a"]["rate_limit"] = None
    (entry,) = engine.step(NOON + 10)
    assert "changed by somebody" in entry.reason and valve.state["a"]["rate_limit"] == 500
    calls = valve.calls
    engine.step(NOON + 20)
    assert valve.calls == calls + 1  # a look, and nothing is set


def test_failures_are_logged_once_and_tried_again(ledger: Ledger) -> None:
    valve = Valve(a=7)
    engine = guard(ledger, valve)
    ledger.write([used("a", NOON, 1500)])
    valve.trouble = "the kernel is busy"
    assert [(e.outcome, e.error) for e in engine.step(NOON)] == [("failed", "the kernel is busy")]
    assert engine.step(NOON + 1) == []
    valve.trouble = ""
    assert [e.outcome for e in engine.step(NOON + 2)] == ["done"]
    valve.trouble = "busy again"
    assert [e.outcome for e in engine.step(NOON + HOUR)] == ["failed"]
    assert engine.step(NOON + HOUR + 1) == [] and len(effects(ledger)) == 1
    valve.trouble = ""
    assert [e.outcome for e in engine.step(NOON + HOUR + 2)] == ["undone"] and valve.state["a"][
        "rate_limit"
    ] == 7
    ledger.write([used("a", NOON + HOUR, 1500)])
    engine.step(NOON + HOUR + 3)
    del valve.state["a"]  # deleted while it is limited
    engine.step(NOON + HOUR + 4)
    assert effects(ledger) == []


def test_a_dry_run_only_says(ledger: Ledger) -> None:
    ledger.write([used("a", NOON, 30_000)])
    valve = Valve(a=None)
    engine = guard(ledger, valve, dry_run=True)
    assert {(e.action, e.outcome) for e in engine.step(NOON)} == {("rate_limit", "would"), ("block", "would")}
    assert engine.step(NOON + 1) == [] and valve.calls == 0 and effects(ledger) == []
    one = guard(ledger, valve, TWO.replace("limit: 20000", "limit: 20000, dry_run: true"))
    assert [(e.rule, e.outcome) for e in one.step(NOON + HOUR)] == []
    assert valve.state["a"]["block"] is False


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    """A real server that answers as told (the last status stays), and what it was sent."""
    heard: list[dict[str, Any]] = []
    answers = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = answers[0] if len(answers) == 1 else answers.pop(0)
            if status == 200:
                heard.append(body)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Silence."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", heard, answers
    server.shutdown()
    server.server_close()


def test_people_are_told_once(ledger: Ledger, receiver: Any, tmp_path: Path) -> None:
    url, heard, answers = receiver
    said = tmp_path / "said"
    text = f"""
notify: {{ ops: {{ webhook: "{url}" }} }}
rules:
  - name: quota
    kind: mapping
    period: hour
    limit: 1000
    warn: 80%
    actions: [{{ notify: ops }}, block, {{ command: [sh, -c, "cat >> {said}; echo >> {said}"] }}]
"""
    valve = Valve(a=None)
    engine = guard(ledger, valve, text)
    ledger.write([used("a", NOON, 900), used("b", NOON, 100)])
    answers[:] = [500, 503, 200]
    assert [e.outcome for e in engine.step(NOON)] == ["failed"]
    assert [e.error for e in engine.step(NOON + 1)] == ["127.0.0.1 answered 503"]
    assert [(e.action, e.outcome) for e in engine.step(NOON + 2)] == [("notify", "done")]
    again = guard(ledger, valve, text)  # a restart does not tell it again
    assert again.step(NOON + 3) == []
    (first,) = heard
    assert (first["kind"], first["subject"], first["value"], first["threshold"]) == ("firing", "a", 900, 800)
    # In words: the period and threshold that are the rule's own, in the units in which it was written, in the
    # ledger's zone.
    said_of_it = "900 B since 2026-03-29 13:00, more than 80% of 1.00 kB in an hour (800 B)"
    assert first["in_words"] == said_of_it
    assert [t["endpoint"] for t in first["top"]] == ["a", "b"] and "90%" in first["reason"]
    ledger.write([used("a", NOON, 1100)])
    assert [e.action for e in again.step(NOON + 4)] == ["block", "notify", "command"]
    assert json.loads(said.read_text())["subject"] == "a"
    assert {(e.action, e.outcome) for e in again.step(NOON + HOUR)} == {
        ("block", "undone"),
        ("notify", "done"),
    }
    assert [(h["kind"], h["severity"]) for h in heard] == [
        ("firing", "warning"),
        ("firing", "critical"),
        ("resolved", "critical"),
    ]
    assert len({h["id"] for h in heard}) == 2
    ledger.write([used("a", NOON + HOUR, 1100)])
    again.step(NOON + HOUR + 1)
    assert len(heard) == 5 and len({h["id"] for h in heard}) == 4  # a new hour, a new episode


def test_rules_are_read_again_when_their_file_changes(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(TWO)
    valve = Valve(a=None)
    engine = Guard(ledger, path, {"forwarder": valve})
    said: list[str] = []
    stop = threading.Event()
    path.write_text(TWO.replace("rules:", "interval: 0.2s\nrules:"))
    assert engine.reload() is None
    import time

    ledger.write([used("a", int(time.time()) // 60 * 60, 1500)])
    thread = threading.Thread(target=watch, args=(engine, said.append, stop))
    thread.start()
    try:
        until(lambda: valve.state["a"]["rate_limit"] == 500, 10)
        path.write_text("interval: 0.2s\nrules:\n  - { name: broken }\n")
        until(lambda: any("rules.yaml:3:" in s and "not changed" in s for s in said), 10)
        assert valve.state["a"]["rate_limit"] == 500
        path.write_text("interval: 0.2s\nrules: []\n")  # the rule is deleted: what it did is undone
        until(lambda: valve.state["a"]["rate_limit"] is None, 10)
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_quarter_of_crashes(tmp_path: Path, seed: int) -> None:
    """Simulated hours over three months and a change of the clock; the process dies at any call, before or
    after it took effect, and a new one goes on. What holds is what the rules ask for, and in the end all is
    as it was."""
    chance = random.Random(seed)
    ledger = Ledger("sqlite://", BERLIN)
    originals = {"a": 9999, "b": None, "c": 50}
    valve = Valve(**originals)
    start, end = (calendar.moment(t, ledger.zone) for t in ("2026-03-20", "2026-04-08"))
    crashes = 0

    def step(now: int) -> None:
        nonlocal crashes
        while True:
            engine = guard(ledger, valve)
            valve.crash = lambda: chance.random() < 0.15
            try:
                engine.step(now)
                return
            except Crash:
                crashes += 1
            finally:
                valve.crash = lambda: False

    used_of: dict[tuple[str, str, int], int] = {}
    for now in range(start + 1800, end, HOUR):
        for name in originals:
            size = chance.choice([0, 0, 50, 900, 1200, 2000])
            at = now - now % 60
            ledger.write([used(name, at, size)])
            for period in ("hour", "month"):
                key = name, period, calendar.floor(period, at, ledger.zone)
                used_of[key] = used_of.get(key, 0) + size
        step(now)
        for name, original in originals.items():
            hour = used_of[name, "hour", calendar.floor("hour", now, ledger.zone)]
            month = used_of[name, "month", calendar.floor("month", now, ledger.zone)]
            assert valve.state[name] == {
                "rate_limit": 100 if hour > 1800 else 500 if hour > 1000 else original,
                "block": month > 20_000,
            }, (name, now)
    assert crashes > 20
    step(calendar.moment("2026-06-01", ledger.zone))
    assert valve.state == {n: {"rate_limit": r, "block": False} for n, r in originals.items()}
    assert effects(ledger) == []
    ledger.close()


def test_killed_in_a_real_process(tmp_path: Path) -> None:
    """kill -9 between what is written and what is done: the original is the one from before the first
    touch.
    """
    url = f"sqlite:///{tmp_path / 'usage.db'}"
    ledger = Ledger(url, BERLIN)
    ledger.write([used("a", NOON, 1500)])
    ledger.close()
    state = tmp_path / "state"
    state.write_text("77")

    class Tap(Valve):
        """Its state is a file."""

        def __init__(self, dies: str) -> None:
            super().__init__()
            self.dies = dies

        def original(self, subject: Subject, effect: str) -> Any:
            return int(state.read_text())

        def holds(self, subject: Subject, effect: str, value: Any) -> bool:
            return state.read_text() == str(value)

        def enforce(self, subject: Subject, effect: str, value: Any) -> None:
            if self.dies == "before":
                os._exit(9)
            state.write_text(str(value))
            if self.dies == "after":
                os._exit(9)

        def restore(self, subject: Subject, effect: str, original: Any) -> None:
            state.write_text(str(original))
            if self.dies == "restored":
                os._exit(9)

    def process(dies: str, now: int) -> int:
        child = os.fork()
        if not child:
            own = Ledger(url)
            guard(own, Tap(dies)).step(now)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    for dies, now, status, wanted in (
        ("before", NOON, 9, "77"),
        ("after", NOON, 9, "500"),
        ("", NOON, 0, "500"),
        ("restored", NOON + HOUR, 9, "77"),
        ("", NOON + HOUR, 0, "77"),
    ):
        assert process(dies, now) == status
        assert state.read_text() == wanted
    ledger = Ledger(url)
    assert effects(ledger) == []
    ledger.close()
