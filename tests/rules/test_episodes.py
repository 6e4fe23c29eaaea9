"""Rules over replayed data: they fire, stay quiet and recover at the right times, once each, over
restarts.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from replaykit.attribution.minutes import by_minute
from replaykit.errors import UsageError
from replaykit.outputs.files import DirectoryOutput
from replaykit.outputs.output import Rotation
from replaykit.rules.alerts import parse_rules
from replaykit.rules.episodes import Watch
from replaykit.rules.sources import LiveSource, ParquetSource, empty
from tests.outputs.conftest import batch, run

T0 = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp())
MINUTE, DAY = 60, 86_400


class Told(dict[tuple[int, str], int]):
    """A source of declared traffic: (second, endpoint) to bytes, a row each."""

    def __init__(self, *args: Any, from_s: int = 0) -> None:
        super().__init__(*args)
        self.from_s = from_s
        self.drops: float | None = None
        self.failed = 0

    def rows(self, since_ns: int, until_ns: int) -> pa.Table | None:
        since, until = since_ns // 10**9, until_ns // 10**9
        if until <= self.from_s:
            return None
        rows = [
            {
                "minute": at * 10**9,
                "endpoint": name,
                "response_wire_bytes": size,
                "exchanges": 10,
                "status": 500 if self.failed else 200,
                "host": "h",
                "method": "GET",
            }
            for (at, name), size in self.items()
            if since <= at < until
        ]
        table = empty()
        return pa.Table.from_pylist(
            [{n: r.get(n, 0) for n in table.column_names} for r in rows], table.schema
        )

    def loss(self, since_ns: int, until_ns: int) -> float | None:
        return self.drops


def events(watch: Watch, minutes: range) -> list[tuple[int, str, str]]:
    """Minute, kind and group of what is told."""
    out = []
    for minute in minutes:
        out += [(minute, e["kind"], e["group"]) for e in watch.evaluate(T0 + minute * MINUTE)]
    return out


def test_a_share_of_the_bandwidth() -> None:
    """One endpoint above 30 %. It fires two minutes after it began, once, and recovers below 25 %."""
    rules = parse_rules("""
rules:
  - {name: share, metric: bytes, by: endpoint, share: 30%, window: 1m, for: 2m, recover: 25%, where: {endpoint: "/api/*"}}
""")  # noqa: E501
    hot = {m: 50 if 5 <= m < 12 else 27 if 12 <= m < 15 else 10 for m in range(30)}
    traffic = Told(
        {(T0 + m * MINUTE, "/api/a"): hot[m] for m in hot}
        | {(T0 + m * MINUTE, "/static/b"): 100 - hot[m] for m in hot}
    )
    # Minute 5 is judged at 6: above since then, so told at 8. 27 % is no recovery; minute 15 is judged at 16.
    assert events(Watch(rules, traffic), range(1, 30)) == [
        (8, "firing", "/api/a"),
        (16, "resolved", "/api/a"),
    ]


def test_a_short_peak_stays_quiet() -> None:
    rules = parse_rules("rules: [{name: r, metric: bytes, above: 100B, window: 1m, for: 2m}]")
    traffic = Told({(T0 + m * MINUTE, "/a"): 1000 if m in (5, 6, 10) else 1 for m in range(20)})
    assert events(Watch(rules, traffic), range(1, 20)) == []


def test_growth_over_yesterday_and_last_week() -> None:
    rules = parse_rules("""
rules:
  - {name: g, metric: bytes, by: endpoint, window: 1m, growth: {than: [yesterday, last_week], by: 50%}, at_least: 100B}
""")  # noqa: E501
    traffic = Told(from_s=T0 - 8 * DAY)
    for m in range(10):
        for back, size in ((7 * DAY, 1000), (DAY, 2000), (0, 2900 if m < 5 else 3100)):
            traffic[(T0 + m * MINUTE - back, "/a")] = size
        traffic[(T0 + m * MINUTE, "/new")] = 99  # below at_least
    assert events(Watch(rules, traffic), range(1, 10)) == [(6, "firing", "/a")]
    unknown = Told({k: v for k, v in traffic.items() if k[0] >= T0}, from_s=T0)
    assert events(Watch(rules, unknown), range(1, 10)) == []  # no past to compare with


def test_errors_durations_and_loss() -> None:
    rules = parse_rules("""
rules:
  - {name: errors, metric: error_share, above: 5%, window: 1m}
  - {name: loss, metric: loss, above: 1%, window: 1m}
""")
    traffic = Told({(T0 + m * MINUTE, "/a"): 1 for m in range(9)})
    watch = Watch(rules, traffic)
    assert events(watch, range(1, 3)) == []
    traffic.failed, traffic.drops = 1, 0.02
    assert [e[1] for e in events(watch, range(3, 4))] == ["firing", "firing"]
    traffic.drops = None  # nobody knows: it neither fires nor recovers
    assert events(watch, range(4, 5)) == []
    traffic.failed, traffic.drops = 0, 0.0
    assert [e[1] for e in events(watch, range(5, 6))] == ["resolved", "resolved"]


def test_silence_puts_word_off_and_forgets_what_ended_meanwhile() -> None:
    rules = parse_rules("""
rules:
  - name: r
    metric: bytes
    above: 100B
    window: 1m
    silence: [{from: "12:00", to: "12:10", days: [fri]}]
""")
    short = Told({(T0 + m * MINUTE, "/a"): 1000 if m in (2, 3) else 1 for m in range(20)})
    assert events(Watch(rules, short), range(1, 20)) == []
    long = Told({(T0 + m * MINUTE, "/a"): 1000 if 2 <= m < 13 else 1 for m in range(20)})
    assert events(Watch(rules, long), range(1, 20)) == [(10, "firing", ""), (14, "resolved", "")]


def test_a_restart_at_any_moment_neither_repeats_nor_forgets(tmp_path: Path) -> None:
    text = """
notify: {ops: {webhook: "http://127.0.0.1:1/"}}
rules: [{name: r, metric: bytes, by: endpoint, above: 100B, window: 1m, for: 1m, recover_for: 1m, notify: ops}]
"""  # noqa: E501
    rules = parse_rules(text)
    traffic = Told({(T0 + m * MINUTE, "/a"): 1000 if 3 <= m < 9 else 1 for m in range(20)})
    told: list[tuple[str, str]] = []
    for m in range(1, 20):
        watch = Watch(rules, traffic, tmp_path / "state.json")  # a new one each minute: as after kill -9
        watch.advance(T0 + m * MINUTE + 1)
        if m % 3 == 0:  # word gets through now and then only

            def send(name: str, event: Any) -> None:
                told.append((event["kind"], event["id"]))

            assert watch.deliver(send, T0 + m * MINUTE) == []
        else:

            def away(name: str, event: Any) -> None:
                raise OSError("away")

            watch.deliver(away, T0 + m * MINUTE)
    assert [k for k, _ in told] == ["firing", "resolved"] and len({i for _, i in told}) == 1


def test_steps_that_were_missed_are_evaluated_afterwards(tmp_path: Path) -> None:
    rules = parse_rules("rules: [{name: r, metric: bytes, above: 100B, window: 1m}]")
    traffic = Told({(T0 + m * MINUTE, "/a"): 1000 if 3 <= m < 6 else 1 for m in range(40)})
    Watch(rules, traffic, tmp_path / "s").advance(T0 + MINUTE)
    found = Watch(rules, traffic, tmp_path / "s").advance(T0 + 30 * MINUTE)
    assert [(e["kind"], e["at"][11:16]) for e in found] == [("firing", "12:04"), ("resolved", "12:07")]
    assert Watch(rules, traffic, tmp_path / "s").advance(T0 + 30 * MINUTE + 5) == []
    (tmp_path / "s").write_text("{")
    with pytest.raises(UsageError, match="not a state"):
        Watch(rules, traffic, tmp_path / "s")


def archive(folder: Path) -> Path:
    """Ten minutes of one endpoint; in minutes 4 to 6 another has most of the bytes."""
    output = DirectoryOutput(str(folder), Rotation())
    for m in range(10):
        at = (T0 + m * MINUTE) * 10**9
        output.exchanges(batch(at, 20))
        if 4 <= m < 7:
            big = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
            output.exchanges(batch(at + 10**9, 5, "/reports", big))
    output.close()
    return folder


RULES = """
rules:
  - name: one API above 30 %
    metric: bytes
    by: endpoint
    share: 30%
    window: 1m
    where: {endpoint: "!/users/{id}"}
"""


def test_the_command_over_an_archive(tmp_path: Path) -> None:
    place = archive(tmp_path / "archive")
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    done = run(
        "alert",
        str(rules),
        "--source",
        f"{place}/",
        "--since",
        "2026-11-20T12:00",
        "--until",
        "2026-11-20T12:20",
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [(e["kind"], e["group"], e["at"][11:16]) for e in found] == [
        ("firing", "/reports/{id}", "12:05"),
        ("resolved", "/reports/{id}", "12:08"),
    ]
    assert found[0]["top"][0]["endpoint"] == "/reports/{id}" and found[0]["share"] > 0.8
    assert "1 rules, 0 receivers" in run("alert", str(rules), "--check").stdout


def test_sources_agree(tmp_path: Path) -> None:
    """An archive, and a live capture over a restart, give the same rows."""
    place = archive(tmp_path / "archive")
    whole = ParquetSource(str(place))
    kept = tmp_path / "kept"
    kept.mkdir()
    live = LiveSource(kept)
    for m in range(10):
        at = (T0 + m * MINUTE) * 10**9
        live.add(batch(at, 20), at)
        if 4 <= m < 7:
            big = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
            live.add(batch(at + 10**9, 5, "/reports", big), at)
        if m == 5:
            live.keep(at)
            live = LiveSource(kept)  # the capture began anew

    def plain(table: pa.Table | None) -> list[dict[str, Any]]:
        assert table is not None
        return sorted(table.to_pylist(), key=lambda r: (r["minute"], r["endpoint"]))

    for since, until in ((0, 10), (3, 5), (5, 6)):
        window = ((T0 + since * MINUTE) * 10**9, (T0 + until * MINUTE) * 10**9)
        assert plain(whole.rows(*window)) == plain(live.rows(*window))
    live.keep((T0 + 9 * MINUTE) * 10**9)
    again = LiveSource(kept)
    window = (T0 * 10**9, (T0 + 600) * 10**9)
    assert plain(again.rows(*window)) == plain(whole.rows(*window))
    live.heard(T0 * 10**9, 100, 0)
    live.heard((T0 + 5) * 10**9, 190, 10)
    assert live.loss(*window) == 0.1 and by_minute(batch(1)).num_rows == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [{name: a, metric: bites, above: 1}]", "r.yaml:1: rules[0].metric: 'bites': choose from"),
        (
            "rules:\n  - name: a\n    metric: bytes\n    abovee: 1MB\n",
            "r.yaml:4: rules[0].abovee: this key is not known here",
        ),
        (
            "rules:\n  - name: a\n    metric: bytes\n    above: much\n",
            "r.yaml:4: rules[0].above: 'much' is no size",
        ),
        ("rules:\n  - {name: a, metric: bytes}\n", "r.yaml:2: rules[0]: give one of above, share and growth"),
        ("rules:\n  - {name: a, metric: bytes, above: 1MB, notify: [x]}\n", "there is no 'x'"),
        ("rules:\n  - {name: a, metric: bytes, share: 30%}\n", "share needs `by`"),
        ("rules:\n  - {name: a, metric: bytes, above: 1B, window: 5s}\n", "1m or more"),
        (
            "rules:\n  - {name: a, metric: bytes, above: 1B, where: {endpoint: '~('}}\n",
            "not a regular expression",
        ),
        (
            "rules:\n  - {name: a, metric: bytes, above: 1B}\n  - {name: a, metric: bytes, above: 1B}\n",
            "two rules named",
        ),
        ("rules:\n  - {name: a, metric: bytes, above: 1B, change: {sample: 2}}\n", "above 0 and up to 1"),
        ("notify: {x: {slack: 'ftp://h'}}\nrules: []\n", "r.yaml:1: notify.x.slack: write a URL"),
        (
            "notify: {x: {slack: '${REPLAYKIT_NOT_SET}'}}\nrules: []\n",
            "the environment has no REPLAYKIT_NOT_SET",
        ),
        ("rules: [\n", "r.yaml:2: not YAML"),
        ("- a\n", "keys and values are needed"),
        ("time_zone: Nowhere/Land\nrules: []\n", "no time zone"),
    ],
)
def test_errors_name_file_line_and_key(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_rules(text, "r.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)
