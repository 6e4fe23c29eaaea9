"""Makes the rules come true: what ought to hold is compared with what holds, again and again.

Owns effects (blocked, limited, ...) and their log, in the ledger; who is told what is of
`replaykit.rules.usage_episodes`.
What a subject was like before is written down before it is touched, and kept until it is as it was, so a
crash at any point forgets nothing and touches nothing twice: a step after it goes on from what is written.
Undoing is the same comparison: what no rule asks for any more, because the period turned, a limit was raised
or a rule was deleted, is restored.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from replaykit.config.reading import stamp
from replaykit.errors import UsageError
from replaykit.ledger import schema
from replaykit.ledger.done import Entry, noted
from replaykit.ledger.selection import Key, Subject
from replaykit.ledger.store import Ledger
from replaykit.rules.evaluate import Wanted, verdicts, wanted
from replaykit.rules.limits import Rule, Rules, Verdict, read_rules
from replaykit.rules.shown import show
from replaykit.rules.usage_episodes import Episodes


class Gone(Exception):
    """The subject is not there any more: nothing to restore."""


class Controller(Protocol):
    """What a vantage lets be done to its subjects. Every method may be called again after a crash.

    Methods raise Gone, UsageError or OSError; the last two are tried again at the next step.
    """

    def original(self, subject: Subject, effect: str) -> Any:
        """What is to be restored later, as JSON can hold it. UsageError where the effect is not possible."""

    def enforce(self, subject: Subject, effect: str, value: Any) -> None:
        """Makes it so, and takes the place of an earlier value."""

    def holds(self, subject: Subject, effect: str, value: Any) -> bool:
        """Whether it is so now: somebody may have changed it."""

    def restore(self, subject: Subject, effect: str, original: Any) -> None:
        """As it was."""


class Guard:
    """rules: a file that is read again when it changes, or rules. controllers: by vantage, of what this
    process can do.

    dry_run: everything is judged and logged, nothing is done.
    """

    def __init__(
        self,
        ledger: Ledger,
        rules: Path | Rules,
        controllers: Mapping[str, Controller] | None = None,
        dry_run: bool = False,
    ) -> None:
        self.ledger, self._controllers, self._dry_run = ledger, controllers or {}, dry_run
        self._path = rules if isinstance(rules, Path) else None
        self._seen: tuple[int, int] | None = None
        self.rules = Rules(()) if isinstance(rules, Path) else rules
        self._episodes = Episodes(ledger, dry_run)
        self._lock = threading.Lock()
        self._told: dict[tuple[str, ...], str] = {}  # failures before anything was begun
        if self._path is not None:
            self._seen = stamp(self._path)
            self.rules = read_rules(str(self._path))

    def now(self) -> Sequence[Rule]:
        """The rules as they are now."""
        return self.rules.rules

    def reload(self) -> str | None:
        """Reads the file if it changed; gives what is wrong with it, and keeps the rules that were."""
        if self._path is None:
            return None
        now = stamp(self._path)
        if now == self._seen:
            return None
        self._seen = now
        try:
            self.rules = read_rules(str(self._path))
        except UsageError as error:
            return f"rules not changed: {error}"
        return None

    def step(self, now: int) -> list[Entry]:
        """Judges and acts once; gives what was done. Raises UsageError where the ledger cannot be asked."""
        with self._lock:
            found = verdicts(self.ledger, self.rules.rules, now)
            entries = self._effects(found, now)
            entries += self._episodes.step(found, self.rules, now)
            self.ledger.acted([e.time for e in entries])
            return entries

    # Effects: what holds as long as a rule asks for it.

    def _effects(self, found: Sequence[Verdict], now: int) -> list[Entry]:
        goals = (
            {}
            if self._dry_run
            else {k: w for k, w in wanted(found).items() if w.subject.vantage in self._controllers}
        )
        with self.ledger.database.reading() as connection:
            rows = connection.execute(sa.select(schema.effect)).mappings().all()
        held = {
            ((r["vantage"], r["kind"], r["subject"]), r["effect"]): dict(r)
            for r in rows
            if r["vantage"] in self._controllers
        }
        entries: list[Entry] = []
        for key, goal in goals.items():
            row = held.pop(key, None)
            entry = self._begin(key, goal, now) if row is None else self._go_on(row, goal, now)
            entries += [] if entry is None else [entry]
        for row in held.values():
            entry = None if self._dry_run or now < row["hold_until"] else self._end(row, now)
            entries += [] if entry is None else [entry]
        return entries

    def _begin(self, key: tuple[Key, str], goal: Wanted, now: int) -> Entry | None:
        controller = self._controllers[goal.subject.vantage]
        try:
            original = controller.original(goal.subject, goal.effect)
        except Gone:
            return None
        except (UsageError, OSError) as error:
            return self._failed(goal, now, str(error))
        vantage, kind, name = key[0]
        row = {
            "digest": schema.digest(*key[0], key[1]), "vantage": vantage, "kind": kind, "subject": name,
            "effect": goal.effect, "value": json.dumps(goal.value), "original": json.dumps(original),
            "state": "pending", "rule": goal.verdict.rule.name, "since": now,
            "hold_until": now + goal.verdict.rule.hold_s, "error": "",
        }  # fmt: skip
        with self.ledger.database.writing() as connection:
            self.ledger.database.put(connection, schema.effect, [row], ())
        return self._enforce(row, goal, now, goal.verdict.reason)

    def _go_on(self, row: dict[str, Any], goal: Wanted, now: int) -> Entry | None:
        controller = self._controllers[goal.subject.vantage]
        changed = json.loads(row["value"]) != goal.value
        hold_until = now + goal.verdict.rule.hold_s
        if goal.verdict.rule.hold_s and hold_until != row["hold_until"]:
            self._update(row, hold_until=hold_until)
        reason = goal.verdict.reason
        if not changed and row["state"] == "applied":
            try:
                if controller.holds(goal.subject, goal.effect, goal.value):
                    return None
            except Gone:
                self._forget(row)
                return None
            except (UsageError, OSError) as error:
                return self._failed(goal, now, str(error), row)
            reason = f"was changed by somebody: {reason}"
        if changed:
            self._update(row, value=json.dumps(goal.value), rule=goal.verdict.rule.name, state="pending")
        return self._enforce(row, goal, now, reason)

    def _enforce(self, row: dict[str, Any], goal: Wanted, now: int, reason: str) -> Entry | None:
        try:
            self._controllers[goal.subject.vantage].enforce(goal.subject, goal.effect, goal.value)
        except Gone:
            self._forget(row)
            return None
        except (UsageError, OSError) as error:
            return self._failed(goal, now, str(error), row)
        self._update(row, state="applied", error="")
        return noted(
            self.ledger, now, goal.verdict.rule.name, goal.subject, goal.effect, goal.value, "done", reason
        )

    def _end(self, row: dict[str, Any], now: int) -> Entry | None:
        subject = Subject(row["vantage"], row["kind"], row["subject"])
        try:
            self._controllers[row["vantage"]].restore(subject, row["effect"], json.loads(row["original"]))
        except Gone:
            self._forget(row)
            return None
        except (UsageError, OSError) as error:
            if row["error"] == str(error):
                return None
            self._update(row, error=str(error))
            value = json.loads(row["value"])
            return noted(
                self.ledger, now, row["rule"], subject, row["effect"], value, "failed", "undoing", str(error)
            )
        self._forget(row)
        return noted(
            self.ledger,
            now,
            row["rule"],
            subject,
            row["effect"],
            json.loads(row["value"]),
            "undone",
            "no rule asks for it any more",
        )

    def _failed(self, goal: Wanted, now: int, error: str, row: dict[str, Any] | None = None) -> Entry | None:
        """Logged when it is new; tried again at every step."""
        key = (*goal.subject.key, goal.effect)
        if row is not None:
            if row["error"] == error:
                return None
            self._update(row, error=error)
        elif self._told.get(key) == error:
            return None
        self._told[key] = error
        return noted(
            self.ledger,
            now,
            goal.verdict.rule.name,
            goal.subject,
            goal.effect,
            goal.value,
            "failed",
            goal.verdict.reason,
            error,
        )

    def _update(self, row: dict[str, Any], **values: Any) -> None:
        row.update(values)
        with self.ledger.database.writing() as connection:
            t = schema.effect
            connection.execute(sa.update(t).where(t.c.digest == row["digest"]).values(**values))

    def _forget(self, row: Mapping[str, Any]) -> None:
        with self.ledger.database.writing() as connection:
            connection.execute(sa.delete(schema.effect).where(schema.effect.c.digest == row["digest"]))


def watch(guard: Guard, say: Callable[[str], None], stop: threading.Event) -> None:
    """Steps at the rules' interval until told to stop; a ledger that is away is tried again."""
    trouble = ""
    while not stop.is_set():
        for line in (guard.reload() or "").splitlines():
            say(line)
        try:
            for entry in guard.step(int(time.time())):
                say(show(entry))
            trouble = ""
        except (UsageError, OSError) as error:
            if str(error) != trouble:
                trouble = str(error)
                say(f"rules cannot be judged: {error}")
        stop.wait(guard.rules.interval_s)
