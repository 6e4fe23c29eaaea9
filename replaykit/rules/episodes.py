"""Episodes of alerts: when they begin, are told once, and end; kept on disk.

Owns the state of every rule and group, and an outbox. State is saved before word is sent and after, so a
restart neither forgets an episode nor begins it again; a message whose delivery was cut off by a crash is
sent again with the same id. Steps of time that were missed are evaluated afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from replaykit.atomic_files import write_whole
from replaykit.errors import UsageError
from replaykit.rules.actions import Action
from replaykit.rules.alerts import Rule, Rules, Verdict, judge
from replaykit.rules.metrics import BEFORE
from replaykit.rules.outbox import Waiting, attempts

TOP = 5
MAX_GROUPS = 1000
CATCH_UP_S = 86_400.0


class Source(Protocol):
    """Statistics by minute. Methods raise UsageError, and OSError while a server is away."""

    def rows(self, since_ns: int, until_ns: int) -> pa.Table | None:
        """The rows of the minutes from `since` to before `until`; None where nothing is known of that
        time.
        """

    def loss(self, since_ns: int, until_ns: int) -> float | None:
        """The share of packets that the kernel dropped; None where nobody knows."""


@dataclass
class State:
    """until: evaluated so far, in s since the epoch. episodes: rule, group, what is known of it."""

    until: float | None = None
    episodes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    outbox: list[dict[str, Any]] = field(default_factory=list)


class Watch:
    """Evaluates rules step by step. path: of the state; None: kept in memory only. Raises UsageError."""

    def __init__(self, rules: Rules, source: Source, path: Path | None = None) -> None:
        self.rules, self.source, self._path = rules, source, path
        self.state = State() if path is None else _load(path)
        known = {r.name for r in rules.rules if r.enabled}
        self.state.episodes = {n: e for n, e in self.state.episodes.items() if n in known}

    def advance(self, now: float) -> list[dict[str, Any]]:
        """Evaluates every step up to now, and gives the events. The state is saved."""
        step = self.rules.interval_s
        last = now - now % step
        begin = last - step if self.state.until is None else max(self.state.until, last - CATCH_UP_S)
        events: list[dict[str, Any]] = []
        at = begin - begin % step + step
        while at <= last:
            events += self.evaluate(at)
            self.state.until = at
            at += step
        if last > begin:
            self.save()
        return events

    def evaluate(self, at: float) -> list[dict[str, Any]]:
        """One step; events are put into the outbox too."""
        events: list[dict[str, Any]] = []
        for rule in self.rules.rules:
            if rule.enabled:
                events += self._rule(rule, at)
        self.state.outbox += [
            {"event": event, "to": name, "since": at} for event in events for name in event.pop("notify")
        ]
        return events

    def _rule(self, rule: Rule, at: float) -> list[dict[str, Any]]:
        # Windows are of whole minutes.
        until = at - at % 60
        since = until - rule.window_s
        now = self.source.rows(_ns(since), _ns(until))
        if now is None:
            return []
        before = [
            self.source.rows(_ns(since - BEFORE[t]), _ns(until - BEFORE[t]))
            for t in (rule.growth.than if rule.growth else ())
        ]
        loss = self.source.loss(_ns(since), _ns(until)) if rule.metric == "loss" else None
        verdicts = {v.group: v for v in judge(rule, now, before, loss)}
        episodes = self.state.episodes.setdefault(rule.name, {})
        unknown = (rule.metric == "loss" and loss is None) or (rule.growth is not None and not verdicts)
        if not unknown:
            for group in set(episodes) - set(verdicts):  # it has no traffic any more
                verdicts[group] = Verdict(group, 0.0, 0.0, False, True)
        events = []
        for _, verdict in sorted(verdicts.items()):
            event = self._group(rule, episodes, verdict, at)
            if event is not None:
                events.append({**event, **_numbers(rule, verdict), "top": top(now)})
        return events

    def _group(
        self, rule: Rule, episodes: dict[str, dict[str, Any]], verdict: Verdict, at: float
    ) -> dict[str, Any] | None:
        episode = episodes.get(verdict.group)
        if verdict.over:
            if episode is None:
                if len(episodes) >= MAX_GROUPS:
                    return None
                episode = episodes[verdict.group] = {"since": at, "fired": None, "told": False, "calm": None}
            episode["calm"] = None
            if episode["fired"] is None and at - episode["since"] >= rule.for_s:
                episode["fired"] = at
        elif episode is not None:
            if episode["fired"] is None:
                del episodes[verdict.group]
                return None
            if not verdict.calm:
                episode["calm"] = None
            else:
                episode["calm"] = episode["calm"] or at
                if at - episode["calm"] >= rule.recover_for_s:
                    del episodes[verdict.group]
                    return (
                        self._event("resolved", rule, verdict.group, episode, at) if episode["told"] else None
                    )
        if episode is None or episode["fired"] is None or episode["told"] or self._silent(rule, at):
            return None
        episode["told"] = True
        return self._event("firing", rule, verdict.group, episode, at)

    def _silent(self, rule: Rule, at: float) -> bool:
        when = datetime.fromtimestamp(at, self.rules.zone)
        return any(silence.covers(when) for silence in rule.silences)

    def _event(
        self, kind: str, rule: Rule, group: str, episode: Mapping[str, Any], at: float
    ) -> dict[str, Any]:
        identity = f"{rule.name}\x1f{group}\x1f{episode['fired']}"
        return {
            "id": hashlib.blake2b(identity.encode(), digest_size=8).hexdigest(),
            "kind": kind,
            "rule": rule.name,
            "severity": rule.severity,
            "group": group,
            "at": datetime.fromtimestamp(at, UTC).isoformat(),
            "began": datetime.fromtimestamp(episode["fired"], UTC).isoformat(),
            "notify": list(rule.notify),
        }

    def changes(self) -> dict[str, Any]:
        """What the rules that fire now change of a running capture; the strictest sample, all filters."""
        out: dict[str, Any] = {}
        for rule in self.rules.rules:
            if not any(e["fired"] is not None for e in self.state.episodes.get(rule.name, {}).values()):
                continue
            for name, value in rule.change.items():
                if name == "sample":
                    out[name] = min(value, out.get(name, 1.0))
                elif name == "headers_only":
                    out[name] = value or out.get(name, False)
                else:
                    out[name] = tuple(dict.fromkeys((*out.get(name, ()), *value)))
        return out

    def deliver(self, send: Callable[[str, Mapping[str, Any]], None], now: float) -> list[str]:
        """Sends what is in the outbox; gives a line for each failure.

        What fails is sent again next time, for a day.
        """
        troubles: list[str] = []
        entries = {_waiting(entry): entry for entry in self.state.outbox}
        for tried in attempts(entries, lambda one: send(one.lane, one.event), now):
            name, event = tried.what.lane, tried.what.event
            if tried.error:
                troubles.append(f"{name}: {tried.error}")
            if tried.over:
                if tried.error:
                    troubles.append(f"{name}: given up: {event['rule']} {event['kind']}")
                self.state.outbox.remove(entries[tried.what])
                self.save()
        return troubles

    def save(self) -> None:
        """Written aside and renamed. Raises UsageError."""
        if self._path is None:
            return
        data = {"until": self.state.until, "episodes": self.state.episodes, "outbox": self.state.outbox}
        write_whole(self._path, json.dumps(data).encode())


def _waiting(entry: Mapping[str, Any]) -> Waiting:
    """One lane a receiver: who is away is asked once a turn."""
    return Waiting(Action("notify", entry["to"]), entry["event"], entry["since"], entry["to"])


def _load(path: Path) -> State:
    try:
        found = json.loads(path.read_text())
        return State(found["until"], found["episodes"], found["outbox"])
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a state of alerts ({error}); move it away to begin anew") from None


def _ns(seconds: float) -> int:
    return int(seconds) * 1_000_000_000


def _numbers(rule: Rule, verdict: Verdict) -> dict[str, Any]:
    out: dict[str, Any] = {
        "metric": rule.metric, "by": rule.by, "window_s": rule.window_s, "value": verdict.value,
        "threshold": verdict.threshold,
    }  # fmt: skip
    for name in ("base", "share"):
        value = getattr(verdict, name)
        if value is not None:
            out[name] = value
    return out


def top(table: pa.Table, most: int = TOP) -> Sequence[dict[str, Any]]:
    """The endpoints with the most bytes, and their share."""
    if not table.num_rows:
        return []
    size = pc.add(
        pc.fill_null(table.column("request_wire_bytes"), 0),
        pc.fill_null(table.column("response_wire_bytes"), 0),
    )
    sums = (
        pa.table({"endpoint": table.column("endpoint"), "bytes": size})
        .group_by("endpoint")
        .aggregate([("bytes", "sum")])
    )
    whole = pc.sum(size).as_py() or 1
    ranked = sums.sort_by([("bytes_sum", "descending")]).slice(0, most).to_pylist()
    return [
        {"endpoint": r["endpoint"] or "(unknown)", "bytes": r["bytes_sum"], "share": r["bytes_sum"] / whole}
        for r in ranked
    ]
