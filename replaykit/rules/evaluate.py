"""What the rules say now: which are exceeded, by whom, and which of several wins.

The cost grows with the subjects and the rules, not with the time that a rule looks back on: each span is
asked for once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replaykit.ledger import calendar
from replaykit.ledger.history import Sum, subjects, totals
from replaykit.ledger.selection import Key, Selection, Subject, literally
from replaykit.ledger.states import State
from replaykit.ledger.store import Ledger
from replaykit.records.usage import COUNTERS
from replaykit.rules.actions import EFFECTS
from replaykit.rules.limits import Rule, Verdict, judge


@dataclass(frozen=True)
class Wanted:
    """An effect that ought to hold. verdict: of the rule that wins; others: rules that ask for less."""

    subject: Subject
    effect: str
    value: Any
    verdict: Verdict
    others: tuple[str, ...] = field(default=())


def verdicts(ledger: Ledger, rules: Iterable[Rule], now: int) -> list[Verdict]:
    """Of every enabled rule, for every subject that it selects and that used anything; the rules' order is
    kept.
    """
    asked: dict[tuple[str | None, str | None, int], Sequence[Sum]] = {}
    out: list[Verdict] = []
    for rule in rules:
        if not rule.enabled:
            continue
        if rule.anchored:
            out += _anchored(ledger, rule, now)
            continue
        since, until = rule.span(now, ledger.zone)
        key = rule.selection.vantage, rule.selection.kind, since
        if key not in asked:
            # The minute that runs counts too.
            asked[key] = totals(
                ledger, since, now + 1, Selection(rule.selection.vantage, rule.selection.kind)
            ).sums
        out += _of_rule(rule, asked[key], since, until, now)
    return out


def standing(ledger: Ledger, rules: Iterable[Rule], subject: Subject, now: int) -> list[Verdict]:
    """Of every enabled rule that selects the subject, whatever it used; the rules' order is kept."""
    out = []
    for rule in rules:
        if not rule.enabled or not rule.selection.matches(subject):
            continue
        since, until = rule.span_of(subject, now, ledger.zone)
        # A share is of what all of its kind moved.
        names = () if rule.share is not None else (literally(subject.name),)
        sums = totals(ledger, since, now + 1, Selection(subject.vantage, subject.kind, names)).sums
        used = {s.subject: rule.used([getattr(s, n) for n in COUNTERS]) for s in sums}
        seconds = max(1, rule.window_s or now - since)
        allowed = rule.allowed(sum(used.values()), seconds)
        out.append(judge(rule, subject, used.get(subject.name, 0), allowed, since, until))
    return out


def _anchored(ledger: Ledger, rule: Rule, now: int) -> list[Verdict]:
    """Each subject has its own span."""
    spans: dict[tuple[int, int | None], list[str]] = {}
    for subject in subjects(ledger, rule.selection):
        spans.setdefault(rule.span_of(subject, now, ledger.zone), []).append(subject.name)
    out = []
    for (since, until), names in spans.items():
        chosen = Selection(rule.selection.vantage, rule.selection.kind, tuple(map(literally, names)))
        out += _of_rule(rule, totals(ledger, since, now + 1, chosen).sums, since, until, now)
    return out


def _of_rule(rule: Rule, sums: Sequence[Sum], since: int, until: int | None, now: int) -> list[Verdict]:
    used = [(s, rule.used([getattr(s, n) for n in COUNTERS])) for s in sums]
    whole: dict[tuple[str, str], int] = {}
    for s, value in used:
        whole[s.vantage, s.subject_kind] = whole.get((s.vantage, s.subject_kind), 0) + value
    seconds = max(1, (rule.window_s or now - since))
    out = []
    for s, value in used:
        subject = Subject(s.vantage, s.subject_kind, s.subject, s.labels)
        if rule.selection.matches(subject):
            allowed = rule.allowed(whole[s.vantage, s.subject_kind], seconds)
            out.append(judge(rule, subject, value, allowed, since, until))
    return out


def wanted(found: Iterable[Verdict]) -> dict[tuple[Key, str], Wanted]:
    """The strictest of each effect for each subject: the lowest rate; blocked if any rule blocks."""
    out: dict[tuple[Key, str], Wanted] = {}
    for verdict in found:
        if verdict.rule.dry_run:
            continue
        for threshold in verdict.reached:
            for action in threshold.actions:
                if action.kind not in EFFECTS:
                    continue
                key = verdict.subject.key, action.kind
                there = out.get(key)
                if there is None:
                    out[key] = Wanted(verdict.subject, action.kind, action.value, verdict)
                elif stricter(action.kind, action.value, there.value):
                    others = (*there.others, there.verdict.rule.name)
                    out[key] = Wanted(verdict.subject, action.kind, action.value, verdict, others)
                elif there.verdict.rule.name != verdict.rule.name:
                    out[key] = Wanted(
                        there.subject,
                        there.effect,
                        there.value,
                        there.verdict,
                        (*there.others, verdict.rule.name),
                    )
    return out


def stricter(effect: str, one: Any, other: Any) -> bool:
    """Whether the one allows less."""
    return effect == "rate_limit" and one < other


def explain(
    ledger: Ledger, rules: Sequence[Rule], name: str, now: int, states: Mapping[Key, State] | None = None
) -> list[str]:
    """Why what happens to the subjects of this name (or glob) happens, line by line; nothing for an unknown
    one.

    states: what vantages say of their subjects now: limits of their own, and why somebody is refused.
    """
    lines: list[str] = []
    found = verdicts(ledger, rules, now)
    wins = wanted(found)
    said = states or {}
    chosen = Selection(names=(name,))
    known = {s.key: s for s in subjects(ledger, chosen)}
    silent = {key: Subject(*key) for key in said if key not in known}  # what never moved anything
    for subject in [*known.values(), *(s for s in silent.values() if chosen.matches(s))]:
        labels = "".join(f" {n}={v}" for n, v in sorted(subject.labels.items()))
        lines.append(f"{subject.vantage} {subject.kind} {subject.name}{labels}")
        for rule in rules:
            lines += [f"  {line}" for line in _explained(rule, subject, found, wins, ledger, now)]
        state = said.get(subject.key)
        if state is not None:
            lines += [f"  {limit}" for limit in state.limits]
        held = [w for (key, _), w in wins.items() if key == subject.key]
        for w in held:
            more = f", stricter than {', '.join(w.others)}" if w.others else ""
            lines.append(
                f"  => {effect_in_words(w.effect, w.value)} by {w.verdict.rule.name}{more};"
                f" {_until(w.verdict, ledger)}"
            )
        refusals = state.refusals if state is not None else ()
        at = calendar.show(state.at, ledger.zone) if state is not None else ""
        lines += [f"  => refused: {why}, as of {at}" for why in refusals]
        if not held and not refusals:
            lines.append("  => nothing is restricted")
    return lines


def _explained(
    rule: Rule,
    subject: Subject,
    found: Sequence[Verdict],
    wins: Mapping[Any, Wanted],
    ledger: Ledger,
    now: int,
) -> list[str]:
    if not rule.enabled:
        return [f"{rule.name}: not enabled"]
    why = _unselected(rule.selection, subject)
    if why:
        return [f"{rule.name}: does not apply: {why}"]
    verdict = next((v for v in found if v.rule is rule and v.subject.key == subject.key), None)
    if verdict is None:
        since, until = rule.span(now, ledger.zone)
        verdict = judge(rule, subject, 0, rule.limit or 0, since, until)
        return [
            f"{rule.name}: allows {rule.describe()}: nothing used since {calendar.show(since, ledger.zone)}"
        ]
    lines = [
        f"{rule.name}: allows {rule.describe()}: {verdict.reason} since"
        f" {calendar.show(verdict.since, ledger.zone)}"
    ]
    for threshold in rule.thresholds:
        state = "reached" if threshold in verdict.reached else "not reached"
        acts = ", ".join(effect_in_words(a.kind, a.value) for a in threshold.actions)
        dry = " (dry run: nothing is done)" if rule.dry_run and threshold in verdict.reached else ""
        lines.append(f"  at {threshold.at:.0%} {acts}: {state}{dry}")
    return lines


def _unselected(selection: Selection, subject: Subject) -> str:
    """Why it is not selected."""
    if selection.vantage not in (None, subject.vantage):
        return f"vantage {selection.vantage}"
    if selection.kind not in (None, subject.kind):
        return f"kind {selection.kind}"
    if selection.exclude and Selection(names=selection.exclude).matches(subject):
        return f"excluded by {', '.join(selection.exclude)}"
    if selection.names and not Selection(names=selection.names).matches(subject):
        return f"only for {', '.join(selection.names)}"
    for name, patterns in selection.labels.items():
        if not Selection(labels={name: patterns}).matches(subject):
            return f"only with {name}={'|'.join(patterns)}"
    return ""


def effect_in_words(kind: str, value: Any) -> str:
    """An action without secrets: a URL may hold one."""
    from replaykit.units import show_set

    if kind == "rate_limit":
        return f"rate_limit {show_set(value)}/s"
    return (
        kind
        if kind in EFFECTS
        else f"{kind} {value if isinstance(value, str) and '://' not in value else ''}".strip()
    )


def _until(verdict: Verdict, ledger: Ledger) -> str:
    return (
        "while the window is over it"
        if verdict.until is None
        else f"until {calendar.show(verdict.until, ledger.zone)}"
    )
