"""Offsets in PostgreSQL, by group, topic and partition, and the epoch by which an owner that is over is fenced."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from psycopg import sql

from .._native import ConsumerRecords
from ..types import TopicPartition
from .offsets import Offsets

_log = logging.getLogger("penstock.sinks")

_LOCK_TIMEOUT_MS = 10_000


class PostgresOffsets(Offsets["psycopg.Connection[Any]"]):
    """Their statements in PostgreSQL: one for all partitions."""

    def __init__(self, table: str) -> None:
        super().__init__()
        self._table = sql.Identifier(*table.split("."))

    @property
    def application(self) -> str:
        """What the sessions of this group's sinks are called at the server: at most 63 bytes there."""
        return f"penstock {self.group_id}"[:60]

    def create(self, connection: psycopg.Connection[Any]) -> None:
        """If it is missing. Two that create it at once: the one that fails finds it there."""
        try:
            with connection.transaction():
                connection.execute(
                    sql.SQL(
                        "CREATE TABLE IF NOT EXISTS {} (group_id text, topic text, partition int, next_offset bigint, "
                        "epoch bigint NOT NULL, owner text NOT NULL, updated_at timestamptz NOT NULL, "
                        "PRIMARY KEY (group_id, topic, partition))"
                    ).format(self._table)
                )
        except (
            psycopg.errors.UniqueViolation,
            psycopg.errors.DuplicateTable,
            psycopg.errors.DuplicateObject,  # the table's row type
        ):
            pass

    def take(
        self, connection: psycopg.Connection[Any], partitions: list[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Raise the epochs. Waits for a transaction that is under way, and ends it if it stands still for too long: its process may be
        stopped, and it could not be committed any more after this."""
        try:
            rows = self._take(connection, partitions)
        except psycopg.errors.LockNotAvailable:
            ended = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid() "
                "AND usename = current_user AND datname = current_database() AND xact_start < now() - %s * interval '1 ms'",
                [self.application, _LOCK_TIMEOUT_MS / 2],
            ).fetchone()
            _log.warning(
                "a transaction of an owner before held the offsets for %g s; %s sessions were ended",
                _LOCK_TIMEOUT_MS / 1000,
                ended[0] if ended else 0,
            )
            rows = self._take(connection, partitions)
        return self.taken(rows)

    def _take(self, connection: psycopg.Connection[Any], partitions: list[TopicPartition]) -> list[Any]:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [str(_LOCK_TIMEOUT_MS)])
            return connection.execute(
                sql.SQL(
                    "INSERT INTO {table} AS o (group_id, topic, partition, epoch, owner, updated_at) "
                    "SELECT %s, topic, partition, 1, %s, now() FROM unnest(%s::text[], %s::int[]) AS p (topic, partition) "
                    "ORDER BY topic, partition "
                    "ON CONFLICT (group_id, topic, partition) "
                    "DO UPDATE SET epoch = o.epoch + 1, owner = excluded.owner, updated_at = now() "
                    "RETURNING topic, partition, next_offset, epoch"
                ).format(table=self._table),
                [
                    self.group_id,
                    self.owner,
                    [tp.topic for tp in partitions],
                    [tp.partition for tp in partitions],
                ],
            ).fetchall()

    def read(self, connection: psycopg.Connection[Any]) -> None:
        """What is stored of what this owner has; FencedError if another has taken some of it over."""
        rows = connection.execute(
            sql.SQL(
                "SELECT o.topic, o.partition, o.next_offset, o.epoch FROM {table} o "
                "JOIN unnest(%s::text[], %s::int[]) AS p (topic, partition) "
                "USING (topic, partition) WHERE o.group_id = %s"
            ).format(table=self._table),
            [[tp.topic for tp in self._epochs], [tp.partition for tp in self._epochs], self.group_id],
        ).fetchall()
        self.found(rows)

    def advance(self, connection: psycopg.Connection[Any], records: ConsumerRecords) -> None:
        """Within the transaction of the rows: the offsets after them. FencedError where an epoch is not this owner's.

        The rows of the table are locked by it. If another raises the epoch at the same moment, one of the two waits: if this one does, it
        sees the other's epoch afterwards (READ COMMITTED looks at the WHERE again), and updates one row less.
        """
        after = records.next_offsets()
        unowned = {tp for tp in after if tp not in self._epochs}
        self._check(unowned)
        updated = connection.execute(
            sql.SQL(
                "UPDATE {table} AS o SET next_offset = greatest(o.next_offset, p.next_offset), updated_at = now() "
                "FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) AS p (topic, partition, next_offset, epoch) "
                "WHERE o.group_id = %s AND o.topic = p.topic AND o.partition = p.partition AND o.epoch = p.epoch "
                "RETURNING o.topic, o.partition"
            ).format(table=self._table),
            [
                [tp.topic for tp in after],
                [tp.partition for tp in after],
                list(after.values()),
                [self._epochs[tp] for tp in after],
                self.group_id,
            ],
        ).fetchall()
        if len(updated) != len(after):
            self._check(set(after) - {TopicPartition(*row) for row in updated})
