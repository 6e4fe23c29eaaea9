"""The ledger's tables, the same in SQLite, PostgreSQL and MySQL.

Migrations (Alembic, `migrations/`) make them; this is what queries are written with. Text keys are compared
by a digest, since databases differ in what equal texts are and how long an index may be.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, SmallInteger, String, Table, Text

from replaykit.records.usage import COUNTERS

HEAD = "0003"
"""The newest migration."""

metadata = MetaData()


def _counters() -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False) for name in COUNTERS]


_OPTIONS: dict[str, Any] = {
    "sqlite_with_rowid": False,
    "mysql_charset": "utf8mb4",
    "mariadb_charset": "utf8mb4",
}


def _subject() -> list[Column[Any]]:
    return [
        Column(n, Text if n == "subject" else String(64), nullable=False)
        for n in ("vantage", "kind", "subject")
    ]


meta = Table(
    "ledger_meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
subject = Table(
    "ledger_subject",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("digest", String(32), nullable=False, unique=True),
    Column("vantage", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", Text, nullable=False),
)
source = Table(
    "ledger_source",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("digest", String(32), nullable=False, unique=True),
    Column("name", Text, nullable=False),
)
minute = Table(
    "ledger_minute",
    metadata,
    Column("time", BigInteger, primary_key=True, autoincrement=False),
    Column("subject_id", Integer, primary_key=True, autoincrement=False),
    Column("source_id", Integer, primary_key=True, autoincrement=False),
    Column("seconds", SmallInteger, nullable=False),
    *_counters(),
    Index("ix_ledger_minute_subject", "subject_id", "time"),
    **_OPTIONS,
)


def _rolled(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("time", BigInteger, primary_key=True, autoincrement=False),
        Column("subject_id", Integer, primary_key=True, autoincrement=False),
        *_counters(),
        Index(f"ix_{name}_subject", "subject_id", "time"),
        **_OPTIONS,
    )


hour, day, month = (_rolled(f"ledger_{name}") for name in ("hour", "day", "month"))
TABLES = {"minute": minute, "hour": hour, "day": day, "month": month}
counter = Table(
    "ledger_counter",
    metadata,
    Column("subject_id", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(32), primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("epoch", String(128), nullable=False),
    *_counters(),
    Index("ix_ledger_minute_subject", "subject_id", "time"),
    **_OPTIONS,
)
gap = Table(
    "ledger_gap",
    metadata,
    Column("subject_id", Integer, primary_key=True, autoincrement=False),
    Column("since", BigInteger, primary_key=True, autoincrement=False),
    Column("until", BigInteger, nullable=False),
    **_OPTIONS,
)
"""Between two readings that are too far apart: what was moved then is known, when it was is not."""


effect = Table(
    "ledger_effect",
    metadata,
    Column("digest", String(32), primary_key=True),
    *_subject(),
    Column("effect", String(32), nullable=False),
    Column("value", Text, nullable=False),
    Column("original", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("rule", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("hold_until", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
)
episode = Table(
    "ledger_episode",
    metadata,
    Column("digest", String(32), primary_key=True),
    Column("rule", Text, nullable=False),
    *_subject(),
    Column("event", Text, nullable=False),
    Column("waiting", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("hold_until", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
)
action = Table(
    "ledger_action",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", BigInteger, nullable=False),
    Column("rule", Text, nullable=False),
    *_subject(),
    Column("action", String(64), nullable=False),
    Column("value", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("error", Text, nullable=False),
)


def digest(*parts: str) -> str:
    """32 hex digits for texts."""
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()
