"""Offsets in any SQL database: the table of postgres_offsets.py, in statements that all understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._native import ConsumerRecords
from ..errors import ConfigError, SinkError
from ..types import TopicPartition
from .faults import fault_of
from .offsets import Offsets
from .sql_session import OFFSETS_COLUMNS, SqlSession

_RACES = 10
_PROBE = "penstock: does a rollback undo?"


class SqlOffsets(Offsets[SqlSession]):
    """One statement for each partition. Written by create(): `_names`, `_same`."""

    def __init__(self, table: str) -> None:
        super().__init__()
        self._table = table
        self._names: dict[str, str] = {}
        self._same = ""

    def _sql(self, text: str) -> str:
        return text.format(same=self._same, **self._names)

    def _values(self, tp: TopicPartition, **more: Any) -> Mapping[str, Any]:
        return {"group_id": self.group_id, "topic": tp.topic, "partition": tp.partition, **more}

    def create(self, session: SqlSession) -> None:
        session.create_offsets(self._table)
        self._names = {name: session.quote(name) for name in OFFSETS_COLUMNS} | {
            "table": session.quoted(self._table)
        }
        self._same = " AND ".join(
            f"{session.quote(name)} = :{name}" for name in ("group_id", "topic", "partition")
        )
        self._check_transactions(session)

    def _check_transactions(self, session: SqlSession) -> None:
        """A connection that commits by itself, or a table that knows no transactions, would store rows without their offsets."""
        probe = {"group_id": _PROBE, "topic": self.owner[-200:], "partition": 0}
        with session.transaction(force_rollback=True):
            self._insert(session, probe)
        with session.transaction():
            kept = session.run(self._sql("DELETE FROM {table} WHERE {same}"), probe)
        if kept:
            raise ConfigError(
                f"a rollback does not undo what was written to {self._table}: turn autocommit off, and use tables with transactions"
            )

    def _insert(self, session: SqlSession, place: Mapping[str, Any]) -> None:
        session.run(
            self._sql(
                "INSERT INTO {table} ({group_id}, {topic}, {partition}, {epoch}, {owner}, {updated_at}) "
                "VALUES (:group_id, :topic, :partition, 1, :owner, CURRENT_TIMESTAMP)"
            ),
            {**place, "owner": self.owner[-255:]},
        )

    def take(self, session: SqlSession, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Two that insert the same row at once: the one that fails finds it there when it tries again."""
        for race in range(_RACES):
            try:
                with session.transaction():
                    rows = [self._take(session, tp) for tp in partitions]
                return self.taken(rows)
            except Exception as error:
                if fault_of(error) != "refused" or race == _RACES - 1:
                    raise
        raise AssertionError("unreachable")

    def _take(self, session: SqlSession, tp: TopicPartition) -> tuple[Any, ...]:
        place = self._values(tp)
        # An update first: it waits for a transaction of the owner before, and in SQLite it begins this one as a writer.
        raised = session.run(
            self._sql(
                "UPDATE {table} SET {epoch} = {epoch} + 1, {owner} = :owner, {updated_at} = CURRENT_TIMESTAMP WHERE {same}"
            ),
            {**place, "owner": self.owner[-255:]},
        )
        if raised < 0:
            raise ConfigError(
                "the driver does not count the rows that a statement changes (cursor.rowcount is -1); without that, an owner that is over "
                "could not be told from one that is not"
            )
        if not raised:
            self._insert(session, place)
        ((next_offset, epoch),) = self._look(session, tp)
        return tp.topic, tp.partition, next_offset, epoch

    def _look(self, session: SqlSession, tp: TopicPartition) -> list[tuple[Any, ...]]:
        return session.query(
            self._sql("SELECT {next_offset}, {epoch} FROM {table} WHERE {same}"), self._values(tp)
        )

    def read(self, session: SqlSession) -> None:
        with session.transaction():
            self.found(
                [(tp.topic, tp.partition, *row) for tp in self._epochs for row in self._look(session, tp)]
            )

    def advance(self, session: SqlSession, records: ConsumerRecords) -> None:
        """Where an epoch is another's, no row is updated. The rows that are stay locked until the end."""
        after = records.next_offsets()
        self._check({tp for tp in after if tp not in self._epochs})
        lost = set()
        for tp, offset in sorted(after.items()):
            if offset <= self._next.get(tp, -1):
                continue  # all of it is stored; and some databases count only rows that become different
            updated = session.run(
                self._sql(
                    "UPDATE {table} SET {next_offset} = :next_offset, {updated_at} = CURRENT_TIMESTAMP WHERE {same} AND {epoch} = :epoch"
                ),
                self._values(tp, next_offset=offset, epoch=self._epochs[tp]),
            )
            if updated > 1:
                raise SinkError(
                    f"{self._table} has several rows for {tp} of group {self.group_id!r}: make it unique"
                )
            if updated != 1:
                lost.add(tp)
        self._check(lost)
