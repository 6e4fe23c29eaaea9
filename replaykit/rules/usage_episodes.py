"""Episodes of rules over the ledger: what is done once when a threshold is exceeded, and when it is over.

Owns who was told what, in the ledger, so that a restart tells nobody again and forgets nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from replaykit.errors import UsageError
from replaykit.ledger import calendar, schema
from replaykit.ledger.done import Entry, noted
from replaykit.ledger.selection import Subject
from replaykit.ledger.store import Ledger
from replaykit.rules.actions import EFFECTS, Action, installed
from replaykit.rules.limits import Rules, Threshold, Verdict
from replaykit.rules.outbox import Waiting, attempts
from replaykit.rules.shown import iso, top


class Episodes:
    """dry_run: nobody is told; the log says who would have been."""

    def __init__(self, ledger: Ledger, dry_run: bool) -> None:
        self.ledger, self._dry_run = ledger, dry_run

    def step(self, found: Sequence[Verdict], rules: Rules, now: int) -> list[Entry]:
        """Begins, ends and works on them; gives what was done."""
        with self.ledger.database.reading() as connection:
            rows = connection.execute(sa.select(schema.episode)).mappings().all()
        known = {r["digest"]: dict(r) for r in rows}
        current: set[str] = set()
        entries: list[Entry] = []
        for verdict in found:
            for threshold in verdict.reached:
                digest = _episode(verdict, threshold)
                current.add(digest)
                row = known.get(digest)
                if row is None:
                    row, logged = self._open(digest, verdict, threshold, now, found)
                    entries += logged
                    known[digest] = row
                elif verdict.rule.hold_s:
                    self._change(row, hold_until=now + verdict.rule.hold_s)
        for digest, row in known.items():
            if digest not in current and row["state"] == "open" and now >= row["hold_until"]:
                self._close(row, rules, now)
            entries += self._work(row, rules, now)
        return entries

    def _open(
        self, digest: str, verdict: Verdict, threshold: Threshold, now: int, found: Sequence[Verdict]
    ) -> tuple[dict[str, Any], list[Entry]]:
        rule, subject = verdict.rule, verdict.subject
        event = self._event(digest, verdict, threshold, now, found)
        dry = rule.dry_run or self._dry_run
        once = [a for a in threshold.actions if a.kind not in EFFECTS]
        row = {
            "digest": digest, "rule": rule.name, "vantage": subject.vantage, "kind": subject.kind,
            "subject": subject.name, "event": json.dumps(event),
            "waiting": json.dumps([] if dry else [[a.kind, a.value, "firing"] for a in once]), "since": now,
            "hold_until": now + rule.hold_s, "state": "open",
        }  # fmt: skip
        with self.ledger.database.writing() as connection:
            self.ledger.database.put(connection, schema.episode, [row], ())
        would = threshold.actions if dry else ()
        return row, [
            noted(self.ledger, now, rule.name, subject, a.kind, a.value, "would", verdict.reason)
            for a in would
        ]

    def _event(
        self, digest: str, verdict: Verdict, threshold: Threshold, now: int, found: Sequence[Verdict]
    ) -> dict[str, Any]:
        """As `replaykit.rules.notify` tells it."""
        rule, subject = verdict.rule, verdict.subject
        since = calendar.show(verdict.since, self.ledger.zone)[:16].replace("T", " ")
        bound = f"{threshold.at:.0%} of {rule.describe()} ({rule.show(threshold.at * verdict.allowed)})"
        in_words = f"{rule.show(verdict.used)} since {since}, more than {bound}"
        return {
            "id": hashlib.blake2b(f"{digest}\x1f{now}".encode(), digest_size=8).hexdigest(),
            "kind": "firing",
            "rule": rule.name,
            "severity": "warning" if threshold.at < 1 else rule.severity,
            "group": f"{subject.kind} {subject.name}",
            "at": iso(now),
            "began": iso(now),
            "metric": rule.metric,
            "value": verdict.used,
            "threshold": threshold.at * verdict.allowed,
            "window_s": max(60, now - verdict.since),
            "step": threshold.at,
            "vantage": subject.vantage,
            "subject_kind": subject.kind,
            "subject": subject.name,
            "labels": dict(subject.labels),
            "reason": verdict.reason,
            "top": top(verdict, found),
            "in_words": in_words,
        }

    def _close(self, row: dict[str, Any], rules: Rules, now: int) -> None:
        """Those who were told of something that lasts are told that it ended."""
        rule = next((r for r in rules.rules if r.name == row["rule"]), None)
        step = json.loads(row["event"])["step"]
        ends = []
        for threshold in () if rule is None or rule.dry_run or self._dry_run else rule.thresholds:
            lasts = any(a.kind in EFFECTS for a in threshold.actions)
            for action in threshold.actions if threshold.at == step else ():
                alert = rules.notify.get(str(action.value), {}).get("kind") == "alertmanager"
                if action.kind == "notify" and (lasts or alert):
                    ends.append([action.kind, action.value, "resolved"])
        self._change(row, state="ended", waiting=json.dumps([*json.loads(row["waiting"]), *ends]), since=now)

    def _work(self, row: dict[str, Any], rules: Rules, now: int) -> list[Entry]:
        """Does what waits, one after another, and notes each."""
        entries: list[Entry] = []
        waiting: list[list[Any]] = json.loads(row["waiting"])
        event = json.loads(row["event"])
        subject = Subject(row["vantage"], row["kind"], row["subject"])

        def log(action: str, value: Any, outcome: str, reason: str, error: str) -> None:
            entries.append(
                noted(self.ledger, now, row["rule"], subject, action, value, outcome, reason, error)
            )

        def do(one: Waiting) -> None:
            _once(one.action, one.event, rules)

        for tried in attempts([_waiting(row, event, one, now) for one in waiting], do, now):
            kind, value, what = waiting[0]
            if tried.over:
                waiting.pop(0)
                self._change(row, waiting=json.dumps(waiting))
                outcome, why = ("failed", f"given up: {tried.error}") if tried.error else ("done", "")
                log(kind, value, outcome, event["reason"] if what == "firing" else "ended", why)
            elif event.get("error") != tried.error:
                event["error"] = tried.error
                self._change(row, event=json.dumps(event))
                log(kind, value, "failed", event["reason"], tried.error)
        if row["state"] == "ended" and not waiting:
            with self.ledger.database.writing() as connection:
                connection.execute(sa.delete(schema.episode).where(schema.episode.c.digest == row["digest"]))
        return entries

    def _change(self, row: dict[str, Any], **values: Any) -> None:
        row.update(values)
        with self.ledger.database.writing() as connection:
            t = schema.episode
            connection.execute(sa.update(t).where(t.c.digest == row["digest"]).values(**values))


def _waiting(row: Mapping[str, Any], event: Mapping[str, Any], one: Sequence[Any], now: int) -> Waiting:
    """One lane an episode: what its threshold says happens in that order."""
    kind, value, what = one
    said = {**event, "kind": what, **({"at": iso(now)} if what == "resolved" else {})}
    action = Action(kind, tuple(value) if isinstance(value, list) else value)
    return Waiting(action, said, row["since"], row["digest"])


def _once(action: Action, event: Mapping[str, Any], rules: Rules) -> None:
    function = installed().get(action.kind)
    if function is None or (action.kind == "notify" and action.value not in rules.notify):
        raise UsageError(f"{action.kind} {action.value}: not known any more")
    function(event, action.value, rules.notify)


def _episode(verdict: Verdict, threshold: Threshold) -> str:
    """Calendar periods make an episode each; in a sliding window it lasts while the threshold is exceeded."""
    return schema.digest(
        verdict.rule.name,
        *verdict.subject.key,
        f"{threshold.at:g}",
        str(verdict.since if verdict.until else 0),
    )
