"""Rules about traffic, as files of earlier versions declare them, and what they share with those of today
(`replaykit.rules.language`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, time, tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field

from replaykit.config.kinds import (
    DURATION_SCHEMA,
    SHARE_SCHEMA,
    ByOthers,
    Duration,
    Flag,
    Kind,
    Many,
    Text,
    Texts,
    as_choice,
    as_duration,
    as_number,
    as_share,
    as_size,
    as_text,
    one_of,
)
from replaykit.config.places import Problem
from replaykit.config.sections import Section
from replaykit.config.wording import wrong
from replaykit.rules.metrics import BEFORE, BYTES, COUNTS, DURATIONS, GROUPS, METRICS, SHARES
from replaykit.rules.notifiers import Notifiers

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
AMOUNT_SCHEMA = {"type": ["string", "number"], "examples": ["500MB", "500ms", "5%", 1000]}


def amount(given: Any, before: Mapping[str, Any]) -> float:
    """In the metric's unit; durations in nanoseconds."""
    metric = before.get("metric")
    if metric is None:  # that it is wrong is enough to know
        return 0.0
    if metric in BYTES:
        return float(as_size(given))
    if metric in DURATIONS:
        return as_duration(given) * 1e9
    return as_share(given) if metric in SHARES else as_number(given)


def recovery(given: Any, before: Mapping[str, Any]) -> float:
    """A share where the rule is one of a share or of growth."""
    if not {"share", "growth"} <= set(before):  # one of them is wrong, which is said
        return 0.0
    relative = before["share"] is not None or before["growth"] is not None
    return as_share(given) if relative else amount(given, before)


def _zone(given: Any) -> tzinfo:
    name = as_text(given)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise wrong(f"{name!r} is no time zone; write Europe/Berlin or UTC") from None


def _window(given: Any) -> float:
    seconds = as_duration(given)
    if seconds < 60:
        raise wrong("statistics are by minute: give 1m or more")
    return seconds


def _more(given: Any) -> float:
    share = as_share(given)
    if share <= 0:
        raise wrong("give a share above 0, such as 50%")
    return share


def _part(given: Any) -> float:
    share = as_share(given)
    if not 0 < share <= 1:
        raise wrong("give a share above 0 and up to 1")
    return share


def _pattern(given: Any) -> str:
    text = as_text(given)
    if text.startswith("~"):
        try:
            re.compile(text[1:])
        except re.error as error:
            raise wrong(f"{text!r}: not a regular expression: {error}") from None
    return text


def _moment(given: Any) -> time | datetime:
    text = as_text(given)
    for read in (time.fromisoformat, datetime.fromisoformat):
        try:
            return read(text)
        except ValueError:
            continue
    raise wrong(f"{text!r}: write '22:00' (in quotes) or 2026-11-25T08:00")


def _day(given: Any) -> int:
    return _DAYS.index(as_choice(given, _DAYS))


def _underscored(given: Any) -> Any:
    """Keys may be spelt as options are, with `-`."""
    return {str(n).replace("-", "_"): v for n, v in given.items()} if isinstance(given, dict) else given


Amount = Annotated[float, ByOthers(amount, AMOUNT_SCHEMA)]
Recovery = Annotated[float, ByOthers(recovery, AMOUNT_SCHEMA)]
Window = Annotated[float, Kind(_window, DURATION_SCHEMA)]
PartOfAll = Annotated[float, Kind(as_share, SHARE_SCHEMA)]
Pattern = Annotated[str, Kind(_pattern, {"type": ["string", "number"]})]
Moment = Annotated[
    time | datetime, Kind(_moment, {"type": "string", "examples": ["22:00", "2026-11-25T08:00"]})
]
Day = Annotated[int, Kind(_day, {"enum": list(_DAYS)})]
Zone = Annotated[tzinfo, Kind(_zone, {"type": "string", "examples": ["Europe/Berlin", "UTC"]})]


class Where(Section):
    """Which traffic is meant: globs, `~` before a regular expression, `!` before what is not meant."""

    endpoint: Many[Pattern] = Field((), description="Such as /api/* or !/api/export")
    host: Many[Pattern] = Field((), description="Such as *.example.org")
    method: Many[Pattern] = Field((), description="Such as POST")
    status: Many[Pattern] = Field((), description="Such as 404 or 5xx")

    def patterns(self) -> dict[str, tuple[str, ...]]:
        """What was given, by group."""
        return {name: getattr(self, name) for name in GROUPS if name in self.model_fields_set}


class Grown(Section):
    """More than the same window had before."""

    than: Many[Annotated[str, one_of(tuple(BEFORE))]] = Field(description="The windows to compare with")
    by: Annotated[float, Kind(_more, SHARE_SCHEMA)] = Field(
        description="So much more; 50% is half as much again"
    )


class Quiet(Section):
    """When nobody is told: times of day, which may go over midnight, or from one moment to another."""

    begin: Moment = Field(alias="from", description="A time of day such as '22:00', or a moment")
    end: Moment = Field(alias="to", description="A time of day, or a moment")
    days: Many[Day] = Field(tuple(range(7)), description="Only on these days of the week; default: all")

    def disagreements(self) -> Iterator[Problem]:
        if isinstance(self.begin, time) != isinstance(self.end, time):
            yield Problem((), "from and to: both a time of day, or both a moment")


class Change(Section):
    """What a capture does differently while the rule fires, so that it spares itself."""

    sample: Annotated[float, Kind(_part, SHARE_SCHEMA)] | None = Field(
        None, description="Only this share of the connections"
    )
    headers_only: Flag | None = Field(None, description="Bodies are not kept")
    allow_url: Texts = Field((), description="Only URLs that match")
    disallow_url: Texts = Field((), description="No URLs that match")
    allow_header: Texts = Field((), description="Only where a header matches")
    disallow_header: Texts = Field((), description="Not where a header matches")
    allow_method: Texts = Field((), description="Only these methods")
    disallow_method: Texts = Field((), description="Not these methods")

    @classmethod
    def known(cls) -> list[str]:
        return list(cls.model_fields)

    def settings(self) -> dict[str, Any]:
        """What was given, by name."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set
        }


class Watched(Section):
    """What every rule about traffic may say, in both forms of the file."""

    name: Text = Field(description="Its own among all rules")
    metric: Annotated[str, one_of(METRICS)] = Field(description="What is watched")
    where: Where = Field(Where(), description="Only of these endpoints, hosts, methods or statuses")
    window: Window = Field(300.0, description="The time that is looked at, which slides; default: 5m")
    share: PartOfAll | None = Field(None, description="Too much is more than this share of the whole")
    growth: Grown | None = Field(None, description="Too much is so much more than before")
    at_least: Amount = Field(0.0, description="Below it nothing fires")
    held: Duration = Field(0.0, alias="for", description="It fires when it has lasted so long")
    recover_for: Duration = Field(0.0, description="It ends when it was calm so long")
    silence: Many[Quiet] = Field((), description="When nobody is told")
    severity: Text = Field("warning", description="A word that is passed on, such as critical")
    enabled: Flag = Field(True, description="Whether it is judged at all")


class AlertRule(Watched):
    """What is watched, when it is too much, and what then, in the form of earlier versions."""

    by: Annotated[str, one_of(GROUPS)] | None = Field(None, description="Judged apart for each of these")
    above: Amount | None = Field(None, description="Too much is more than this, in the metric's unit")
    recover: Recovery | None = Field(None, description="It ends below this; default: the threshold itself")
    notify: Texts = Field((), description="Who is told, by their names under `notify`")
    change: Annotated[Change, BeforeValidator(_underscored)] = Field(
        Change(), description="What a capture does differently while it fires"
    )

    def disagreements(self) -> Iterator[Problem]:
        if sum(one is not None for one in (self.above, self.share, self.growth)) != 1:
            yield Problem((), "give one of above, share and growth")
        if self.share is not None and self.by is None:
            yield Problem(
                (), "share needs `by`: a share of the whole that each endpoint, host or the like may have"
            )
        relative = self.share is not None or self.growth is not None
        if relative and self.metric not in (*BYTES, *COUNTS):
            yield Problem((), f"share and growth are of sums, not of {self.metric}")
        if self.metric == "loss" and (self.by or self.where.patterns()):
            yield Problem((), "loss is the kernel's: it knows neither `by` nor `where`")


class AlertsFile(Section):
    """Alert rules, in the form of earlier versions."""

    time_zone: Zone | None = Field(None, description="Of silences; default: UTC")
    interval: Duration = Field(60.0, description="How often rules are judged; default: 1m")
    notify: Notifiers = Field({}, description="Who can be told, by names of your own")
    rules: Many[AlertRule] = Field(description="The rules")

    def disagreements(self) -> Iterator[Problem]:
        names: set[str] = set()
        there = ", ".join(self.notify) or "none"
        for n, rule in enumerate(self.rules):
            if rule.name in names:
                yield Problem(("rules", n), f"there are two rules named {rule.name!r}")
            names.add(rule.name)
            for m, name in enumerate(rule.notify):
                if name not in self.notify:
                    yield Problem(("rules", n, "notify", m), f"there is no {name!r}; there are {there}")
