"""Alembic's environment: how a ledger of an older version becomes one of this."""
