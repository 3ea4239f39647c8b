"""Performs what the group's state machine asks for, and tells it what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import KafkaError
from ..group import messages as g
from ..group.classic import ClassicMember
from ..protocol import Api
from ..types import TopicPartition
from .client import COORDINATOR, ClusterClient
from .connection import DisconnectedError
from .coordinator import GroupCoordinator, MemberIdentity

_log = logging.getLogger("penstock.engine.group")
_PROTOCOL_TYPE = "consumer"


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
    def idle_ms(self) -> int: ...
    def attend(self) -> None: ...


class GroupDriver:
    """Lives in the engine's thread. One machine, one event at a time: an effect that answers at once is queued behind."""

    def __init__(
        self,
        host: GroupHost,
        client: ClusterClient,
        coordinator: GroupCoordinator,
        machine: ClassicMember,
        max_poll_interval_ms: int,
    ) -> None:
        self.machine = machine
        self._host = host
        self._client = client
        self._coordinator = coordinator
        self._max_poll_interval_ms = max_poll_interval_ms
        self._queue: deque[g.Event] = deque()
        self._feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._poll_watch: asyncio.TimerHandle | None = None
        self._beats: g.KeepHeartbeating | None = None
        self._commit_before_revoke = False
        self._callbacks_out = 0  # handed to the user's thread and not done
        self._poll_expired = False
        self._found_before = False
        self._left: asyncio.Future[None] | None = None
        self._counts: dict[str, int] | None = None  # what this member, as leader, last assigned from

    def feed(self, event: g.Event) -> None:
        """Give the machine an event and perform what it answers."""
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._queue:
                for effect in self.machine.handle(self._queue.popleft(), self._client.engine.now_ms()):
                    self._perform(effect)
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
        """Other partition counts than those last assigned from: the leader's assignment is out of date."""
        if self._counts is not None:
            now = self._client.snapshot.partition_counts(self._counts)
            if now and now != self._counts:
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
            rebalancing=machine.rebalancing,
            waits_for_user=self._callbacks_out > 0,
        )

    async def leave(self, leave_group: bool | None = None) -> None:
        """Leave the group; returns when the coordinator was told, or cannot be. `leave_group` as in messages.Leave."""
        if self._left is None:
            self._left = self._client.engine.loop.create_future()
            self.feed(g.Leave(leave_group))
        await asyncio.shield(self._left)

    # ------------------------------------------------------------ effects

    def _perform(self, effect: g.Effect) -> None:
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
        async def join() -> g.Event:
            response = await self._coordinator.request(
                Api.JOIN_GROUP,
                purpose=COORDINATOR,
                timeout_ms=effect.rebalance_timeout_ms + 5_000,  # the broker holds it until all have joined
                group_id=self._coordinator.group_id,
                session_timeout=effect.session_timeout_ms,
                rebalance_timeout=effect.rebalance_timeout_ms,
                member_id=effect.member_id,
                group_instance_id=effect.group_instance_id,
                protocol_type=_PROTOCOL_TYPE,
                protocols=[{"name": name, "metadata": metadata} for name, metadata in effect.protocols],
                reason=effect.reason,
            )
            return g.JoinAnswered(
                int(response.error_code),
                int(response.generation_id),
                response.protocol_name or "",
                response.leader,
                response.member_id,
                tuple(
                    g.JoinedMember(m.member_id, getattr(m, "group_instance_id", None), m.metadata)
                    for m in response.members
                ),
                bool(getattr(response, "skip_assignment", False)),
            )

        self._exchange(g.RequestKind.JOIN, join())

    def _do_SendSync(self, effect: g.SendSync) -> None:
        async def sync() -> g.Event:
            response = await self._coordinator.request(
                Api.SYNC_GROUP,
                purpose=COORDINATOR,
                timeout_ms=self._max_poll_interval_ms + 5_000,
                group_id=self._coordinator.group_id,
                generation_id=effect.generation_id,
                member_id=effect.member_id,
                group_instance_id=effect.group_instance_id,
                protocol_type=_PROTOCOL_TYPE,
                protocol_name=effect.protocol_name,
                assignments=[
                    {"member_id": member, "assignment": data} for member, data in effect.assignments
                ],
            )
            return g.SyncAnswered(
                int(response.error_code), getattr(response, "protocol_name", None), bytes(response.assignment)
            )

        self._exchange(g.RequestKind.SYNC, sync())

    def _do_KeepHeartbeating(self, effect: g.KeepHeartbeating) -> None:
        self._beats = effect
        self._client.engine.spawn(self._beat(effect), "group: heartbeats")

    def _do_StopHeartbeats(self, effect: g.StopHeartbeats) -> None:
        self._beats = None

    async def _beat(self, effect: g.KeepHeartbeating) -> None:
        if not effect.at_once:
            await asyncio.sleep(effect.interval_ms / 1000)
        while self._beats is effect:
            try:
                response = await self._coordinator.request(
                    Api.HEARTBEAT,
                    purpose=COORDINATOR,
                    group_id=self._coordinator.group_id,
                    generation_id=effect.generation_id,
                    member_id=effect.member_id,
                    group_instance_id=effect.group_instance_id,
                )
            except KafkaError as error:
                if self._beats is effect:
                    self.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, str(error)))
                return
            if response.error_code and self._beats is effect:
                self.feed(g.HeartbeatAnswered(int(response.error_code), effect.generation_id))
            await asyncio.sleep(effect.interval_ms / 1000)

    def _do_SendLeave(self, effect: g.SendLeave) -> None:
        async def leave() -> g.Event:
            # not over the coordinator's own connection: a JoinGroup may be held there for minutes
            response = await self._client.request(
                Api.LEAVE_GROUP,
                node_id=await self._coordinator.find(),
                timeout_ms=5_000,
                group_id=self._coordinator.group_id,
                member_id=effect.member_id,
                members=[
                    {
                        "member_id": effect.member_id,
                        "group_instance_id": effect.group_instance_id,
                        "reason": effect.reason,
                    }
                ],
            )
            return g.LeaveAnswered(int(response.error_code))

        self._exchange(g.RequestKind.LEAVE, leave())

    def _exchange(self, kind: g.RequestKind, coroutine: Any) -> None:
        async def run() -> None:
            try:
                event = await coroutine
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
        self._host.hand_revocation(effect.partitions, commit, self._called(g.RevocationDone()))

    def _do_CallLost(self, effect: g.CallLost) -> None:
        self._commit_before_revoke = False
        self._host.hand_loss(effect.partitions, self._called(g.LossDone()))

    def _do_AssignPartitions(self, effect: g.AssignPartitions) -> None:
        self._host.take_assignment(effect.partitions)

    def _do_CallAssigned(self, effect: g.CallAssigned) -> None:
        self._host.hand_assignment(effect.partitions, self._called(g.AssignmentDone()))

    def _called(self, event: g.Event) -> Callable[[], None]:
        """What the host calls once the user's thread has run a callback."""
        self._callbacks_out += 1

        def done() -> None:
            self._callbacks_out -= 1
            self.feed(event)

        return done

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
        from ..protocol import error_for

        self._host.raise_in_poll(error_for(effect.error_code, effect.message))

    def _do_Left(self, effect: g.Left) -> None:
        self._counts = None
        if self._poll_watch is not None:
            self._poll_watch.cancel()
            self._poll_watch = None
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

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
        self._poll_watch = self._client.engine.loop.call_later(
            max(left_ms, 0) / 1000 + 0.01 if left_ms >= 0 else self._max_poll_interval_ms / 1000,
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
