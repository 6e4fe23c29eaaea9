"""The database behind a ledger: SQLite, PostgreSQL or MySQL by URL, brought to the newest schema when opened.

Owns what differs between them: how a transaction that writes begins, adding to a row that may be there, and
the files' mode. Nothing here knows what the rows mean.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.ledger.schema import HEAD

SCHEMES = ("sqlite", "postgresql", "mysql")
_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "psycopg", "postgres"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
}
_WAIT_S = 30


class Database:
    """url: `sqlite:///path`, `postgresql://user:password@host/name`, `mysql://…`. Raises UsageError."""

    def __init__(self, url: str) -> None:
        try:
            self.url = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise UsageError(
                f"{url.partition('://')[0]}: no URL of a database; write sqlite:///usage.db"
            ) from None
        self.shown = self.url.render_as_string(hide_password=True)
        self.kind = self.url.get_backend_name()
        if self.kind == "mariadb":
            self.kind, self.url = "mysql", self.url.set(drivername="mysql")
        if self.kind not in SCHEMES:
            raise UsageError(f"{self.shown}: there are {', '.join(f'{s}://' for s in SCHEMES)}")
        if self.kind in _DRIVERS and "+" not in self.url.drivername:
            name, module, extra = _DRIVERS[self.kind]
            try:
                __import__(module)
            except ImportError:
                raise needs(f"{self.kind}:// needs {module}", extra) from None
            self.url = self.url.set(drivername=name)
        options: dict[str, Any] = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        self.read_only = False
        self._copy: TemporaryDirectory[str] | None = None
        if self.kind == "sqlite":
            self._place()
            options = {"connect_args": {"timeout": _WAIT_S, "check_same_thread": False}}
            if self.url.database in (None, "", ":memory:"):
                options["poolclass"] = sa.StaticPool
            if self.read_only:
                options["creator"] = self._read_only()
        self.engine = sa.create_engine(self.url, **options)
        if self.kind == "sqlite":
            sa.event.listen(self.engine, "connect", _read_sqlite if self.read_only else _sqlite)
            sa.event.listen(self.engine, "begin", _begin)
        with self.errors():
            self._migrate()

    def _place(self) -> None:
        """The file, readable by its owner only; SQLite gives its companions the same mode."""
        name = self.url.database
        if name in (None, "", ":memory:"):
            return
        assert name is not None
        path = Path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES) and os.access(path, os.R_OK):
                self.read_only = True
                return
            raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from None

    def _read_only(self) -> Callable[[], sqlite3.Connection]:
        """Opens a file that cannot be written.

        What its writer had not yet merged into it is beside it: both are copied then.
        """
        path = Path(str(self.url.database))
        log = path.with_name(f"{path.name}-wal")
        how = "mode=ro&immutable=1"
        if log.exists() and log.stat().st_size:
            self._copy = TemporaryDirectory(prefix="replaykit-")
            for name in (path, log):
                shutil.copyfile(name, Path(self._copy.name) / name.name)
            path, how = Path(self._copy.name) / path.name, "mode=rw"
        place = f"file:{quote(str(path.absolute()))}?{how}"
        return lambda: sqlite3.connect(place, uri=True, timeout=_WAIT_S, check_same_thread=False)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns a database's refusal into a UsageError without secrets."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            said = " ".join(str(error.orig).split())
            raise UsageError(f"{self.shown}: {said[:300]}") from None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent view. Raises UsageError."""
        with self.errors(), self.engine.connect() as connection:
            if self.kind != "sqlite":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: all of it or nothing. Raises UsageError."""
        with self.errors(), self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @staticmethod
    def rows(connection: sa.Connection, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
        """As the driver gives them: numbers and texts need no more, and there may be many."""
        result = connection.execute(query)
        assert result.cursor is not None
        found: list[tuple[Any, ...]] = list(result.cursor.fetchall())
        result.close()
        return found

    def add(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[tuple[int, ...]],
        names: Sequence[str],
    ) -> None:
        """Inserts rows, all columns in their order; where the key is there already, the named columns are
        added to.
        """
        if not rows:
            return
        columns, mark = table.columns.keys(), "?" if self.kind == "sqlite" else "%s"
        values = ", ".join([mark] * len(columns))
        if self.kind == "mysql":
            there = "ON DUPLICATE KEY UPDATE " + ", ".join(f"{n} = {n} + VALUES({n})" for n in names)
        else:
            sums = ", ".join(f"{n} = {table.name}.{n} + excluded.{n}" for n in names)
            there = f"ON CONFLICT ({', '.join(table.primary_key.columns.keys())}) DO UPDATE SET {sums}"
        # As text and tuples: thousands of rows a minute, and no column that would need to be translated.
        text = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({values}) {there}"
        connection.exec_driver_sql(text, list(rows))

    def put(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Mapping[str, Any]],
        names: Sequence[str],
    ) -> None:
        """Inserts rows; where the key is there already, these columns are replaced.

        No names: what is there stays.
        """
        if not rows:
            return
        statement: Any
        if self.kind == "mysql":
            made = mysql.insert(table)
            statement = (
                made.on_duplicate_key_update({n: made.inserted[n] for n in names})
                if names
                else made.prefix_with("IGNORE")
            )
        else:
            insert: Any = sqlite.insert if self.kind == "sqlite" else postgresql.insert
            made = insert(table)
            statement = (
                made.on_conflict_do_update(
                    index_elements=list(table.primary_key.columns), set_={n: made.excluded[n] for n in names}
                )
                if names
                else made.on_conflict_do_nothing()
            )
        connection.execute(statement, list(rows))

    def _version(self) -> str | None:
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table("ledger_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM ledger_version")).scalar()

    def _migrate(self) -> None:
        found = self._version()
        if found == HEAD:
            return
        if self.read_only:
            raise UsageError(f"{self.shown}: its schema must be brought up to date, and it cannot be written")
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        try:
            with self.engine.connect() as connection, connection.execution_options(writes=True).begin():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError:
            raise UsageError(
                f"{self.shown}: its schema {found} is newer than this replaykit; upgrade replaykit"
            ) from None
        except sa.exc.DBAPIError:
            # Another process may be doing the same just now.
            deadline = time.monotonic() + 10
            while self._version() != HEAD:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        self.engine.dispose()
        if self._copy is not None:
            self._copy.cleanup()


def _sqlite(connection: Any, record: Any) -> None:
    # Transactions begin where we say, not where the driver thinks.
    connection.isolation_level = None
    for line in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_WAIT_S * 1000}"):
        connection.execute(f"PRAGMA {line}")


def _read_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
