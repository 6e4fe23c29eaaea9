"""Run by Alembic, on the connection that `replaykit.ledger.database` gives it."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="ledger_version")
with context.begin_transaction():
    context.run_migrations()
