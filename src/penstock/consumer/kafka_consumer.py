"""The synchronous consumer."""

from __future__ import annotations

import concurrent.futures
import datetime
import re
import time
import uuid
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from .._native import ConsumerRecord, ConsumerRecords
from ..engine.commits import Unread
from ..engine.consumer_core import ConsumerCore
from ..engine.steps import run_steps
from ..errors import ClosedError, WakeupError
from ..metrics import MetricName
from ..types import (
    ConsumerGroupMetadata,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    PartitionInfo,
    TopicPartition,
)
from .arguments import (
    CommitArgument,
    CommitCallback,
    is_one_partition,
    limit_of,
    normal_offsets,
    normal_times,
    timed,
    to_ms,
    topic_partitions,
)
from .interceptors import interceptors_of
from .ownership import Ownership

T = TypeVar("T")


class KafkaConsumer:
    """Reads records from Kafka, alone or as a member of a group.

        consumer = KafkaConsumer('my-topic', bootstrap_servers='localhost:9092', group_id='my-group')
        for record in consumer.poll(timeout=1000):
            print(record.key, record.value)
        consumer.commit()

    `topics` are subscribed to. Options are Apache Kafka's ConsumerConfig, with its names ('group.id', or group_id), defaults and
    meanings; see docs/configuration.md. Timeouts are milliseconds or a datetime.timedelta.

    A consumer belongs to one thread at a time (ConcurrentUseError); only wakeup() may be called from another. It does not survive
    fork() (ForkedError). Heartbeats, fetching and reconnecting go on in threads of its own while your code works.
    Source of the methods' meaning: org.apache.kafka.clients.consumer.Consumer.
    """

    def __init__(self, *topics: str, **config: Any) -> None:
        self._closed = True  # until everything below has worked: __del__ may see a half-made object
        self._closing = False
        self._core = ConsumerCore("KafkaConsumer", topics, config)
        self._fetcher = self._core.fetcher
        self._user = self._core.user
        self._polls = self._core.measurements.polls
        self._max_poll_records: int = self._core.config["max.poll.records"]
        self._default_timeout_ms: int = self._core.config["default.api.timeout.ms"]
        self._own = Ownership("this KafkaConsumer")
        self._waiting: concurrent.futures.Future[Any] | None = None
        self._last: ConsumerRecords | None = None
        self._interceptors = interceptors_of(self._core)
        self._closed = False
        self._core.start()

    # ------------------------------------------------------------ records

    def poll(
        self, timeout: float | datetime.timedelta = 1000, *, max_records: int | None = None
    ) -> ConsumerRecords:
        """Up to `max.poll.records` records (`max_records`: or so many, this time); waits at most `timeout` (ms) for the first of them,
        and may return none.

        Listeners and commit callbacks run in here. Raises WakeupError after wakeup(), CorruptRecordError and its kin at a place that
        cannot be read (the position stays; seek() past it to go on), NoOffsetForPartitionError, AuthorizationError, GroupError, and
        ConnectionFailedError while no broker was ever reached.
        """
        with self._own:
            self._check_open()
            started_s = time.monotonic()
            self._polls.started(started_s * 1000)
            self._last = None  # who polls again has handled it
            try:
                most = limit_of(max_records, self._max_poll_records)
                return self._poll(started_s, started_s + to_ms(timeout) / 1000, most)
            finally:
                self._polls.finished(time.monotonic() * 1000)

    def _poll(self, started_s: float, deadline_s: float, most: int) -> ConsumerRecords:
        core, user = self._core, self._user
        if core.commits.auto_commit_due_s <= started_s:
            core.commits.start_auto_commit()
        now_s = started_s
        while True:
            if user.attention:
                run_steps(core.attend())
                now_s = time.monotonic()
            remaining_ms = max(0, int((deadline_s - now_s) * 1000 + 0.999))
            records = self._fetcher.poll(most, remaining_ms)
            # attention: a revocation may have been asked for between two polls; it is served before more is handed out
            if records:
                core.consumed = True
                self._last = records
                return self._interceptors.on_consume(records) if self._interceptors else records
            now_s = time.monotonic()
            if now_s >= deadline_s and not user.attention:
                return records

    def __iter__(self) -> Iterator[ConsumerRecord]:
        """Records one by one, for ever, or until close().

        Only those handed out count as read: commit() in the loop, auto-commit and close() leave the rest of a poll alone, and after
        a break the next poll() begins with it.
        """
        core, commits = self._core, self._core.commits
        while self._is_open():
            records = self.poll()
            try:
                commits.unread = unread = Unread(records, 0)
                for unread.index, record in enumerate(records, 1):
                    yield record
                    if not self._is_open():
                        return  # what is left was not committed: who reads next is given it
                commits.unread = None
            finally:  # a break or an exception: the generator is closed
                if commits.unread is not None and not self._closed:
                    index = commits.unread.index
                    self._last = records[
                        index - 1 : index
                    ]  # if it was an exception, this one was not handled
                    with self._own:
                        self._call(core.give_back)

    # ------------------------------------------------------------ what to read

    def subscribe(
        self,
        topics: Iterable[str] | str | None = None,
        *,
        pattern: str | re.Pattern[str] | None = None,
        listener: object | None = None,
    ) -> None:
        """Read these topics, or all whose whole name matches `pattern`, as a member of the group; replaces the subscription before.

        `listener` has any of on_partitions_assigned, on_partitions_revoked, on_partitions_lost, each called with a list of
        TopicPartition inside poll().
        """
        with self._own:
            if isinstance(topics, str):
                topics = [topics]
            self._call(self._core.subscribe, None if topics is None else list(topics), pattern, listener)

    def assign(self, partitions: Iterable[TopicPartition | tuple[str, int] | int]) -> None:
        """Read exactly these partitions, without the group's assignment. Ints are partitions of the one topic that the constructor named.

        Replaces a subscription before anything was consumed; later IllegalStateError.
        """
        with self._own:
            self._call(self._core.assign, list(partitions))

    def unsubscribe(self) -> None:
        """Read nothing: give the group's partitions back (on_partitions_revoked is called) and leave it, or drop those assigned."""
        with self._own:
            self._check_open()
            try:
                run_steps(self._core.leave(time.monotonic() + self._default_timeout_ms / 1000))
            finally:  # whatever a listener raises
                self._call(self._core.unsubscribe)

    def assignment(self) -> set[TopicPartition]:
        """The partitions that this consumer reads now."""
        with self._own:
            self._check_open()
            return set(self._core.handles)

    def subscription(self) -> set[str]:
        """The topics subscribed to; with a pattern, those that match it now."""
        with self._own:
            return self._call(self._core.subscribed_topics)

    # ------------------------------------------------------------ positions

    def position(self, partition: TopicPartition, timeout: float | datetime.timedelta | None = None) -> int:
        """The offset of the next record that poll() will return of an assigned partition."""
        with self._own:
            return self._call(self._core.position, TopicPartition(*partition), self._ms(timeout))

    def seek(self, partition: TopicPartition, offset: int | OffsetAndMetadata) -> None:
        """Make `offset` the next to be read; nothing of what was fetched before it is returned."""
        with self._own:
            self._call(self._core.seek, TopicPartition(*partition), offset)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go to the first offset of these partitions (none given: all assigned) at the next poll() or position()."""
        with self._own:
            self._call(self._core.seek_to, topic_partitions(partitions), "earliest")

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go past the last offset of these partitions (none given: all assigned) at the next poll() or position()."""
        with self._own:
            self._call(self._core.seek_to, topic_partitions(partitions), "latest")

    def pause(self, *partitions: TopicPartition) -> None:
        """Return nothing of these partitions until resume(). What was fetched of them is kept."""
        with self._own:
            self._call(self._core.pause, topic_partitions(partitions))

    def resume(self, *partitions: TopicPartition) -> None:
        """Take paused partitions up again where they were."""
        with self._own:
            self._call(self._core.resume, topic_partitions(partitions))

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        with self._own:
            return self._call(self._core.paused)

    # ------------------------------------------------------------ offsets

    def commit(
        self,
        offsets: CommitArgument = None,
        *,
        allow_rewind: bool = False,
        timeout: float | datetime.timedelta | None = None,
    ) -> None:
        """Store positions in the group and wait until they are stored.

        Without `offsets`: the positions after what poll() returned. Else a mapping of TopicPartition to the *next* offset to read
        (int or OffsetAndMetadata), or a ConsumerRecord or ConsumerRecords that are done with.
        A commit below what this consumer committed before raises CommitRewindError unless `allow_rewind`. CommitFailedError: the group
        moved on without this member.
        """
        with self._own, timed(self._core.measurements.commit_waited):
            wanted = normal_offsets(offsets)
            self._call(
                self._core.commits.commit, wanted, allow_rewind=allow_rewind, timeout_ms=self._ms(timeout)
            )

    def commit_async(
        self, offsets: CommitArgument = None, callback: CommitCallback | None = None
    ) -> concurrent.futures.Future[dict[TopicPartition, OffsetAndMetadata]]:
        """Start a commit and return at once, with a future of the offsets stored.

        `callback(offsets, error or None)` runs in a later poll() or in close(). Commits are sent in the order they were asked for.
        """
        with self._own:
            self._check_open()
            wanted = normal_offsets(offsets)
            return self._core.commits.commit_async(wanted, callback, self._default_timeout_ms)

    @overload
    def committed(
        self, partitions: TopicPartition, timeout: float | datetime.timedelta | None = None
    ) -> OffsetAndMetadata | None: ...
    @overload
    def committed(
        self, partitions: Iterable[TopicPartition], timeout: float | datetime.timedelta | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata | None]: ...
    def committed(self, partitions: Any, timeout: float | datetime.timedelta | None = None) -> Any:
        """What the group has committed for one partition (None: nothing), or for several, as a dict."""
        with self._own, timed(self._core.measurements.committed_waited):
            one = is_one_partition(partitions)
            wanted = [TopicPartition(*partitions)] if one else topic_partitions(partitions)
            found = self._call(self._core.committed, wanted, self._ms(timeout))
            return found[wanted[0]] if one else found

    def beginning_offsets(
        self, partitions: Iterable[TopicPartition], timeout: float | datetime.timedelta | None = None
    ) -> dict[TopicPartition, int]:
        """The first offset that each partition still has."""
        with self._own:
            return self._call(
                self._core.end_points, topic_partitions(partitions), "earliest", self._ms(timeout)
            )

    def end_offsets(
        self, partitions: Iterable[TopicPartition], timeout: float | datetime.timedelta | None = None
    ) -> dict[TopicPartition, int]:
        """The offset after the last record of each partition: the high watermark, or under read_committed the last stable offset."""
        with self._own:
            return self._call(
                self._core.end_points, topic_partitions(partitions), "latest", self._ms(timeout)
            )

    def offsets_for_times(
        self,
        timestamps: Mapping[TopicPartition, int | datetime.datetime],
        timeout: float | datetime.timedelta | None = None,
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """For each partition the first offset whose timestamp (ms since 1970, or a datetime) is not below the one given.

        None: no record is that young.
        """
        with self._own:
            return self._call(self._core.offsets_for_times, normal_times(timestamps), self._ms(timeout))

    def current_lag(self, partition: TopicPartition) -> int | None:
        """How many offsets an assigned partition's position is behind its end, from what the last fetch told, without asking (KIP-227's
        high watermark; under read_committed the last stable offset). None while that is not known."""
        with self._own:
            return self._call(self._core.lag, TopicPartition(*partition))

    # ------------------------------------------------------------ the group

    def enforce_rebalance(self, reason: str = "the application asks for it") -> None:
        """Have the group rebalance, beginning with the next poll(), with `reason` in the coordinator's log (KIP-568, KIP-800).

        With the consumer protocol (KIP-848) the coordinator decides alone, and this does nothing, as in Java.
        """
        with self._own:
            self._core.commits.need_group("enforce_rebalance()")
            self._call(self._core.membership.enforce_rebalance, reason)

    def group_metadata(self) -> ConsumerGroupMetadata:
        """This member as the coordinator knows it now: what a transaction commits offsets under (KIP-447)."""
        with self._own:
            self._check_open()
            self._core.commits.need_group("group_metadata()")
            return self._core.membership.group_metadata()

    def note_progress(self) -> None:
        """Say that your code makes progress, where one record takes longer than `max.poll.interval.ms`. From any thread.

        A member that shows none for that long is taken for dead, and its partitions go to others. poll() is progress, and so is each
        record taken from what it returned; this is for what happens between two of them.
        """
        self._fetcher.note_progress()

    # ------------------------------------------------------------ measurements

    def metrics(self) -> dict[MetricName, float]:
        """All measurements under Java's names, as listed in docs/metrics.md; cheap, but not for every record."""
        with self._own:
            return self._call(self._core.metrics)

    def client_instance_id(self, timeout: float | datetime.timedelta | None = None) -> uuid.UUID:
        """What brokers call this client in the telemetry that they ask for (KIP-714). UnsupportedVersionError where none asks."""
        with self._own:
            return self._call(self._core.client_instance_id, self._ms(timeout))

    # ------------------------------------------------------------ the cluster

    def partitions_for(
        self, topic: str, timeout: float | datetime.timedelta | None = None
    ) -> list[PartitionInfo]:
        """The partitions of a topic and where they live; empty if there is no such topic."""
        with self._own:
            return self._call(self._core.partitions_for, topic, self._ms(timeout))

    def topics(self, timeout: float | datetime.timedelta | None = None) -> dict[str, list[PartitionInfo]]:
        """All topics that this user may see."""
        with self._own:
            return self._call(self._core.all_topics, self._ms(timeout))

    # ------------------------------------------------------------ life

    def wakeup(self) -> None:
        """Make the call that blocks now, or the next poll(), raise WakeupError. The one method that any thread may call."""
        self._user.wakeup()
        waiting = self._waiting
        if waiting is not None:
            waiting.cancel()

    def close(self, timeout: float | datetime.timedelta = 30_000, *, leave_group: bool | None = None) -> None:
        """Commit if `enable.auto.commit`, run on_partitions_revoked, leave the group, end all threads. Idempotent.

        Takes at most about `timeout` (ms), broker alive or dead. `leave_group` (KIP-1092): by default a member leaves, so that others take
        over at once, and one with group.instance.id keeps its place for session.timeout.ms, so that its restart moves nothing; True
        and False say so for either.
        """
        if self._closed or self._closing:
            return
        with self._own:
            self._closing = True  # the listener that runs in here may still commit
            try:
                run_steps(self._core.close(to_ms(timeout), leave_group))
            finally:
                self._closed = True
                self._interceptors.close()

    def __enter__(self) -> KafkaConsumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """close(). After an exception what the last poll() returned counts as not read, since some of it was not handled: auto-commit
        leaves it to whoever reads next. An exception out of poll() itself leaves nothing: all before was handled."""
        if error is not None and not self._closed:
            self._core.commits.last_was_not_handled(self._last)
        self.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._closed:
            _warn(
                f"unclosed {self!r}; use close() or a with block", ResourceWarning, source=self, stacklevel=2
            )
            self._core.abandon()

    def __repr__(self) -> str:
        core = getattr(self, "_core", None)
        if core is None:
            return "<KafkaConsumer, not constructed>"
        return f"<KafkaConsumer group={core.config['group.id']!r} client={core.config['client.id']!r}>"

    # ------------------------------------------------------------ inside

    def _is_open(self) -> bool:
        return not self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this KafkaConsumer is closed; make a new one")

    def _ms(self, timeout: float | datetime.timedelta | None) -> float:
        return self._default_timeout_ms if timeout is None else to_ms(timeout)

    def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Have the engine do it and wait, open to wakeup() and Ctrl-C."""
        self._check_open()
        future = self._core.engine.call(function, *args, **kwargs)
        self._waiting = future
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            self._user.clear_wakeup()
            raise WakeupError("wakeup() was called while this call was waiting") from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self._waiting = None
