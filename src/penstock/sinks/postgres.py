"""Exactly once into PostgreSQL: rows and the offsets after them in one transaction."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import psycopg

from .._native import ConsumerRecord, ConsumerRecords
from ..errors import ConfigError, SchemaError, SinkError
from ..types import TopicPartition
from .columns import Columns, given_columns
from .postgres_offsets import Offsets
from .postgres_table import Table

_log = logging.getLogger("penstock.sinks")

Connect = Callable[[], psycopg.Connection[Any]]
_BACKOFF_S = (0.05, 2.0)


class PostgresSink:
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
        if mode not in ("insert", "upsert"):
            raise ConfigError(f"PostgresSink(mode={mode!r}): 'insert' or 'upsert'")
        self._connect: Connect = (lambda: psycopg.connect(connect)) if isinstance(connect, str) else connect
        self._given = given_columns(columns)
        self._table = Table(table, upsert=mode == "upsert", key=tuple(key))
        self._offsets = Offsets(offsets_table, f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}")
        self._retry_for_s = retry_for_s
        self._connection: psycopg.Connection[Any] | None = None
        self._one = threading.RLock()
        self.dead_letter: Callable[[ConsumerRecord, BaseException], None] | None = None
        self.rows = 0  # stored since the sink was made
        self.bad_rows = 0

    # ------------------------------------------------------------ the contract

    def open(self, group_id: str) -> None:
        """Connect and compare the table with the columns. SchemaError says what does not fit, and the DDL that mends it."""
        with self._one:
            self._offsets.group_id = group_id
            self._with_retries("opening the sink", self._open)

    def _open(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            self._table.look(connection, self._given)
        with connection.transaction():
            self._offsets.create(connection)

    def assigned(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """From here on the owner before can store nothing of these. Where to go on, for those of which something is stored."""
        wanted = sorted(partitions)
        with self._one:
            found: Mapping[TopicPartition, int] = self._with_retries(
                f"taking {len(wanted)} partitions over",
                lambda connection: self._offsets.take(connection, wanted),
            )
            return found

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        with self._one:
            self._offsets.forget(partitions)

    def write(self, records: ConsumerRecords) -> None:
        """Rows and offsets in one transaction. What was stored before is left out, so that a batch may be given again.

        FencedError: another owner has taken a partition over; nothing of the batch is stored. SinkError: the database stays away
        (retriable), or a row is refused and there is no `dead_letter`.
        """
        with self._one:
            bad: set[int] = set()
            while (
                found := self._with_retries("storing rows", lambda c: self._store(c, records, bad))
            ) is not None:
                self._put_away(records, found, bad)

    def close(self) -> None:
        with self._one:
            self._disconnect()

    # ------------------------------------------------------------ storing

    def _store(
        self, connection: psycopg.Connection[Any], records: ConsumerRecords, bad: set[int]
    ) -> list[tuple[int, Exception]] | None:
        """None once all but the bad ones is stored; else further bad ones, and nothing is stored."""
        skip = self._offsets.stored_before(records) | bad
        if len(skip) == len(records) and not bad:
            return None
        rows = self._table.encode(records, skip)
        if rows.bad:
            return rows.bad
        try:
            with connection.transaction():
                self._offsets.advance(connection, records)
                self._table.store(connection, rows)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            _log.info(
                "a batch of %d rows for %s is refused, and searched: %s", rows.count, self._table.name, error
            )
        else:
            self._offsets.advanced(records)
            self.rows += rows.count
            return None
        return self._search(connection, records, skip)

    def _search(
        self, connection: psycopg.Connection[Any], records: ConsumerRecords, skip: set[int]
    ) -> list[tuple[int, Exception]]:
        """Which rows are refused, the others being there: nothing of this is kept.

        A batch is cut in two until the parts are stored or have one row: about 2 log2(n) copies for each bad row.
        """
        bad: list[tuple[int, Exception]] = []
        indices = [index for index in range(len(records)) if index not in skip]

        def search(start: int, end: int) -> None:
            part = indices[start:end]
            outside = set(range(len(records))).difference(part) if len(part) < len(records) else set()
            first, last = part[0], part[-1] + 1
            rows = self._table.encode(records[first:last], {i - first for i in outside if first <= i < last})
            try:
                with connection.transaction():  # a savepoint
                    self._table.store(connection, rows)
                return
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                if end - start == 1:
                    bad.append((part[0], error))
                    return
            middle = (start + end) // 2
            search(start, middle)
            search(middle, end)

        with connection.transaction(force_rollback=True):
            search(0, len(indices))
        if not bad:
            raise SinkError(
                f"{self._table.name} refuses a batch as a whole, but none of its rows: another writer, or a deferred constraint, may be "
                "the cause; it will be tried again",
                retriable=True,
            )
        return bad

    def _put_away(self, records: ConsumerRecords, found: list[tuple[int, Exception]], bad: set[int]) -> None:
        """Dead letters are stored before the transaction that passes them."""
        for index, error in found:
            record = records[index]
            place = f"{record.topic}-{record.partition} offset {record.offset}"
            reason = SinkError(f"{place} is no row of {self._table.name}: {error}")
            if self.dead_letter is None:
                raise SinkError(
                    f"{place} is no row of {self._table.name}: {error}. Nothing from it on is stored; mend the table, or give the sink a "
                    "dead_letter topic"
                ) from error
            _log.warning("%s", reason)
            self.dead_letter(record, reason)
            self.bad_rows += 1
            bad.add(index)

    # ------------------------------------------------------------ connections

    def _with_retries(self, what: str, call: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """Again, after a connection was lost, until the time is over.

        A transaction may have been committed although its connection was lost before the answer. So after each loss the offsets are
        read first: what `call` does then begins behind what is stored.
        """
        deadline_s = time.monotonic() + self._retry_for_s
        backoff_s, most_s = _BACKOFF_S
        lost = False
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._connect()
                    self._connection.autocommit = True
                    self._prepare(self._connection)
                    lost = lost or self._offsets.owns_any
                if lost:
                    self._offsets.read(self._connection)
                    lost = False
                return call(self._connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                lost = True
                self._disconnect()
                if time.monotonic() + backoff_s > deadline_s:
                    raise SinkError(
                        f"{what}: PostgreSQL did not answer for {self._retry_for_s:g} s: {error}",
                        retriable=True,
                    ) from error
                _log.warning(
                    "%s: the connection to PostgreSQL is lost and will be made again: %s", what, error
                )
                time.sleep(backoff_s * (0.8 + 0.4 * random.random()))
                backoff_s = min(backoff_s * 2, most_s)
            except psycopg.Error as error:
                self._disconnect()
                raise SchemaError(f"{what}: PostgreSQL refuses: {error}") from error

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        # A process that is stopped amid a transaction would hold its offsets for ever, and with them whoever takes over.
        connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '30s', false)")
        connection.execute("SELECT set_config('application_name', %s, false)", [self._offsets.application])

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __repr__(self) -> str:
        return f"<PostgresSink {self._table.name}>"
