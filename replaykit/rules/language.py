"""Rules as a file declares them: one language for those about traffic and those over the ledger.

Owns which of its forms a file is written in: this one, or one of the two of earlier versions. What a rule
means is made of it by `replaykit.rules.alerts` and `replaykit.rules.limits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema

from replaykit.config.kinds import (
    RATE_SCHEMA,
    SHARE_SCHEMA,
    URL_SCHEMA,
    ByOthers,
    Duration,
    Kind,
    Many,
    Text,
    as_choice,
    as_number,
    as_rate,
    as_text,
    as_url,
    one_of,
)
from replaykit.config.places import Location, Problem
from replaykit.config.problems import wrong_at
from replaykit.config.reading import Document, load
from replaykit.config.sections import Section
from replaykit.config.wording import wrong
from replaykit.errors import UsageError
from replaykit.records.usage import KINDS
from replaykit.rules.actions import Action
from replaykit.rules.alerts_file import AMOUNT_SCHEMA, AlertRule, AlertsFile, Change, Watched, Zone, recovery
from replaykit.rules.alerts_file import Amount as AmountOfTraffic
from replaykit.rules.limits_file import Allowance, LimitRule, LimitsFile, PartOfLimit
from replaykit.rules.metrics import BYTES, COUNTS, GROUPS, METRICS
from replaykit.rules.notifiers import Notifiers

ALL = "all"
_TOLD = ("notify", "webhook", "command")
_ACTIONS = (*_TOLD, *Change.model_fields)
_TEXT = {"type": ["string", "number"]}
_NO_TAG = "say what it is about: `traffic: endpoint` (host, method, status, all) or `usage: user` (all, …)"


def _rate(given: Any, before: Mapping[str, Any]) -> float:
    """Of the metric, a second."""
    metric = before.get("metric")
    if metric is None:  # that it is wrong is enough to know
        return 0.0
    found = float(as_rate(given)) if metric in BYTES else as_number(given)
    if found <= 0:
        raise wrong("give more than nothing")
    return found


def _recovery(given: Any, before: Mapping[str, Any]) -> float:
    """In the unit of what is too much."""
    return _rate(given, before) if before.get("rate") is not None else recovery(given, before)


def _read_action(given: Any) -> Action:
    """`headers_only`, or `notify: ops`."""
    if not isinstance(given, dict):
        kind = as_choice(given, _ACTIONS)
        if kind != "headers_only":
            raise wrong(f"{kind} needs a value: `{kind}: …`")
        return Action(kind)
    if len(given) != 1:
        raise wrong("one action an entry, such as `- notify: ops`")
    ((kind, value),) = given.items()
    if kind in Change.model_fields:
        return Action(kind, getattr(Change.model_validate({kind: value}), kind))
    if kind not in _TOLD:
        raise wrong_at(f"no such action about traffic; there are {', '.join(_ACTIONS)}", kind)
    try:
        return Action(kind, _value(kind, value))
    except (UsageError, ValueError) as error:  # a ValueError as raised by `wrong`
        raise wrong_at(str(error), kind) from None


def _value(kind: str, given: Any) -> Any:
    if kind == "command":
        return tuple(as_text(one) for one in (given if isinstance(given, list) else [given]))
    return as_url(given) if kind == "webhook" else as_text(given)


@dataclass(frozen=True, eq=False)
class _ActionKind(Kind):
    """Telling somebody, and what a capture does differently."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        texts = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
        values: dict[str, Any] = dict.fromkeys(_ACTIONS, texts)
        values |= {"notify": _TEXT, "webhook": URL_SCHEMA}
        values |= {"sample": SHARE_SCHEMA, "headers_only": {"type": "boolean"}}
        one = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
        return {"anyOf": [{"const": "headers_only"}, {"type": "object", "properties": values, **one}]}


Actions = Many[Annotated[Action, _ActionKind(_read_action)]]
Rate = Annotated[float, ByOthers(_rate, {**RATE_SCHEMA, "examples": ["10MB/s", 1000]})]
Recovery = Annotated[float, ByOthers(_recovery, AMOUNT_SCHEMA)]


class TrafficStep(Section):
    """What happens from a share of the limit on."""

    at: PartOfLimit = Field(description="The share of what is too much; 100% is all of it")
    actions: Actions = Field(description="What happens")


class TrafficRule(Watched):
    """What of the traffic is watched, when it is too much, and what happens then."""

    traffic: Annotated[str, one_of((*GROUPS, ALL))] = Field(
        description="Of what: judged apart for each endpoint, host, method or status; or all of it together"
    )
    metric: Annotated[str, one_of(METRICS)] = Field("bytes", description="What is watched; default: bytes")
    limit: AmountOfTraffic | None = Field(
        None, description="Too much is more than this in the window, in the metric's unit"
    )
    rate: Rate | None = Field(None, description="Too much is more than this a second, over the window")
    recover: Recovery | None = Field(
        None, description="It ends below this, written as the limit is; default: the limit itself"
    )
    warn: PartOfLimit | None = Field(None, description="From here on everybody under `notify` is told")
    actions: Actions = Field((), description="What happens when it is too much")
    thresholds: Many[TrafficStep] = Field((), description="What happens at other shares of the limit")

    def disagreements(self) -> Iterator[Problem]:
        if sum(one is not None for one in (self.limit, self.share, self.rate, self.growth)) != 1:
            yield Problem((), "give one of limit, share, rate and growth")
        if self.share is not None and self.traffic == ALL:
            yield Problem(("share",), "a share of the whole that each may have: say of which under `traffic`")
        sums = self.share is not None or self.growth is not None or self.rate is not None
        if sums and self.metric not in (*BYTES, *COUNTS):
            yield Problem((), f"share, rate and growth are of sums, not of {self.metric}")
        if self.metric == "loss" and (self.traffic != ALL or self.where.patterns()):
            yield Problem((), "loss is the kernel's: only with `traffic: all`, and without `where`")
        shares = [step.at for step in self.thresholds] + ([] if self.warn is None else [self.warn])
        shares += [1.0] if "actions" in self.model_fields_set else []
        if len(set(shares)) != len(shares):
            yield Problem((), "two steps (actions, warn, thresholds) are at the same share of the limit")

    def steps(self, everybody: Sequence[str]) -> dict[float, tuple[Action, ...]]:
        """What happens at which share; at the whole of it at least that it is seen."""
        found = {1.0: self.actions, **{step.at: step.actions for step in self.thresholds}}
        if self.warn is not None:
            found[self.warn] = tuple(Action("notify", name) for name in everybody)
        return dict(sorted(found.items()))

    def step_name(self, at: float) -> str:
        """As which it is known in messages and in the state."""
        return self.name if at == 1 else f"{self.name} at {at * 100:g}%"

    def names(self) -> list[str]:
        return [self.step_name(at) for at in self.steps(())]

    def told(self) -> Iterator[tuple[Location, str]]:
        """The notifiers that it names, and where."""
        lists: list[tuple[Location, tuple[Action, ...]]] = [(("actions",), self.actions)]
        lists += [(("thresholds", n, "actions"), step.actions) for n, step in enumerate(self.thresholds)]
        for at, actions in lists:
            for n, one in enumerate(actions):
                if one.kind == "notify":
                    yield (*at, n, "notify"), str(one.value)


class UsageRule(Allowance):
    """Who may use how much in which time, by the ledger, and what happens then."""

    usage: Annotated[str, one_of((*KINDS, ALL))] = Field(
        description="Of whom: judged apart for each user, mapping, machine or the like; all: of every subject"
    )
    recover_for: Duration | None = Field(
        None, description="Effects last so long after it is over; default: the window"
    )
    severity: Text = Field("critical", description="A word that is passed on, from the limit on")

    def names(self) -> list[str]:
        return [self.name]


def _about(given: Any) -> str | None:
    """Which of both a rule is; by a key that is like one where there is none."""
    if not isinstance(given, Mapping):
        return _TAGS["traffic"]
    said = [name for name in _TAGS if name in given]
    if len(said) > 1:
        return None
    near = [name for key in given for name in get_close_matches(str(key), list(_TAGS), 1, 0.8)]
    return _TAGS.get(next(iter([*said, *near]), ""))


_TAGS = {"traffic": "a rule about traffic", "usage": "a rule over the ledger"}
AnyRule = Annotated[
    Annotated[TrafficRule, Tag(_TAGS["traffic"])] | Annotated[UsageRule, Tag(_TAGS["usage"])],
    Discriminator(_about, custom_error_type="about", custom_error_message=_NO_TAG),
]


class RulesFile(Section):
    """Rules about traffic and over the ledger: when it is too much, and what happens then."""

    time_zone: Zone | None = Field(None, description="Of silences; default: UTC")
    interval: Duration | None = Field(
        None, description="How often rules are judged; default: 1m about traffic, 10s over the ledger"
    )
    notify: Notifiers = Field({}, description="Who can be told, by names of your own")
    rules: Many[AnyRule] = Field(description="The rules")

    def disagreements(self) -> Iterator[Problem]:
        names: set[str] = set()
        there = ", ".join(self.notify) or "none"
        for n, rule in enumerate(self.rules):
            for name in rule.names():
                if name in names:
                    yield Problem(("rules", n), f"there are two rules named {name!r}")
                names.add(name)
            if rule.warn is not None and not self.notify:
                text = "nobody is to be told: name someone under `notify:` at the top"
                yield Problem(("rules", n, "warn"), text)
            for at, name in rule.told():
                if name not in self.notify:
                    yield Problem(("rules", n, *at), f"there is no {name!r} under notify; there are {there}")


Form = Literal["", "rules", "alerts", "limits"]
_ONLY_OF_ALERTS = {AlertRule.model_fields[n].alias or n for n in AlertRule.model_fields} - {
    *LimitRule.model_fields
}
_ONLY_OF_LIMITS = {*LimitRule.model_fields} - {*AlertRule.model_fields}


def form(data: Any) -> Form:
    """How a file's values are written: in this form, or in one of the two of earlier versions.

    "": nobody can tell. A file without rules is alike in all of them.
    """
    found = data.get("rules") if isinstance(data, Mapping) else None
    rules = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, Mapping)]
    keys = {str(key) for one in rules for key in one}
    if found == [] or keys & {*_TAGS}:
        return "rules"
    of_alerts, of_limits = bool(keys & _ONLY_OF_ALERTS), bool(keys & _ONLY_OF_LIMITS)
    if of_alerts == of_limits:
        return ""
    return "alerts" if of_alerts else "limits"


def traffic_rules(document: Document) -> tuple[RulesFile, list[TrafficRule]] | None:
    """None: it is written in the form of earlier versions. Raises UsageError, also where none is about
    traffic.
    """
    written = form(document.data)
    if written != "rules":
        if written == "limits":
            raise _none(document, "traffic")
        return None
    found = document.checked(RulesFile)
    rules = [rule for rule in found.rules if isinstance(rule, TrafficRule)]
    if found.rules and not rules:
        raise _none(document, "traffic")
    return found, rules


def usage_rules(document: Document) -> tuple[RulesFile, list[tuple[int, UsageRule]]] | None:
    """As `traffic_rules`, of those over the ledger, each with its place in the file."""
    written = form(document.data)
    if written != "rules":
        if written == "alerts":
            raise _none(document, "usage")
        return None
    found = document.checked(RulesFile)
    rules = [(n, rule) for n, rule in enumerate(found.rules) if isinstance(rule, UsageRule)]
    if found.rules and not rules:
        raise _none(document, "usage")
    return found, rules


def _none(document: Document, about: str) -> UsageError:
    said = {
        "traffic": "no rule about traffic; those over the ledger are for `--rules` and `replaykit rules`",
        "usage": "no rule over the ledger; those about traffic are for `replaykit alert` and `--alerts`",
    }
    return UsageError(f"{document.file}: there is {said[about]}")


def check(path: str) -> None:
    """A file of either kind of rule, in any form. Raises UsageError."""
    document = load(path)
    models: dict[str, type[Section]] = {"alerts": AlertsFile, "limits": LimitsFile}
    document.checked(models.get(form(document.data), RulesFile))
