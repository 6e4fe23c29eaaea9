"""Rules over the ledger, as files of earlier versions declare them, and what they share with those of today
(`replaykit.rules.language`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from replaykit.config.kinds import (
    DURATION_SCHEMA,
    RATE_SCHEMA,
    SHARE_SCHEMA,
    URL_SCHEMA,
    ByOthers,
    Duration,
    Flag,
    Kind,
    Many,
    Text,
    Texts,
    as_choice,
    as_duration,
    as_flag,
    as_number,
    as_rate,
    as_share,
    as_text,
    as_url,
    number,
    one_of,
)
from replaykit.config.places import Location, Problem
from replaykit.config.problems import wrong_at
from replaykit.config.sections import Section
from replaykit.config.wording import wrong
from replaykit.errors import UsageError
from replaykit.records.usage import KINDS
from replaykit.rules.actions import EFFECTS, Action, installed
from replaykit.rules.notifiers import Notifiers

METRICS = ("bytes", "packets", "requests", "connections")
DIRECTIONS = ("both", "rx", "tx")
PERIODS = ("hour", "day", "month")
_VALUED = ("notify", "webhook", "command", "rate_limit")
_TEXT = {"type": ["string", "number"]}


def _amount(given: Any, before: Mapping[str, Any]) -> float:
    """Bytes, or a count of another metric."""
    if "metric" not in before:  # that it is wrong is enough to know
        return 0.0
    return _some(float(as_rate(given)) if before["metric"] == "bytes" else as_number(given))


def _some(amount: float) -> float:
    if amount <= 0:
        raise wrong("give more than nothing")
    return amount


def _window(given: Any) -> int:
    seconds = int(as_duration(given))
    if seconds < 60:
        raise wrong("the ledger counts by minute: give 1m or more")
    return seconds


def _step(given: Any) -> float:
    share = as_share(given)
    if not 0 < share <= 10:
        raise wrong("give a share of the limit, such as 80%")
    return share


def _read_action(given: Any) -> Action:
    """`block`, or `rate_limit: 1MB/s`."""
    known = (*EFFECTS, *installed())
    if not isinstance(given, dict):
        kind = as_choice(given, known)
        if kind in _VALUED:
            raise wrong(f"{kind} needs a value: `{kind}: …`")
        return Action(kind)
    if len(given) != 1:
        raise wrong("one action an entry, such as `- rate_limit: 1MB/s`")
    ((kind, value),) = given.items()
    if kind not in known:
        raise wrong_at(f"no such action; there are {', '.join(known)}", kind)
    try:
        return Action(kind, _value(kind, value))
    except UsageError as error:
        raise wrong_at(str(error), kind) from None
    except ValueError as error:  # as raised by `wrong`
        raise wrong_at(str(error), kind) from None


def _value(kind: str, given: Any) -> Any:
    if kind == "webhook":
        return as_url(given)
    if kind == "command":
        return tuple(as_text(one) for one in (given if isinstance(given, list) else [given]))
    if kind == "rate_limit":
        rate = as_rate(given)
        if rate <= 0:
            raise wrong("give more than nothing; to stop all traffic there is block")
        return rate
    if kind in EFFECTS:
        if not as_flag(given):
            raise wrong("leave the action out instead")
        return True
    return as_text(given)


@dataclass(frozen=True, eq=False)
class _ActionKind(Kind):
    """What can be done is known when the schema is asked for: plug-ins add to it."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        known = (*EFFECTS, *installed())
        values: dict[str, Any] = {name: {"const": True} if name in EFFECTS else _TEXT for name in known}
        values |= {"webhook": URL_SCHEMA, "rate_limit": RATE_SCHEMA}
        values["command"] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
        one = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
        return {
            "anyOf": [
                {"type": "string", "enum": [name for name in known if name not in _VALUED]},
                {"type": "object", "properties": values, **one},
            ]
        }


Amount = Annotated[float, ByOthers(_amount, {**RATE_SCHEMA, "examples": ["100GB", "10MB/s", 1000]})]
PartOfAll = Annotated[float, Kind(lambda given: _some(as_share(given)), SHARE_SCHEMA)]
PartOfLimit = Annotated[float, Kind(_step, SHARE_SCHEMA)]
Window = Annotated[int, Kind(_window, DURATION_SCHEMA)]
Actions = Many[Annotated[Action, _ActionKind(_read_action)]]


class Step(Section):
    """What happens from a share of the limit on."""

    at: PartOfLimit = Field(description="The share of the limit beyond which it happens; 100% is the limit")
    actions: Actions = Field(description="What happens, in this order")


class Allowance(Section):
    """What every rule over the ledger may say, in both forms of the file."""

    name: Text = Field(description="Its own among all rules; messages and the log name it")
    vantage: Text | None = Field(
        None, description="Only subjects of forwarder, netfilter, hypervisor or the like"
    )
    subjects: Texts = Field((), description="Only these: names or globs")
    exclude: Texts = Field((), description="Not these: names or globs")
    labels: dict[str, Texts] = Field({}, description="Labels that the subject must have: globs by name")
    metric: Annotated[str, one_of(METRICS)] = Field("bytes", description="What is counted")
    direction: Annotated[str, one_of(DIRECTIONS)] = Field("both", description="As the subject sees it")
    period: Annotated[str, one_of(PERIODS)] | None = Field(None, description="Counts by the calendar")
    window: Window | None = Field(None, description="Counts over the last so much time, which slides")
    start_day: Annotated[int, number(1, 31, whole=True)] | None = Field(
        None, description="The day of the month on which a period of month begins"
    )
    anchor: Annotated[str, one_of(("calendar", "created"))] = Field(
        "calendar", description="Where periods begin: with the calendar's, or with the subject's creation"
    )
    limit: Amount | None = Field(None, description="So much may be used")
    share: PartOfAll | None = Field(None, description="So much of what all subjects use")
    rate: Amount | None = Field(None, description="So much a second, over the whole time")
    warn: PartOfLimit | None = Field(None, description="From here on everybody under `notify` is told")
    actions: Actions = Field((), description="What happens beyond the limit, in this order")
    thresholds: Many[Step] = Field((), description="What happens at other shares of the limit")
    enabled: Flag = Field(True, description="Whether it counts at all")
    dry_run: Flag = Field(False, description="Only the log says what would happen")

    def disagreements(self) -> Iterator[Problem]:
        if self.direction != "both" and self.metric not in ("bytes", "packets"):
            yield Problem(("direction",), f"{self.metric} have no direction")
        if (self.period is None) == (self.window is None):
            yield Problem((), "give one of period (hour, day, month) and window (such as 24h)")
        elif self.start_day is not None and self.period != "month":
            yield Problem(
                ("start_day",), "the day on which a period of month begins: only with period: month"
            )
        if self.anchor == "created" and (self.period is None or self.start_day is not None):
            yield Problem(("anchor",), "only with a period, and without start_day")
        if sum(one is not None for one in (self.limit, self.share, self.rate)) != 1:
            yield Problem((), "give one of limit, share and rate")
        if not {"actions", "warn", "thresholds"} & self.model_fields_set:
            yield Problem((), "say what happens: actions, warn or thresholds")

    def told(self) -> Iterator[tuple[Location, str]]:
        """The notifiers that it names, and where."""
        lists: list[tuple[Location, tuple[Action, ...]]] = [(("actions",), self.actions)]
        lists += [(("thresholds", n, "actions"), step.actions) for n, step in enumerate(self.thresholds)]
        for at, actions in lists:
            for n, one in enumerate(actions):
                if one.kind == "notify":
                    yield (*at, n, "notify"), str(one.value)


class LimitRule(Allowance):
    """Who may use how much in which time, and what happens then, in the form of earlier versions."""

    kind: Annotated[str, one_of(KINDS)] | None = Field(None, description="Only subjects of this kind")
    hold: Duration | None = Field(
        None, description="Effects last so long after it is over; default: the window"
    )


class LimitsFile(Section):
    """Rules over the ledger, in the form of earlier versions."""

    notify: Notifiers = Field({}, description="Who can be told, by names of your own")
    interval: Duration = Field(10.0, description="How often rules are judged; default: 10s")
    rules: Many[LimitRule] = Field(description="The rules")

    def disagreements(self) -> Iterator[Problem]:
        names: set[str] = set()
        there = ", ".join(self.notify) or "none"
        for n, rule in enumerate(self.rules):
            if rule.name in names:
                yield Problem(("rules", n), f"there are two rules named {rule.name!r}")
            names.add(rule.name)
            if rule.warn is not None and not self.notify:
                text = "nobody is to be told: name someone under `notify:` at the top"
                yield Problem(("rules", n, "warn"), text)
            for at, name in rule.told():
                if name not in self.notify:
                    yield Problem(("rules", n, *at), f"there is no {name!r} under notify; there are {there}")
