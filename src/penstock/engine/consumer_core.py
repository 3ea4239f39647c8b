"""What a consumer is, apart from who waits: the sync and the async shell drive this same core."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from .._native import Fetcher
from ..config import Config, resolve
from ..errors import ConfigError, KafkaError
from ..fetch import SubscriptionState
from ..metrics import ConsumerMetrics, MetricName, Windows
from ..offsets import CommitLedger
from ..protocol import error_for, is_retriable
from ..types import OffsetAndMetadata, OffsetAndTimestamp, PartitionInfo, TopicPartition
from . import lookups
from .client import ClusterClient, with_client_id
from .commits import Commits
from .coordinator import GroupCoordinator, MemberIdentity
from .membership import Membership
from .positions import Positions
from .steps import Steps
from .telemetry import CLOSE_TIMEOUT_MS, Meter, TelemetryPusher
from .thread import EngineThread
from .user_thread import UserThread

_log = logging.getLogger("penstock.consumer")
_LISTENERS = ("on_partitions_assigned", "on_partitions_revoked", "on_partitions_lost")
_UNKNOWN_TOPIC_OR_PARTITION = 3
_MISSING_OFTEN = 3  # a topic that the broker is just making is not there at first
_ISOLATION = {"read_uncommitted": 0, "read_committed": 1}


class ConsumerCore:
    """Coroutines and methods whose names start with an underscore run in the engine's thread; Steps run in the user's.

    Shared with the user's thread, each with one writer at a time under the GIL: what UserThread and Commits say, `fetching.handles`
    (written by the engine, copied by the user's thread), `consumed` (set by poll() when it first returns a record).
    """

    def __init__(self, kind: str, topics: Sequence[str], options: Mapping[str, Any]) -> None:
        """`kind` names the shell, for thread names and messages."""
        self.config: Config = with_client_id("consumer", resolve("consumer", options))
        self._isolation = _ISOLATION[self.config["isolation.level"]]
        self._group_id: str | None = self.config["group.id"]
        self.engine = EngineThread(f"{kind} {self.config['client.id']}")
        try:
            self._make_rooms(topics)
        except BaseException:  # an option that only its reader finds wrong
            self.engine.stop()
            raise

    def _make_rooms(self, topics: Sequence[str]) -> None:
        self.measurements = ConsumerMetrics(
            self.config["client.id"],
            windows=Windows(self.config["metrics.num.samples"], self.config["metrics.sample.window.ms"]),
            read_committed=self._isolation == 1,
        )
        self.client = ClusterClient(self.engine, self.config, measurements=self.measurements)
        self.fetcher = _make_fetcher(self.engine, self.config, self._isolation)
        self.user = UserThread(self.fetcher)
        self.subscription = SubscriptionState(topics)
        ledger = CommitLedger()
        self.coordinator = (
            GroupCoordinator(self.client, self._group_id) if self._group_id is not None else None
        )
        self.positions = Positions(
            self.client,
            self.fetcher,
            self.subscription,
            ledger,
            self.coordinator,
            self.config,
            self._isolation,
            self.user.raise_in_poll,
        )
        self.fetching = self.positions.fetching
        self.commits = Commits(
            self.client,
            self.fetcher,
            self.fetching,
            ledger,
            self.coordinator,
            self._identity,
            self.user,
            self.config,
        )
        self.membership = Membership(
            self.client,
            self.fetcher,
            self.subscription,
            self.positions,
            self.coordinator,
            self.commits,
            self.user,
            self.config,
            self.measurements,
        )
        if self.coordinator is not None:
            self.coordinator.identity = self._identity
            self.coordinator.measurements = self.measurements
            self.coordinator.on_rebalance = self.membership.rebalance_seen
        self._meter = Meter(
            self.engine,
            self.measurements,
            self.fetcher,
            self.fetching.handles,
            preferred_replicas=self.fetching.replicas,
            heartbeats=self.membership.heartbeat_counts,
        )
        self.positions.before_drop = self._meter.observe
        self._pusher: TelemetryPusher | None = None
        if self.config["enable.metrics.push"]:
            self._pusher = TelemetryPusher(self.client, self.config, self._measured)
        self.consumed = False
        self._pattern: re.Pattern[str] | None = None
        self._untold_since: int | None = None  # the metadata's version when the pattern came
        self._missing: dict[str, int] = {}  # how often in a row the metadata has not had a topic
        self.client.on_update.append(self._on_metadata)
        if topics:
            self.client.interest = set(topics)

    def _identity(self) -> MemberIdentity:
        """Commits and the membership know each other; this is the knot."""
        return self.membership.identity()

    @property
    def handles(self) -> dict[TopicPartition, int]:
        return self.fetching.handles

    def start(self) -> None:
        self.engine.start()
        self.engine.post(self._begin)

    def _begin(self) -> None:
        self.client.start()
        self.engine.spawn(self._meter.run(), "measurements")
        if self._pusher is not None:
            self._pusher.start()
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
                if not self.user.has_errors:
                    self.user.raise_in_poll(error)

    # ------------------------------------------------------------ the user's thread

    def attend(self) -> Steps[None]:
        """What the engine wants from the user's thread: to know that it polls, callbacks to run, errors to raise."""
        self.engine.check_process()
        self.user.attention = False
        try:
            self.engine.post(self._on_poll)
            yield from self.user.run_callbacks()
            self.user.raise_pending()
        except BaseException:
            self.user.attention = (
                True  # what waits behind a callback that raised, or Ctrl-C, is for the next poll()
            )
            raise

    async def give_back(self) -> None:
        """A loop over the consumer has ended early: what it was not handed is to be returned by the next poll(). A partition that
        was sought meanwhile keeps its new position."""
        commits = self.commits
        if commits.unread is None:
            return
        polled_to = commits.unread.records.next_offsets()
        for tp, entry in commits.held().items():
            handle = self.handles.get(tp)
            place = self.fetcher.position(handle) if handle is not None else None
            if place is not None and place[0] == polled_to[tp]:
                self.positions.start_at(tp, entry.offset, entry.leader_epoch)
        commits.unread = None  # last: the user's thread may commit meanwhile (its poll() was cancelled), and not past these

    def close(self, timeout_ms: float, leave_group: bool | None) -> Steps[None]:
        """Commit, tell the listener, leave, end all threads. Whatever fails or hangs on the way, the threads end."""
        deadline = time.monotonic() + timeout_ms / 1000
        try:
            if self.engine.alive:
                yield from self.leave(deadline, leave_group)
                yield self.engine.call(self._shut, deadline)
        except TimeoutError:
            _log.warning(
                "close() did not finish within %.0f ms; the group will notice by session.timeout.ms",
                timeout_ms,
            )
        finally:
            self.fetcher.close()
            self.engine.stop(timeout_s=max(0.5, min(5.0, deadline - time.monotonic())))

    def leave(self, deadline: float, leave_group: bool | None = None) -> Steps[None]:
        """Give the group's partitions back, by the deadline of time.monotonic()."""
        yield from self.membership.give_back(
            lambda: max(100.0, (deadline - time.monotonic()) * 1000), leave_group
        )

    async def _shut(self, deadline: float) -> None:
        if self._pusher is not None:
            await self._pusher.close(min(CLOSE_TIMEOUT_MS, max(0.0, (deadline - time.monotonic()) * 1000)))
        self.client.close()

    def abandon(self) -> None:
        """The user forgot to close: end the threads without waiting, commit nothing."""
        if self.engine.alive:
            self.fetcher.close()
            self.engine.post(self.client.close)
            self.engine.post(self.engine.loop.stop)

    # ------------------------------------------------------------ what to read

    async def subscribe(
        self, topics: list[str] | None, pattern: str | re.Pattern[str] | None, listener: object | None
    ) -> None:
        if self._group_id is None:
            raise ConfigError("subscribe() needs group.id; set it, or use assign() to read without a group")
        if (topics is None) == (pattern is None):
            raise ValueError("subscribe() takes either topics or pattern")
        if listener is not None and not any(hasattr(listener, method) for method in _LISTENERS):
            raise TypeError(f"a listener has any of {', '.join(_LISTENERS)}; {listener!r} has none")
        if pattern is not None:
            compiled = re.compile(pattern)
            self.subscription.subscribe_pattern(compiled.pattern)
            self.membership.wants(listener, pattern if isinstance(pattern, str) else None)
            self._pattern = compiled
            self._untold_since = self.client.snapshot.version
            self.client.interest = None
            if self.membership.may_match_at_broker:
                self.membership.subscribe()
            self.client.want_update()
            self._on_metadata()
            return
        assert topics is not None
        self.subscription.subscribe(topics)
        self.membership.wants(listener)
        self._pattern = None
        self.client.interest = set(topics)
        self.client.want_update()
        self.membership.subscribe()

    async def assign(self, partitions: list[TopicPartition | tuple[str, int] | int]) -> None:
        if self.consumed:
            self.subscription.note_consumed()
        by_user = not self.subscription.subscribed
        kept = set(self.subscription.assign_from_user(partitions))
        self._pattern = None
        self.membership.abandon()
        dropped = frozenset(tp for tp in self.handles if tp not in kept)
        if by_user:
            self.commits.commit_dropped(dropped)
        self.positions.drop(list(dropped))
        self.client.interest = {tp.topic for tp in kept}
        self.client.want_update()
        self.fetching.add(kept)
        self.positions.resolve()

    async def unsubscribe(self) -> None:
        """After leave(), which has given the group's partitions back."""
        self.positions.drop(list(self.handles))
        self.subscription.unsubscribe()
        self.consumed = False
        self._pattern = None
        self.client.interest = set()
        self.membership.wants(None)

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

    def _on_poll(self) -> None:
        self.membership.polled = True
        if self._group_id is None and self.subscription.subscribed:
            self.user.raise_in_poll(
                ConfigError(
                    f"reading {', '.join(sorted(self.subscription.topics))} as a subscription needs group.id; set it, "
                    "or call assign() with the partitions to read without a group"
                )
            )
        else:
            self.membership.poll_progress()

    # ------------------------------------------------------------ metadata

    def _on_metadata(self) -> None:
        snapshot = self.client.snapshot
        if self._pattern is not None and snapshot.version and not self.membership.pattern_at_broker:
            matching = {
                t.name
                for t in snapshot.topics.values()
                if self._pattern.fullmatch(t.name) and self._visible(t)
            }
            # Who has joined with other topics is told when all are known, though none of them may match.
            untold = self._untold_since is not None and snapshot.version > self._untold_since
            if untold or self.membership.driver is None:
                self._untold_since = None
            if untold or matching != self.subscription.topics or self.membership.is_to_join:
                self.subscription.pattern_matched(matching)
                self.membership.subscribe()
        self._tell_of_topics()
        self.positions.on_metadata()
        self.fetching.refresh_leaders()
        if self.membership.driver is not None:
            self.membership.driver.metadata_changed()

    def _tell_of_topics(self) -> None:
        """Of what is wanted by name: poll() raises what no waiting mends, the log tells of what may come yet."""
        wanted = self.subscription.topics if self.subscription.subscribed else self.client.interest or ()
        for name in wanted:
            state = self.client.snapshot.topics.get(name)
            if state is None or state.error_code == 0 or state.partitions:
                self._missing.pop(name, None)
            elif state.error_code == _UNKNOWN_TOPIC_OR_PARTITION:
                times = self._missing[name] = self._missing.get(name, 0) + 1
                if times == _MISSING_OFTEN:
                    _log.warning("topic %r does not exist; it is read as soon as it does", name)
            elif not is_retriable(state.error_code):
                self.user.raise_in_poll(error_for(state.error_code, f"asking for topic {name!r}"))

    def _visible(self, topic: Any) -> bool:
        return not (topic.is_internal and self.config["exclude.internal.topics"])

    # ------------------------------------------------------------ positions

    async def position(self, tp: TopicPartition, timeout_ms: float) -> int:
        async with self.client.within(timeout_ms, f"finding the position of {tp}"):
            place = await self.positions.of(tp)
            held = self.commits.held().get(tp)
            return place if held is None else min(place, held.offset)
        raise AssertionError("within() raises or lets through")

    async def lag(self, tp: TopicPartition) -> int | None:
        return self.positions.lag(tp)

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

    async def committed(
        self, partitions: list[TopicPartition], timeout_ms: float
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        coordinator = self.commits.need_group("committed()")
        async with self.client.within(
            timeout_ms, f"reading the committed offsets of group {self._group_id!r}"
        ):
            found = await coordinator.committed(partitions, require_stable=True)
        return {tp: found.get(tp) for tp in partitions}

    # ------------------------------------------------------------ measurements

    def _measured(self) -> dict[MetricName, float]:
        assert self._pusher is not None
        self._pusher.member_id = self._identity().member_id
        return self._meter.snapshot()

    async def metrics(self) -> dict[MetricName, float]:
        return self._meter.snapshot()

    async def client_instance_id(self, timeout_ms: float) -> uuid.UUID:
        if self._pusher is None:
            raise ConfigError("client_instance_id() needs enable.metrics.push")
        async with self.client.within(timeout_ms, "asking brokers for a client instance id"):
            return await self._pusher.client_instance_id()
        raise AssertionError("within() raises or lets through")

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

    async def topic_ids(self, topics: list[str], timeout_ms: float) -> dict[str, bytes]:
        return await lookups.topic_ids(self.client, topics, timeout_ms)

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
