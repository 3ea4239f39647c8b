"""Exactly once into any SQL database: by SQLAlchemy, or by its driver alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from .columns import Columns, checked_mode, given_columns
from .sql_offsets import SqlOffsets
from .sql_session import DbApiSession, SqlSession
from .sql_table import SqlTable
from .storing import StoringSink

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

Paramstyle = Literal["qmark", "format", "numeric", "named", "pyformat"]


class DatabaseSink(StoringSink[SqlSession]):
    """Stores records as rows of a table, each exactly once, in any database that has transactions; slower than PostgresSink.

        DatabaseSink('mysql+pymysql://…', 'orders', columns={'id': 'value.id'})              # a URL, or an Engine, of SQLAlchemy
        DatabaseSink(lambda: oracledb.connect(…), 'ORDERS', columns=…, paramstyle='named')   # a driver's connection (PEP 249)

    `columns`, `mode`, `key`, `offsets_table`, `retry_for_s`: as for PostgresSink. Rows are merged by ON CONFLICT in PostgreSQL and SQLite,
    and by ON DUPLICATE KEY UPDATE in MySQL and MariaDB if the table has no other unique index; elsewhere, and by a driver alone, by an
    UPDATE for each, and an INSERT where no row was there.

    With a driver alone the sink knows the names of a table's columns and no more: the types are the database's business, 'timestamp' is
    milliseconds, 'upsert' needs `key` (and a unique index of it, which is not checked). The connection has autocommit off. `quote` is what
    stands around names; `savepoints=False` where the database has none (SAVEPOINT, ROLLBACK TO SAVEPOINT, RELEASE SAVEPOINT): a bad row is
    then found by more attempts.
    """

    def __init__(
        self,
        database: str | Engine | Callable[[], Any],
        table: str,
        columns: Columns = None,
        *,
        mode: Literal["insert", "upsert"] = "insert",
        key: Sequence[str] = (),
        offsets_table: str = "penstock_offsets",
        retry_for_s: float = 30.0,
        paramstyle: Paramstyle | None = None,
        quote: str = '"',
        savepoints: bool = True,
    ) -> None:
        """`database`: a URL or an Engine of SQLAlchemy; or a function that makes a connection, with the driver's `paramstyle`."""
        upsert = checked_mode("DatabaseSink", mode)
        self._secret = ""
        self._own: Engine | None = None
        self._make: Callable[[], SqlSession]
        name = (
            self._use_driver(database, paramstyle, quote, savepoints)
            if _is_function(database)
            else self._use_engine(database)
        )
        target = SqlTable(table, upsert=upsert, key=tuple(key))
        super().__init__(name, target, SqlOffsets(offsets_table), given_columns(columns), retry_for_s)
        self._savepoints = savepoints

    def _use_driver(self, connect: Any, paramstyle: Paramstyle | None, quote: str, savepoints: bool) -> str:
        if paramstyle is None:
            raise ConfigError(
                "DatabaseSink with a function that connects needs paramstyle=…: what the driver's module says, as in "
                "paramstyle=sqlite3.paramstyle"
            )
        self._make = lambda: DbApiSession(
            connect(), paramstyle=paramstyle, quote=quote, savepoints=savepoints
        )
        return "the database"

    def _use_engine(self, database: Any) -> str:
        try:
            import sqlalchemy
            from sqlalchemy.pool import NullPool

            from .alchemy import AlchemySession
        except ImportError as error:
            raise ConfigError(
                "DatabaseSink with a URL needs SQLAlchemy: pip install 'penstock[sqlalchemy]'"
            ) from error
        if isinstance(database, str):
            try:
                database = self._own = sqlalchemy.create_engine(database, poolclass=NullPool)
            except sqlalchemy.exc.ArgumentError:
                raise ConfigError(
                    "DatabaseSink: the URL cannot be read (and is not shown: it may have a password). Write "
                    "'dialect+driver://user:password@host:port/database', with @ : / % of a password as %40 %3A %2F %25"
                ) from None
            except ImportError as error:
                raise ConfigError(
                    f"DatabaseSink: the driver that the URL names is not installed: {error}"
                ) from error
        engine: Engine = database
        self._secret = str(engine.url.password or "")
        self._make = lambda: AlchemySession(engine)
        return engine.dialect.name

    def _connected(self) -> SqlSession:
        return self._make()

    def _told(self, error: BaseException) -> str:
        told = super()._told(error)
        return told.replace(self._secret, "***") if self._secret else told

    def close(self) -> None:
        super().close()
        if self._own is not None:
            self._own.dispose()


def _is_function(database: Any) -> bool:
    return callable(database) and not hasattr(database, "dialect")
