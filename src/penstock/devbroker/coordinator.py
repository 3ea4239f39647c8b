"""The shells around the machines of groups and transactions: clock, timer, what must last, and whom to answer."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from penstock.types import TopicPartition

from .cluster import Cluster, Topic
from .codes import Code, RequestRefused
from .group_events import (
    Effect,
    EndTransaction,
    Event,
    Reply,
    StoreDecision,
    StoreDeletion,
    StoreOffsets,
    Tick,
    TopicChanged,
    TopicDeleted,
)
from .groups import GroupCoordinator, GroupLimits
from .options import BrokerOptions
from .stores import OffsetStore, TransactionStore
from .transactions import Effect as TransactionEffect
from .transactions import EndGroupOffsets, StoreTransaction, Transactions, WriteMarkers

log = logging.getLogger("penstock.devbroker")


def now_ms() -> int:
    """The clock of both machines: monotonic, so that a jump of the system's time expires nobody."""
    return int(asyncio.get_running_loop().time() * 1000)


class Timer:
    """One pending call at a machine's next deadline."""

    def __init__(self, due: Callable[[], None]) -> None:
        self._due = due
        self._handle: asyncio.TimerHandle | None = None

    def set(self, deadline_ms: int | None) -> None:
        self.cancel()
        if deadline_ms is not None:
            # A millisecond late on purpose: a tick that comes early would find nothing due and be set again.
            self._handle = asyncio.get_running_loop().call_at((deadline_ms + 1) / 1000, self._due)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Coordinator:
    """Groups, in the broker's loop. A token is the future that a request handler awaits."""

    def __init__(self, store: OffsetStore, options: BrokerOptions) -> None:
        limits = GroupLimits(
            min_session_timeout_ms=options.number("group.min.session.timeout.ms"),
            max_session_timeout_ms=options.number("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms=options.number("group.initial.rebalance.delay.ms"),
            max_size=options.number("group.max.size"),
            max_metadata_bytes=options.number("offset.metadata.max.bytes"),
            consumer_heartbeat_interval_ms=options.number("group.consumer.heartbeat.interval.ms"),
            consumer_session_timeout_ms=options.number("group.consumer.session.timeout.ms"),
            consumer_max_size=options.number("group.consumer.max.size"),
            consumer_migration_policy=options.values["group.consumer.migration.policy"],
        )
        self.machine = GroupCoordinator(lambda prefix: f"{prefix}-{uuid.uuid4()}", limits)
        self._store = store
        self._timer = Timer(lambda: self._handle(Tick()))
        for group_id, group in store.live.items():
            self.machine.restore(group_id, group.offsets, group.pending)

    def submit(self, event: Callable[[asyncio.Future[Any]], Event]) -> asyncio.Future[Any]:
        """Hand one event to the machine; the future is done when the machine answers it, perhaps much later."""
        token: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._handle(event(token))
        return token

    def topic_changed(self, topic: Topic) -> None:
        self._handle(TopicChanged(None, topic.name, topic.id, len(topic.partitions)))

    def topic_deleted(self, name: str) -> None:
        self._handle(TopicDeleted(None, name))

    def end_transaction(self, group_id: str, producer_id: int, commit: bool) -> None:
        self._handle(EndTransaction(None, group_id, producer_id, commit))

    def close(self) -> None:
        self._timer.cancel()
        self._store.close()

    def _handle(self, event: Event) -> None:
        self._perform(self.machine.handle(event, now_ms()))
        self._timer.set(self.machine.next_deadline_ms())

    def _perform(self, effects: list[Effect]) -> None:
        failure: OSError | None = None
        for effect in effects:
            try:
                match effect:
                    case StoreOffsets():
                        self._store.store(effect.group_id, effect.offsets, effect.producer_id)
                    case StoreDecision():
                        self._store.decide(effect.group_id, effect.producer_id, effect.commit)
                    case StoreDeletion():
                        self._store.forget(effect.group_id)
                    case Reply(token=None):
                        pass
                    case Reply():
                        # The one who asked may have hung up: then the future is cancelled.
                        if not effect.token.done():
                            if failure is None:
                                effect.token.set_result(effect.answer)
                            else:
                                effect.token.set_exception(failure)
            except OSError as error:
                log.error("offsets could not be stored, the commit is refused: %s", error)
                failure = error


class TransactionCoordinator:
    """Transactions, in the broker's loop. Raises OSError when what must last cannot be stored."""

    def __init__(self, store: TransactionStore, cluster: Cluster, groups: Coordinator) -> None:
        limit = cluster.options.number("transaction.max.timeout.ms")
        self.machine = Transactions(cluster.new_producer_id, limit)
        self._store, self._cluster, self._groups = store, cluster, groups
        self._timer = Timer(lambda: self._perform(self.machine.tick(now_ms())))
        for transaction in tuple(store.live.values()):
            self._perform(self.machine.resume(transaction, now_ms()))

    def init(
        self, transactional_id: str, timeout_ms: int, producer_id: int, epoch: int
    ) -> tuple[Code, int, int]:
        code, new_id, new_epoch, effects = self.machine.init(transactional_id, timeout_ms, producer_id, epoch)
        self._perform(effects)
        return code, new_id, new_epoch

    def add(
        self,
        transactional_id: str,
        producer_id: int,
        epoch: int,
        partitions: Iterable[TopicPartition] = (),
        group_id: str | None = None,
    ) -> Code:
        code, effects = self.machine.add(transactional_id, producer_id, epoch, now_ms(), partitions, group_id)
        self._perform(effects)
        return code

    def take_in(
        self,
        transactional_id: str | None,
        producer_id: int,
        epoch: int,
        partitions: Iterable[TopicPartition] = (),
        group_id: str | None = None,
    ) -> None:
        """add(), of what is not in yet. Whether it may be is asked afterwards, in the words of who asks."""
        wanted = set(partitions)
        if not self.machine.holds(producer_id, epoch, wanted, group_id):
            self.add(transactional_id or "", producer_id, epoch, wanted, group_id)

    def end_and_go_on(
        self, transactional_id: str, producer_id: int, epoch: int, commit: bool
    ) -> tuple[Code, int, int]:
        code, effects = self.machine.end_and_go_on(transactional_id, producer_id, epoch, commit)
        self._perform(effects)
        if code is not Code.NONE:
            return code, -1, -1
        found = self.machine.by_id[transactional_id]
        return code, found.producer_id, found.epoch

    def end(self, transactional_id: str, producer_id: int, epoch: int, commit: bool) -> Code:
        code, effects = self.machine.end(transactional_id, producer_id, epoch, commit)
        self._perform(effects)
        return code

    def close(self) -> None:
        self._timer.cancel()
        self._store.close()

    def _perform(self, effects: list[TransactionEffect]) -> None:
        for effect in effects:
            match effect:
                case StoreTransaction():
                    self._store.store(effect.transaction)
                case WriteMarkers():
                    self._write_markers(effect)
                case EndGroupOffsets():
                    self._groups.end_transaction(effect.group_id, effect.producer_id, effect.commit)
        self._timer.set(self.machine.next_deadline_ms())

    def _write_markers(self, markers: WriteMarkers) -> None:
        time_ms = time.time_ns() // 1_000_000
        for name, partition in markers.partitions:
            try:
                log_ = self._cluster.log(self._cluster.topic(name), partition)
            except RequestRefused:
                continue  # deleted while the transaction was open
            if not markers.only_open or log_.has_open(markers.producer_id):
                log_.append_marker(markers.producer_id, markers.epoch, markers.commit, time_ms)
