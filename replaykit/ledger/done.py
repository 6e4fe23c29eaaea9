"""What rules did and do, as the ledger has it: the log, what holds now, what is exceeded now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from replaykit.ledger import schema
from replaykit.ledger.selection import Subject
from replaykit.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log. outcome: done, undone, failed, or would (of a dry run)."""

    time: int
    rule: str
    vantage: str
    kind: str
    subject: str
    action: str
    value: str
    outcome: str
    reason: str
    error: str = ""


def noted(
    ledger: Ledger,
    now: int,
    rule: str,
    subject: Subject,
    action: str,
    value: Any,
    outcome: str,
    reason: str,
    error: str = "",
) -> Entry:
    """A new line of the log. A webhook's URL is a secret, and is not in it."""
    shown = value if isinstance(value, str) else json.dumps(value)
    if value is True or action == "webhook":
        shown = ""
    entry = Entry(
        now, rule, subject.vantage, subject.kind, subject.name, action, shown, outcome, reason, error
    )
    row = {name: getattr(entry, name) for name in Entry.__slots__}
    with ledger.database.writing() as connection:
        connection.execute(sa.insert(schema.action), [row])
    return entry


def log(
    ledger: Ledger,
    since: int = 0,
    until: int = 2**62,
    most: int = 1000,
    subject: str | None = None,
    vantage: str | None = None,
    kind: str | None = None,
    offset: int = 0,
) -> list[Entry]:
    """The newest entries, oldest first. offset: without the newest so many."""
    t = schema.action
    query = (
        sa.select(*(t.c[name] for name in Entry.__slots__)).order_by(t.c.id.desc()).limit(most).offset(offset)
    )
    with ledger.database.reading() as connection:
        found = connection.execute(query.where(*_entries(since, until, subject, vantage, kind)))
        return [Entry(*row) for row in found][::-1]


def logged(
    ledger: Ledger,
    since: int = 0,
    until: int = 2**62,
    subject: str | None = None,
    vantage: str | None = None,
    kind: str | None = None,
) -> int:
    """How many entries there are."""
    query = sa.select(sa.func.count()).select_from(schema.action)
    with ledger.database.reading() as connection:
        found = connection.execute(query.where(*_entries(since, until, subject, vantage, kind)))
        return int(found.scalar_one())


def _entries(
    since: int, until: int, subject: str | None, vantage: str | None, kind: str | None
) -> list[sa.ColumnElement[bool]]:
    t = schema.action
    named = ((t.c.subject, subject), (t.c.vantage, vantage), (t.c.kind, kind))
    return [
        t.c.time >= since,
        t.c.time < until,
        *(column == value for column, value in named if value is not None),
    ]


def effects(ledger: Ledger) -> list[dict[str, Any]]:
    """What holds now: vantage, kind, subject, effect, value, original, state, rule, since, error."""
    with ledger.database.reading() as connection:
        rows = connection.execute(sa.select(schema.effect)).mappings().all()
    out = [{k: v for k, v in r.items() if k not in ("digest", "hold_until")} for r in rows]
    return [{**r, "value": json.loads(r["value"]), "original": json.loads(r["original"])} for r in out]


def alerts(ledger: Ledger) -> list[dict[str, Any]]:
    """What is exceeded now, the newest first: rule, subject, since when, how far and what was done
    about it.
    """
    with ledger.database.reading() as connection:
        rows = (
            connection.execute(sa.select(schema.episode).where(schema.episode.c.state == "open"))
            .mappings()
            .all()
        )
    out = []
    for row in sorted(rows, key=lambda r: -r["since"]):
        event = json.loads(row["event"])
        kept = ("severity", "metric", "value", "threshold", "reason", "labels")
        out.append(
            {
                "rule": row["rule"],
                "vantage": row["vantage"],
                "kind": row["kind"],
                "subject": row["subject"],
                "since": row["since"],
                **{n: event.get(n) for n in kept},
            }
        )
    return out
