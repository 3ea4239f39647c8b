"""The loop around the consumer: polls, fills the lanes, holds back what is too much, follows the group's changes, and ends in order.

Everything runs in one event loop. Handlers of coroutines run in it as well, those of threads and processes beside it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .._native import ConsumerRecord
from ..consumer import AsyncKafkaConsumer
from ..errors import (
    ConnectionFailedError,
    KafkaError,
    KafkaTimeoutError,
    SinkError,
    WakeupError,
)
from ..producer import KafkaProducer, refuse_too_large
from ..types import OffsetAndMetadata, TopicPartition
from .adapting import Adapter
from .batch_lanes import BatchLane
from .committer import Committer
from .dead_letters import DeadLetters, fitting, headers_of, letter_of
from .deduplication.guard import Guard, guard_of
from .deliveries import Deliveries, Encoders, outputs_of
from .executors.making import executor_of
from .health import Health
from .intake import Intake
from .lanes import Lane, Load, Ownership, RecordLane, first_record
from .retry_topics import attempts_of, due_epoch_ms, headers_for_retry
from .settings import HandlerSpec, ProcessorSettings
from .stalls import Stalls
from .work import Executor, Output, Work

if TYPE_CHECKING:
    from .transactions import TransactionalCommitter

_log = logging.getLogger("penstock.processing")

_POLL_MS = 500
_RETRY_POLL_S = 1.0
_LEAST_PATIENCE_S = 5.0
_MAX_REQUEST_BYTES = 1_048_576  # max.request.size, where it is not given
_STILL_ALIVE_S = 30.0
"""How long the loop may not have turned before it counts as hung: a coroutine handler blocks it, perhaps."""


class Station:
    """One handler at work: its lane, what runs it, and what keeps its effects from being repeated."""

    def __init__(self, spec: HandlerSpec, lane: Lane, executor: Executor, guard: Guard | None = None) -> None:
        self.spec = spec
        self.lane = lane
        self.executor = executor
        self.guard = guard


class Runtime:
    """One run of a processor. `stop()` may be called from any thread; all else belongs to the loop.

    `owned` is written by the listener and the intake, in the loop.
    """

    def __init__(self, specs: Sequence[HandlerSpec], settings: ProcessorSettings) -> None:
        self._specs = specs
        self._settings = settings
        self.owned: dict[TopicPartition, Ownership] = {}
        self._station_of: dict[str, Station] = {}
        self.stations: list[Station] = []
        self._load = Load(settings.max_buffered_records, settings.max_buffered_bytes, self._on_relief)
        self._adapter = Adapter(settings.budget, self._load, self._worker_pids)
        self._encoders = Encoders(settings.producer_config)
        self._most_bytes = int(settings.producer_config.get("max.request.size", _MAX_REQUEST_BYTES))
        self._most_polled = int(settings.config["max.poll.records"])
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ms = float("inf")
        self._failure: BaseException | None = None
        self._stopping = False
        self._running = False
        # What a commit or leaving the group may take: with no broker left, a stop ends in some multiples of it.
        self._patience_s = max(_LEAST_PATIENCE_S, settings.drain_timeout_s)
        self._stalls = Stalls(float(settings.config.get("max.poll.interval.ms", 300_000)))
        self._turned_s = time.monotonic()
        self._assigned_once = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Dead letters that sinks wait for, in their threads.
        self._letters: set[concurrent.futures.Future[None]] = set()

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Until stop(), or until a handler's failure ends it: HandlerStoppedError then."""
        self._loop = asyncio.get_running_loop()
        self._quiet = asyncio.Event()
        producer = self._make_producer()
        transactions = None
        try:
            if self._settings.exactly_once:
                from .transactions import TransactionalCommitter

                transactions = TransactionalCommitter(**self._producer_config())
                await self._start(transactions)
            self._deliveries = Deliveries(producer) if producer is not None else None
            self._dead_letters = DeadLetters(producer) if producer is not None else None
            self._consumer = AsyncKafkaConsumer(**self._settings.config)
            self._committer = Committer(self._consumer, self.owned, transactions, self._patience_s)
            self._intake = self._make_intake()
            try:
                self._open_stations()
                await self._intake.open()
                await self._open_sinks()
                topics = sorted(self._station_of)
                await self._consumer.subscribe(topics, listener=self)
                await self._go_on()
            finally:
                await self._end()
        finally:
            # What is left to be sent is not committed past, and written again by whoever is next.
            if transactions is not None:
                await asyncio.to_thread(transactions.close, self._patience_s)
            if producer is not None:
                if self._deliveries is not None:
                    self._deliveries.close()
                await asyncio.to_thread(producer.close, self._patience_s * 1000)
        if self._failure is not None:
            raise self._failure

    async def _start(self, transactions: TransactionalCommitter) -> None:
        """As poll() does: brokers that are not there yet are waited for."""
        while not self._stopping:
            try:
                await asyncio.to_thread(transactions.start)
                return
            except KafkaTimeoutError as error:
                _log.warning("the transactional id cannot be taken yet, and will be tried again: %s", error)

    def stop(self) -> None:
        """Start nothing more, give what runs its time, commit, leave the group. From any thread, or a signal handler; idempotent."""
        self._stopping = True
        if self._running:
            self._consumer.wakeup()

    async def _go_on(self) -> None:
        self._running = True
        background = [
            self._loop.create_task(self._committer.for_ever(self._settings.commit_interval_s)),
            self._loop.create_task(self._intake.flow()),
            self._loop.create_task(self._turn()),
            *([self._loop.create_task(self._adapter.for_ever())] if self._adapter.needed else []),
        ]
        for task in background:
            task.add_done_callback(self._background_ended)
        try:
            while not self._stopping:
                try:
                    await self._intake.mend()
                    room = min(self._intake.room, self._most_polled)
                    records = await self._consumer.poll(_POLL_MS, max_records=room)
                except WakeupError:
                    continue
                except ConnectionFailedError as error:
                    _log.warning("no broker can be reached, and will be tried again: %s", error)
                    await asyncio.sleep(_RETRY_POLL_S)
                    continue
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    _log.warning("poll() failed and will be tried again: %s", error)
                    await asyncio.sleep(_RETRY_POLL_S)
                    continue
                if records:
                    await self._intake.take_in(records)
                    await self._intake.hold_back()
        finally:
            self._running = False
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.stop()

    async def _end(self) -> None:
        """Drain, commit, leave."""
        owned = list(self.owned.values())
        try:
            await self._drain(owned)
            await self._last_commit(owned)
        finally:
            self._fence(owned)
            await self._revoke_sinks([one.topic_partition for one in owned])
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks:
                task.cancel()
            guards = [station.guard for station in self.stations if station.guard is not None]
            for guard in guards:
                guard.stopping = True
            await asyncio.gather(*(station.executor.stop() for station in self.stations))
            for guard in guards:
                await guard.close()
            for sink in self._sinks():
                await asyncio.to_thread(sink.close)
            await self._consumer.close(self._patience_s * 1000)
            await self._intake.close()

    async def _last_commit(self, owned: list[Ownership]) -> None:
        """A transaction may wait for long for brokers that are away, in its thread; that its producer is closed ends it."""
        try:
            async with asyncio.timeout(self._patience_s if self._settings.exactly_once else None):
                await self._committer.commit(owned)
        except TimeoutError:
            _log.warning(
                "the last transaction did not end within %g s: the group's offsets tell whoever is next whether it is committed",
                self._patience_s,
            )

    # ------------------------------------------------------------ making

    def _make_producer(self) -> KafkaProducer | None:
        """For dead letters, retry topics and outputs that are not part of a transaction; a sink's dead letters never are."""
        if self._settings.exactly_once:
            writes = any(spec.sink is not None and spec.policy.topics for spec in self._specs)
        else:
            writes = any(spec.policy.topics or spec.output or spec.sink is None for spec in self._specs)
        config = {k: v for k, v in self._producer_config().items() if k != "transactional.id"}
        return KafkaProducer(**config) if writes else None

    def _producer_config(self) -> dict[str, Any]:
        """Without serializers: see Encoders."""
        return {k: v for k, v in self._settings.producer_config.items() if not k.endswith(".serializer")}

    def _open_stations(self) -> None:
        for spec in self._specs:
            guard = guard_of(spec, self._settings.config["group.id"])
            executor, unit = executor_of(spec, self._settings.config, guard)
            shared: dict[str, Any] = {
                "concurrency": spec.concurrency * unit,
                "timeout_s": spec.timeout_s,
                "policy": spec.policy,
                "breaker": spec.breaker,
                "load": self._load,
                "host": self,
                "clock_ms": self._now_ms,
                "chance": random.random,
            }
            lane: Lane
            if spec.batch:
                lane = BatchLane(
                    spec.name,
                    spec.order_by,
                    batch=spec.batch,
                    within_ms=spec.within_ms,
                    alone=spec.sink is not None,
                    **shared,
                )
            else:
                lane = RecordLane(spec.name, spec.order_by, **shared)
                lane.later = self._later
            lane.delivers = spec.sink is None
            station = Station(spec, lane, executor, guard)
            station.executor.start(lane)
            if spec.adaptive is not None:
                self._adapter.add(lane, executor, spec.adaptive, unit)
            self.stations.append(station)
            for topic in (*spec.topics, *spec.policy.retry_topics):
                self._station_of[topic] = station

    def _later(self, record: ConsumerRecord) -> tuple[float, int]:
        wait_ms = due_epoch_ms(record) - time.time() * 1000
        return self._now_ms() + max(0.0, wait_ms), attempts_of(record)

    def _worker_pids(self) -> list[int]:
        return [pid for station in self.stations for pid in getattr(station.executor, "pids", ())]

    def _sinks(self) -> list[Any]:
        return [station.spec.sink for station in self.stations if station.spec.sink is not None]

    async def _open_sinks(self) -> None:
        for station in self.stations:
            sink = station.spec.sink
            if sink is not None:
                topic = station.spec.policy.dead_letter
                if topic is not None and hasattr(sink, "dead_letter"):
                    sink.dead_letter = functools.partial(self._dead_letter_from_thread, topic)
                await asyncio.to_thread(sink.open, self._settings.config["group.id"])
            if station.guard is not None:
                await self._until_it_works(
                    f"opening {station.spec.deduplicate.store!r}",
                    functools.partial(asyncio.to_thread, station.guard.open),
                )

    def _dead_letter_from_thread(self, topic: str, record: Any, error: BaseException) -> None:
        """A sink's bad row; returns once it is stored, or with a SinkError where its partition goes meanwhile."""
        assert self._dead_letters is not None
        headers = headers_of(record, error, 1, self._settings.config["group.id"])
        sending = self._dead_letters.send(record, topic, headers)
        letter = asyncio.run_coroutine_threadsafe(sending, self._loop)
        self._letters.add(letter)
        try:
            letter.result()
        except concurrent.futures.CancelledError:
            where = f"{record.topic}-{record.partition} offset {record.offset}"
            raise SinkError(f"{where} was not put into {topic} in time", retriable=True) from None
        finally:
            self._letters.discard(letter)

    async def _revoke_sinks(self, partitions: Iterable[TopicPartition]) -> None:
        """A sink may let revoked() wait for its write(), and this for a dead letter, for ever while that topic is away: it is given up."""
        for sink, mine in self._by_sink(partitions):
            revoking = asyncio.ensure_future(asyncio.to_thread(sink.revoked, mine))
            while not (await asyncio.wait({revoking}, timeout=_RETRY_POLL_S))[0]:
                for letter in list(self._letters):
                    letter.cancel()
            await revoking

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._kept_ended)

    def _kept_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _make_intake(self) -> Intake:
        parts = (self._consumer, self.owned, self._station_of, self._load)
        settings = self._settings
        if settings.spool is None:
            return Intake(*parts)
        from .spool.feeding import SpooledIntake

        return SpooledIntake(
            *parts,
            spool=settings.spool,
            config=settings.config,
            exactly_once=settings.exactly_once,
            until_it_works=self._until_it_works,
        )

    def _on_relief(self) -> None:
        self._intake.relief.set()

    def relieved(self, partition: Ownership) -> None:
        self._intake.relief.set()
        self._quiet.set()

    async def _turn(self) -> None:
        """Note that the loop turns; look for what stands still."""
        while True:
            self._turned_s = time.monotonic()
            for owned in self._stalls.look(self.owned.values(), self._now_ms()):
                _log.warning(
                    "%s has not moved past offset %d for %g s (max.poll.interval.ms), with %d records held: a handler hangs (give it a "
                    "timeout), a retry waits for long, or the dead letters cannot be stored",
                    owned.topic_partition,
                    owned.commit_offset,
                    self._stalls.limit_ms / 1000,
                    owned.held,
                )
            await asyncio.sleep(1.0)

    # ------------------------------------------------------------ the group

    async def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        if not partitions:
            self._assigned_once = True
            return
        stored = await self._until_it_works(
            "reading what is committed", functools.partial(self._consumer.committed, partitions)
        )
        for sink, mine in self._by_sink(partitions):
            positions = await self._until_it_works(
                f"taking over {len(mine)} partitions",
                functools.partial(asyncio.to_thread, sink.assigned, mine),
            )
            for tp, offset in positions.items():
                await self._consumer.seek(tp, offset)
                stored[tp] = OffsetAndMetadata(offset)
        for tp in partitions:
            before = self.owned.pop(tp, None)
            if before is not None:  # its revocation was never heard of
                self._withdraw([before])
                self._fence([before])
                self._intake.gone(tp)
        await self._intake.assigned(stored)
        self._assigned_once = True

    async def _until_it_works(self, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Partitions that are assigned have to be taken over: without, their records would be left lying. Heartbeats go on meanwhile; who
        cannot do it within max.poll.interval.ms loses them again."""
        while True:
            try:
                return await call()
            except KafkaError as error:
                if not error.retriable or self._stopping:
                    raise
                _log.warning("%s failed and will be tried again: %s", what, error)
                await asyncio.sleep(_RETRY_POLL_S)

    async def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        """What runs gets its time; what ends within it is committed; nothing of these is started any more."""
        going = [self.owned[tp] for tp in partitions if tp in self.owned]
        try:
            await self._drain(going)
            await self._committer.commit(going)
        finally:
            await self._gone(going)

    async def on_partitions_lost(self, partitions: list[TopicPartition]) -> None:
        """They are another's already: nothing may be committed, and what runs is ended where it can be."""
        going = [self.owned[tp] for tp in partitions if tp in self.owned]
        self._withdraw(going)
        await self._gone(going)

    async def _gone(self, going: Iterable[Ownership]) -> None:
        going = list(going)
        self._fence(going)
        for owned in going:
            tp = owned.topic_partition
            if self.owned.get(tp) is owned:
                del self.owned[tp]
                self._intake.gone(tp)
        await self._revoke_sinks([owned.topic_partition for owned in going])

    def _by_sink(self, partitions: Iterable[TopicPartition]) -> list[tuple[Any, list[TopicPartition]]]:
        found: dict[int, tuple[Any, list[TopicPartition]]] = {}
        for tp in partitions:
            sink = self._station_of[tp.topic].spec.sink
            if sink is not None:
                found.setdefault(id(sink), (sink, []))[1].append(tp)
        return list(found.values())

    def _withdraw(self, going: Iterable[Ownership]) -> None:
        by_lane: dict[Station, list[Ownership]] = {}
        for owned in going:
            by_lane.setdefault(self._station_of[owned.topic_partition.topic], []).append(owned)
        for station, mine in by_lane.items():
            station.lane.withdraw(mine)

    async def _drain(self, going: Sequence[Ownership]) -> None:
        """Until nothing of these is held any more, or the budget is used up."""
        self._withdraw(going)
        deadline_s = self._loop.time() + self._settings.drain_timeout_s
        while left := [owned for owned in going if owned.held]:
            for owned in left:
                owned.low_water = 0
            self._quiet.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._quiet.wait()
            except TimeoutError:
                held = sum(owned.held for owned in left)
                _log.warning(
                    "%d records of %s did not end within drain_timeout (%g s); whoever owns them next handles them again",
                    held,
                    ", ".join(str(owned.topic_partition) for owned in left[:5]),
                    self._settings.drain_timeout_s,
                )
                return

    def _fence(self, going: Iterable[Ownership]) -> None:
        going = list(going)
        for owned in going:
            owned.fenced = True
        for station in self.stations:
            if late := station.lane.running_of(going):
                station.executor.cancel(late)

    # ------------------------------------------------------------ what lanes ask for

    def put_away(self, lane: Lane, work: Work, topic: str, error: BaseException) -> None:
        self._keep(self._loop.create_task(self._send_away(lane, work, topic, error, None)))

    def put_off(self, lane: Lane, work: Work, topic: str, due_ms: float, error: BaseException) -> None:
        due = int(time.time() * 1000 + max(0.0, due_ms - self._now_ms()))
        self._keep(self._loop.create_task(self._send_away(lane, work, topic, error, due)))

    async def _send_away(
        self, lane: Lane, work: Work, topic: str, error: BaseException, due: int | None
    ) -> None:
        """Of a batch only one record is left when it comes here."""
        record, group_id = first_record(work), self._settings.config["group.id"]
        headers = (
            headers_of(record, error, work.attempts, group_id)
            if due is None
            else headers_for_retry(record, error, work.attempts, due, group_id)
        )
        if self._settings.exactly_once:
            headers = list(fitting(record, headers, self._most_bytes))
            self._write_with_offset(lane, work, [(topic, letter_of(record, headers))])
        else:
            assert self._dead_letters is not None
            await self._dead_letters.send(record, topic, headers)
            lane.settled(work)
        self._kick(lane)

    def deliver(self, lane: Lane, work: Work, result: Any) -> None:
        station = next(station for station in self.stations if station.lane is lane)
        try:
            outputs = outputs_of(result, station.spec.output, lane.where(work), self._encoders)
            if self._settings.exactly_once:  # in the transaction it would be everybody's failure
                for topic, out in outputs:
                    refuse_too_large(topic, out.key, out.value, out.headers, out.partition, self._most_bytes)
        except Exception as error:  # a serializer's, too
            self._not_delivered(lane, work, error)
            return
        if self._settings.exactly_once:
            self._write_with_offset(lane, work, outputs)
        else:
            assert self._deliveries is not None
            self._deliveries.write(outputs, functools.partial(self._delivered, lane, work))

    @staticmethod
    def _write_with_offset(lane: Lane, work: Work, outputs: list[tuple[str, Output]]) -> None:
        """In the transaction that passes it."""
        partition: Ownership = work.partition  # type: ignore[assignment]
        offset = work.spans[0].offset if work.spans else first_record(work).offset
        partition.outputs.setdefault(offset, []).extend(outputs)
        lane.settled(work)

    def _delivered(self, lane: Lane, work: Work, error: BaseException | None) -> None:
        if error is not None:
            self._not_delivered(lane, work, error)
        else:
            lane.settled(work)
        self._kick(lane)

    def _not_delivered(self, lane: Lane, work: Work, error: BaseException) -> None:
        lane.aside -= 1
        lane.failed(work, error)

    def stop_for(self, error: Exception) -> None:
        self._fail(error)

    def waits_until(self, due_ms: float) -> None:
        if due_ms < self._timer_at_ms:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at_ms = due_ms
            self._timer = self._loop.call_at(due_ms / 1000, self._due)

    def _due(self) -> None:
        self._timer, self._timer_at_ms = None, float("inf")
        now_ms = self._now_ms() + 1  # a timer may fire a little early
        for station in self.stations:
            if station.lane.due(now_ms):
                station.executor.kick()

    def _kick(self, lane: Lane) -> None:
        for station in self.stations:
            if station.lane is lane:
                station.executor.kick()

    def _now_ms(self) -> float:
        return self._loop.time() * 1000

    # ------------------------------------------------------------ how it is

    def health(self) -> Health:
        """From any thread."""
        idle_s = time.monotonic() - self._turned_s
        alive = idle_s < _STILL_ALIVE_S
        ready = self._running and self._assigned_once and not self._stopping and alive
        reason = "running" if ready else "stopping" if self._stopping else "waiting for an assignment"
        if not alive:
            reason = f"the event loop has not turned for {idle_s:.0f} s: a coroutine handler blocks it"
        intake: Intake | None = getattr(self, "_intake", None)  # made by run()
        details = {
            "partitions": [str(tp) for tp in list(self.owned)],
            "held_records": self._load.records,
            "held_bytes": self._load.bytes,
            **({} if intake is None else intake.health()),
            "stalled_partitions": self._stalls.told(),
            "handlers": {
                station.spec.name: {
                    "concurrency": station.lane.concurrency,
                    "running": len(station.lane.running),
                    "waiting": station.lane.waiting,
                    "resting": station.lane.resting,
                    "done": station.lane.done_records,
                    "failed_calls": station.lane.failed_calls,
                    "dead_lettered": station.lane.dead_lettered,
                    "duplicates": station.lane.duplicates,
                    "postponed": station.lane.postponed,
                }
                for station in self.stations
            },
        }
        return Health(ready=ready, alive=alive, reason=reason, details=details)
