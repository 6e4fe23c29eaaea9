"""Rules over the ledger: who may use how much, and what happens then. One kind for all vantages.

Owns the file (YAML) and what it means: which subjects, which metric, which span of time, which limit, and the steps that
are taken on the way to it. Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from replaykit.config.declared import Section, Value, load, parse
from replaykit.ledger import calendar
from replaykit.ledger.selection import Selection, Subject
from replaykit.records.usage import COUNTERS, KINDS
from replaykit.units import is_binary, show_size

METRICS = ("bytes", "packets", "requests", "connections")
DIRECTIONS = ("both", "rx", "tx")
PERIODS = ("hour", "day", "month")
EFFECTS = ("block", "disconnect", "rate_limit", "shutdown", "stop")
"""Actions that hold while the rule is exceeded, and are undone afterwards."""


@dataclass(frozen=True)
class Action:
    """kind: of EFFECTS, or the name of an installed action. value: bytes a second, a notifier's name, a URL, arguments."""

    kind: str
    value: Any = True


@dataclass(frozen=True)
class Threshold:
    """at: the share of the limit beyond which the actions are taken; 1.0 is the limit."""

    at: float
    actions: Sequence[Action]


@dataclass(frozen=True)
class Rule:
    """limit: bytes or a count; share: of what all subjects of that vantage and kind moved; rate: bytes (or counts) a second."""

    name: str
    selection: Selection
    metric: str = "bytes"
    direction: str = "both"
    period: str | None = "month"
    start_day: int = 1
    anchored: bool = False
    """Periods begin with the subject's own creation (its label `created`, seconds since the epoch), not with the calendar's."""
    window_s: int | None = None
    limit: float | None = None
    share: float | None = None
    rate: float | None = None
    thresholds: Sequence[Threshold] = ()
    hold_s: int = 0
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
    """Raises UsageError that names file, line and key."""
    return _rules(load(path))


def parse_rules(text: str, file: str = "rules.yaml") -> Rules:
    return _rules(parse(text, file))


def _rules(top: Section) -> Rules:
    from replaykit.rules.notify import read_notifiers

    notify = read_notifiers(top.get("notify"))
    interval = top.get("interval")
    rules: list[Rule] = []
    for item in top.need("rules").items():
        section = item.section()
        rule = _rule(section, notify)
        if any(r.name == rule.name for r in rules):
            raise section.error(f"there are two rules named {rule.name!r}")
        rules.append(rule)
    top.done()
    return Rules(rules, notify, 10.0 if interval is None else max(interval.duration(), 0.2))


def _rule(s: Section, notify: Mapping[str, Any]) -> Rule:
    name = s.need("name").text()
    selection = read_selection(s)
    metric, direction = s.get("metric"), s.get("direction")
    chosen = "bytes" if metric is None else metric.choice(METRICS)
    way = "both" if direction is None else direction.choice(DIRECTIONS)
    if direction is not None and way != "both" and chosen not in ("bytes", "packets"):
        raise direction.error(f"{chosen} have no direction")
    period, window, start_day = s.get("period"), s.get("window"), s.get("start_day")
    if (period is None) == (window is None):
        raise s.error("give one of period (hour, day, month) and window (such as 24h)")
    first = 1 if start_day is None else int(start_day.number())
    if start_day is not None and (period is None or period.text() != "month" or not 1 <= first <= 31):
        raise start_day.error("the day of the month, 1 to 31, on which a period of month begins")
    anchor = s.get("anchor")
    anchored = anchor is not None and anchor.choice(("calendar", "created")) == "created"
    if anchor is not None and anchored and (period is None or start_day is not None):
        raise anchor.error("only with a period, and without start_day")
    limits = {n: s.get(n) for n in ("limit", "share", "rate")}
    given = {n: v for n, v in limits.items() if v is not None}
    if len(given) != 1:
        raise s.error("give one of limit, share and rate")
    ((kind, value),) = given.items()
    amount = value.share() if kind == "share" else _amount(value, chosen)
    if amount <= 0:
        raise value.error("give more than nothing")
    hold, enabled, dry = s.get("hold"), s.get("enabled"), s.get("dry_run")
    window_s = None if window is None else int(window.duration())
    if window is not None and (window_s or 0) < 60:
        raise window.error("the ledger counts by minute: give 1m or more")
    thresholds = _thresholds(s, notify)
    s.done()
    return Rule(
        name, selection, chosen, way, None if period is None else period.choice(PERIODS), first, anchored, window_s,
        **{kind: amount}, thresholds=thresholds, hold_s=(window_s or 0) if hold is None else int(hold.duration()),
        enabled=enabled is None or enabled.flag(), dry_run=dry is not None and dry.flag(), line=s.line,
    )  # fmt: skip


def read_selection(s: Section) -> Selection:
    """`vantage`, `kind`, `subjects`, `exclude`, `labels` of a section."""
    vantage, kind, labels = s.get("vantage"), s.get("kind"), s.get("labels")
    names, exclude = (
        tuple(v.texts()) if v is not None else () for v in (s.get("subjects"), s.get("exclude"))
    )
    return Selection(
        None if vantage is None else vantage.text(),
        None if kind is None else kind.choice(KINDS),
        names,
        exclude,
        {} if labels is None else {n: tuple(v.texts()) for n, v in labels.section().pairs()},
    )


def _amount(value: Value, metric: str) -> float:
    if metric != "bytes":
        return value.number()
    return float(_rate(value))


def _rate(value: Value) -> int:
    """`10MB/s` or `10MB`: bytes a second."""
    from replaykit.errors import UsageError
    from replaykit.units import parse_size

    try:
        return parse_size(value.text().removesuffix("/s"))
    except UsageError as error:
        raise value.error(str(error)) from None


def _thresholds(s: Section, notify: Mapping[str, Any]) -> tuple[Threshold, ...]:
    """`actions` at the limit; `warn: 80%` notifies before; `thresholds` are steps of one's own."""
    found: list[Threshold] = []
    actions, warn, steps = s.get("actions"), s.get("warn"), s.get("thresholds")
    if actions is not None:
        found.append(Threshold(1.0, _actions(actions, notify)))
    if warn is not None:
        told = tuple(Action("notify", name) for name in notify)
        if not told:
            raise warn.error("nobody is to be told: name someone under `notify:` at the top")
        found.append(Threshold(_share(warn), told))
    for item in () if steps is None else steps.items():
        step = item.section()
        at = step.need("at")
        found.append(Threshold(_share(at), _actions(step.need("actions"), notify)))
        step.done()
    if not found:
        raise s.error("say what happens: actions, warn or thresholds")
    return tuple(sorted(found, key=lambda t: t.at))


def _share(value: Value) -> float:
    share = value.share()
    if not 0 < share <= 10:
        raise value.error("give a share of the limit, such as 80%")
    return share


def _actions(value: Value, notify: Mapping[str, Any]) -> tuple[Action, ...]:
    return tuple(_action(item, notify) for item in value.items())


def _action(item: Value, notify: Mapping[str, Any]) -> Action:
    from replaykit.rules.actions import installed

    known = (*EFFECTS, *installed())
    if not item.is_section:
        kind = item.choice(known)
        if kind in ("notify", "webhook", "command", "rate_limit"):
            raise item.error(f"{kind} needs a value: `{kind}: …`")
        return Action(kind)
    pairs = list(item.section().pairs())
    if len(pairs) != 1:
        raise item.error("one action an entry, such as `- rate_limit: 1MB/s`")
    kind, value = pairs[0]
    if kind not in known:
        raise value.error(f"no such action; there are {', '.join(known)}")
    if kind == "notify":
        name = value.text()
        if name not in notify:
            raise value.error(f"there is no {name!r} under notify; there are {', '.join(notify) or 'none'}")
        return Action(kind, name)
    if kind == "webhook":
        from urllib.parse import urlsplit

        if urlsplit(value.text()).scheme not in ("http", "https") or not urlsplit(value.text()).hostname:
            raise value.error("write a URL with http:// or https://")
        return Action(kind, value.text())
    if kind == "command":
        return Action(kind, tuple(value.texts()))
    if kind == "rate_limit":
        rate = _rate(value)
        if rate <= 0:
            raise value.error("give more than nothing; to stop all traffic there is block")
        return Action(kind, rate)
    if kind in EFFECTS:
        if not value.flag():
            raise value.error("leave the action out instead")
        return Action(kind)
    return Action(kind, value.text())
