"""Alert rules: what is watched, when it is too much, and what then.

Owns what a rule makes of a window of statistics. No state, no clock, no I/O.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, tzinfo
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from replaykit.config.reading import Document, load
from replaykit.rules.metrics import BEFORE, BYTES, COUNTS
from replaykit.rules.metrics import GROUPS as GROUPS

if TYPE_CHECKING:
    from replaykit.rules.actions import Action
    from replaykit.rules.alerts_file import AlertRule, Quiet, Watched
    from replaykit.rules.language import TrafficRule


_TOLD = {"notify": "name", "webhook": "url", "command": "arguments"}


@dataclass(frozen=True)
class Growth:
    """Over the same window so many seconds before; `by`: 0.5 is half as much again."""

    than: tuple[str, ...]
    by: float


@dataclass(frozen=True)
class Silence:
    """Times of day, which may go over midnight, on these days of the week (0 Monday); or from one moment to
    another.
    """

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
    """One rule.

    Times in seconds; sizes in bytes; `above`: beyond it, in the metric's unit (durations in ns).
    """

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
    at: float = 1.0
    """Which share of the rule that was written this step of it is."""

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
    earlier: bool = field(default=False, compare=False)
    """Written in the form of earlier versions."""


@dataclass(frozen=True)
class Verdict:
    """Of a rule and group.

    value, threshold: in the same unit; over: beyond it; calm: below what recovery asks.
    """

    group: str
    value: float
    threshold: float
    over: bool
    calm: bool
    base: float | None = None
    share: float | None = None


def read_rules(path: str) -> Rules:
    """Raises UsageError that names file, lines and keys."""
    return _rules(load(path))


def parse_rules(text: str, file: str = "rules.yaml") -> Rules:
    """As `read_rules`, of a text."""
    return _rules(Document(text, file))


def _rules(document: Document) -> Rules:
    from replaykit.rules.alerts_file import AlertsFile  # pydantic takes a tenth of a second,
    from replaykit.rules.language import traffic_rules  # only where a file is read
    from replaykit.rules.notifiers import settings

    declared = traffic_rules(document)
    if declared is None:
        found = document.checked(AlertsFile)
        zone = found.time_zone or UTC
        rules = [_rule_of_before(one, zone) for one in found.rules]
        return Rules(rules, settings(found.notify), zone, max(found.interval, 1.0), earlier=True)
    file, ours = declared
    notify, zone = settings(file.notify), file.time_zone or UTC
    names = tuple(notify)
    made = [_step(one, at, actions, zone, notify) for one in ours for at, actions in one.steps(names).items()]
    return Rules(made, notify, zone, 60.0 if file.interval is None else max(file.interval, 1.0))


def _rule_of_before(one: AlertRule, zone: tzinfo) -> Rule:
    return replace(
        _watched(one, zone),
        by=one.by,
        above=one.above,
        recover=one.recover,
        notify=one.notify,
        change=one.change.settings(),
    )


def _step(
    one: TrafficRule, at: float, actions: Sequence[Action], zone: tzinfo, notify: dict[str, dict[str, Any]]
) -> Rule:
    """One of a rule's steps, judged as a rule of its own: each bound is that share of the whole one.

    notify: gets who is named by the rule itself.
    """
    whole = _watched(one, zone)
    name, seconds = one.step_name(at), one.window if one.rate is not None else 1.0
    above = one.limit if one.rate is None else one.rate * seconds
    told = []
    for n, action in enumerate(actions, 1):
        if action.kind == "notify":
            told.append(str(action.value))
        elif action.kind in _TOLD:
            told.append(f"{name}: {action.kind} {n}")
            value = action.value if action.kind == "webhook" else list(action.value)
            notify[told[-1]] = {"kind": action.kind, _TOLD[action.kind]: value}
    growth = whole.growth and replace(whole.growth, by=whole.growth.by * at)
    return replace(
        whole,
        name=name,
        by=None if one.traffic == "all" else one.traffic,
        above=None if above is None else above * at,
        share=None if one.share is None else one.share * at,
        growth=growth,
        recover=None if one.recover is None else one.recover * seconds * at,
        notify=tuple(told),
        change={action.kind: action.value for action in actions if action.kind not in _TOLD},
        severity=one.severity if at >= 1 else "warning",
        at=at,
    )


def _watched(one: Watched, zone: tzinfo) -> Rule:
    growth = None if one.growth is None else Growth(one.growth.than, one.growth.by)
    return Rule(
        one.name,
        one.metric,
        where=one.where.patterns(),
        window_s=one.window,
        share=one.share,
        growth=growth,
        at_least=one.at_least,
        for_s=one.held,
        recover_for_s=one.recover_for,
        silences=tuple(_silence(each, zone) for each in one.silence),
        severity=one.severity,
        enabled=one.enabled,
    )


def _silence(one: Quiet, zone: tzinfo) -> Silence:
    begin, end = (
        at.replace(tzinfo=zone) if isinstance(at, datetime) and at.tzinfo is None else at
        for at in (one.begin, one.end)
    )
    return Silence(begin, end, frozenset(one.days))


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
    """before: the windows of `growth.than`; None where there is no data from then.

    loss: of the window, if known.
    """
    if rule.metric == "loss":
        return [] if loss is None else [_verdict(rule, "", loss, _threshold(rule))]
    current = values(rule, now)
    if rule.share is not None:
        whole = sum(values(_everything(rule), now).values())
        return [
            Verdict(
                g,
                v,
                rule.share * whole,
                v > rule.share * whole and v >= rule.at_least,
                v <= (rule.share if rule.recover is None else rule.recover) * whole or v < rule.at_least,
                share=v / whole if whole else 0.0,
            )
            for g, v in current.items()
        ]
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
