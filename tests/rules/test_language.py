"""The language of rules: what it means, what is refused, and that files of earlier versions are read."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from replaykit.cli import alert
from replaykit.cli.options.shipping import AlertOptions
from replaykit.errors import UsageError
from replaykit.rules import alerts, limits
from replaykit.rules.actions import Action
from replaykit.rules.episodes import Watch
from replaykit.rules.language import check
from tests.rules.test_episodes import MINUTE, T0, Told

BOTH = """
time_zone: Europe/Berlin
notify:
  ops: {webhook: "http://127.0.0.1:9/ops"}
  mail: {webhook: "http://127.0.0.1:9/mail"}
rules:
  - name: much
    traffic: endpoint
    where: {endpoint: "/api/*"}
    share: 30%
    at_least: 10MB
    for: 2m
    recover: 25%
    recover_for: 5m
    silence: [{from: "22:00", to: "06:00", days: sat}]
    warn: 50%
    severity: critical
    actions: [notify: ops, webhook: "http://127.0.0.1:9/hook", sample: 50%, headers_only, disallow_url: "^/a"]
  - {name: growth, traffic: all, growth: {than: last_week, by: 50%}, recover: 20%, window: 1h}
  - {name: fast, traffic: host, rate: 10MB/s, recover: 8MB/s, window: 10m, metric: response_bytes}
  - {name: p99, traffic: all, metric: slow_share, limit: 1%}
  - {name: a month, usage: user, period: month, limit: 100GB, warn: 80%, actions: [rate_limit: 1MB/s]}
  - name: steps
    usage: all
    window: 1h
    rate: 1MB/s
    severity: page
    recover_for: 30m
    thresholds: [{at: 50%, actions: [notify: mail]}, {at: 100%, actions: [block]}]
"""


def test_what_is_about_traffic() -> None:
    rules = alerts.parse_rules(BOTH)
    assert [r.name for r in rules.rules] == ["much at 50%", "much", "growth", "fast", "p99"]
    assert rules.interval_s == 60 and rules.zone == ZoneInfo("Europe/Berlin") and not rules.earlier
    warn, much, growth, fast, slow = rules.rules
    assert (much.metric, much.by, much.share, much.at_least, much.recover) == (
        "bytes", "endpoint", 0.3, 10e6, 0.25,
    )  # fmt: skip
    assert (much.for_s, much.recover_for_s, much.severity) == (120, 300, "critical")
    assert [(s.begin, s.end, s.days) for s in much.silences] == [(time(22), time(6), {5})]
    assert much.where == {"endpoint": ("/api/*",)}
    assert much.notify == ("ops", "much: webhook 2")
    assert rules.notify["much: webhook 2"] == {"kind": "webhook", "url": "http://127.0.0.1:9/hook"}
    assert much.change == {"sample": 0.5, "headers_only": True, "disallow_url": ("^/a",)}
    assert (warn.share, warn.recover, warn.severity) == (0.15, 0.125, "warning")
    assert [r.at for r in rules.rules] == [0.5, 1, 1, 1, 1]
    assert warn.notify == ("ops", "mail") and warn.change == {} and warn.where == much.where
    assert growth.growth == alerts.Growth(("last_week",), 0.5) and growth.by is None
    assert growth.recover == 0.2 and growth.notify == ()
    assert (fast.above, fast.recover, fast.metric) == (6e9, 4.8e9, "response_bytes")
    assert (slow.above, slow.window_s) == (0.01, 300)


def test_what_is_over_the_ledger() -> None:
    rules = limits.parse_rules(BOTH)
    month, steps = rules.rules
    assert rules.interval_s == 10 and not rules.earlier and set(rules.notify) == {"ops", "mail"}
    assert (month.selection.kind, month.limit, month.period, month.hold_s) == ("user", 100e9, "month", 0)
    assert month.severity == "critical" and month.line == 22
    assert month.thresholds == (
        limits.Threshold(0.8, (Action("notify", "ops"), Action("notify", "mail"))),
        limits.Threshold(1.0, (Action("rate_limit", 1_000_000),)),
    )
    assert (steps.selection.kind, steps.rate, steps.window_s, steps.hold_s) == (None, 1e6, 3600, 1800)
    assert [t.at for t in steps.thresholds] == [0.5, 1.0] and steps.severity == "page"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("limit: 1MB", "rules[0]: say what it is about: `traffic: endpoint`"),
        ("traffic: all, usage: all, limit: 1MB", "rules[0]: say what it is about"),
        ("trafic: all, limit: 1MB", "rules[0].trafic: this key is not known here"),
        ("traffic: all", "rules[0]: give one of limit, share, rate and growth"),
        ("traffic: all, limit: 1MB, rate: 1MB/s", "give one of limit, share, rate and growth"),
        ("traffic: user, limit: 1MB", "rules[0].traffic: 'user': choose from endpoint, host"),
        ("traffic: all, share: 5%", "rules[0].share: a share of the whole that each may have"),
        ("traffic: host, metric: errors, limit: lots", "rules[0].limit: 'lots' is no number"),
        (
            "traffic: host, metric: error_share, rate: 1",
            "share, rate and growth are of sums, not of error_share",
        ),
        ("traffic: host, metric: loss, limit: 1%", "loss is the kernel's: only with `traffic: all`"),
        ("traffic: all, limit: 1MB, actions: [block]", "rules[0].actions[0]: 'block': choose from notify"),
        (
            "traffic: all, limit: 1MB, actions: [rate_limit: 1MB]",
            "actions[0].rate_limit: no such action about",
        ),
        (
            "traffic: all, limit: 1MB, actions: [sample: 2]",
            "actions[0].sample: give a share above 0 and up to 1",
        ),
        ("traffic: all, limit: 1MB, actions: notify", "rules[0].actions: notify needs a value"),
        (
            "traffic: all, limit: 1MB, actions: [notify: me]",
            "actions[0].notify: there is no 'me' under notify",
        ),
        ("traffic: all, limit: 1MB, warn: 80%", "rules[0].warn: nobody is to be told"),
        (
            "traffic: all, limit: 1, thresholds: [{at: 50%, actions: []}, {at: 0.5, actions: []}]",
            "two steps (actions, warn, thresholds) are at the same share",
        ),
        ("usage: user, limit: 1MB, period: day", "rules[0]: say what happens: actions, warn or thresholds"),
        ("usage: user, growth: {}, period: day", "rules[0].growth: this key is not known here"),
        ("usage: people, limit: 1MB, period: day, actions: [block]", "rules[0].usage: 'people': choose from"),
        ("usage: user, limit: 1MB, period: day, actions: [notify: me]", "there is no 'me' under notify"),
        (
            "usage: user, limit: 1MB, period: day, hold: 1m, actions: [block]",
            "rules[0].hold: this key is not known",
        ),
    ],
)
def test_what_is_wrong(rule: str, said: str, tmp_path: Path) -> None:
    text = f"rules:\n- {{name: other, traffic: all, limit: 1GB}}\n- {{name: r, {rule}}}\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        check(str(tmp_path / "r.yaml"))
    assert "r.yaml:3: rules[1]" in str(caught.value)
    assert said.replace("rules[0]", "rules[1]") in str(caught.value)


def test_two_rules_of_one_name() -> None:
    other = "{name: a, usage: all, limit: 1, period: day, actions: block}"
    same = f"rules: [{{name: a, traffic: all, limit: 1}}, {other}]"
    with pytest.raises(UsageError, match="there are two rules named 'a'"):
        alerts.parse_rules(same)
    step = same.replace("name: a, usage", "name: a at 50%, usage").replace(
        "limit: 1}", "limit: 1, thresholds: [{at: 50%, actions: []}]}"
    )
    with pytest.raises(UsageError, match="there are two rules named 'a at 50%'"):
        alerts.parse_rules(step)


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (
            alerts.parse_rules,
            "rules: [{name: a, usage: all, limit: 1, period: day, actions: block}]",
            "no rule about",
        ),
        (
            alerts.parse_rules,
            "rules: [{name: a, limit: 1, period: day, actions: block}]",
            "no rule about traffic",
        ),
        (limits.parse_rules, "rules: [{name: a, traffic: all, limit: 1}]", "no rule over the ledger"),
        (
            limits.parse_rules,
            "rules: [{name: a, metric: bytes, by: host, share: 5%}]",
            "no rule over the ledger",
        ),
    ],
)
def test_a_file_without_a_rule_of_the_kind_that_is_wanted(read: Any, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"^rules.yaml: there is {said}"):
        read(text)


def test_files_of_earlier_versions_are_read() -> None:
    assert alerts.parse_rules("rules: [{name: a, metric: bytes, above: 1MB}]").earlier
    assert limits.parse_rules("rules: [{name: a, limit: 1, period: day, actions: block}]").earlier
    for nothing in ("rules: []", "notify: {}\nrules: []"):
        assert alerts.parse_rules(nothing).rules == limits.parse_rules(nothing).rules == []
        assert not alerts.parse_rules(nothing).earlier and not limits.parse_rules(nothing).earlier


def test_a_step_before_the_limit_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("""
notify: {ops: {webhook: "http://127.0.0.1:9/ops"}}
rules: [{name: much, traffic: all, limit: 100B, window: 1m, warn: 50%, severity: bad, actions: [notify: ops]}]
""")
    traffic = Told({(T0 + m * MINUTE, "/a"): size for m, size in enumerate((10, 60, 120, 70, 10))})
    watch = Watch(alerts.read_rules(str(path)), traffic)
    found = [(m, e) for m in range(1, 6) for e in watch.evaluate(T0 + m * MINUTE)]
    assert [(m, e["kind"], e["rule"], e["severity"]) for m, e in found] == [
        (2, "firing", "much at 50%", "warning"),
        (3, "firing", "much", "bad"),
        (4, "resolved", "much", "bad"),
        (5, "resolved", "much at 50%", "warning"),
    ]
    assert [e["to"] for e in watch.state.outbox] == ["ops"] * 4
    path.chmod(0o600)
    assert alert.run(AlertOptions.of({"rules": str(path), "check": True})) == 0
    assert capsys.readouterr() == (f"{path}: 1 rules, 1 receivers\n", "")
