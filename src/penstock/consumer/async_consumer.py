"""The asynchronous consumer."""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from .._native import ConsumerRecord, ConsumerRecords
from ..engine.commits import Unread
from ..engine.consumer_core import ConsumerCore
from ..engine.steps import Steps, await_steps
from ..errors import ClosedError, ConcurrentUseError, IllegalStateError
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
from .readable import Readable

T = TypeVar("T")
_log = logging.getLogger("penstock.consumer")
_LONGEST_TURN_S = 0.005
"""poll() lets other tasks run when it has not waited for anything for so long."""
_LONGEST_SLEEP_S = 1.0
"""poll() wakes its loop so often, since asyncio's loop may sleep through a Ctrl-C: the signal arrives after the interpreter has looked for
one and before the loop has gone to sleep in the selector, and nothing else of it wakes the loop (uvloop is woken by every signal)."""
_CLOSE_GRACE_S = 1.0
"""close() cancels a listener that goes on for so long after its timeout. The engine's own steps keep to the timeout by themselves."""


class AsyncKafkaConsumer:
    """KafkaConsumer for asyncio: the same options, the same methods with `await`, and `async for`.

        async with AsyncKafkaConsumer('my-topic', bootstrap_servers='localhost:9092', group_id='my-group') as consumer:
            async for record in consumer:
                print(record.key, record.value)

    It belongs to the event loop in which it is first awaited, asyncio's own or uvloop (IllegalStateError in another). Listeners and
    commit callbacks may be coroutine functions; they run inside poll(), as a task of that loop. Cancelling a call loses nothing: a
    cancelled poll() leaves its records to the next one, a callback that was under way is finished before the next poll() goes on.

    Heartbeats, fetching and decoding go on in threads of their own, so a loop that is busy or blocked costs no membership before
    `max.poll.interval.ms`. One task polls at a time (ConcurrentUseError); other calls may come from others.

    The loop's thread alone writes the fields here. `_attending` runs listeners and callbacks: while it is there, nothing else does, and
    whoever finds it done raises what it raised.
    """

    def __init__(self, *topics: str, **config: Any) -> None:
        self._closed = True  # until everything below has worked: __del__ may see a half-made object
        self._core = ConsumerCore("AsyncKafkaConsumer", topics, config)
        self._fetcher = self._core.fetcher
        self._user = self._core.user
        self._commits = self._core.commits
        self._polls = self._core.measurements.polls
        self._max_poll_records: int = self._core.config["max.poll.records"]
        self._default_timeout_ms: int = self._core.config["default.api.timeout.ms"]
        # awaiting is progress, however long: it is told to the group at least so often
        self._longest_wait_s: float = min(_LONGEST_SLEEP_S, self._core.config["max.poll.interval.ms"] / 3000)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readable: Readable | None = None
        self._polling = False
        self._attending: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._last_turn_s = 0.0
        self._last: ConsumerRecords | None = None
        self._interceptors = interceptors_of(self._core)
        self._closed = False
        self._core.start()

    # ------------------------------------------------------------ records

    async def poll(
        self, timeout: float | datetime.timedelta = 1000, *, max_records: int | None = None
    ) -> ConsumerRecords:
        """As KafkaConsumer.poll(). When cancelled nothing is lost: records are only taken when nothing is left to wait for."""
        self._begin_poll()
        self._polls.started(time.monotonic() * 1000)
        self._last = None  # who polls again has handled it
        try:
            if self._commits.unread is not None:  # a loop over this consumer was left early
                await self._call(self._core.give_back)
            return await self._poll(to_ms(timeout) / 1000, limit_of(max_records, self._max_poll_records))
        finally:
            self._polling = False
            self._polls.finished(time.monotonic() * 1000)

    async def __aiter__(self) -> AsyncIterator[ConsumerRecord]:
        """Records one by one, for ever, or until close(). As in KafkaConsumer only those handed out count as read."""
        commits = self._commits
        while not self._closed:
            try:
                records = await self.poll()
            except ClosedError:
                if self._closing is not None:  # by another task, while this one waited
                    return
                raise
            commits.unread = unread = Unread(records, 0)
            for unread.index, record in enumerate(records, 1):
                yield record
                if commits.unread is not unread:  # given back by a poll() in the loop, or close() was called
                    break
            else:
                commits.unread = None

    def _begin_poll(self) -> None:
        self._check_here()
        if self._attending is not None and self._attending is asyncio.current_task():
            raise ConcurrentUseError("a listener or commit callback called poll(), inside which it runs")
        self._refuse_while_closing()
        if self._polling:
            raise ConcurrentUseError(
                "two tasks poll this AsyncKafkaConsumer at once: each would get a part of the records; poll from one task, or "
                "make one consumer per task"
            )
        self._polling = True

    def _refuse_while_closing(self) -> None:
        """What close() has committed and given back is not to be handed out after that."""
        if self._closing is not None:
            raise ClosedError("close() was called on this AsyncKafkaConsumer; make a new one to read on")

    async def _poll(self, timeout_s: float, most: int) -> ConsumerRecords:
        started_s = time.monotonic()
        deadline_s = started_s + timeout_s
        if self._commits.auto_commit_due_s <= started_s:
            self._commits.start_auto_commit()
        if started_s - self._last_turn_s > _LONGEST_TURN_S:
            self._last_turn_s = started_s
            await asyncio.sleep(0)
        self._refuse_while_closing()
        while True:
            if self._user.attention or self._attending is not None:
                await self._attend()
            # Nothing is awaited between taking records and returning them: a cancellation comes before or after both.
            records = self._fetcher.poll(most, 0)
            if records:
                self._core.consumed = True
                self._last = records
                return self._interceptors.on_consume(records) if self._interceptors else records
            left_s = deadline_s - time.monotonic()
            if left_s > 0:
                await self._wait(min(left_s, self._longest_wait_s))
            elif not self._user.attention:
                return records

    async def _wait(self, timeout_s: float) -> None:
        if self._readable is None:
            self._readable = Readable(self._fetcher.fileno())
        await self._readable.wait(timeout_s)
        self._last_turn_s = time.monotonic()
        self._refuse_while_closing()

    async def _attend(self) -> None:
        """Run what waits for the user's thread in a task of its own: whoever cancels poll() does not cancel a listener half-way. The
        next poll() waits for it, and raises what it raised."""
        if self._attending is None:
            self._start_attending(self._core.attend())
        await self._attended()
        self._refuse_while_closing()

    def _start_attending(self, steps: Steps[None]) -> None:
        self._attending = asyncio.get_running_loop().create_task(await_steps(steps))

    async def _attended(self) -> None:
        """Until no listener and no callback runs. Of several tasks that wait here the first one raises what was raised."""
        while (attending := self._attending) is not None:
            await asyncio.wait({attending})
            if self._attending is attending:
                self._attending = None
                attending.result()

    # ------------------------------------------------------------ what to read

    async def subscribe(
        self,
        topics: Iterable[str] | str | None = None,
        *,
        pattern: str | re.Pattern[str] | None = None,
        listener: object | None = None,
    ) -> None:
        """As KafkaConsumer.subscribe(). The listener's methods may be coroutine functions."""
        if isinstance(topics, str):
            topics = [topics]
        await self._call(self._core.subscribe, None if topics is None else list(topics), pattern, listener)

    async def assign(self, partitions: Iterable[TopicPartition | tuple[str, int] | int]) -> None:
        """As KafkaConsumer.assign()."""
        await self._call(self._core.assign, list(partitions))

    async def unsubscribe(self) -> None:
        """As KafkaConsumer.unsubscribe()."""
        self._check_here()
        leaving = self._core.leave(time.monotonic() + self._default_timeout_ms / 1000)
        if self._attending is not None and self._attending is asyncio.current_task():
            waiting = await_steps(leaving)  # a listener unsubscribes
        else:
            await self._attended()
            self._start_attending(leaving)  # which a poll() of another task waits for
            waiting = self._attended()
        try:
            await waiting
        finally:  # whatever a listener raises
            await self._call(self._core.unsubscribe)

    def assignment(self) -> set[TopicPartition]:
        """The partitions that this consumer reads now."""
        self._check_open()
        return set(self._core.handles)

    async def subscription(self) -> set[str]:
        """The topics subscribed to; with a pattern, those that match it now."""
        return await self._call(self._core.subscribed_topics)

    # ------------------------------------------------------------ positions

    async def position(
        self, partition: TopicPartition, timeout: float | datetime.timedelta | None = None
    ) -> int:
        """The offset of the next record that poll() will return of an assigned partition."""
        return await self._call(self._core.position, TopicPartition(*partition), self._ms(timeout))

    async def seek(self, partition: TopicPartition, offset: int | OffsetAndMetadata) -> None:
        """Make `offset` the next to be read; nothing of what was fetched before it is returned."""
        await self._call(self._core.seek, TopicPartition(*partition), offset)

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """As KafkaConsumer.seek_to_beginning()."""
        await self._call(self._core.seek_to, topic_partitions(partitions), "earliest")

    async def seek_to_end(self, *partitions: TopicPartition) -> None:
        """As KafkaConsumer.seek_to_end()."""
        await self._call(self._core.seek_to, topic_partitions(partitions), "latest")

    async def pause(self, *partitions: TopicPartition) -> None:
        """Return nothing of these partitions until resume(). What was fetched of them is kept."""
        await self._call(self._core.pause, topic_partitions(partitions))

    async def resume(self, *partitions: TopicPartition) -> None:
        """Take paused partitions up again where they were."""
        await self._call(self._core.resume, topic_partitions(partitions))

    async def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        return await self._call(self._core.paused)

    # ------------------------------------------------------------ offsets

    async def commit(
        self,
        offsets: CommitArgument = None,
        *,
        allow_rewind: bool = False,
        timeout: float | datetime.timedelta | None = None,
    ) -> None:
        """As KafkaConsumer.commit(). When cancelled, it is not known whether the offsets were stored.

        Without `offsets`: the positions at the time of the call, whatever another task's poll() returns before they are sent.
        """
        self._check_here()
        self._commits.need_group("commit()")
        wanted = self._commits.consumed_offsets() if offsets is None else normal_offsets(offsets)
        with timed(self._core.measurements.commit_waited):
            await self._call(
                self._commits.commit, wanted, allow_rewind=allow_rewind, timeout_ms=self._ms(timeout)
            )

    def commit_async(
        self, offsets: CommitArgument = None, callback: CommitCallback | None = None
    ) -> asyncio.Future[dict[TopicPartition, OffsetAndMetadata]]:
        """Start a commit and return at once, with a future of the offsets stored. `callback(offsets, error or None)`, which may be a
        coroutine function, runs in a later poll() or in close(). Commits are sent in the order they were asked for."""
        self._check_here()
        wanted = normal_offsets(offsets)
        future = asyncio.wrap_future(self._commits.commit_async(wanted, callback, self._default_timeout_ms))
        if callback is not None:  # which hears of a failure, so that nobody has to await the future
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    @overload
    async def committed(
        self, partitions: TopicPartition, timeout: float | datetime.timedelta | None = None
    ) -> OffsetAndMetadata | None: ...
    @overload
    async def committed(
        self, partitions: Iterable[TopicPartition], timeout: float | datetime.timedelta | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata | None]: ...
    async def committed(self, partitions: Any, timeout: float | datetime.timedelta | None = None) -> Any:
        """What the group has committed for one partition (None: nothing), or for several, as a dict."""
        one = is_one_partition(partitions)
        wanted = [TopicPartition(*partitions)] if one else topic_partitions(partitions)
        with timed(self._core.measurements.committed_waited):
            found = await self._call(self._core.committed, wanted, self._ms(timeout))
        return found[wanted[0]] if one else found

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition], timeout: float | datetime.timedelta | None = None
    ) -> dict[TopicPartition, int]:
        """The first offset that each partition still has."""
        return await self._call(
            self._core.end_points, topic_partitions(partitions), "earliest", self._ms(timeout)
        )

    async def end_offsets(
        self, partitions: Iterable[TopicPartition], timeout: float | datetime.timedelta | None = None
    ) -> dict[TopicPartition, int]:
        """As KafkaConsumer.end_offsets()."""
        return await self._call(
            self._core.end_points, topic_partitions(partitions), "latest", self._ms(timeout)
        )

    async def offsets_for_times(
        self,
        timestamps: Mapping[TopicPartition, int | datetime.datetime],
        timeout: float | datetime.timedelta | None = None,
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """As KafkaConsumer.offsets_for_times()."""
        return await self._call(self._core.offsets_for_times, normal_times(timestamps), self._ms(timeout))

    async def current_lag(self, partition: TopicPartition) -> int | None:
        """As KafkaConsumer.current_lag()."""
        return await self._call(self._core.lag, TopicPartition(*partition))

    # ------------------------------------------------------------ the group

    async def enforce_rebalance(self, reason: str = "the application asks for it") -> None:
        """As KafkaConsumer.enforce_rebalance()."""
        self._commits.need_group("enforce_rebalance()")
        await self._call(self._core.membership.enforce_rebalance, reason)

    def group_metadata(self) -> ConsumerGroupMetadata:
        """This member as the coordinator knows it now: what a transaction commits offsets under (KIP-447)."""
        self._check_open()
        self._commits.need_group("group_metadata()")
        return self._core.membership.group_metadata()

    def note_progress(self) -> None:
        """As KafkaConsumer.note_progress()."""
        self._fetcher.note_progress()

    # ------------------------------------------------------------ measurements

    async def metrics(self) -> dict[MetricName, float]:
        """All measurements under Java's names, as listed in docs/metrics.md; cheap, but not for every record."""
        return await self._call(self._core.metrics)

    async def client_instance_id(self, timeout: float | datetime.timedelta | None = None) -> uuid.UUID:
        """As KafkaConsumer.client_instance_id()."""
        return await self._call(self._core.client_instance_id, self._ms(timeout))

    # ------------------------------------------------------------ the cluster

    async def partitions_for(
        self, topic: str, timeout: float | datetime.timedelta | None = None
    ) -> list[PartitionInfo]:
        """The partitions of a topic and where they live; empty if there is no such topic."""
        return await self._call(self._core.partitions_for, topic, self._ms(timeout))

    async def topics(
        self, timeout: float | datetime.timedelta | None = None
    ) -> dict[str, list[PartitionInfo]]:
        """All topics that this user may see."""
        return await self._call(self._core.all_topics, self._ms(timeout))

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, bytes]:
        """The id of each topic (KIP-516): a topic that is deleted and made again has another one. 16 zero bytes where there is none."""
        return await self._call(self._core.topic_ids, list(topics), self._default_timeout_ms)

    # ------------------------------------------------------------ life

    def wakeup(self) -> None:
        """Make the poll() that waits now, or the next one, raise WakeupError. From any thread; in a task, cancelling does as well."""
        self._user.wakeup()

    async def close(
        self, timeout: float | datetime.timedelta = 30_000, *, leave_group: bool | None = None
    ) -> None:
        """As KafkaConsumer.close(). Idempotent; when cancelled it goes on in the background, and another close() waits for it.

        A poll() that waits in another task raises ClosedError, and `async for` ends. A listener that takes longer than `timeout` is
        cancelled.
        """
        me = asyncio.current_task()
        if self._closed or me is self._closing:  # the latter: by the listener that close() calls
            return
        if me is self._attending:
            raise IllegalStateError(
                "a listener or commit callback called close(), which would wait for its end: have it set a flag, and call close() "
                "after poll()"
            )
        self._take_over_from_a_closed_loop()
        if self._closing is None:
            closing = self._close(to_ms(timeout), leave_group)
            self._closing = asyncio.get_running_loop().create_task(closing)
            if (
                unread := self._commits.unread
            ) is not None:  # another one: `async for` of another task is to end
                self._commits.unread = Unread(unread.records, unread.index)
            if self._readable is not None:
                self._readable.wake()
        await asyncio.shield(self._closing)

    def _take_over_from_a_closed_loop(self) -> None:
        """close() may come from another event loop if the consumer's own is over, or from a forked child."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return
        if self._core.engine.alive and not self._loop.is_closed():
            self._check_here()  # which raises
        self._loop = self._readable = self._attending = self._closing = None

    async def _close(self, timeout_ms: float, leave_group: bool | None) -> None:
        deadline_s = time.monotonic() + timeout_ms / 1000
        try:
            await self._attended_for_close(timeout_ms / 1000)
        finally:  # also when the loop ends, and cancels its tasks
            left_ms = max(0.0, (deadline_s - time.monotonic()) * 1000)
            try:
                async with asyncio.timeout(left_ms / 1000 + _CLOSE_GRACE_S):
                    await await_steps(self._core.close(left_ms, leave_group))
            except TimeoutError:
                _log.warning(
                    "close() has cancelled a listener or callback that did not end within %.0f ms", timeout_ms
                )
            finally:
                self._closed = True
                self._interceptors.close()

    async def _attended_for_close(self, timeout_s: float) -> None:
        """Until a listener that runs has ended, or is cancelled since time is over. What it raises comes too late for a poll()."""
        attending = self._attending
        if attending is None:
            return
        _, running = await asyncio.wait({attending}, timeout=timeout_s)
        if running:
            attending.cancel()
            await asyncio.wait({attending}, timeout=_CLOSE_GRACE_S)
        if self._attending is not attending:
            return  # a poll() in another task raises what was raised
        self._attending = None
        if not attending.done() or attending.cancelled():
            _log.warning("close() has cancelled a listener or callback that ran for longer than its timeout")
        elif (error := attending.exception()) is not None:
            _log.warning(
                "close() came before the poll() that would have raised this: %s", error, exc_info=error
            )

    async def __aenter__(self) -> AsyncKafkaConsumer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """close(). After an exception what was not handled counts as not read: in `async for` from the record at hand on, else all that
        the last poll() returned. Auto-commit leaves it to whoever reads next."""
        if error is not None and not self._closed:
            if self._commits.unread is not None:
                self._commits.unread.index -= 1
            else:
                self._commits.last_was_not_handled(self._last)
        await self.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._closed:
            _warn(
                f"unclosed {self!r}; use `await close()` or an async with block",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self._core.abandon()

    def __repr__(self) -> str:
        core = getattr(self, "_core", None)
        if core is None:
            return "<AsyncKafkaConsumer, not constructed>"
        return f"<AsyncKafkaConsumer group={core.config['group.id']!r} client={core.config['client.id']!r}>"

    # ------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this AsyncKafkaConsumer is closed; make a new one")

    def _check_here(self) -> None:
        """Open, in the process that made it, in its event loop."""
        self._check_open()
        self._core.engine.check_process()
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            over = ", which is closed" if self._loop.is_closed() else ""
            raise IllegalStateError(
                f"{self!r} belongs to the event loop in which it was first awaited{over}, and was called from another one: make a "
                "consumer in each event loop (each asyncio.run() has its own), or use asyncio.run_coroutine_threadsafe()"
            )

    def _ms(self, timeout: float | datetime.timedelta | None) -> float:
        return self._default_timeout_ms if timeout is None else to_ms(timeout)

    async def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Have the engine do it, and await the outcome; cancelling cancels what runs there."""
        self._check_here()
        return await asyncio.wrap_future(self._core.engine.call(function, *args, **kwargs))
