"""Rules over the ledger: who may use how much, and what happens then. One kind for all vantages.

Owns what a rule means: which subjects, which metric, which span of time, which limit, and the steps that
are taken on the way to it. Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Any

from replaykit.config.reading import Document, load
from replaykit.ledger import calendar
from replaykit.ledger.selection import Selection, Subject
from replaykit.records.usage import COUNTERS
from replaykit.rules.actions import EFFECTS as EFFECTS
from replaykit.rules.actions import Action
from replaykit.rules.language import ALL, usage_rules
from replaykit.rules.limits_file import Allowance, LimitsFile
from replaykit.rules.notifiers import settings
from replaykit.units import is_binary, show_size


@dataclass(frozen=True)
class Threshold:
    """at: the share of the limit beyond which the actions are taken; 1.0 is the limit."""

    at: float
    actions: Sequence[Action]


@dataclass(frozen=True)
class Rule:
    """limit: bytes or a count; share: of what all subjects of that vantage and kind moved; rate: bytes (or
    counts) a second.
    """

    name: str
    selection: Selection
    metric: str = "bytes"
    direction: str = "both"
    period: str | None = "month"
    start_day: int = 1
    anchored: bool = False
    """Periods begin with the subject's own creation (its label `created`, seconds since the epoch), not with
    the calendar's.
    """
    window_s: int | None = None
    limit: float | None = None
    share: float | None = None
    rate: float | None = None
    thresholds: Sequence[Threshold] = ()
    hold_s: int = 0
    severity: str = "critical"
    """Of what happens from the limit on."""
    enabled: bool = True
    dry_run: bool = False
    line: int = 0

    def span(self, now: int, zone: tzinfo) -> tuple[int, int | None]:
        """Since when usage counts, and when that begins anew; None: it slides."""
        if self.window_s is not None:
            return now - self.window_s, None
        assert self.period is not None
        since = calendar.floor(self.period, now, zone, self.start_day)
        return since, calendar.following(self.period, since, zone, self.start_day)

    def span_of(self, subject: Subject, now: int, zone: tzinfo) -> tuple[int, int | None]:
        """As `span`, of an anchored rule; a subject whose creation is unknown has the calendar's."""
        created = subject.labels.get("created", "")
        if not self.anchored or self.period is None or not created.isdigit():
            return self.span(now, zone)
        return calendar.anchored(self.period, int(created), now, zone)

    def used(self, counters: Sequence[int]) -> int:
        """The metric, of counters in the order of COUNTERS."""
        value = dict(zip(COUNTERS, counters, strict=True))
        if self.metric in ("requests", "connections"):
            return value[self.metric]
        rx, tx = value[f"rx_{self.metric}"], value[f"tx_{self.metric}"]
        return rx + tx if self.direction == "both" else rx if self.direction == "rx" else tx

    def allowed(self, whole: int, seconds: int) -> float:
        """The limit in the metric's unit. whole: what all subjects used; seconds: of the span."""
        if self.limit is not None:
            return self.limit
        if self.share is not None:
            return self.share * whole
        assert self.rate is not None
        return self.rate * seconds

    def show(self, value: float) -> str:
        """A value of the metric as people read it, in the units of the rule's own amount."""
        return show_size(value, self.is_binary) if self.metric == "bytes" else f"{value:,.0f} {self.metric}"

    @property
    def is_binary(self) -> bool:
        """Its amount was written in KiB, MiB or GiB."""
        return self.metric == "bytes" and is_binary(self.limit or self.rate or 0)

    def describe(self) -> str:
        """What it allows, in words."""
        what = (
            self.metric
            if self.direction == "both" or self.metric not in ("bytes", "packets")
            else f"{self.direction} {self.metric}"
        )
        over = (
            f"the last {self.window_s} s"
            if self.window_s is not None
            else f"{'an' if self.period == 'hour' else 'a'} {self.period}"
        )
        if self.period == "month" and self.window_s is None and self.start_day != 1:
            over += f" from day {self.start_day}"
        if self.limit is not None:
            return f"{self.show(self.limit)} in {over}" + ("" if what == "bytes" else f" ({what})")
        if self.share is not None:
            return f"{self.share:.0%} of all {what} in {over}"
        return f"{self.show(self.rate or 0)} a second over {over}" + ("" if what == "bytes" else f" ({what})")


@dataclass(frozen=True)
class Rules:
    """A file of rules. notify: names to what `replaykit.rules.notify` makes of them."""

    rules: Sequence[Rule]
    notify: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    interval_s: float = 10.0
    earlier: bool = field(default=False, compare=False)
    """Written in the form of earlier versions."""


@dataclass(frozen=True)
class Verdict:
    """Of one rule for one subject. reached: the thresholds that are exceeded, the lowest first."""

    rule: Rule
    subject: Subject
    used: int
    allowed: float
    since: int
    until: int | None
    reached: Sequence[Threshold]

    @property
    def reason(self) -> str:
        """`used 12 GB of 10 GB`."""
        share = self.used / self.allowed if self.allowed else float("inf")
        return f"used {self.rule.show(self.used)} of {self.rule.show(self.allowed)} ({share:.0%})"


def judge(rule: Rule, subject: Subject, used: int, allowed: float, since: int, until: int | None) -> Verdict:
    """Exceeded is more than the threshold, never the threshold itself."""
    reached = tuple(t for t in rule.thresholds if used > t.at * allowed)
    return Verdict(rule, subject, used, allowed, since, until, reached)


def read_rules(path: str) -> Rules:
    """Raises UsageError that names file, lines and keys."""
    return _rules(load(path))


def parse_rules(text: str, file: str = "rules.yaml") -> Rules:
    """As `read_rules`, of a text."""
    return _rules(Document(text, file))


def _rules(document: Document) -> Rules:
    declared = usage_rules(document)
    if declared is None:
        found = document.checked(LimitsFile)
        names = tuple(found.notify)
        rules = [
            _rule(one, one.kind, one.hold, names, document.line(("rules", n)))
            for n, one in enumerate(found.rules)
        ]
        return Rules(rules, settings(found.notify), max(found.interval, 0.2), earlier=True)
    file, ours = declared
    names = tuple(file.notify)
    rules = []
    for n, one in ours:
        kind = None if one.usage == ALL else one.usage
        made = _rule(one, kind, one.recover_for, names, document.line(("rules", n)))
        rules.append(replace(made, severity=one.severity))
    return Rules(rules, settings(file.notify), 10.0 if file.interval is None else max(file.interval, 0.2))


def _rule(one: Allowance, kind: str | None, hold: float | None, names: Sequence[str], line: int) -> Rule:
    return Rule(
        one.name,
        Selection(one.vantage, kind, one.subjects, one.exclude, one.labels),
        one.metric,
        one.direction,
        one.period,
        one.start_day or 1,
        one.anchor == "created",
        one.window,
        one.limit,
        one.share,
        one.rate,
        _thresholds(one, names),
        hold_s=(one.window or 0) if hold is None else int(hold),
        enabled=one.enabled,
        dry_run=one.dry_run,
        line=line,
    )


def _thresholds(one: Allowance, names: Sequence[str]) -> tuple[Threshold, ...]:
    """`actions` at the limit; `warn: 80%` notifies before; `thresholds` are steps of one's own."""
    found = [Threshold(1.0, one.actions)] if "actions" in one.model_fields_set else []
    if one.warn is not None:
        found.append(Threshold(one.warn, tuple(Action("notify", name) for name in names)))
    found += [Threshold(step.at, step.actions) for step in one.thresholds]
    return tuple(sorted(found, key=lambda t: t.at))
