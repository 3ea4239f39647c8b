"""From an assignment to positions: the group's committed offsets, the reset policy, and what fetch errors do to them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing

from .._native import Fetcher
from ..config import Config
from ..errors import (
    IllegalStateError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from ..fetch import (
    EpochEnd,
    FetchErrorAction,
    Judgement,
    SubscriptionState,
    Verdict,
    action_for,
    reset_timestamp,
)
from ..offsets import CommitLedger
from ..protocol import error_for
from ..types import OffsetAndMetadata, TopicPartition
from .client import ClusterClient
from .coordinator import GroupCoordinator
from .fetching import FetchDriver
from .leader_epochs import LeaderEpochs, Place
from .list_offsets import Answer, each_offset, no_such_partition

_log = logging.getLogger("penstock.consumer")


class Positions:
    """Lives in the engine's thread.

    Fields: `_resolving` holds the partitions that a running search is about; `_news` is replaced whenever a position changes,
    for those who wait for one.
    """

    def __init__(
        self,
        client: ClusterClient,
        fetcher: Fetcher,
        subscription: SubscriptionState,
        ledger: CommitLedger,
        coordinator: GroupCoordinator | None,
        config: Config,
        isolation_level: int,
        raise_in_poll: Callable[[BaseException], None],
    ) -> None:
        self.fetching = FetchDriver(
            client, fetcher, self._on_fetch_error, self._on_recreated, self._on_diverging
        )
        self.before_drop: Callable[[], None] = lambda: (
            None
        )  # set once by the core: counters go with the handles
        self._client = client
        self._fetcher = fetcher
        self._subscription = subscription
        self._ledger = ledger
        self._coordinator = coordinator
        self._config = config
        self._isolation_level = isolation_level
        self._raise_in_poll = raise_in_poll
        self._leader_epochs = LeaderEpochs(client, fetcher, self.fetching, subscription, self._on_judged)
        self._resolving: set[TopicPartition] = set()
        self._search_is_due = False
        self._patience = client.retry_backoff()
        self._news: asyncio.Future[None] = client.engine.loop.create_future()

    def handle(self, tp: TopicPartition) -> int:
        """The fetcher's handle of an assigned partition; IllegalStateError for any other."""
        handle = self.fetching.handles.get(tp)
        if handle is None:
            assigned = ", ".join(map(str, sorted(self.fetching.handles))) or "nothing"
            raise IllegalStateError(f"{tp} is not assigned to this consumer; assigned: {assigned}")
        return handle

    def drop(self, partitions: list[TopicPartition]) -> None:
        """Forget all that concerns these; afterwards poll() returns nothing of them."""
        if partitions:
            self.before_drop()
        self._leader_epochs.forget(partitions)
        self.fetching.remove(partitions)
        self._subscription.drop(partitions)
        self._ledger.forget(partitions)
        self._tell()

    def start_at(
        self, tp: TopicPartition, offset: int, leader_epoch: int = -1, *, is_leaders_word: bool = False
    ) -> None:
        """Read from here on; where `leader_epoch` says who wrote the record before and another leads now, that one is asked first
        whether it has it, unless a leader has just named this place (KIP-320)."""
        self._subscription.position_set(tp)
        self._leader_epochs.before_seek(tp, leader_epoch, is_leaders_word=is_leaders_word)
        self._fetcher.seek(self.fetching.handles[tp], offset, leader_epoch)
        self._tell()

    def reset(self, tp: TopicPartition, strategy: str | None) -> None:
        """Have no position until resolve() has found one by `strategy`, or (None) by auto.offset.reset."""
        self._subscription.reset(tp, strategy)
        self._fetcher.seek(self.handle(tp), -1)
        self._leader_epochs.forget([tp])

    def lag(self, tp: TopicPartition) -> int | None:
        """Records between the position and the end of what can be read, as the last fetch told: no request is made. None while not
        known: before the first fetch, or without a position. Any thread. Source: KIP-695, Java's currentLag()."""
        handle = self.handle(tp)
        place = self._fetcher.position(handle)
        read_committed = self._isolation_level == 1
        end = (self._fetcher.last_stable_offset if read_committed else self._fetcher.high_watermark)(handle)
        return None if place is None or end < 0 else max(0, end - place[0])

    async def of(self, tp: TopicPartition) -> int:
        """The offset of the next record that poll() returns; waits until there is one, in the caller's time."""
        while True:
            place = self._fetcher.position(self.handle(tp))
            if place is not None and not self._subscription.awaits_validation(tp):
                return place[0]
            self.resolve()
            await asyncio.shield(self._news)

    def resolve(self) -> None:
        """Find a position for each partition without one: the group's committed offset, else the reset policy's."""
        self._search_is_due = False
        wanted = [tp for tp in self._subscription.without_position() if tp not in self._resolving]
        if wanted:
            self._resolving.update(wanted)
            self._client.engine.spawn(self._resolve(wanted), "find positions")

    def _tell(self) -> None:
        if not self._news.done():
            self._news.set_result(None)
        self._news = self._client.engine.loop.create_future()

    # ------------------------------------------------------------ the search

    async def _resolve(self, partitions: list[TopicPartition]) -> None:
        handles = {tp: self.fetching.handles[tp] for tp in partitions if tp in self.fetching.handles}
        timeout_ms = self._config["default.api.timeout.ms"]
        try:
            async with self._client.within(timeout_ms, f"finding positions of {len(handles)} partitions"):
                await self._resolve_committed(handles)
                await self._resolve_resets(handles)
            self._patience.reset()
        except KafkaError as error:
            if error.retriable:
                _log.warning("%s; trying again", error)
            else:
                self._raise_in_poll(error)
            await asyncio.sleep(self._patience.next_ms() / 1000)
        finally:
            self._resolving.difference_update(partitions)
            self._tell()
        self.resolve()  # what came or failed meanwhile

    def _still(self, handles: Mapping[TopicPartition, int], tp: TopicPartition) -> bool:
        """Whether this is the same assignment of the partition as when the question was asked: it may have been revoked and
        given back meanwhile, and another member may have committed further in between."""
        return self.fetching.handles.get(tp) == handles.get(tp)

    async def _resolve_committed(self, handles: Mapping[TopicPartition, int]) -> None:
        wanted = [tp for tp in handles if self._subscription.needs_committed(tp)]
        if not wanted:
            return
        found: Mapping[TopicPartition, OffsetAndMetadata | None] = {}
        if self._coordinator is not None:
            found = await self._coordinator.committed(wanted, require_stable=True)
        for tp in wanted:
            if not self._still(handles, tp) or not self._subscription.needs_committed(tp):
                continue
            committed = found.get(tp)
            if committed is not None:
                self._ledger.acknowledged({tp: committed})
                self.start_at(tp, committed.offset, committed.leader_epoch)
            else:
                self._subscription.reset(tp, None)

    async def _resolve_resets(self, handles: Mapping[TopicPartition, int]) -> None:
        wanted = [tp for tp in handles if self._still(handles, tp) and self._subscription.needs_reset(tp)]
        strategies = {tp: self._subscription.reset_strategy(tp) for tp in wanted}
        queries = self._reset_queries(wanted)
        async with aclosing(
            each_offset(self._client, queries, isolation_level=self._isolation_level)
        ) as answers:
            async for tp, answer in answers:
                self._resolving.discard(tp)
                needed = self._still(handles, tp) and self._subscription.needs_reset(tp)
                if needed and self._subscription.reset_strategy(tp) == strategies[tp]:
                    self._take_answer(tp, answer)
                else:
                    self._resolve_soon()  # given back, or sought elsewhere while the leader was asked

    def _take_answer(self, tp: TopicPartition, answer: Answer) -> None:
        if answer is None:  # by_duration: no record is that young, so the end is the place
            self._subscription.reset(tp, "latest")
            self._resolve_soon()
        elif isinstance(answer, KafkaError):
            self._subscription.give_up(tp)
            self._fetcher.fail(self.fetching.handles[tp], answer)
            self._tell()
        else:
            _log.info("%s: starting at offset %d (auto.offset.reset or seek)", tp, answer.offset)
            self.start_at(tp, answer.offset, answer.leader_epoch, is_leaders_word=True)

    def _resolve_soon(self) -> None:
        """Once what is being handled now is through: one search for many."""
        if not self._search_is_due:
            self._search_is_due = True
            self._client.engine.loop.call_soon(self.resolve)

    def _reset_queries(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The timestamps to ask ListOffsets for. Partitions that cannot have a position are given up, with an error for poll()."""
        queries: dict[TopicPartition, int] = {}
        for tp in partitions:
            strategy = self._subscription.reset_strategy(tp) or self._config["auto.offset.reset"]
            timestamp = reset_timestamp(strategy, int(time.time() * 1000))
            if not self._exists(tp):
                self._subscription.give_up(tp)  # poll() has its error already, since the metadata came
            elif timestamp is None:
                error = NoOffsetForPartitionError(
                    f"group {self._config['group.id']!r} has committed nothing for {tp} and auto.offset.reset is none; "
                    "seek() to where to start, or set auto.offset.reset",
                    [tp],
                )
                self._fetcher.fail(self.fetching.handles[tp], error)
                self._subscription.give_up(tp)
            else:
                queries[tp] = timestamp
        return queries

    def _exists(self, tp: TopicPartition) -> bool:
        """False only for a partition that its topic, which is known, does not have."""
        topic = self._client.snapshot.topics.get(tp.topic)
        return topic is None or not topic.partitions or tp.partition in topic.partitions

    def on_metadata(self) -> None:
        """Metadata came: positions whose leader is another one now are validated; partitions that do not exist are refused."""
        self._leader_epochs.on_metadata()
        self._refuse_missing()

    def _refuse_missing(self) -> None:
        """poll() raises for an assigned partition that its topic does not have."""
        for tp, handle in self.fetching.handles.items():
            if not self._exists(tp):
                self._fetcher.fail(handle, no_such_partition(self._client, tp))

    # ------------------------------------------------------------ what fetching finds

    def _on_recreated(self, tp: TopicPartition) -> None:
        """The topic was deleted and made again: offsets of the old one mean nothing in it, and all of it is unread (KIP-516)."""
        _log.warning("topic %s was deleted and made again: reading %s from its beginning", tp.topic, tp)
        self._ledger.forget([tp])
        self.reset(tp, "earliest")
        self._resolve_soon()

    def _on_diverging(self, tp: TopicPartition, diverging_epoch: int, end_offset: int) -> None:
        """A fetch was answered with the place where the log parts from what was fetched (KIP-595)."""
        self._leader_epochs.diverged(tp, EpochEnd(diverging_epoch, end_offset))

    def _on_judged(self, tp: TopicPartition, place: Place, judgement: Judgement) -> None:
        """A leader has said whether it has what lies before the position `place`; the partition is held back until released."""
        if judgement.verdict is Verdict.VALID:
            self._subscription.position_set(tp)
            self._leader_epochs.release(tp)
            if judgement.leader_epoch != place[1]:
                self._fetcher.seek(self.fetching.handles[tp], judgement.offset, judgement.leader_epoch)
        elif self._config["auto.offset.reset"] == "none":
            self._refuse_truncated(tp, place, judgement)
        elif judgement.verdict is Verdict.TRUNCATED:
            _log.warning(
                "%s: the log was cut by an unclean election: records from offset %d on, read up to %d, are lost; going on from there",
                tp,
                judgement.offset,
                place[0],
            )
            self._ledger.forget([tp])  # what was committed beyond is of records that are no more
            self.start_at(tp, judgement.offset, judgement.leader_epoch, is_leaders_word=True)
        else:
            _log.warning(
                "%s: offset %d of leader epoch %d belongs to another log than the leader's: the topic was made again, or lost all that "
                "was read; going to %s (auto.offset.reset)",
                tp,
                *place,
                self._config["auto.offset.reset"],
            )
            self._ledger.forget([tp])
            self.reset(tp, None)
            self._resolve_soon()
        self._tell()

    def _refuse_truncated(self, tp: TopicPartition, place: Place, judgement: Judgement) -> None:
        """Without a reset policy the user decides where to go on; until seek() the partition is held back."""
        position = OffsetAndMetadata(place[0], "", place[1])
        divergent = {}
        where = "the leader cannot tell which of them it has"
        if judgement.verdict is Verdict.TRUNCATED:
            divergent = {tp: OffsetAndMetadata(judgement.offset, "", judgement.leader_epoch)}
            where = f"the log parts from what was read at offset {judgement.offset}"
        error = LogTruncationError(
            f"records of {tp} below the position {place[0]} (leader epoch {place[1]}) are lost, and auto.offset.reset is none: {where}; "
            "seek() to where to go on",
            {tp: position},
            divergent,
        )
        self._subscription.give_up(tp)
        self._fetcher.fail(self.fetching.handles[tp], error)

    def _on_fetch_error(self, tp: TopicPartition, error_code: int, fetch_offset: int) -> None:
        action = action_for(error_code)
        if action is FetchErrorAction.RESET:
            self._on_out_of_range(tp, fetch_offset)
        elif action is FetchErrorAction.RAISE:
            error = error_for(error_code, f"fetching {tp} at offset {fetch_offset}")
            self._fetcher.fail(self.fetching.handles[tp], error)
        else:
            self.fetching.retry_later(tp)

    def _on_out_of_range(self, tp: TopicPartition, fetch_offset: int) -> None:
        policy = self._config["auto.offset.reset"]
        if policy == "none":
            error = OffsetOutOfRangeError(
                f"offset {fetch_offset} of {tp} is outside the log (deleted by retention, or not written yet) and "
                "auto.offset.reset is none; seek() to a place that exists",
                [tp],
            )
            self._fetcher.fail(self.fetching.handles[tp], error)
            return
        _log.warning(
            "offset %d of %s is outside the log; going to %s (auto.offset.reset)", fetch_offset, tp, policy
        )
        self.reset(tp, None)
        self.fetching.retry_later(tp)
        self._resolve_soon()
