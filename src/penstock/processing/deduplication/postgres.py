"""What is done, in PostgreSQL: for any number of machines, by the server's clock."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...errors import ConfigError, DeduplicationError
from .store import SWEEP_ROWS, Answer, Sweeping

T = TypeVar("T")
Connect = Callable[[], psycopg.Connection[Any]]

_ReadOnly = psycopg.errors.ReadOnlySqlTransaction  # of a server that a failover has left behind
_TIMEOUT_S = 5
"""Of a connection and of a statement: records wait meanwhile, and are tried again."""

_CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} (id bytea PRIMARY KEY, owner text NOT NULL, done boolean NOT NULL, until timestamptz NOT NULL)",
    "CREATE INDEX IF NOT EXISTS {index} ON {table} (until)",
)
# A row that another inserts or takes over at this moment makes this wait for its transaction, and is looked at again then: exactly one
# of the two gets it. The SELECT at the end sees the table as it was before; a row that is not the caller's and was not 'done' then is busy,
# whatever has become of it. All statements take rows in the order of ids, so that none waits for another in a circle.
_CLAIM = (
    "WITH claimed AS ("
    "INSERT INTO {table} AS d (id, owner, done, until) "
    "SELECT id, %(owner)s, false, now() + %(lease_ms)s * interval '1 ms' FROM unnest(%(ids)s::bytea[]) AS w (id) ORDER BY id "
    "ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, done = false, until = excluded.until "
    "WHERE d.until <= now() OR (d.owner = excluded.owner AND NOT d.done) "
    "RETURNING id) "
    "SELECT CASE WHEN c.id IS NOT NULL THEN 'new' WHEN d.done THEN 'done' ELSE 'busy' END "
    "FROM unnest(%(ids)s::bytea[]) WITH ORDINALITY AS w (id, place) "
    "LEFT JOIN claimed c ON c.id = w.id LEFT JOIN {table} d ON d.id = w.id AND d.until > now() ORDER BY w.place"
)
_CONFIRM = (
    "INSERT INTO {table} AS d (id, owner, done, until) "
    "SELECT id, %(owner)s, true, now() + %(expires_ms)s * interval '1 ms' FROM unnest(%(ids)s::bytea[]) AS w (id) ORDER BY id "
    "ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, done = true, until = excluded.until "
    "WHERE d.owner = excluded.owner OR d.until <= now() "
    "RETURNING id"
)
_RELEASE = (
    "WITH mine AS (SELECT id FROM {table} WHERE id = ANY(%(ids)s::bytea[]) AND owner = %(owner)s AND NOT done ORDER BY id FOR UPDATE) "
    "DELETE FROM {table} d USING mine WHERE d.id = mine.id"
)
_SWEEP = (
    "WITH over AS (SELECT id FROM {table} WHERE until <= now() ORDER BY until LIMIT %(rows)s FOR UPDATE SKIP LOCKED) "
    "DELETE FROM {table} d USING over WHERE d.id = over.id"
)


class PostgresStore:
    """A table, made where it is missing; one statement for each call, whatever the number of ids. Times are the server's.

    `connect`: a connection string, or a function that makes a psycopg connection. `table`: its name, or schema.name. One connection,
    which calls use one after another. A connection that is lost is made again, and the call repeated once.
    """

    one_process = False

    def __init__(self, connect: str | Connect, *, table: str = "penstock_done") -> None:
        if isinstance(connect, str):
            try:
                conninfo_to_dict(connect)
            except psycopg.ProgrammingError:  # whose message has parts of it, a password perhaps
                raise ConfigError(
                    "PostgresStore: the connection string cannot be read; write postgresql://user@host/database"
                ) from None
        self._connect = connect
        self._table = table
        self._begin()

    def _begin(self) -> None:
        *_, name = self._table.split(".")
        self._names = {
            "table": sql.Identifier(*self._table.split(".")),
            "index": sql.Identifier(f"{name}_until"),
        }
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None  # under the lock
        self._sweeping = Sweeping()  # under the lock
        self._pid = os.getpid()  # whose connection it is: one that came with a fork must not be used

    def __getstate__(self) -> dict[str, Any]:
        return {"_connect": self._connect, "_table": self._table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _sql(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(**self._names)

    # ------------------------------------------------------------ the contract

    def open(self) -> None:
        self._with_connection(lambda connection: connection.execute("SELECT 1"))

    def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
        def claim(connection: psycopg.Connection[Any]) -> list[Answer]:
            self._sweep(connection)
            given = {"ids": list(ids), "owner": owner, "lease_ms": lease_ms}
            return [answer for (answer,) in connection.execute(self._sql(_CLAIM), given)]

        return self._with_connection(claim)

    def confirm(self, ids: Sequence[bytes], owner: str, expires_ms: int) -> list[bytes]:
        def confirm(connection: psycopg.Connection[Any]) -> list[bytes]:
            given = {"ids": list(ids), "owner": owner, "expires_ms": expires_ms}
            stored = {bytes(each) for (each,) in connection.execute(self._sql(_CONFIRM), given)}
            return [each for each in ids if each not in stored]

        return self._with_connection(confirm)

    def release(self, ids: Sequence[bytes], owner: str) -> None:
        def release(connection: psycopg.Connection[Any]) -> None:
            connection.execute(self._sql(_RELEASE), {"ids": list(ids), "owner": owner})

        self._with_connection(release)

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    # ------------------------------------------------------------ the connection

    def _sweep(self, connection: psycopg.Connection[Any]) -> None:
        now_s = time.monotonic()
        if self._sweeping.is_due(now_s):
            swept = connection.execute(self._sql(_SWEEP), {"rows": SWEEP_ROWS})
            self._sweeping.swept(swept.rowcount, now_s)

    def _with_connection(self, call: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Once more after a loss: the server may have been started again meanwhile. Calls may be repeated, by what a store owes."""
        with self._lock:
            again = self._connection is not None
            while True:
                try:
                    return call(self._connected())
                except (psycopg.OperationalError, psycopg.InterfaceError, _ReadOnly) as error:
                    self.close()
                    if not again:
                        raise DeduplicationError(f"{self!r}: {error}", retriable=True) from error
                    again = False
                except psycopg.Error as error:
                    self.close()
                    raise DeduplicationError(f"{self!r}: PostgreSQL refuses: {error}") from error

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed or self._pid != os.getpid():
            connection = self._connected_anew()
            try:
                connection.autocommit = True
                connection.execute(
                    "SELECT set_config('statement_timeout', %s, false)", [f"{_TIMEOUT_S * 1000}"]
                )
                self._create(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def _connected_anew(self) -> psycopg.Connection[Any]:
        if not isinstance(self._connect, str):
            return self._connect()
        # A server that is cut off does not answer at all. Source: https://www.postgresql.org/docs/current/libpq-connect.html
        defaults = {"connect_timeout": _TIMEOUT_S, "tcp_user_timeout": 2 * _TIMEOUT_S * 1000}
        given: dict[str, Any] = defaults | conninfo_to_dict(self._connect)
        return psycopg.connect(make_conninfo(**given))

    def _create(self, connection: psycopg.Connection[Any]) -> None:
        """If it is missing. Who may not make tables needs none made. Of two that make it at once, the one that fails finds it there."""
        if connection.execute(
            "SELECT to_regclass(%s)", [self._names["table"].as_string(connection)]
        ).fetchone() != (None,):
            return
        try:
            with connection.transaction():
                for statement in _CREATE:
                    connection.execute(self._sql(statement))
        except (
            psycopg.errors.UniqueViolation,
            psycopg.errors.DuplicateTable,
            psycopg.errors.DuplicateObject,
        ):
            pass

    def __repr__(self) -> str:
        return f"PostgresStore(table={self._table!r})"
