"""Alert rules: what is watched, when it is too much, and what then.

Owns the YAML of rules and what a rule makes of a window of statistics. No state, no clock, no I/O.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa

from replaykit.config.declared import Section, Value, load, parse
from replaykit.rules.metrics import BYTES, COUNTS, DURATIONS, METRICS, SHARES

DAY_S = 86_400.0
BEFORE = {"yesterday": DAY_S, "last_week": 7 * DAY_S}
GROUPS = ("endpoint", "host", "method", "status")

CHANGES = (
    "sample",
    "headers_only",
    "allow_url",
    "disallow_url",
    "allow_header",
    "disallow_header",
    "allow_method",
    "disallow_method",
)


@dataclass(frozen=True)
class Growth:
    """Over the same window so many seconds before; `by`: 0.5 is half as much again."""

    than: tuple[str, ...]
    by: float


@dataclass(frozen=True)
class Silence:
    """Times of day, which may go over midnight, on these days of the week (0 Monday); or from one moment to another."""

    begin: time | datetime
    end: time | datetime
    days: frozenset[int] = frozenset(range(7))

    def covers(self, when: datetime) -> bool:
        """when: in the rules' time zone."""
        if isinstance(self.begin, datetime) and isinstance(self.end, datetime):
            return self.begin <= when < self.end
        assert isinstance(self.begin, time) and isinstance(self.end, time)
        at = when.time()
        if self.begin <= self.end:
            return when.weekday() in self.days and self.begin <= at < self.end
        yesterday = (when.weekday() - 1) % 7  # over midnight: the night belongs to the day it begins on
        return (when.weekday() in self.days and at >= self.begin) or (
            yesterday in self.days and at < self.end
        )


@dataclass(frozen=True)
class Rule:
    """One rule. Times in seconds; sizes in bytes; `above`: beyond it, in the metric's unit (durations in ns)."""

    name: str
    metric: str
    by: str | None = None
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    window_s: float = 300.0
    above: float | None = None
    share: float | None = None
    growth: Growth | None = None
    at_least: float = 0.0
    for_s: float = 0.0
    recover: float | None = None
    recover_for_s: float = 0.0
    silences: Sequence[Silence] = ()
    notify: Sequence[str] = ()
    change: Mapping[str, Any] = field(default_factory=dict)
    severity: str = "warning"
    enabled: bool = True

    @property
    def lookback_s(self) -> float:
        """How far back it looks."""
        before = max((BEFORE[t] for t in self.growth.than), default=0.0) if self.growth else 0.0
        return self.window_s + before


@dataclass(frozen=True)
class Rules:
    """A file of rules. notify: names to what `replaykit.rules.notify` makes of them."""

    rules: Sequence[Rule]
    notify: Mapping[str, Mapping[str, Any]]
    zone: tzinfo = UTC
    interval_s: float = 60.0


@dataclass(frozen=True)
class Verdict:
    """Of a rule and group. value, threshold: in the same unit; over: beyond it; calm: below what recovery asks."""

    group: str
    value: float
    threshold: float
    over: bool
    calm: bool
    base: float | None = None
    share: float | None = None


def read_rules(path: str) -> Rules:
    """Raises UsageError that names file, line and key."""
    return _rules(load(path))


def parse_rules(text: str, file: str = "rules.yaml") -> Rules:
    return _rules(parse(text, file))


def _rules(top: Section) -> Rules:
    from replaykit.rules.notify import read_notifiers

    notify = read_notifiers(top.get("notify"))
    zone: tzinfo = UTC
    named = top.get("time_zone")
    if named is not None:
        try:
            zone = ZoneInfo(named.text())
        except (ZoneInfoNotFoundError, ValueError):
            raise named.error(f"{named.text()!r} is no time zone; write Europe/Berlin or UTC") from None
    interval = top.get("interval")
    rules: list[Rule] = []
    for item in top.need("rules").items():
        section = item.section()
        rule = _rule(section, zone)
        if any(r.name == rule.name for r in rules):
            raise section.error(f"there are two rules named {rule.name!r}")
        for name in rule.notify:
            if name not in notify:
                raise section.error(f"notify: there is no {name!r}; there are {', '.join(notify) or 'none'}")
        rules.append(rule)
    top.done()
    return Rules(rules, notify, zone, 60.0 if interval is None else max(interval.duration(), 1.0))


def _rule(s: Section, zone: tzinfo) -> Rule:
    name, metric = s.need("name").text(), s.need("metric").choice(METRICS)
    by, where = s.get("by"), s.get("where")
    window, above, share, growth = (s.get(k) for k in ("window", "above", "share", "growth"))
    at_least, held, recover = s.get("at_least"), s.get("for"), s.get("recover")
    recover_for, silence, notify = s.get("recover_for"), s.get("silence"), s.get("notify")
    change, severity, enabled = s.get("change"), s.get("severity"), s.get("enabled")
    s.done()
    if sum(v is not None for v in (above, share, growth)) != 1:
        raise s.error("give one of above, share and growth")
    if share is not None and by is None:
        raise s.error("share needs `by`: a share of the whole that each endpoint, host or the like may have")
    if (share or growth) is not None and metric not in (*BYTES, *COUNTS):
        raise s.error(f"share and growth are of sums, not of {metric}")
    if metric == "loss" and (by or where):
        raise s.error("loss is the kernel's: it knows neither `by` nor `where`")
    window_s = 300.0 if window is None else window.duration()
    if window_s < 60 and window is not None:
        raise window.error("statistics are by minute: give 1m or more")
    relative = share is not None or growth is not None
    return Rule(
        name,
        metric,
        None if by is None else by.choice(GROUPS),
        {} if where is None else _where(where.section()),
        window_s,
        None if above is None else _amount(above, metric),
        None if share is None else share.share(),
        None if growth is None else _growth(growth),
        0.0 if at_least is None else _amount(at_least, metric),
        0.0 if held is None else held.duration(),
        None if recover is None else (recover.share() if relative else _amount(recover, metric)),
        0.0 if recover_for is None else recover_for.duration(),
        () if silence is None else tuple(_silence(i, zone) for i in silence.items()),
        () if notify is None else tuple(notify.texts()),
        {} if change is None else _change(change.section()),
        "warning" if severity is None else severity.text(),
        enabled is None or enabled.flag(),
    )


def _amount(value: Value, metric: str) -> float:
    if metric in BYTES:
        return float(value.size())
    if metric in DURATIONS:
        return value.duration() * 1e9
    return value.share() if metric in SHARES else value.number()


def _growth(value: Value) -> Growth:
    s = value.section()
    than, by = s.need("than"), s.need("by").share()
    names = tuple(item.choice(tuple(BEFORE)) for item in than.items())
    s.done()
    if by <= 0:
        raise value.error("by: give a share above 0, such as 50%")
    return Growth(names, by)


def _where(s: Section) -> dict[str, tuple[str, ...]]:
    out = {}
    for name, value in s.pairs():
        if name not in GROUPS:
            raise value.error(f"choose from {', '.join(GROUPS)}")
        out[name] = tuple(value.texts())
        for text in out[name]:
            if text.startswith("~"):
                try:
                    re.compile(text[1:])
                except re.error as error:
                    raise value.error(f"{text!r}: not a regular expression: {error}") from None
    return out


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _silence(value: Value, zone: tzinfo) -> Silence:
    s = value.section()
    begin, end = s.need("from"), s.need("to")
    days = s.get("days")
    s.done()
    ends = [_moment(v, zone) for v in (begin, end)]
    if isinstance(ends[0], time) != isinstance(ends[1], time):
        raise value.error("from and to: both a time of day, or both a moment")
    chosen = range(7) if days is None else [_DAYS.index(d.choice(_DAYS)) for d in days.items()]
    return Silence(ends[0], ends[1], frozenset(chosen))


def _moment(value: Value, zone: tzinfo) -> time | datetime:
    text = value.text()
    try:
        return time.fromisoformat(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise value.error(f"{text!r}: write '22:00' (in quotes) or 2026-11-25T08:00") from None
    return found if found.tzinfo else found.replace(tzinfo=zone)


def _change(s: Section) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in s.pairs():
        key = name.replace("-", "_")
        if key not in CHANGES:
            raise value.error(f"choose from {', '.join(CHANGES)}")
        if key == "sample":
            out[key] = value.share()
            if not 0 < out[key] <= 1:
                raise value.error("give a share above 0 and up to 1")
        else:
            out[key] = value.flag() if key == "headers_only" else tuple(value.texts())
    return out


def _matches(patterns: Iterable[str], text: str) -> bool:
    """Globs; `~` before a regular expression; `!` before what may not match; `5xx` of a status."""
    wanted = [p for p in patterns if not p.startswith("!")]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]
    return not any(_one(p, text) for p in unwanted) and (not wanted or any(_one(p, text) for p in wanted))


def _one(pattern: str, text: str) -> bool:
    if pattern.startswith("~"):
        return re.search(pattern[1:], text) is not None
    if re.fullmatch(r"[1-5]xx", pattern):
        return len(text) == 3 and text[0] == pattern[0]
    return fnmatch.fnmatchcase(text, pattern)


def values(rule: Rule, table: pa.Table) -> dict[str, float]:
    """The metric for each group of a window's rows; one group named "" without `by`."""
    sums: dict[str, list[float]] = {}
    columns = (
        "exchanges",
        "slow",
        "durations",
        "duration_ns",
        "duration_max_ns",
        *{c for n in (*BYTES.values(), *COUNTS.values()) for c in n},
    )
    rows = table.select([*GROUPS, *dict.fromkeys(columns)]).to_pylist()
    for row in rows:
        keys = {g: "(unknown)" if row[g] is None else str(row[g]) for g in GROUPS}
        if not all(_matches(patterns, keys[name]) for name, patterns in rule.where.items()):
            continue
        group = keys[rule.by] if rule.by is not None else ""
        at = sums.setdefault(group, [0.0, 0.0])
        _accumulate(rule.metric, row, at)
    if rule.by is None:
        sums.setdefault("", [0.0, 0.0])
    ratio = rule.metric in ("error_share", "slow_share", "duration_mean")
    return {g: (a / b if b else 0.0) if ratio else a for g, (a, b) in sums.items()}


def _accumulate(metric: str, row: Mapping[str, Any], at: list[float]) -> None:
    failed = (row["status"] or 0) >= 500
    if metric in BYTES:
        at[0] += sum(row[c] or 0 for c in BYTES[metric])
    elif metric == "duration_max":
        at[0] = max(at[0], row["duration_max_ns"] or 0)
    elif metric == "duration_mean":
        at[0] += row["duration_ns"] or 0
        at[1] += row["durations"] or 0
    elif metric in ("error_share", "slow_share"):
        at[0] += (row["exchanges"] if failed else 0) if metric == "error_share" else row["slow"]
        at[1] += row["exchanges"] if metric == "error_share" else row["durations"]
    elif metric == "errors":
        at[0] += row["exchanges"] if failed else 0
    else:
        at[0] += row[COUNTS[metric][0]] or 0


def judge(rule: Rule, now: pa.Table, before: Sequence[pa.Table | None], loss: float | None) -> list[Verdict]:
    """before: the windows of `growth.than`; None where there is no data from then. loss: of the window, if known."""
    if rule.metric == "loss":
        return [] if loss is None else [_verdict(rule, "", loss, _threshold(rule))]
    current = values(rule, now)
    if rule.share is not None:
        whole = sum(values(_everything(rule), now).values())
        return [
            Verdict(g, v, rule.share * whole, v > rule.share * whole and v >= rule.at_least,
                    v <= (rule.share if rule.recover is None else rule.recover) * whole or v < rule.at_least, share=v / whole if whole else 0.0)
            for g, v in current.items()
        ]  # fmt: skip
    if rule.growth is not None:
        return _grown(rule, current, before)
    return [_verdict(rule, g, v, _threshold(rule)) for g, v in current.items()]


def _everything(rule: Rule) -> Rule:
    return Rule(rule.name, rule.metric)


def _threshold(rule: Rule) -> float:
    return float("inf") if rule.above is None else rule.above


def _verdict(rule: Rule, group: str, value: float, threshold: float) -> Verdict:
    calm = value <= (threshold if rule.recover is None else rule.recover)
    return Verdict(group, value, threshold, value > threshold and value >= rule.at_least, calm)


def _grown(rule: Rule, current: dict[str, float], before: Sequence[pa.Table | None]) -> list[Verdict]:
    assert rule.growth is not None
    known = [values(rule, table) for table in before if table is not None and table.num_rows]
    if len(known) < len(before):  # without the past there is nothing to compare with
        return []
    out = []
    for group in {g for bases in (current, *known) for g in bases}:
        value, base = current.get(group, 0.0), max(bases.get(group, 0.0) for bases in known)
        threshold = base * (1 + rule.growth.by)
        over = value > threshold and value - base >= rule.at_least
        calm = (
            value <= base * (1 + (rule.growth.by if rule.recover is None else rule.recover))
            or value - base < rule.at_least
        )
        out.append(Verdict(group, value, threshold, over, calm, base))
    return out
