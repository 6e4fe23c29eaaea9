"""What waits to be told: its order, trying again, and giving up, for rules of both kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from replaykit.errors import UsageError
from replaykit.ledger.done import log
from replaykit.ledger.store import Ledger
from replaykit.rules import limits
from replaykit.rules.actions import Action
from replaykit.rules.alerts import parse_rules
from replaykit.rules.enforcement import Guard
from replaykit.rules.episodes import Watch
from replaykit.rules.outbox import GIVE_UP_S, Tried, Waiting, attempts
from tests.ledger.test_guard import NOON, used
from tests.rules.test_episodes import MINUTE, T0, Told


def waiting(lane: str, value: str, since: float = 0) -> Waiting:
    return Waiting(Action("notify", value), {}, since, lane)


def test_a_lane_waits_behind_what_failed() -> None:
    asked: list[str] = []

    def do(one: Waiting) -> None:
        asked.append(one.action.value)
        if one.action.value.startswith("away"):
            raise OSError("no route")
        if one.action.value.startswith("no"):
            raise ConnectionRefusedError

    all_of_it = [
        waiting("a", "first"),
        waiting("a", "away"),
        waiting("b", "second"),
        waiting("a", "not asked"),
        waiting("c", "nobody", since=1),
    ]
    found = list(attempts(all_of_it, do, GIVE_UP_S))
    assert asked == ["first", "away", "second", "nobody"]
    assert found == [
        Tried(all_of_it[0], "", True),
        Tried(all_of_it[1], "no route", True),  # it waited for a day
        Tried(all_of_it[2], "", True),
        Tried(all_of_it[4], "ConnectionRefusedError", False),
    ]


def test_word_about_traffic_is_given_up_after_a_day() -> None:
    rules = parse_rules("""
notify: {a: {webhook: "http://127.0.0.1:9"}, b: {webhook: "http://127.0.0.1:9"}}
rules: [{name: r, traffic: all, limit: 100B, window: 1m, actions: [notify: a, notify: b]}]
""")
    watch = Watch(rules, Told({(T0, "/a"): 1000}))
    watch.evaluate(T0 + MINUTE)
    watch.evaluate(T0 + 2 * MINUTE)
    heard: list[tuple[str, str]] = []

    def send(name: str, event: Mapping[str, Any]) -> None:
        if name == "a":
            raise OSError("away")
        heard.append((name, event["kind"]))

    assert watch.deliver(send, T0 + 3 * MINUTE) == ["a: away"]
    assert heard == [("b", "firing"), ("b", "resolved")]
    assert [(e["to"], e["event"]["kind"]) for e in watch.state.outbox] == [("a", "firing"), ("a", "resolved")]
    late = T0 + MINUTE + GIVE_UP_S
    assert watch.deliver(send, late - 1) == ["a: away"] and len(watch.state.outbox) == 2
    assert watch.deliver(send, late) == ["a: away", "a: given up: r firing"]
    assert watch.deliver(send, late + MINUTE) == ["a: away", "a: given up: r resolved"]
    assert watch.state.outbox == [] and watch.deliver(send, late + MINUTE) == []


def test_word_about_usage_is_given_up_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger("sqlite://", "UTC")
    rules = limits.parse_rules("""
notify: {ops: {webhook: "http://127.0.0.1:9"}}
rules:
  - {name: r, usage: all, period: month, limit: 100, severity: page, actions: [notify: ops, command: "true"]}
""")
    events: list[Any] = []

    def send(settings: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        events.append((settings["kind"], event["severity"]))
        if settings["kind"] == "webhook":
            raise UsageError("away")

    monkeypatch.setattr("replaykit.rules.notify.send", send)
    ledger.write([used("a", NOON, 900)])
    guard = Guard(ledger, rules)
    assert [(e.action, e.outcome, e.error) for e in guard.step(NOON)] == [("notify", "failed", "away")]
    assert guard.step(NOON + 1) == [] and events == [("webhook", "page")] * 2  # said once; what follows waits
    (entry,) = guard.step(NOON + GIVE_UP_S)
    assert (entry.action, entry.outcome, entry.error) == ("notify", "failed", "given up: away")
    assert [(e.action, e.outcome) for e in guard.step(NOON + GIVE_UP_S + 1)] == [("command", "done")]
    assert guard.step(NOON + GIVE_UP_S + 2) == [] and len(log(ledger)) == 3
    ledger.close()
