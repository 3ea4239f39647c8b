"""What all sinks share that keep their offsets beside their rows: one transaction, retries after a loss, the search for bad rows."""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from .._native import ConsumerRecords
from ..errors import KafkaError, SchemaError, SinkError
from ..types import TopicPartition
from .columns import Column
from .faults import driver_error, fault_of
from .offsets import Offsets
from .refusals import Refusals, Refusing, search

_log = logging.getLogger("penstock.sinks")

_BACKOFF_S = (0.05, 2.0)


class Session(Protocol):
    """A connection, as psycopg's is one."""

    @property
    def closed(self) -> bool: ...
    def transaction(self, *, force_rollback: bool = False) -> AbstractContextManager[Any]:
        """Committed at the end, or rolled back after an error; within another one a savepoint."""

    def close(self) -> None: ...


S = TypeVar("S", bound=Session)
S_contra = TypeVar("S_contra", bound=Session, contravariant=True)


@dataclass
class Rows:
    """Blocks for a bulk copy, or rows of values; and records that cannot be a row, with the reason."""

    blocks: list[bytes] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)
    count: int = 0
    bad: Refusals = field(default_factory=list)


class Target(Protocol[S_contra]):
    """Where the rows go."""

    name: str

    def look(self, session: S_contra, given: list[Column] | None) -> None:
        """SchemaError where the columns and the table do not fit."""

    def encode(self, records: ConsumerRecords, skip: set[int]) -> Rows:
        """Rows of these records, without those at the indices `skip`."""

    def store(self, session: S_contra, rows: Rows) -> None:
        """Within a transaction."""


class StoringSink(Refusing, ABC, Generic[S]):
    """The contract's calls. What a database has of its own are `_connected`, the target and the offsets.

    `_session` and what is known of the offsets are written under `_one`. `rows`: stored since the sink was made.
    """

    def __init__(
        self,
        database: str,
        target: Target[S],
        offsets: Offsets[S],
        given: list[Column] | None,
        retry_for_s: float,
    ) -> None:
        super().__init__(target.name)
        self.rows = 0
        self._database = database
        self._target = target
        self._offsets = offsets
        self._given = given
        self._retry_for_s = retry_for_s
        self._session: S | None = None
        self._savepoints = True
        self._one = threading.RLock()

    @abstractmethod
    def _connected(self) -> S:
        """A new connection, prepared."""

    def _begin_search(self, session: S) -> None:
        """Within its transaction: what has to be set so that each row is refused by itself."""

    def _told(self, error: BaseException) -> str:
        """An error's words, without what must not be logged."""
        return str(driver_error(error)).strip()

    # ------------------------------------------------------------ the contract

    def open(self, group_id: str) -> None:
        """Connect and compare the table with the columns. SchemaError says what does not fit, and the remedy."""
        with self._one:
            self._offsets.group_id = group_id
            self._with_retries("opening the sink", self._open)

    def _open(self, session: S) -> None:
        with session.transaction():
            self._target.look(session, self._given)
        self._offsets.create(session)

    def assigned(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """From here on the owner before can store nothing of these. Where to go on, for those of which something is stored."""
        wanted = sorted(partitions)
        with self._one:
            # What was known of them before counts no more: after a loss in here it would be compared with the epoch that this call raised.
            self._let_go(wanted)
            found: Mapping[TopicPartition, int] = self._with_retries(
                f"taking {len(wanted)} partitions over",
                lambda session: self._offsets.take(session, wanted),
            )
            return found

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        with self._one:
            self._let_go(list(partitions))

    def _let_go(self, partitions: Sequence[TopicPartition]) -> None:
        self._offsets.forget(partitions)
        self._passed(partitions)

    def write(self, records: ConsumerRecords) -> None:
        """Rows and offsets in one transaction. What was stored before is left out, so that a batch may be given again.

        FencedError: another owner has taken a partition over; nothing of the batch is stored. SinkError: the database stays away
        (retriable), or a row is refused and there is no `dead_letter`; then nothing from that row on is stored.
        """
        with self._one:
            bad = self._put_before(records)
            while refusals := self._with_retries(
                "storing rows", lambda session: self._store(session, records, bad)
            ):
                first = min(index for index, _ in refusals)
                if self.dead_letter is None and first > 0:
                    self.write(records[:first])
                self._put_away(records, refusals, bad)
            self._passed(records.partitions)

    def close(self) -> None:
        with self._one:
            self._disconnect()

    # ------------------------------------------------------------ storing

    def _store(self, session: S, records: ConsumerRecords, bad: set[int]) -> Refusals:
        """Empty once all but the bad ones is stored; else further bad ones, and nothing is stored."""
        before = self._offsets.stored_before(records)
        if len(before) == len(records):
            return []
        skip = before | bad
        rows = self._target.encode(records, skip)
        if rows.bad:
            return rows.bad
        try:
            with session.transaction():
                self._offsets.advance(session, records)
                self._target.store(session, rows)
        except Exception as error:
            if fault_of(error) != "refused" or session.closed:
                raise
            _log.info(
                "a batch of %d rows for %s is refused, and searched: %s",
                rows.count,
                self.name,
                self._told(error),
            )
        else:
            self._offsets.advanced(records)
            self.rows += rows.count
            return []
        return self._search(session, records, [n for n in range(len(records)) if n not in skip])

    def _search(self, session: S, records: ConsumerRecords, indices: Sequence[int]) -> Refusals:
        """Which rows are refused, the others being there: nothing of this is kept."""
        if self._savepoints:
            with session.transaction(force_rollback=True):
                self._begin_search(session)
                self._offsets.advance(session, records)
                refusals = search(indices, lambda part: self._try(session, records, part))
        else:
            refusals = self._search_in_transactions(session, records, indices)
        if not refusals:
            raise SinkError(
                f"{self.name} refuses a batch as a whole, but none of its rows: another writer, or a deferred constraint, may be the "
                "cause; it will be tried again",
                retriable=True,
            )
        return [(index, SinkError(self._told(error))) for index, error in refusals]

    def _try(self, session: S, records: ConsumerRecords, part: Sequence[int]) -> BaseException | None:
        first, end = part[0], part[-1] + 1
        wanted = set(part)
        rows = self._target.encode(
            records[first:end], {index - first for index in range(first, end) if index not in wanted}
        )
        try:
            with session.transaction():
                self._target.store(session, rows)
        except Exception as error:
            if fault_of(error) != "refused" or session.closed:
                raise
            return error
        return None

    def _search_in_transactions(
        self, session: S, records: ConsumerRecords, indices: Sequence[int]
    ) -> Refusals:
        """Without savepoints: each attempt begins anew, with all that was found good."""
        good: list[int] = []

        def attempt(part: Sequence[int]) -> BaseException | None:
            wanted = {*good, *part}
            rows = self._target.encode(records, {n for n in range(len(records)) if n not in wanted})
            try:
                with session.transaction(force_rollback=True):
                    self._begin_search(session)
                    self._offsets.advance(session, records)
                    self._target.store(session, rows)
            except Exception as error:
                if fault_of(error) != "refused" or session.closed:
                    raise
                return error
            good.extend(part)
            return None

        return search(indices, attempt)

    # ------------------------------------------------------------ connections

    def _with_retries(self, what: str, call: Callable[[S], Any]) -> Any:
        """Again, after a connection was lost, until the time is over.

        A transaction may have been committed although its connection was lost before the answer. So after each loss the offsets are
        read first: what `call` does then begins behind what is stored.
        """
        deadline_s = time.monotonic() + self._retry_for_s
        backoff_s, most_s = _BACKOFF_S
        lost = False
        while True:
            try:
                if self._session is None or self._session.closed:
                    self._session = self._connected()
                    lost = lost or self._offsets.owns_any
                if lost:
                    self._offsets.read(self._session)
                    lost = False
                return call(self._session)
            except KafkaError:
                raise
            except Exception as error:
                self._check_passing(what, error)
                lost = True
                self._disconnect()
                told = self._told(error)
                if time.monotonic() + backoff_s > deadline_s:
                    raise SinkError(
                        f"{what}: {self._database} did not answer for {self._retry_for_s:g} s: {told}",
                        retriable=True,
                    ) from driver_error(error)
                _log.warning(
                    "%s: the connection to %s is lost and will be made again: %s", what, self._database, told
                )
                time.sleep(backoff_s * (0.8 + 0.4 * random.random()))
                backoff_s = min(backoff_s * 2, most_s)

    def _check_passing(self, what: str, error: Exception) -> None:
        """Raises where another try would not help."""
        fault = fault_of(error)
        gone = self._session is not None and self._session.closed
        if fault == "lost" or (gone and fault != "foreign"):
            return
        self._disconnect()
        if fault == "foreign" or not is_of_driver(error):
            raise error
        raise SchemaError(f"{what}: {self._database} refuses: {self._told(error)}") from driver_error(error)

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def is_of_driver(error: BaseException) -> bool:
    """Whether a database's driver raised it."""
    return any(
        kind.__name__ in ("DatabaseError", "InterfaceError") for kind in type(driver_error(error)).__mro__
    )
