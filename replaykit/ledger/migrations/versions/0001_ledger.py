"""The first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
OPTIONS: dict[str, Any] = {"mysql_charset": "utf8mb4", "mariadb_charset": "utf8mb4"}
KEYED: dict[str, Any] = {"sqlite_with_rowid": False, **OPTIONS}
COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "requests", "connections")


def _counters() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTERS]


def _key(name: str, kind: type[sa.types.TypeEngine[int]]) -> sa.Column[int]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


# long: a table of columns.
def upgrade() -> None:
    op.create_table(
        "ledger_meta",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        **OPTIONS,
    )
    for name, columns in (
        (
            "ledger_subject",
            [
                sa.Column("vantage", sa.String(64), nullable=False),
                sa.Column("kind", sa.String(32), nullable=False),
                sa.Column("name", sa.Text, nullable=False),
                sa.Column("labels", sa.Text, nullable=False),
            ],
        ),
        ("ledger_source", [sa.Column("name", sa.Text, nullable=False)]),
    ):
        op.create_table(
            name,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column("digest", sa.String(32), nullable=False, unique=True),
            *columns,
            **OPTIONS,
        )
    op.create_table(
        "ledger_minute",
        _key("time", sa.BigInteger),
        _key("subject_id", sa.Integer),
        _key("source_id", sa.Integer),
        sa.Column("seconds", sa.SmallInteger, nullable=False),
        *_counters(),
        **KEYED,
    )
    for name in ("ledger_hour", "ledger_day", "ledger_month"):
        op.create_table(
            name, _key("time", sa.BigInteger), _key("subject_id", sa.Integer), *_counters(), **KEYED
        )
    for name in ("ledger_minute", "ledger_hour", "ledger_day", "ledger_month"):
        op.create_index(f"ix_{name}_subject", name, ["subject_id", "time"])
    op.create_table(
        "ledger_counter",
        _key("subject_id", sa.Integer),
        sa.Column("digest", sa.String(32), primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.String(128), nullable=False),
        *_counters(),
        **KEYED,
    )
    text = dict.fromkeys(
        ("rule", "subject", "value", "original", "error", "event", "waiting", "reason"), sa.Text
    )
    numbers = ("time", "since", "hold_until")
    for name, wanted in (
        (
            "ledger_effect",
            "digest vantage kind subject effect value original state rule since hold_until error",
        ),
        ("ledger_episode", "digest rule vantage kind subject event waiting since hold_until state"),
        ("ledger_action", "id time rule vantage kind subject action value outcome reason error"),
    ):
        made: list[sa.Column[Any]] = []
        for column in wanted.split():
            if column == "id":
                made.append(sa.Column("id", sa.Integer, primary_key=True, autoincrement=True))
            elif column == "digest":
                made.append(sa.Column("digest", sa.String(32), primary_key=True))
            else:
                kind = sa.BigInteger() if column in numbers else text.get(column, sa.String(64))
                made.append(sa.Column(column, kind, nullable=False))
        op.create_table(name, *made, **OPTIONS)
    op.create_index("ix_ledger_action_time", "ledger_action", ["time"])
