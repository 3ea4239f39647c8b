"""Offsets in PostgreSQL, by group, topic and partition, and the epoch by which an owner that is over is fenced."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from .._native import ConsumerRecords
from ..errors import FencedError
from ..types import TopicPartition

_log = logging.getLogger("penstock.sinks")

_LOCK_TIMEOUT_MS = 10_000


class Offsets:
    """What this owner knows: `_epochs` since it took a partition over, `_next` what is stored. Nobody else may write them meanwhile."""

    def __init__(self, table: str, owner: str) -> None:
        self.group_id = ""
        self._table = sql.Identifier(*table.split("."))
        self._owner = owner
        self._epochs: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}

    @property
    def owns_any(self) -> bool:
        return bool(self._epochs)

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
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):
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
                "AND usename = current_user AND datname = current_database() AND xact_start < now() - interval '5 s'",
                [self.application],
            ).fetchone()
            _log.warning(
                "a transaction of an owner before held the offsets for %d s; %s sessions were ended",
                _LOCK_TIMEOUT_MS // 1000,
                ended[0] if ended else 0,
            )
            rows = self._take(connection, partitions)
        found = {}
        for topic, partition, next_offset, epoch in rows:
            tp = TopicPartition(topic, partition)
            self._epochs[tp] = epoch
            self._next.pop(tp, None)
            if next_offset is not None:
                found[tp] = self._next[tp] = next_offset
        return found

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
                    self._owner,
                    [tp.topic for tp in partitions],
                    [tp.partition for tp in partitions],
                ],
            ).fetchall()

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """They are no longer this owner's."""
        for tp in partitions:
            self._epochs.pop(tp, None)
            self._next.pop(tp, None)

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
        stored = {
            TopicPartition(topic, partition): (offset, epoch) for topic, partition, offset, epoch in rows
        }
        self._check({tp for tp, epoch in self._epochs.items() if tp not in stored or stored[tp][1] != epoch})
        for tp, (offset, _) in stored.items():
            if offset is not None:
                self._next[tp] = offset

    def stored_before(self, records: ConsumerRecords) -> set[int]:
        """The indices of records that are stored already."""
        known = self._next
        if not any(tp in known and records.records(tp)[0].offset < known[tp] for tp in records.partitions):
            return set()
        return {
            index
            for index, record in enumerate(records)
            if record.offset < known.get(record.topic_partition, -1)
        }

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

    def advanced(self, records: ConsumerRecords) -> None:
        """The transaction is committed."""
        for tp, offset in records.next_offsets().items():
            self._next[tp] = max(offset, self._next.get(tp, -1))

    def _check(self, lost: set[TopicPartition]) -> None:
        if lost:
            raise FencedError(
                f"{', '.join(map(str, sorted(lost)[:5]))}: another owner of group {self.group_id!r} has taken over; nothing of this one is "
                "stored any more",
                retriable=False,
            )
