"""What a consumer is, apart from who waits: the sync and the async shell drive this same core."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._native import ConsumerRecords, Fetcher
from ..config import Config, resolve
from ..errors import CommitFailedError, ConfigError, KafkaError, WakeupError
from ..fetch import SubscriptionState
from ..group.assignors import assignors_for
from ..group.classic import ClassicMember
from ..group.messages import Subscribe
from ..offsets import CommitLedger
from ..types import OffsetAndMetadata, OffsetAndTimestamp, PartitionInfo, TopicPartition
from . import lookups
from .client import ClusterClient, with_client_id
from .coordinator import GroupCoordinator
from .group_driver import GroupDriver
from .positions import Positions
from .thread import EngineThread

_log = logging.getLogger("penstock.consumer")
_MOST_ERRORS = 16
_ISOLATION = {"read_uncommitted": 0, "read_committed": 1}


class ConsumerCore:
    """Coroutines and methods whose names start with an underscore run in the engine's thread.

    Shared with the user's thread, each with one writer at a time under the GIL:
    `attention` (set by the engine, cleared by the user's thread before it looks), `callbacks` and `_errors` (appended by the
    engine, popped by the user's thread), `fetching.handles` (written by the engine, copied by the user's thread),
    `auto_commit_due_s` (written by the user's thread), `consumed` (set by poll() when it first returns a record), `unread` (what a
    loop over the consumer has polled and, from the index on, not handed out; written by the user's thread).
    """

    def __init__(self, topics: Sequence[str], options: Mapping[str, Any]) -> None:
        self.config: Config = with_client_id("consumer", resolve("consumer", options))
        self._isolation = _ISOLATION[self.config["isolation.level"]]
        self._group_id: str | None = self.config["group.id"]
        self.engine = EngineThread(f"KafkaConsumer {self.config['client.id']}")
        self.client = ClusterClient(self.engine, self.config)
        self.fetcher = _make_fetcher(self.engine, self.config, self._isolation)
        self.subscription = SubscriptionState(topics)
        self.ledger = CommitLedger()
        self.coordinator = (
            GroupCoordinator(self.client, self._group_id) if self._group_id is not None else None
        )
        self.positions = Positions(
            self.client,
            self.fetcher,
            self.subscription,
            self.ledger,
            self.coordinator,
            self.config,
            self._isolation,
            self.raise_in_poll,
        )
        self.fetching = self.positions.fetching
        self.group: GroupDriver | None = None
        self.attention = True  # the first poll() is news to the engine
        self.callbacks: deque[Callable[[], None]] = deque()
        self.auto_commit_due_s = float("inf")
        self.consumed = False
        self.unread: tuple[ConsumerRecords, int] | None = None
        self._listener: object | None = None
        self._errors: deque[BaseException] = deque()
        self._wakeup = False
        self._polled = False
        self._pattern: re.Pattern[str] | None = None
        self._commit_order = asyncio.Lock()
        self.client.on_update.append(self._on_metadata)
        if topics:
            self.client.interest = set(topics)
        if self.config["enable.auto.commit"] and self._group_id is not None:
            self.auto_commit_due_s = time.monotonic() + self.config["auto.commit.interval.ms"] / 1000

    @property
    def handles(self) -> dict[TopicPartition, int]:
        return self.fetching.handles

    def start(self) -> None:
        self.engine.start()
        self.engine.post(self._begin)

    def _begin(self) -> None:
        self.client.start()
        self.engine.spawn(self._watch_bootstrap(), "bootstrap")

    async def _watch_bootstrap(self) -> None:
        """Until a broker has answered for the first time, poll() tells who was tried. Later outages are only logged: they
        pass, and a consumer that has worked is to go on by itself."""
        while self.client.snapshot.version == 0:
            try:
                async with self.client.within(
                    self.config["default.api.timeout.ms"], "connecting to the cluster"
                ):
                    await self.client.updated()
            except KafkaError as error:
                if not self._errors:
                    self.raise_in_poll(error)

    # ------------------------------------------------------------ the user's thread, inside poll()

    def note_poll(self) -> None:
        """Tell the group that the user polls: the first time it joins, after an expired interval it joins again."""
        self._polled = True
        self.engine.post(self._on_poll)

    def raise_pending(self) -> None:
        """Raise what waits for the user: wakeup() first, then errors in the order they came."""
        if self._wakeup:
            self._wakeup = False
            raise WakeupError("wakeup() was called")
        if self._errors:
            self.attention = True  # the next poll looks for more, and tells the group that the user goes on
            raise self._errors.popleft()

    def wakeup(self) -> None:
        self._wakeup = True
        self.attend()

    def clear_wakeup(self) -> None:
        self._wakeup = False

    def attend(self) -> None:
        """Have the user's thread look at callbacks and errors at once, even from inside a waiting poll()."""
        self.attention = True
        self.fetcher.wake()

    def request_auto_commit(self) -> None:
        """Commit, in the background, the positions as they stand: all that earlier polls returned has been handled."""
        self.auto_commit_due_s = time.monotonic() + self.config["auto.commit.interval.ms"] / 1000
        offsets = self.consumed_offsets()
        if offsets:
            self.engine.call(self._commit_quietly, offsets, self.config["request.timeout.ms"], "auto-commit")

    def consumed_offsets(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """Per assigned partition the offset after the last record that the user was handed."""
        offsets = {}
        held = self._held()
        for tp, handle in list(self.handles.items()):
            place = self.fetcher.position(handle)
            if place is not None:
                offsets[tp] = OffsetAndMetadata(min(place[0], held.get(tp, place[0])), "", place[1])
        return offsets

    def _held(self) -> dict[TopicPartition, int]:
        """Per partition the first offset that poll() returned to a loop which has not handed it out yet."""
        if self.unread is None:
            return {}
        records, index = self.unread
        rest = records[index:]
        return {tp: rest.records(tp)[0].offset for tp in rest.partitions}

    def last_was_not_handled(self, records: ConsumerRecords | None) -> None:
        """An exception ends the use of the consumer somewhere in these records."""
        if records is not None:
            self.unread = (records, 0)

    async def give_back(self) -> None:
        """A loop over the consumer has ended early: what it was not handed is to be returned by the next poll(). A partition that
        was sought meanwhile keeps its new position."""
        if self.unread is None:
            return
        polled_to = self.unread[0].next_offsets()
        held, self.unread = self._held(), None
        for tp, offset in held.items():
            handle = self.handles.get(tp)
            place = self.fetcher.position(handle) if handle is not None else None
            if place is not None and place[0] == polled_to[tp]:
                self.positions.start_at(tp, offset)

    def close_from_user(self, timeout_ms: float, run_callbacks: Callable[[], None]) -> None:
        """Commit, tell the listener, leave, end all threads. Whatever fails or hangs on the way, the threads end."""
        deadline = time.monotonic() + timeout_ms / 1000
        try:
            if self.engine.alive:
                self.leave_from_user(deadline, run_callbacks)
                self.engine.call(self._shut).result(max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            _log.warning(
                "close() did not finish within %.0f ms; the group will notice by session.timeout.ms",
                timeout_ms,
            )
        finally:
            self.fetcher.close()
            self.engine.stop(timeout_s=max(0.5, min(5.0, deadline - time.monotonic())))

    def abandon(self) -> None:
        """The user forgot to close: end the threads without waiting, commit nothing."""
        if self.engine.alive:
            self.fetcher.close()
            self.engine.post(self.client.close)
            self.engine.post(self.engine.loop.stop)

    def leave_from_user(self, deadline: float, run_callbacks: Callable[[], None]) -> None:
        """Give the group's partitions back, in order: commit, listener, leave."""
        owned = list(self.handles) if self.group is not None else []
        if self.auto_commit_due_s != float("inf") and self.handles:
            offsets = self.consumed_offsets()
            left_ms = max(100.0, (deadline - time.monotonic()) * 1000)
            self.engine.call(self._commit_quietly, offsets, left_ms, "the commit on close").result()
        run_callbacks()
        if owned and self.group is not None:
            self._call_listener("on_partitions_revoked", owned)
        if self.group is not None:
            left_ms = max(100.0, (deadline - time.monotonic()) * 1000)
            self.engine.call(self._leave_group, left_ms).result()

    async def _leave_group(self, timeout_ms: float) -> None:
        self.positions.drop(list(self.handles))
        if self.group is not None:
            group, self.group = self.group, None
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await group.leave()
            except (TimeoutError, KafkaError) as error:
                _log.warning(
                    "could not tell group %s that this member leaves: %s",
                    self._group_id,
                    error or "no answer",
                )

    async def _shut(self) -> None:
        self.client.close()

    # ------------------------------------------------------------ what to read

    async def subscribe(
        self, topics: list[str] | None, pattern: str | re.Pattern[str] | None, listener: object | None
    ) -> None:
        if self._group_id is None:
            raise ConfigError("subscribe() needs group.id; set it, or use assign() to read without a group")
        if (topics is None) == (pattern is None):
            raise ValueError("subscribe() takes either topics or pattern")
        self._listener = listener
        if pattern is not None:
            self._pattern = re.compile(pattern)
            self.subscription.subscribe_pattern(self._pattern.pattern)
            self.client.interest = None
            self.client.want_update()
            self._on_metadata()
            return
        assert topics is not None
        self._pattern = None
        self.subscription.subscribe(topics)
        self.client.interest = set(topics)
        self.client.want_update()
        self._subscribe_group()

    async def assign(self, partitions: list[TopicPartition | tuple[str, int] | int]) -> None:
        if self.consumed:
            self.subscription.note_consumed()
        kept = self.subscription.assign_from_user(partitions)
        self._pattern = None
        if self.group is not None:
            group, self.group = self.group, None
            self.engine.spawn(group.leave(), "leave the group for assign()")
        self.positions.drop([tp for tp in self.handles if tp not in kept])
        self.client.interest = {tp.topic for tp in kept}
        self.client.want_update()
        self.fetching.add(kept)
        self.positions.resolve()

    async def unsubscribe(self) -> None:
        """After leave_from_user(), which has given the group's partitions back."""
        self.positions.drop(list(self.handles))
        self.subscription.unsubscribe()
        self.consumed = False
        self._pattern = None
        self._listener = None

    async def subscribed_topics(self) -> set[str]:
        return set(self.subscription.topics)

    async def pause(self, partitions: list[TopicPartition]) -> None:
        handles = [self.positions.handle(tp) for tp in partitions]
        self.subscription.pause(partitions)
        self.fetcher.pause(handles)

    async def resume(self, partitions: list[TopicPartition]) -> None:
        handles = [self.positions.handle(tp) for tp in partitions]
        self.subscription.resume(partitions)
        self.fetcher.resume(handles)

    async def paused(self) -> set[TopicPartition]:
        return set(self.subscription.paused())

    # ------------------------------------------------------------ the group

    def _on_poll(self) -> None:
        if self._group_id is None and self.subscription.subscribed:
            self.raise_in_poll(
                ConfigError(
                    f"reading {', '.join(sorted(self.subscription.topics))} as a subscription needs group.id; set it, "
                    "or call assign() with the partitions to read without a group"
                )
            )
        elif self.group is not None:
            self.group.poll_progress()
        elif self.subscription.subscribed:
            self._subscribe_group()

    def _subscribe_group(self) -> None:
        """Join once the user polls, as Java's consumer does; until then assign() may still replace the subscription."""
        if not self._polled or self._group_id is None:
            return
        if self.group is None:
            assert self.coordinator is not None
            config = self.config
            machine = ClassicMember(
                group_id=self._group_id,
                group_instance_id=config["group.instance.id"],
                session_timeout_ms=config["session.timeout.ms"],
                rebalance_timeout_ms=config["max.poll.interval.ms"],
                heartbeat_interval_ms=config["heartbeat.interval.ms"],
                retry_backoff_ms=config["retry.backoff.ms"],
                retry_backoff_max_ms=config["retry.backoff.max.ms"],
                assignors=assignors_for(config["partition.assignment.strategy"]),
            )
            self.group = GroupDriver(
                self, self.client, self.coordinator, machine, config["max.poll.interval.ms"]
            )
        self.group.feed(Subscribe(tuple(sorted(self.subscription.topics))))

    def idle_ms(self) -> int:
        return self.fetcher.last_poll_ms()

    def stop_fetching(self, partitions: Sequence[TopicPartition]) -> None:
        self.fetcher.pause([self.handles[tp] for tp in partitions if tp in self.handles])

    def hand_revocation(
        self, partitions: Sequence[TopicPartition], commit: bool, done: Callable[[], None]
    ) -> None:
        """In the user's thread, inside poll(): what it returned before has been handled, so positions may be committed."""
        group = self.group

        def revoke() -> None:
            if commit and self.auto_commit_due_s != float("inf"):
                offsets = {tp: o for tp, o in self.consumed_offsets().items() if tp in set(partitions)}
                timeout_ms = self.config["default.api.timeout.ms"]
                why = "the commit before a revocation"
                self.engine.call(self._commit_quietly, offsets, timeout_ms, why).result()
            try:
                self._call_listener("on_partitions_revoked", partitions)
            finally:
                self._report(group, partitions, done)

        self._hand(revoke)

    def hand_loss(self, partitions: Sequence[TopicPartition], done: Callable[[], None]) -> None:
        group = self.group
        self.stop_fetching(partitions)

        def lose() -> None:
            lost = (
                "on_partitions_lost"
                if hasattr(self._listener, "on_partitions_lost")
                else "on_partitions_revoked"
            )
            try:
                self._call_listener(lost, partitions)
            finally:
                self._report(group, partitions, done)

        self._hand(lose)

    def _report(
        self, group: GroupDriver | None, dropped: Sequence[TopicPartition], done: Callable[[], None]
    ) -> None:
        """Back to the engine from the user's thread, and wait: after this poll() returns nothing of `dropped`."""

        async def finish() -> None:
            if self.group is group:
                self.positions.drop(list(dropped))
                done()

        self.engine.call(finish).result()

    def take_assignment(self, partitions: Sequence[TopicPartition]) -> None:
        self.positions.drop([tp for tp in self.handles if tp not in set(partitions)])
        self.subscription.assign_from_group(partitions)
        self.fetching.add(partitions)
        if hasattr(self._listener, "on_partitions_assigned"):
            # nothing is returned before the listener has run: it may seek
            self.fetcher.pause([self.handles[tp] for tp in partitions])
        self.positions.resolve()

    def hand_assignment(self, partitions: Sequence[TopicPartition], done: Callable[[], None]) -> None:
        if not hasattr(self._listener, "on_partitions_assigned"):
            done()
            return
        group = self.group

        async def finish() -> None:
            if self.group is group:
                paused = set(self.subscription.paused())
                self.fetcher.resume(
                    [self.handles[tp] for tp in partitions if tp in self.handles and tp not in paused]
                )
                done()

        def assigned() -> None:
            try:
                self._call_listener("on_partitions_assigned", partitions)
            finally:
                self.engine.call(finish).result()

        self._hand(assigned)

    def _hand(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)
        self.attend()

    def _call_listener(self, method: str, partitions: Sequence[TopicPartition]) -> None:
        function = getattr(self._listener, method, None)
        if function is not None:
            function(list(partitions))

    def raise_in_poll(self, error: BaseException) -> None:
        """Have the user's next poll() raise this. Bounded: what repeats while nobody polls is kept once, and the first ones stay."""
        if len(self._errors) < _MOST_ERRORS and not any(str(error) == str(other) for other in self._errors):
            self._errors.append(error)
        self.attend()

    # ------------------------------------------------------------ metadata

    def _on_metadata(self) -> None:
        snapshot = self.client.snapshot
        if self._pattern is not None and snapshot.version:
            matching = {
                t.name
                for t in snapshot.topics.values()
                if self._pattern.fullmatch(t.name) and self._visible(t)
            }
            if matching != set(self.subscription.topics) or (self.group is None and self._polled):
                self.subscription.pattern_matched(matching)
                self._subscribe_group()
        self.positions.refuse_missing()
        self.fetching.refresh_leaders()
        if self.group is not None:
            self.group.metadata_changed()

    def _visible(self, topic: Any) -> bool:
        return not (topic.is_internal and self.config["exclude.internal.topics"])

    # ------------------------------------------------------------ positions

    async def position(self, tp: TopicPartition, timeout_ms: float) -> int:
        async with self.client.within(timeout_ms, f"finding the position of {tp}"):
            place = await self.positions.of(tp)
            return min(place, self._held().get(tp, place))
        raise AssertionError("within() raises or lets through")

    async def seek(self, tp: TopicPartition, offset: int | OffsetAndMetadata) -> None:
        entry = offset if isinstance(offset, OffsetAndMetadata) else OffsetAndMetadata(int(offset))
        if entry.offset < 0:
            raise ValueError(
                f"cannot seek {tp} to {entry.offset}: offsets start at 0; see seek_to_beginning() and seek_to_end()"
            )
        self.positions.handle(tp)
        self.positions.start_at(tp, entry.offset, entry.leader_epoch)

    async def seek_to(self, partitions: list[TopicPartition], strategy: str) -> None:
        for tp in partitions or list(self.handles):
            self.positions.reset(tp, strategy)
        self.positions.resolve()

    # ------------------------------------------------------------ offsets

    def _need_group(self, what: str) -> GroupCoordinator:
        if self.coordinator is None:
            raise ConfigError(f"{what} needs group.id: offsets are stored under a group's name")
        return self.coordinator

    async def commit(
        self,
        offsets: dict[TopicPartition, OffsetAndMetadata] | None,
        *,
        allow_rewind: bool,
        timeout_ms: float,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        coordinator = self._need_group("commit()")
        wanted = self.consumed_offsets() if offsets is None else offsets
        machine = self.group.machine if self.group is not None else None
        member = (machine.member_id, machine.generation_id) if machine is not None else ("", -1)
        if wanted and machine is not None and machine.generation_id < 0:
            # Sent without a generation it would count as a commit from outside the group, which the coordinator takes whenever the
            # group happens to be empty: this member's old positions could then undo what another has committed since.
            raise CommitFailedError(
                f"committing {len(wanted)} offsets of group {self._group_id!r}: this consumer is no member of the group now, and its "
                "partitions may belong to others. Call poll() to join, then commit what it returns"
            )
        async with (
            self.client.within(timeout_ms, f"committing {len(wanted)} offsets of group {self._group_id!r}"),
            self._commit_order,
        ):
            to_send = self.ledger.check(wanted, allow_rewind=allow_rewind)
            await coordinator.commit(
                to_send,
                member_id=member[0],
                generation_id=member[1],
                group_instance_id=self.config["group.instance.id"] if machine is not None else None,
            )
            self.ledger.acknowledged(to_send)
        return to_send

    async def _commit_quietly(
        self, offsets: dict[TopicPartition, OffsetAndMetadata], timeout_ms: float, what: str
    ) -> None:
        """A commit that nobody asked for by name: its failure is logged, and the next one covers it."""
        try:
            ahead = self.ledger.not_behind(offsets)
            await self.commit(ahead, allow_rewind=False, timeout_ms=timeout_ms)
        except KafkaError as error:
            _log.warning("%s failed: %s", what, error)

    def commit_async(
        self,
        offsets: dict[TopicPartition, OffsetAndMetadata] | None,
        callback: Callable[..., object] | None,
        timeout_ms: float,
    ) -> concurrent.futures.Future[dict[TopicPartition, OffsetAndMetadata]]:
        """From the user's thread. The positions are those of now, whatever poll() returns before the commit is sent."""
        self._need_group("commit_async()")
        wanted = self.consumed_offsets() if offsets is None else offsets
        future = self.engine.call(self.commit, wanted, allow_rewind=False, timeout_ms=timeout_ms)
        if callback is not None:

            def tell(done: concurrent.futures.Future[Any]) -> None:
                error = None if done.cancelled() else done.exception()
                self._hand(lambda: callback(wanted, error))  # type: ignore[arg-type]

            future.add_done_callback(tell)
        return future

    async def committed(
        self, partitions: list[TopicPartition], timeout_ms: float
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        coordinator = self._need_group("committed()")
        async with self.client.within(
            timeout_ms, f"reading the committed offsets of group {self._group_id!r}"
        ):
            found = await coordinator.committed(partitions, require_stable=True)
        return {tp: found.get(tp) for tp in partitions}

    # ------------------------------------------------------------ the cluster

    async def end_points(
        self, partitions: list[TopicPartition], which: str, timeout_ms: float
    ) -> dict[TopicPartition, int]:
        return await lookups.end_points(self.client, partitions, which, self._isolation, timeout_ms)

    async def offsets_for_times(
        self, timestamps: dict[TopicPartition, int], timeout_ms: float
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        return await lookups.offsets_for_times(self.client, timestamps, self._isolation, timeout_ms)

    async def partitions_for(self, topic: str, timeout_ms: float) -> list[PartitionInfo]:
        return await lookups.partitions_for(self.client, topic, timeout_ms)

    async def all_topics(self, timeout_ms: float) -> dict[str, list[PartitionInfo]]:
        return await lookups.all_topics(self.client, self.config["exclude.internal.topics"], timeout_ms)


def _make_fetcher(engine: EngineThread, config: Config, isolation_level: int) -> Fetcher:
    return Fetcher(
        engine.events,
        client_id=config["client.id"],
        client_rack=config["client.rack"] or "",
        isolation_level=isolation_level,
        max_wait_ms=config["fetch.max.wait.ms"],
        min_bytes=config["fetch.min.bytes"],
        max_bytes=config["fetch.max.bytes"],
        max_partition_bytes=config["max.partition.fetch.bytes"],
        check_crcs=config["check.crcs"],
        buffer_bytes=config["fetch.buffer.bytes"],
        max_batch_bytes=config["fetch.max.batch.bytes"],
        request_timeout_ms=config["request.timeout.ms"],
        key_deserializer=config["key.deserializer"],
        value_deserializer=config["value.deserializer"],
    )
