"""Exactly once into PostgreSQL: rows and the offsets after them in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ..errors import ConfigError
from .columns import Columns, checked_mode, given_columns
from .postgres_offsets import PostgresOffsets
from .postgres_table import PostgresTable
from .storing import StoringSink

Connect = Callable[[], psycopg.Connection[Any]]


class PostgresSink(StoringSink["psycopg.Connection[Any]"]):
    """Stores records as rows of a table, each exactly once, whatever fails in between.

        processor.sink('orders', sink=PostgresSink('postgresql://…', 'orders', columns={'id': 'value.id', 'total': 'value.total'}))

    `mode='insert'` copies rows into the table. 'upsert' merges them by `key` (columns; the table's primary key if not given): the last
    record of a key wins, and a record without a value deletes its row.
    `columns`: see sinks/columns.py. What the table's types refuse, and what breaks a constraint, is found by cutting the batch in two again
    and again; all other rows of the batch are stored. Such a record goes to `dead_letter`, which a processor sets.

    The offsets stand in `offsets_table`, by group, topic and partition, with an epoch: whoever takes a partition over raises it, and the
    transaction of an owner before fails (FencedError). The sink makes that table where it is missing.

    A connection that is lost is made again for `retry_for_s`; whether a transaction that was under way has been committed is read from the
    offsets. Then SinkError, retriable. One sink belongs to one processor; its methods may be called from any thread, one at a time.
    """

    def __init__(
        self,
        connect: str | Connect,
        table: str,
        columns: Columns = None,
        *,
        mode: Literal["insert", "upsert"] = "insert",
        key: Sequence[str] = (),
        offsets_table: str = "penstock_offsets",
        retry_for_s: float = 30.0,
    ) -> None:
        """`connect`: a connection string, or a function that makes a psycopg connection. `table`: its name, or schema.name."""
        upsert = checked_mode("PostgresSink", mode)
        self._secret = _password_of(connect) if isinstance(connect, str) else ""
        self._connect: Connect = (lambda: psycopg.connect(connect)) if isinstance(connect, str) else connect
        self._places = PostgresOffsets(offsets_table)
        super().__init__(
            "PostgreSQL",
            PostgresTable(table, upsert=upsert, key=tuple(key)),
            self._places,
            given_columns(columns),
            retry_for_s,
        )

    def _connected(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        connection.autocommit = True
        self._prepare(connection)
        return connection

    def _told(self, error: BaseException) -> str:
        told = super()._told(error)
        return told.replace(self._secret, "***") if self._secret else told

    def _begin_search(self, session: psycopg.Connection[Any]) -> None:
        # Else a deferred constraint would refuse the whole at the end, and none of the parts.
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        # A process that is stopped amid a transaction would hold its offsets for ever, and with them whoever takes over.
        connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '30s', false)")
        connection.execute("SELECT set_config('application_name', %s, false)", [self._places.application])


def _password_of(connection_string: str) -> str:
    """ConfigError where it cannot be read, without a word of it: libpq's own errors repeat it, the password included."""
    try:
        parts = conninfo_to_dict(connection_string)
    except psycopg.ProgrammingError:
        parts = None
    hosts, ports = (str((parts or {}).get(name) or "") for name in ("host", "port"))
    if parts is None or "@" in hosts or not (ports.replace(",", "") or "0").isdigit():
        raise ConfigError(
            "PostgresSink: the connection string cannot be read (and is not shown: it may have a password). Write "
            "'postgresql://user:password@host:5432/database', with @ : / % of a password as %40 %3A %2F %25, or 'host=… dbname=…'"
        ) from None
    return str(parts.get("password") or "")
