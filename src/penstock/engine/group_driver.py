"""Performs what the group's state machine asks for, and tells it what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .._native import Fetcher
from ..errors import KafkaError
from ..group import consumer_messages as c
from ..group import messages as g
from ..group.classic import ClassicMember
from ..group.consumer import ConsumerMember
from ..metrics import ConsumerMetrics
from ..protocol import Api, prepare
from ..types import TopicPartition
from . import classic_requests, consumer_requests
from .client import ClusterClient
from .connection import DisconnectedError
from .coordinator import GroupCoordinator, MemberIdentity
from .heartbeats import Heartbeats, Repeated

_log = logging.getLogger("penstock.engine.group")
_PREPARE_AFTER_S = 0.25


class GroupHost(Protocol):
    """What the driver needs of the consumer's core. The hand_... calls reach the user's thread and report back through feed()."""

    def stop_fetching(self, partitions: Sequence[TopicPartition]) -> None: ...
    def hand_revocation(
        self, partitions: Sequence[TopicPartition], commit: bool, done: Callable[[], None]
    ) -> None: ...
    def hand_loss(self, partitions: Sequence[TopicPartition], done: Callable[[], None]) -> None: ...
    def take_assignment(self, partitions: Sequence[TopicPartition]) -> None: ...
    def hand_assignment(self, partitions: Sequence[TopicPartition], done: Callable[[], None]) -> None: ...
    def raise_in_poll(self, error: BaseException) -> None: ...
    def refused(self, error_code: int, message: str) -> None: ...
    def idle_ms(self) -> int: ...
    def attend(self) -> None: ...


class GroupDriver:
    """Lives in the engine's thread. One machine, one event at a time: an effect that answers at once is queued behind."""

    def __init__(
        self,
        host: GroupHost,
        client: ClusterClient,
        coordinator: GroupCoordinator,
        machine: ClassicMember | ConsumerMember,
        fetcher: Fetcher,
        measurements: ConsumerMetrics,
    ) -> None:
        self.machine = machine
        self._host = host
        self._client = client
        self._coordinator = coordinator
        self._measurements = measurements
        config = client.config
        self._max_poll_interval_ms: int = config["max.poll.interval.ms"]
        self.heartbeats = Heartbeats(
            client,
            coordinator,
            fetcher,
            answer_timeout_ms=min(config["request.timeout.ms"], config["session.timeout.ms"]),
            max_idle_ms=self._max_poll_interval_ms,
            answered=self._on_heartbeat,
            failed=lambda reason: self.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, reason)),
            idle=self._watch_polls,
        )
        self._beating_for = -1  # the generation of the classic heartbeats
        self._unresolved: frozenset[bytes] = frozenset()  # topic ids that the machine wants the names of
        self.pattern = False
        self._finished = {
            g.RequestKind.JOIN: measurements.join_finished,
            g.RequestKind.SYNC: measurements.sync_finished,
        }
        self.last_known = ("", -1)  # member id and generation, as they were when this last was a member
        self._queue: deque[g.Event | c.ConsumerEvent] = deque()
        self._feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._poll_watch: asyncio.TimerHandle | None = None
        self._commit_before_revoke = False
        self._prepared = False
        self._callbacks_out = 0  # handed to the user's thread and not done
        self._poll_expired = False
        self._found_before = False
        self._left: asyncio.Future[None] | None = None
        self._counts: dict[str, int] | None = None  # what this member, as leader, last assigned from

    def _now_ms(self) -> float:
        return self._client.engine.loop.time() * 1000

    def _rebalances(self) -> None:
        self._measurements.rebalance_started(self._now_ms())

    def feed(self, event: g.Event | c.ConsumerEvent) -> None:
        """Give the machine an event and perform what it answers."""
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._queue:
                for effect in self.machine.handle(
                    self._queue.popleft(),  # type: ignore[arg-type]
                    self._client.engine.now_ms(),
                ):
                    self._perform(effect)
                if self.machine.generation_id >= 0:
                    self.last_known = (self.machine.member_id, self.machine.generation_id)
        except Exception as error:  # a mistake of ours, or an assignor of the user's: to stand still in silence would be worse
            told = f"group {self._coordinator.group_id!r}: this membership cannot go on: {error!r}; close the consumer and make a new one"
            self._host.raise_in_poll(KafkaError(told))
            raise
        finally:
            self._feeding = False
        self._arm_timer()

    def poll_progress(self) -> None:
        """The user's thread has entered poll()."""
        self._poll_expired = False
        if self._poll_watch is None:
            self._watch_polls()
        self.feed(g.PollProgress())

    def metadata_changed(self) -> None:
        """Names of topic ids may be known now. Other partition counts than those last assigned from: the leader's assignment is out of
        date."""
        self._tell_names()
        if self._counts is not None:
            # With those that do not exist, as they were counted: left out they would differ at every update.
            now = dict.fromkeys(self._counts, 0) | self._client.snapshot.partition_counts(self._counts)
            if any(now.values()) and now != self._counts:
                _log.info(
                    "group %s: partitions changed from %s to %s",
                    self._coordinator.group_id,
                    self._counts,
                    now,
                )
                self._counts = now
                self.feed(g.TopicsChanged())

    def identity(self) -> MemberIdentity:
        """Under which name requests about offsets are sent now."""
        machine = self.machine
        return MemberIdentity(
            machine.member_id,
            machine.generation_id,
            machine.group_instance_id,
            of_a_group=True,
            rebalancing=isinstance(machine, ClassicMember) and machine.rebalancing,
            waits_for_user=self._callbacks_out > 0,
            has_epoch=isinstance(machine, ConsumerMember),
        )

    async def leave(self, leave_group: bool | None = None) -> None:
        """Leave the group; returns when the coordinator was told, or cannot be. `leave_group` as in messages.Leave."""
        if self._left is None:
            self._left = self._client.engine.loop.create_future()
            self.feed(g.Leave(leave_group))
        await asyncio.shield(self._left)

    # ------------------------------------------------------------ effects

    def _perform(self, effect: g.Effect | c.ConsumerEffect) -> None:
        getattr(self, f"_do_{type(effect).__name__}")(effect)

    def _do_FindCoordinator(self, effect: g.FindCoordinator) -> None:
        if self._found_before:
            self._coordinator.lost("the group's machine asks for it anew")
        self._found_before = True
        self._client.engine.spawn(self._find_coordinator(), "group: find coordinator")

    async def _find_coordinator(self) -> None:
        try:
            await self._coordinator.find()
        except KafkaError as error:
            self._host.raise_in_poll(error)
            self.feed(g.CoordinatorLost(str(error)))
        else:
            self.feed(g.CoordinatorFound())

    def _do_SendJoin(self, effect: g.SendJoin) -> None:
        self._rebalances()
        self._exchange(g.RequestKind.JOIN, classic_requests.join(self._coordinator, effect))

    def _do_SendSync(self, effect: g.SendSync) -> None:
        held_for_ms = self._max_poll_interval_ms
        self._exchange(g.RequestKind.SYNC, classic_requests.sync(self._coordinator, effect, held_for_ms))

    def _do_SendLeave(self, effect: g.SendLeave) -> None:
        self._exchange(g.RequestKind.LEAVE, classic_requests.leave(self._client, self._coordinator, effect))

    def _do_KeepHeartbeating(self, effect: g.KeepHeartbeating) -> None:
        self._beating_for = effect.generation_id
        request = classic_requests.heartbeat(self._coordinator.group_id, effect)
        self.heartbeats.repeat(Repeated(Api.HEARTBEAT, effect.interval_ms, request, {}, effect.at_once))

    def _do_SendConsumerHeartbeat(self, effect: c.SendConsumerHeartbeat) -> None:
        self._exchange(g.RequestKind.HEARTBEAT, consumer_requests.heartbeat(self._coordinator, effect))

    def _do_RepeatHeartbeat(self, effect: c.RepeatHeartbeat) -> None:
        request, answer = consumer_requests.repeated_heartbeat(self._coordinator.group_id, effect)
        self.heartbeats.repeat(Repeated(Api.CONSUMER_GROUP_HEARTBEAT, effect.interval_ms, request, answer))

    def _do_StopHeartbeats(self, effect: g.StopHeartbeats) -> None:
        self.heartbeats.stop()

    def _on_heartbeat(self, response: Any) -> None:
        """The connection repeats a heartbeat and has heard something else than a plain yes."""
        if isinstance(self.machine, ClassicMember):
            self.feed(g.HeartbeatAnswered(int(response.error_code), self._beating_for))
        else:
            self.feed(consumer_requests.read(response, repeated=True))

    def _do_ResolveTopicIds(self, effect: c.ResolveTopicIds) -> None:
        self._unresolved = frozenset(effect.ids)
        if not self._tell_names():
            self._client.engine.spawn(self._resolve(), "group: topic names")

    async def _resolve(self) -> None:
        """Topics that were just assigned may be new: ask until the metadata has them all, or others are asked for."""
        backoff = self._client.retry_backoff()
        asked = self._unresolved
        while self._unresolved is asked and asked:
            try:
                await self._client.fetch_metadata(self._topics_to_ask())
            except KafkaError as error:
                _log.debug("group %s: no names of topic ids: %s", self._coordinator.group_id, error)
            if not self._tell_names():
                await asyncio.sleep(backoff.next_ms() / 1000)

    def _topics_to_ask(self) -> list[str] | None:
        """Those subscribed to; all where the coordinator matches a pattern, or where these names do not have the ids."""
        names = [] if self.pattern else sorted(self._client.interest or ())
        return names or None

    def _tell_names(self) -> bool:
        """Feed the names that the metadata has of the unresolved ids; whether that is all of them."""
        if not self._unresolved:
            return True
        topics = self._client.snapshot.topics.values()
        names = {t.topic_id: t.name for t in topics if t.topic_id in self._unresolved}
        if names:
            self._client.add_interest(names.values())
            self._unresolved -= names.keys()
            done = not self._unresolved
            self.feed(c.TopicNames(names))
            return done
        return False

    def _exchange(self, kind: g.RequestKind, coroutine: Any) -> None:
        async def run() -> None:
            began_ms = self._now_ms()
            try:
                event = await coroutine
                if (finished := self._finished.get(kind)) is not None:
                    finished(self._now_ms(), self._now_ms() - began_ms)
            except DisconnectedError as error:
                event = g.RequestFailed(kind, str(error))
            except KafkaError as error:
                self._host.raise_in_poll(error)
                event = g.RequestFailed(kind, str(error))
            self.feed(event)

        self._client.engine.spawn(run(), f"group: {kind.name.lower()}")

    def _do_StopFetching(self, effect: g.StopFetching) -> None:
        self._host.stop_fetching(effect.partitions)

    def _do_CommitBeforeRevoke(self, effect: g.CommitBeforeRevoke) -> None:
        self._commit_before_revoke = True

    def _do_CallRevoked(self, effect: g.CallRevoked) -> None:
        commit, self._commit_before_revoke = self._commit_before_revoke, False
        self._rebalances()
        self._host.hand_revocation(effect.partitions, commit, self._called(g.RevocationDone()))

    def _do_CallLost(self, effect: g.CallLost) -> None:
        self._commit_before_revoke = False
        self._measurements.rebalance_finished(self._now_ms(), failed=True)
        self._host.hand_loss(effect.partitions, self._called(g.LossDone()))

    def _do_AssignPartitions(self, effect: g.AssignPartitions) -> None:
        self._host.take_assignment(effect.partitions)

    def _do_CallAssigned(self, effect: g.CallAssigned) -> None:
        self._rebalances()  # by the consumer protocol, where a member only gains, this is the first that it hears of it
        self._host.hand_assignment(effect.partitions, self._called(g.AssignmentDone()))

    def _called(self, event: g.Event) -> Callable[[], None]:
        """What the host calls once the user's thread has run a callback."""
        self._callbacks_out += 1

        def done() -> None:
            self._callbacks_out -= 1
            if isinstance(event, g.AssignmentDone):
                self._measurements.rebalance_finished(self._now_ms())
                self._prepare()
            self.feed(event)

        return done

    def _prepare(self) -> None:
        """Once, when the first assignment is there and nothing presses: what the next rebalance will send, in the middle of which the
        milliseconds that its codecs take to build would be felt by the whole group."""
        if not self._prepared:
            self._prepared = True
            loop = self._client.engine.loop
            for number, api in enumerate((Api.OFFSET_COMMIT, Api.LEAVE_GROUP)):
                loop.call_later(_PREPARE_AFTER_S * (number + 1), self._prepare_one, api)

    def _prepare_one(self, api: Api) -> None:
        node_id = self._coordinator.node_id
        connection = None if node_id is None else self._client.opened(node_id)
        if connection is not None and connection.versions is not None and connection.versions.offers(api):
            prepare(api, connection.versions.pick(api))

    def _do_NeedPartitionCounts(self, effect: g.NeedPartitionCounts) -> None:
        self._client.engine.spawn(self._count_partitions(tuple(effect.topics)), "group: partition counts")

    async def _count_partitions(self, topics: tuple[str, ...]) -> None:
        """The counts that the leader assigns from. Topics that do not exist (yet) count as none: metadata updates bring them."""
        missing = [topic for topic in topics if topic not in self._client.snapshot.topics]
        if missing:
            try:
                await self._client.fetch_metadata(topics)
            except KafkaError as error:
                _log.warning(
                    "group %s: no metadata for the assignment: %s", self._coordinator.group_id, error
                )
        counts = self._client.snapshot.partition_counts(topics)
        self._client.add_interest(topics)
        self._counts = {topic: counts.get(topic, 0) for topic in topics}
        self.feed(g.PartitionCounts(counts, self._client.snapshot.partition_racks(topics)))

    def _do_Raise(self, effect: g.Raise) -> None:
        self._host.refused(effect.error_code, effect.message)

    def _do_Left(self, effect: g.Left) -> None:
        self.end()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def end(self) -> None:
        """Nothing more comes of this membership."""
        self._measurements.rebalance_abandoned()
        self._counts = None
        self._unresolved = frozenset()
        self.heartbeats.stop()
        for timer in (self._poll_watch, self._timer):
            if timer is not None:
                timer.cancel()
        self._poll_watch = self._timer = None

    # ------------------------------------------------------------ time

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline_ms = self.machine.next_deadline_ms()
        if deadline_ms is not None:
            delay_s = max(0.0, deadline_ms / 1000 - self._client.engine.loop.time())
            self._timer = self._client.engine.loop.call_later(delay_s + 0.001, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.feed(g.Tick())

    def _watch_polls(self) -> None:
        """Whether the user's thread still shows progress; runs as long as the membership."""
        idle_ms = self._host.idle_ms()
        left_ms = self._max_poll_interval_ms - idle_ms
        if self._poll_watch is not None:
            self._poll_watch.cancel()
        self._poll_watch = self._client.engine.loop.call_later(
            left_ms / 1000 + 0.01 if left_ms >= 0 else self._max_poll_interval_ms / 1000,
            self._watch_polls,
        )
        if left_ms < 0 and not self._poll_expired:
            self._poll_expired = True
            _log.warning(
                "group %s: no poll() for more than max.poll.interval.ms=%d ms: leaving the group, so that others can go on; "
                "the next poll() joins again. Raise max.poll.interval.ms or lower max.poll.records",
                self._coordinator.group_id,
                self._max_poll_interval_ms,
            )
            self.feed(g.PollExpired())
            self._host.attend()
