"""What a consumer commits: the positions after what the user was handed, in order, and never for partitions that others own by now."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from .._native import ConsumerRecords, Fetcher
from ..config import Config
from ..errors import CommitFailedError, ConfigError, KafkaError, RebalanceInProgressError
from ..offsets import CommitLedger
from ..types import OffsetAndMetadata, TopicPartition
from .client import ClusterClient
from .coordinator import GroupCoordinator, MemberIdentity
from .fetching import FetchDriver
from .steps import Steps, call_user
from .user_thread import UserThread

_log = logging.getLogger("penstock.consumer")

Offsets = dict[TopicPartition, OffsetAndMetadata]
NEVER = float("inf")


class Unread:
    """What a loop over the consumer has polled and, from `index` on, not handed out. Written by the user's thread, once for each record:
    therefore not a tuple made anew."""

    __slots__ = ("index", "records")

    def __init__(self, records: ConsumerRecords, index: int) -> None:
        self.records = records
        self.index = index


class Commits:
    """Coroutines run in the engine's thread, all else in the user's.

    Written by the user's thread: `auto_commit_due_s`, `unread`, and `_auto`, the last auto-commit of those that poll() begins.
    `_untold` holds what commit_async() has begun and not told of: added to by the user's thread, removed from by the engine's.
    """

    def __init__(
        self,
        client: ClusterClient,
        fetcher: Fetcher,
        fetching: FetchDriver,
        ledger: CommitLedger,
        coordinator: GroupCoordinator | None,
        identity: Callable[[], MemberIdentity],
        user: UserThread,
        config: Config,
    ) -> None:
        """`identity` says under which membership this consumer speaks now."""
        self.unread: Unread | None = None
        self.auto_commit_due_s = NEVER
        self.on_committed: list[Callable[[Offsets], object]] = []  # told in the user's thread (interceptors)
        self._client = client
        self._fetcher = fetcher
        self._fetching = fetching
        self._ledger = ledger
        self._coordinator = coordinator
        self._identity = identity
        self._user = user
        self._config = config
        self._order = asyncio.Lock()
        self._untold: set[concurrent.futures.Future[None]] = set()
        self._auto: concurrent.futures.Future[None] | None = None
        if config["enable.auto.commit"] and coordinator is not None:
            self._put_off()

    @property
    def automatic(self) -> bool:
        return self.auto_commit_due_s != NEVER

    def _put_off(self) -> None:
        self.auto_commit_due_s = time.monotonic() + self._config["auto.commit.interval.ms"] / 1000

    # ------------------------------------------------------------ positions

    def consumed_offsets(self) -> Offsets:
        """Per assigned partition the offset after the last record that the user was handed."""
        offsets = {}
        held = self.held()
        for tp, handle in list(self._fetching.handles.items()):
            place = self._fetcher.position(handle)
            if place is not None:
                kept = held.get(tp)
                is_held = kept is not None and kept.offset < place[0]
                offsets[tp] = kept if kept and is_held else OffsetAndMetadata(place[0], "", place[1])
        return offsets

    def held(self) -> Offsets:
        """Per partition the first offset that poll() returned to a loop which has not handed it out yet.

        With the epoch of the record before; where another poll() returned that one, its own: a leader that lacks this one says so, and
        where its log parts from it nothing before is doubted (KIP-320).
        """
        unread = self.unread
        if unread is None:
            return {}
        handed, rest = unread.records[: unread.index], unread.records[unread.index :]
        held = {}
        for tp in rest.partitions:
            first, before = rest.records(tp)[0], handed.records(tp)
            held[tp] = OffsetAndMetadata(first.offset, "", (before[-1] if before else first).leader_epoch)
        return held

    def last_was_not_handled(self, records: ConsumerRecords | None) -> None:
        """An exception ends the use of the consumer somewhere in these records."""
        if records is not None:
            self.unread = Unread(records, 0)

    # ------------------------------------------------------------ the user's thread

    def start_auto_commit(self) -> None:
        """Commit, in the background, the positions as they stand: all that earlier polls returned has been handled."""
        self._put_off()
        if self._auto is not None and not self._auto.done():
            return  # while no coordinator answers they would pile up; the next one covers this
        if offsets := self.consumed_offsets():
            timeout_ms = self._config["request.timeout.ms"]
            self._auto = self._client.engine.call(self._commit_quietly, offsets, timeout_ms, "auto-commit")

    def auto_commit(
        self, what: str, timeout_ms: float, partitions: frozenset[TopicPartition] | None = None
    ) -> Steps[None]:
        """If the consumer commits by itself: commit the positions (of `partitions`) and wait for it."""
        if not self.automatic:
            return
        offsets = self.consumed_offsets()
        if partitions is not None:
            offsets = {tp: entry for tp, entry in offsets.items() if tp in partitions}
        if offsets:
            yield self._client.engine.call(self._commit_quietly, offsets, timeout_ms, what)

    def commit_async(
        self, offsets: Offsets | None, callback: Callable[..., object] | None, timeout_ms: float
    ) -> concurrent.futures.Future[Offsets]:
        """The positions are those of now, whatever poll() returns before the commit is sent."""
        self.need_group("commit_async()")
        wanted = self.consumed_offsets() if offsets is None else offsets
        future = self._client.engine.call(self.commit, wanted, allow_rewind=False, timeout_ms=timeout_ms)
        told: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._untold.add(told)

        def tell(done: concurrent.futures.Future[Any]) -> None:
            error = None if done.cancelled() else done.exception()
            if callback is not None:
                self._user.hand(lambda: call_user(callback, wanted, error))
            self._untold.discard(told)
            told.set_result(None)

        future.add_done_callback(tell)
        return future

    def settle(self, timeout_ms: float) -> Steps[None]:
        """Wait until all that commit_async() has begun is answered, and its callbacks wait to be run.

        Source: ConsumerCoordinator.close() of Kafka's client, which awaits pending commits as well.
        """
        if self._untold:
            yield self._client.engine.call(self._settled, timeout_ms)

    # ------------------------------------------------------------ the engine's thread

    def need_group(self, what: str) -> GroupCoordinator:
        if self._coordinator is None:
            raise ConfigError(f"{what} needs group.id: offsets are stored under a group's name")
        return self._coordinator

    async def commit(self, offsets: Offsets | None, *, allow_rewind: bool, timeout_ms: float) -> Offsets:
        """Store offsets (None: the positions), in the order of asking; returns what was stored."""
        coordinator = self.need_group("commit()")
        wanted = self.consumed_offsets() if offsets is None else offsets
        check = self._ownership(wanted)
        check()
        async with (
            self._client.within(
                timeout_ms, f"committing {len(wanted)} offsets of group {coordinator.group_id!r}"
            ),
            self._order,
        ):
            to_send = self._ledger.check(wanted, allow_rewind=allow_rewind)
            await coordinator.commit(to_send, check)
            self._ledger.acknowledged({tp: e for tp, e in to_send.items() if tp in self._fetching.handles})
        if self.on_committed:
            self._user.hand(lambda: self._tell_committed(to_send))
        return to_send

    def commit_dropped(self, partitions: frozenset[TopicPartition]) -> None:
        """If the consumer commits by itself: assign() drops these, and nothing else will commit what was read of them.

        Source: KafkaConsumer.assign() of Kafka's client, which does likewise, without waiting."""
        offsets = {tp: entry for tp, entry in self.consumed_offsets().items() if tp in partitions}
        if self.automatic and offsets:
            timeout_ms = self._config["request.timeout.ms"]
            commit = self._commit_quietly(offsets, timeout_ms, "the commit before assign()")
            self._client.engine.spawn(commit, "the commit before assign()")

    async def _settled(self, timeout_ms: float) -> None:
        if waiting := [asyncio.wrap_future(told) for told in list(self._untold)]:
            await asyncio.wait(waiting, timeout=timeout_ms / 1000)

    def _tell_committed(self, offsets: Offsets) -> Steps[None]:
        for told in self.on_committed:
            yield from call_user(told, offsets)

    def _ownership(self, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> Callable[[], MemberIdentity]:
        """Asked before every try: under which membership the offsets may be sent, or an error that says why they may not.

        A try after a rebalance is made under the new generation, but only for partitions that were kept through it: one that was
        given away and has come back may have been committed further by another meanwhile. Source of the check: the handles, which
        are new with every assignment.
        """
        handles = {tp: self._fetching.handles.get(tp) for tp in wanted}
        first = self._identity()

        def check() -> MemberIdentity:
            now = self._identity()
            doing = f"committing {len(wanted)} offsets of group {self._config['group.id']!r}"
            if now.of_a_group and now.generation_id < 0 and wanted:
                # Sent without a generation it would count as a commit from outside the group, which the coordinator takes whenever
                # the group happens to be empty: this member's old positions could then undo what another has committed since.
                raise CommitFailedError(
                    f"{doing}: this consumer is no member of the group now, and its partitions may belong to others. Call poll() to "
                    "join, then commit what it returns"
                )
            gone = sorted(tp for tp, handle in handles.items() if self._fetching.handles.get(tp) != handle)
            if (now.member_id, now.generation_id) != (first.member_id, first.generation_id) and gone:
                raise CommitFailedError(
                    f"{doing}: the group has rebalanced meanwhile, and {', '.join(map(str, gone[:5]))} may belong to others; commit what "
                    "poll() returns from now on"
                )
            return now

        return check

    async def _commit_quietly(self, offsets: Offsets, timeout_ms: float, what: str) -> None:
        """A commit that nobody asked for by name: its failure is logged, and the next one covers it."""
        try:
            # Of a topic that was deleted the coordinator stores nothing, and says so in a way that is worth another try.
            topics = self._client.snapshot.topics
            there = {tp: o for tp, o in offsets.items() if tp.topic in topics and topics[tp.topic].partitions}
            ahead = self._ledger.not_behind(there)
            await self.commit(ahead, allow_rewind=False, timeout_ms=timeout_ms)
        except RebalanceInProgressError as error:
            _log.debug("%s: %s", what, error)  # the commit before the revocation is to come
        except KafkaError as error:
            _log.warning("%s failed: %s", what, error)
