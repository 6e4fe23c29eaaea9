"""Rules as a file declares them, and what they say."""

from __future__ import annotations

import pytest

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.store import Ledger
from replaykit.rules.evaluate import explain, verdicts, wanted
from replaykit.rules.limits import Rule, parse_rules
from tests.ledger.conftest import NOON, used

RULES = """
notify:
  ops: { webhook: "http://127.0.0.1:1/x" }
interval: 5s
rules:
  - name: monthly
    vantage: forwarder
    kind: mapping
    subjects: ["300*"]
    exclude: ["30011"]
    labels: { client: [home, "off*"] }
    period: month
    start_day: 15
    limit: 10MB
    warn: 80%
    actions:
      - notify: ops
      - rate_limit: 1MB/s
  - name: hourly
    kind: mapping
    direction: tx
    period: hour
    limit: 1MiB
    thresholds:
      - { at: 50%, actions: [{ rate_limit: 500kB }] }
      - { at: 200%, actions: [block] }
  - name: fair
    kind: mapping
    window: 10m
    share: 60%
    actions: [{ command: [logger, replaykit] }]
  - name: calls
    metric: requests
    window: 1h
    rate: 2
    enabled: false
    dry_run: true
    actions: [block]
"""


def test_what_a_file_says() -> None:
    rules = parse_rules(RULES)
    assert rules.interval_s == 5
    monthly, hourly, fair, calls = rules.rules
    assert (monthly.limit, monthly.start_day, [t.at for t in monthly.thresholds]) == (10e6, 15, [0.8, 1.0])
    assert [a.kind for a in monthly.thresholds[1].actions] == ["notify", "rate_limit"]
    assert hourly.limit == 2**20 and hourly.thresholds[0].actions[0].value == 500_000
    assert fair.hold_s == fair.window_s == 600 and hourly.hold_s == 0
    assert (calls.enabled, calls.dry_run, calls.rate) == (False, True, 2)
    assert [r.describe() for r in rules.rules] == [
        "10.0 MB in a month from day 15",
        "1.00 MiB in an hour (tx bytes)",
        "60% of all bytes in the last 600 s",
        "2 requests a second over the last 3600 s (requests)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("name: hourly", "name: monthly", 19, "two rules named"),
        ("period: hour", "period: week", 22, "choose from hour, day, month"),
        ("period: hour", "window: 5s", 22, "1m or more"),
        ("limit: 1MiB", "limit: much", 23, "no size"),
        ("limit: 1MiB", "limit: 0", 23, "more than nothing"),
        ("    limit: 1MiB\n", "", 19, "one of limit, share and rate"),
        ("limit: 1MiB", "limit: 1MiB\n    share: 5%", 19, "one of limit, share and rate"),
        ("direction: tx", "direction: up", 21, "choose from both, rx, tx"),
        ("actions: [block]", "actions: [explode]", 26, "choose from"),
        ("actions: [block] }", "actions: [rate_limit] }", 26, "needs a value"),
        ("notify: ops\n", "notify: boss\n", 17, "no 'boss' under notify"),
        ("start_day: 15", "start_day: 32", 13, "1 to 31"),
        ("warn: 80%", "warn: -3", 15, "share of the limit"),
        ("exclude:", "exclud:", 10, "did you mean exclude"),
        ("interval: 5s", "interval: soon", 4, "no duration"),
        ("kind: mapping\n    subjects", "kind: thing\n    subjects", 8, "choose from endpoint"),
        ("window: 1h", "window: 1h\n    direction: rx", 35, "have no direction"),
        ("http://127.0.0.1:1/x", "ftp://x", 3, "http"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_with_their_line(old: str, new: str, line: int, said: str) -> None:
    assert old in RULES
    with pytest.raises(UsageError, match=said) as error:
        parse_rules(RULES.replace(old, new, 1), "rules.yaml")
    assert str(error.value).startswith(f"rules.yaml:{line}:"), error.value


def only(rules: str, name: str) -> Rule:
    return next(r for r in parse_rules(rules).rules if r.name == name)


def test_selection_and_periods(ledger: Ledger) -> None:
    home = {"client": "home"}
    ledger.write(
        [
            used("30009", NOON, 6_000_000, 5_000_000, labels=home),
            used("30011", NOON, 60_000_000, labels=home),
            used("30010", NOON, 60_000_000, labels={"client": "else"}),
            used("40000", NOON, 60_000_000, labels=home),
            used("30009", NOON, 60_000_000, labels=home, subject_kind="client"),
            used(
                "30009", calendar.moment("2026-03-14T23:59", ledger.zone), 9_000_000, labels=home
            ),  # the month before
        ]
    )
    (verdict,) = verdicts(ledger, [only(RULES, "monthly")], NOON + 30)
    assert (verdict.subject.name, verdict.used, verdict.allowed, len(verdict.reached)) == (
        "30009",
        11_000_000,
        10e6,
        2,
    )
    assert verdict.reason == "used 11.0 MB of 10.0 MB (110%)"
    assert calendar.show(verdict.until or 0, ledger.zone) == "2026-04-15T00:00:00+02:00"
    # The limit itself is not over the limit.
    rules = RULES.replace("limit: 10MB", "limit: 11MB")
    assert [t.at for t in verdicts(ledger, [only(rules, "monthly")], NOON)[0].reached] == [0.8]


def test_direction_metric_share_and_rate(ledger: Ledger) -> None:
    ledger.write(
        [
            used("a", NOON, 900, 100, rx_packets=5, tx_packets=1, requests=700, connections=3),
            used("b", NOON, 100, 900, requests=1),
            used("c", NOON, 5000, subject_kind="client"),
        ]
    )
    rule = "rules: [{ name: r, kind: mapping, period: hour, actions: [block], %s }]"

    def over(text: str, now: int = NOON + 59) -> set[str]:
        return {v.subject.name for v in verdicts(ledger, parse_rules(rule % text).rules, now) if v.reached}

    assert over("limit: 900, direction: tx") == set() and over("limit: 899, direction: tx") == {"b"}
    assert over("limit: 899, direction: rx") == {"a"} and over("limit: 999") == {"a", "b"}
    assert (
        over("metric: packets, limit: 5") == {"a"}
        and over("metric: packets, limit: 5, direction: rx") == set()
    )
    assert (
        over("metric: requests, share: 99%") == {"a"}
        and over("share: 49%") == {"a", "b"}
        and over("share: 50%") == set()
    )
    assert over("metric: connections, limit: 2") == {"a"}
    sliding = "rules: [{ name: r, kind: mapping, window: 2m, actions: [block], rate: 8 }]"
    seen = [
        {v.subject.name for v in verdicts(ledger, parse_rules(sliding).rules, NOON + t) if v.reached}
        for t in (0, 119, 200)
    ]
    assert seen == [{"a", "b"}, {"a", "b"}, set()]


def test_the_strictest_wins_and_says_why(ledger: Ledger) -> None:
    ledger.write(
        [
            used("30009", NOON, 10_000_000, 700_000, labels={"client": "home"}),
            used("30012", NOON, 5, labels={"client": "x"}),
        ]
    )
    rules = parse_rules(RULES.replace("name: hourly", "name: hour tx"))
    wins = wanted(verdicts(ledger, rules.rules, NOON + 60))
    (win,) = wins.values()
    assert (win.effect, win.value, win.verdict.rule.name, win.others) == (
        "rate_limit",
        500_000,
        "hour tx",
        ("monthly",),
    )
    text = "\n".join(explain(ledger, rules.rules, "300*", NOON + 60))
    assert text == "\n".join(
        [
            "forwarder mapping 30009 client=home",
            (
                "  monthly: allows 10.0 MB in a month from day 15: used 10.7 MB of 10.0 MB (107%) since"
                " 2026-03-15T00:00:00+01:00"
            ),
            "    at 80% notify ops: reached",
            "    at 100% notify ops, rate_limit 1 MB/s: reached",
            (
                "  hour tx: allows 1.00 MiB in an hour (tx bytes): used 684 KiB of 1.00 MiB (67%) since"
                " 2026-03-29T13:00:00+02:00"
            ),
            "    at 50% rate_limit 500 kB/s: reached",
            "    at 200% block: not reached",
            (
                "  fair: allows 60% of all bytes in the last 600 s: used 10.7 MB of 6.42 MB (167%) since"
                " 2026-03-29T12:51:00+02:00"
            ),
            "    at 100% command: reached",
            "  calls: not enabled",
            "  => rate_limit 500 kB/s by hour tx, stricter than monthly; until 2026-03-29T14:00:00+02:00",
            "forwarder mapping 30012 client=x",
            "  monthly: does not apply: only with client=home|off*",
            (
                "  hour tx: allows 1.00 MiB in an hour (tx bytes): used 0 B of 1.00 MiB (0%) since"
                " 2026-03-29T13:00:00+02:00"
            ),
            "    at 50% rate_limit 500 kB/s: not reached",
            "    at 200% block: not reached",
            (
                "  fair: allows 60% of all bytes in the last 600 s: used 5 B of 6.42 MB (0%) since"
                " 2026-03-29T12:51:00+02:00"
            ),
            "    at 100% command: not reached",
            "  calls: not enabled",
            "  => nothing is restricted",
        ]
    )
    assert explain(ledger, rules.rules, "nobody", NOON) == []


def test_what_was_set_in_binary_units_is_shown_in_them() -> None:
    from replaykit.units import is_binary, show_set, show_size

    assert show_set(300 * 2**30) == "300 GiB" and show_set(10 * 2**20) == "10 MiB"
    assert show_set(500 * 10**6) == "500 MB" and show_set(1_500_000) == "1.5 MB" and show_set(512) == "512 B"
    assert is_binary(2**20) and not is_binary(1_024_000) and not is_binary(700)
    assert show_size(150 * 2**30, binary=True) == "150 GiB"
