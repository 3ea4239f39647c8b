"""Membership by the classic protocol, rebalancing eagerly: a pure state machine.

`handle(event, now_ms)` returns what is to be done, `next_deadline_ms()` says when Tick is due. The machine never waits: what takes
time is an effect, and its outcome an event.
Source: AbstractCoordinator and ConsumerCoordinator of Apache Kafka's Java client; KIP-62, KIP-345, KIP-394.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..errors import ProtocolError
from ..protocol import is_retriable
from ..types import TopicPartition
from .assignors import Assignor
from .messages import (
    AssignmentDone,
    AssignPartitions,
    CallAssigned,
    CallLost,
    CallRevoked,
    CommitBeforeRevoke,
    CoordinatorFound,
    CoordinatorLost,
    Effect,
    Event,
    FindCoordinator,
    HeartbeatAnswered,
    JoinAnswered,
    Leave,
    LeaveAnswered,
    Left,
    LossDone,
    NeedPartitionCounts,
    PartitionCounts,
    PollExpired,
    PollProgress,
    Raise,
    Rejoin,
    RequestFailed,
    RequestKind,
    RevocationDone,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SendSync,
    StopFetching,
    Subscribe,
    SyncAnswered,
    Tick,
    TopicsChanged,
)
from .protocol import (
    MemberSubscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from .states import HEARTBEATING, TRANSITIONS, State

_LOAD_IN_PROGRESS, _NOT_AVAILABLE, _NOT_COORDINATOR = 14, 15, 16
_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID, _REBALANCE_IN_PROGRESS = 22, 25, 27
_MEMBER_ID_REQUIRED, _FENCED_INSTANCE_ID = 79, 82
_INCONSISTENT_GROUP_PROTOCOL = 23
_LEAVE_TRIES = 3


class ClassicMember:
    """One membership. `member_id` is empty and `generation_id` -1 while there is none; `assignment` is what is owned now."""

    def __init__(
        self,
        *,
        group_id: str,
        group_instance_id: str | None,
        session_timeout_ms: int,
        rebalance_timeout_ms: int,
        heartbeat_interval_ms: int,
        retry_backoff_ms: int,
        retry_backoff_max_ms: int,
        assignors: Sequence[Assignor],
        rack_id: str | None = None,
        jitter: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """`jitter` gives numbers from 0 to 1: chance is the engine's, not the machine's."""
        self.group_id = group_id
        self.group_instance_id = group_instance_id
        self.state = State.UNSUBSCRIBED
        self.member_id = ""
        self.generation_id = -1
        self.protocol_name = ""
        self.is_leader = False
        self.assignment: tuple[TopicPartition, ...] = ()
        self._session_timeout_ms = session_timeout_ms
        self._rebalance_timeout_ms = rebalance_timeout_ms
        self._heartbeat_interval_ms = heartbeat_interval_ms
        self._retry_backoff_ms = retry_backoff_ms
        self._retry_backoff_max_ms = retry_backoff_max_ms
        self._assignors = tuple(assignors)
        self._rack_id = rack_id
        self._jitter = jitter
        self._topics: tuple[str, ...] = ()
        self._members: Mapping[str, MemberSubscription] = {}  # of the generation that this member leads
        self._coordinator_known = False
        self._finding = False
        self._heartbeat_in_flight = False
        self._next_heartbeat_ms = 0
        self._session_ends_ms = 0
        self._retry_at_ms: int | None = None
        self._failures = 0
        self._rejoin_wanted: str | None = None
        self._leave_tries = 0
        self._skip_assignment = False
        self._poll_expired = False  # while a join or sync is in flight: seen to when its answer is here
        self._cause: type = Tick
        self._out: list[Effect] = []

    # ------------------------------------------------------------ the machine's two questions

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take an event in and say what is to be done, in order."""
        self._out = []
        self._cause = type(event)
        _HANDLERS[type(event)](self, event, now_ms)
        if self.state is State.STABLE and self._rejoin_wanted is not None:
            self._cause = Rejoin
            self._begin_rejoin(now_ms)
        self._cause = Tick
        self._do_what_is_due(now_ms)
        return self._out

    def next_deadline_ms(self) -> int | None:
        """When Tick is due, later than the last handle(); None while only an event can change anything."""
        times = []
        if self._retry_at_ms is not None:
            times.append(self._retry_at_ms)
        if self._heartbeats_flow():
            if self._coordinator_known and not self._heartbeat_in_flight:
                times.append(self._next_heartbeat_ms)
            if self._coordinator_known:
                times.append(self._session_ends_ms)
        return min(times, default=None)

    # ------------------------------------------------------------ events

    def _on_subscribe(self, event: Subscribe, now_ms: int) -> None:
        changed = tuple(sorted(event.topics)) != self._topics
        self._topics = tuple(sorted(event.topics))
        if self.state is State.UNSUBSCRIBED:
            self._join(now_ms)
        elif changed:
            self._rejoin_wanted = "the subscription changed"

    def _on_coordinator_found(self, event: CoordinatorFound, now_ms: int) -> None:
        self._finding = False
        self._coordinator_known = True
        if self.state is State.FINDING:
            self._join(now_ms)
        elif self.state is State.LEAVING:
            self._send_leave("the coordinator moved")
        elif self._heartbeats_flow():
            self._next_heartbeat_ms = now_ms
            self._session_ends_ms = now_ms + self._session_timeout_ms

    def _on_coordinator_lost(self, event: CoordinatorLost, now_ms: int) -> None:
        self._finding = False
        self._coordinator_known = False
        if self.state is State.LEAVING:
            self._end()
        elif self.state is State.FINDING:
            self._back_off(now_ms)
        elif self._heartbeats_flow():
            self._retry_at_ms = now_ms + self._backoff_ms()

    def _on_join(self, event: JoinAnswered, now_ms: int) -> None:
        if self.state is not State.JOINING:
            return
        code = event.error_code
        if code == 0:
            self._joined(event)
        elif code == _MEMBER_ID_REQUIRED:
            self.member_id = event.member_id
            if not self._expire_late():
                self._join(now_ms)
        elif code == _UNKNOWN_MEMBER_ID:
            self._forget_membership()
            self._back_off(now_ms)
        else:
            self._join_failed(code, "joining", now_ms)

    def _joined(self, event: JoinAnswered) -> None:
        self._failures = 0
        self.member_id = event.member_id
        self.generation_id = event.generation_id
        self.protocol_name = event.protocol_name
        self.is_leader = event.leader_id == event.member_id
        if self._expire_late():
            return
        if not self.is_leader:
            self._sync(())
            return
        # With skip_assignment (a static leader is back, KIP-814) the coordinator keeps the assignment that it has. The counts are
        # still asked for, since it is this member that has to see them change.
        self._skip_assignment = event.skip_assignment
        try:
            self._members = {
                m.member_id: decode_subscription(m.metadata, m.group_instance_id) for m in event.members
            }
        except ProtocolError as error:
            self._fail(_INCONSISTENT_GROUP_PROTOCOL, f"leading group {self.group_id!r}: {error}")
            return
        self._go(State.COUNTING)
        topics = {topic for subscription in self._members.values() for topic in subscription.topics}
        self._out.append(NeedPartitionCounts(tuple(sorted(topics))))

    def _on_counts(self, event: PartitionCounts, now_ms: int) -> None:
        if self.state is not State.COUNTING or self._expire_late():
            return
        assignor = next((a for a in self._assignors if a.name == self.protocol_name), None)
        if assignor is None:
            self._fail(
                _INCONSISTENT_GROUP_PROTOCOL,
                f"group {self.group_id!r} chose the assignor {self.protocol_name!r}, which this member did not offer",
            )
            return
        members, self._members = self._members, {}
        assignment = {} if self._skip_assignment else assignor.assign(members, event.counts)
        self._sync(
            tuple((member, encode_assignment(partitions)) for member, partitions in assignment.items())
        )

    def _sync(self, assignments: tuple[tuple[str, bytes], ...]) -> None:
        self._go(State.SYNCING)
        self._out.append(
            SendSync(
                self.generation_id, self.member_id, self.group_instance_id, self.protocol_name, assignments
            )
        )

    def _on_sync(self, event: SyncAnswered, now_ms: int) -> None:
        if self.state is not State.SYNCING:
            return
        code = event.error_code
        if code == 0:
            if not self._expire_late():
                self._take(event, now_ms)
        elif code in (_REBALANCE_IN_PROGRESS, _ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID):
            if code != _REBALANCE_IN_PROGRESS:
                self._forget_membership(keep_id=code == _ILLEGAL_GENERATION)
            if not self._expire_late():
                self._join(now_ms)
        else:
            self._join_failed(code, "syncing", now_ms)

    def _take(self, event: SyncAnswered, now_ms: int) -> None:
        doing = f"taking the assignment of group {self.group_id!r}"
        if event.protocol_name and event.protocol_name != self.protocol_name:
            told = f"it is of the assignor {event.protocol_name!r}, and {self.protocol_name!r} was agreed on"
            self._fail(_INCONSISTENT_GROUP_PROTOCOL, f"{doing}: {told}")
            return
        try:
            assignment = decode_assignment(event.assignment)
        except ProtocolError as error:
            self._fail(_INCONSISTENT_GROUP_PROTOCOL, f"{doing}: {error}")
            return
        if not {tp.topic for tp in assignment} <= set(self._topics):
            # The subscription changed while the join was on its way, or a static member is back with other topics and was given
            # its predecessor's assignment without a rebalance (KIP-345). Source: ConsumerCoordinator.onJoinComplete.
            self._rejoin_wanted = "the assignment has topics that this member does not subscribe to"
            self._back_off(now_ms)
            return
        self.assignment = assignment
        self._go(State.ASSIGNING)
        self._next_heartbeat_ms = now_ms + self._heartbeat_interval_ms
        self._session_ends_ms = now_ms + self._session_timeout_ms
        self._out += [AssignPartitions(assignment), CallAssigned(assignment)]

    def _join_failed(self, code: int, doing: str, now_ms: int) -> None:
        if code in (_NOT_AVAILABLE, _NOT_COORDINATOR):
            self._coordinator_known = False
            self._back_off(now_ms)
        elif is_retriable(code) or code == _REBALANCE_IN_PROGRESS:
            self._back_off(now_ms)
        else:
            self._fail(code, f"{doing} group {self.group_id!r}")

    def _on_heartbeat(self, event: HeartbeatAnswered, now_ms: int) -> None:
        self._heartbeat_in_flight = False
        if event.generation_id != self.generation_id or not self._heartbeats_flow():
            return
        code = event.error_code
        if code in (0, _REBALANCE_IN_PROGRESS):
            self._failures = 0
            self._session_ends_ms = now_ms + self._session_timeout_ms
            if code and self.state in (State.ASSIGNING, State.STABLE):
                self._rejoin_wanted = "the group rebalances"
        elif code in (_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID):
            self._forget_membership(keep_id=code == _ILLEGAL_GENERATION)
            self._lose(now_ms)
        elif code in (_NOT_AVAILABLE, _NOT_COORDINATOR):
            self._lose_coordinator(now_ms)
        elif not is_retriable(code):
            self._forget_membership()
            self._fail(code, f"heartbeating in group {self.group_id!r}")

    def _on_request_failed(self, event: RequestFailed, now_ms: int) -> None:
        if event.kind is RequestKind.HEARTBEAT:
            self._heartbeat_in_flight = False
            if self._heartbeats_flow():
                self._lose_coordinator(now_ms)
        elif event.kind is RequestKind.LEAVE:
            self._on_leave(LeaveAnswered(_NOT_COORDINATOR), now_ms)
        elif self.state is (State.JOINING if event.kind is RequestKind.JOIN else State.SYNCING):
            self._coordinator_known = False
            self._back_off(now_ms)

    def _on_revocation_done(self, event: RevocationDone | LossDone, now_ms: int) -> None:
        if self.state is State.PREPARING:
            self.assignment = ()
            self._join(now_ms)
        elif self.state in (State.FAILED, State.FENCED):
            self.assignment = ()

    def _on_assignment_done(self, event: AssignmentDone, now_ms: int) -> None:
        if self.state is State.ASSIGNING:
            self._go(State.STABLE)

    def _on_topics_changed(self, event: TopicsChanged, now_ms: int) -> None:
        if self.is_leader and self.state not in (State.UNSUBSCRIBED, State.LEAVING):
            self._rejoin_wanted = "the partitions of a topic changed"

    def _on_rejoin(self, event: Rejoin, now_ms: int) -> None:
        if self.state not in (State.UNSUBSCRIBED, State.LEAVING):
            self._rejoin_wanted = event.reason

    def _on_poll_progress(self, event: PollProgress, now_ms: int) -> None:
        self._poll_expired = False
        if self.state is State.FENCED:
            self._out.append(Raise(_FENCED_INSTANCE_ID, f"polling in group {self.group_id!r}"))
        elif self.state in (State.EXPIRED, State.FAILED) and not self.assignment:
            self._join(now_ms)

    def _on_poll_expired(self, event: PollExpired, now_ms: int) -> None:
        if self.state in (State.JOINING, State.COUNTING, State.SYNCING):
            # The answer is waited for: given up here, it would come when the next join is in flight and be taken for its own.
            self._poll_expired = True
        elif self.state is State.PREPARING:
            self._leave_expired()  # the callback that runs in the next poll leads to the join
        elif self.state in (State.ASSIGNING, State.STABLE) and self.assignment:
            self._leave_expired()
            self._lose(now_ms)
        elif self.state in (State.ASSIGNING, State.STABLE, State.FINDING, State.BACKING_OFF):
            self._expire()

    def _expire_late(self) -> bool:
        """Whether the user had stopped polling while an answer was waited for, and the group is left now for that."""
        if self._poll_expired:
            self._poll_expired = False
            self._expire()
        return self.state is State.EXPIRED

    def _expire(self) -> None:
        self._leave_expired()
        self._retry_at_ms = None
        self._members = {}
        self._go(State.EXPIRED)

    def _leave_expired(self) -> None:
        """Tell the coordinator once, without waiting for its answer; a static member keeps its place (KIP-345)."""
        if self.member_id and self.group_instance_id is None and self._coordinator_known:
            self._out.append(SendLeave(self.member_id, None, "max.poll.interval.ms passed without a poll"))
        self._forget_membership()

    def _on_leave_asked(self, event: Leave, now_ms: int) -> None:
        if self.state is State.LEAVING:
            return
        self.assignment = ()
        self._poll_expired = False
        self._rejoin_wanted = None
        self._retry_at_ms = None
        if self.state is State.UNSUBSCRIBED or not self.member_id or self.group_instance_id is not None:
            self._end()  # a static member keeps its place for session.timeout.ms (KIP-345)
        else:
            self._leave_tries = _LEAVE_TRIES
            self._go(State.LEAVING)
            if self._coordinator_known:
                self._send_leave("the consumer closes or unsubscribes")
            else:
                self._find()

    def _send_leave(self, reason: str) -> None:
        self._leave_tries -= 1
        self._out.append(SendLeave(self.member_id, self.group_instance_id, reason))

    def _on_leave(self, event: LeaveAnswered, now_ms: int) -> None:
        if self.state is not State.LEAVING:
            return
        if (
            event.error_code in (_LOAD_IN_PROGRESS, _NOT_AVAILABLE, _NOT_COORDINATOR)
            and self._leave_tries > 0
        ):
            self._coordinator_known = False
            self._find()
        else:
            self._end()

    def _on_tick(self, event: Tick, now_ms: int) -> None:
        """What is due is seen to after every event."""

    def _do_what_is_due(self, now_ms: int) -> None:
        if self._retry_at_ms is not None and now_ms >= self._retry_at_ms:
            self._retry_at_ms = None
            if self.state is State.BACKING_OFF:
                self._join(now_ms)
            elif self._heartbeats_flow() and not self._coordinator_known:
                self._find()
        if self._heartbeats_flow() and self._coordinator_known and now_ms >= self._session_ends_ms:
            # No good answer for a whole session: this coordinator may be gone. The partitions stay: a new coordinator starts
            # the session anew, and says so itself if this member is no longer one.
            self._lose_coordinator(now_ms)
        self._keep_alive(now_ms)

    # ------------------------------------------------------------ steps

    def _go(self, state: State) -> None:
        if state not in TRANSITIONS[self.state].get(self._cause, ()):
            raise AssertionError(
                f"group {self.group_id!r}: {self._cause.__name__} does not lead from {self.state.name} to {state.name}"
            )
        self.state = state

    def _join(self, now_ms: int) -> None:
        self._retry_at_ms = None
        if not self._coordinator_known:
            self._go(State.FINDING)
            self._find()
            return
        self._go(State.JOINING)
        reason = self._rejoin_wanted or "the member joins"
        self._rejoin_wanted = None
        self._out.append(
            SendJoin(
                self._session_timeout_ms,
                self._rebalance_timeout_ms,
                self.member_id,
                self.group_instance_id,
                tuple((a.name, self._metadata(a)) for a in self._assignors),
                reason,
            )
        )

    def _metadata(self, assignor: Assignor) -> bytes:
        """Eager rebalancing owns nothing while it joins; the generation tells sticky assignors how old a claim is (KIP-792)."""
        return encode_subscription(
            MemberSubscription(
                self._topics,
                user_data=assignor.user_data(self._topics),
                generation_id=self.generation_id,
                rack_id=self._rack_id,
            )
        )

    def _begin_rejoin(self, now_ms: int) -> None:
        if not self.assignment:
            self._join(now_ms)
            return
        self._go(State.PREPARING)
        partitions = self.assignment
        self._out += [StopFetching(partitions), CommitBeforeRevoke(partitions), CallRevoked(partitions)]

    def _lose(self, now_ms: int) -> None:
        """The membership is gone, and with it the partitions; the user hears of it in the next poll, then this member joins."""
        if self.state is State.PREPARING:
            return  # the user hears of a revocation already, whose commit the coordinator will refuse
        if not self.assignment:
            self._join(now_ms)
            return
        self._go(State.PREPARING)
        self._out += [StopFetching(self.assignment), CallLost(self.assignment)]

    def _fail(self, code: int, message: str) -> None:
        if self.assignment and self.state is not State.PREPARING:
            self._out += [StopFetching(self.assignment), CallLost(self.assignment)]
        self._retry_at_ms = None
        self._poll_expired = False
        self._members = {}
        self._go(State.FENCED if code == _FENCED_INSTANCE_ID else State.FAILED)
        self._out.append(Raise(code, message))

    def _forget_membership(self, *, keep_id: bool = False) -> None:
        if not keep_id:
            self.member_id = ""
        self.generation_id = -1

    def _lose_coordinator(self, now_ms: int) -> None:
        """Search anew after a backoff, for the others may name the one that is gone until they have noticed it themselves."""
        self._coordinator_known = False
        if not self._finding:
            self._retry_at_ms = now_ms + self._backoff_ms()

    def _find(self) -> None:
        if not self._finding:
            self._finding = True
            self._out.append(FindCoordinator())

    def _back_off(self, now_ms: int) -> None:
        if self._expire_late():
            return
        self._go(State.BACKING_OFF)
        self._retry_at_ms = now_ms + self._backoff_ms()

    def _backoff_ms(self) -> int:
        delay = min(self._retry_backoff_max_ms, self._retry_backoff_ms * 2 ** min(self._failures, 20))
        self._failures += 1
        return max(1, int(delay * (0.8 + 0.4 * self._jitter())))

    def _end(self) -> None:
        self._forget_membership()
        self._topics = ()
        if self.state is not State.UNSUBSCRIBED:
            self._go(State.UNSUBSCRIBED)
        self._out.append(Left())

    def _heartbeats_flow(self) -> bool:
        return self.state in HEARTBEATING and self.generation_id >= 0

    def _keep_alive(self, now_ms: int) -> None:
        """One heartbeat in flight at a time, every interval."""
        if (
            self._heartbeats_flow()
            and self._coordinator_known
            and not self._heartbeat_in_flight
            and now_ms >= self._next_heartbeat_ms
        ):
            self._heartbeat_in_flight = True
            self._next_heartbeat_ms = now_ms + self._heartbeat_interval_ms
            self._out.append(SendHeartbeat(self.generation_id, self.member_id, self.group_instance_id))


_HANDLERS: Final[Mapping[type, Callable[..., None]]] = {
    Subscribe: ClassicMember._on_subscribe,
    CoordinatorFound: ClassicMember._on_coordinator_found,
    CoordinatorLost: ClassicMember._on_coordinator_lost,
    JoinAnswered: ClassicMember._on_join,
    SyncAnswered: ClassicMember._on_sync,
    HeartbeatAnswered: ClassicMember._on_heartbeat,
    LeaveAnswered: ClassicMember._on_leave,
    RequestFailed: ClassicMember._on_request_failed,
    RevocationDone: ClassicMember._on_revocation_done,
    LossDone: ClassicMember._on_revocation_done,
    AssignmentDone: ClassicMember._on_assignment_done,
    PartitionCounts: ClassicMember._on_counts,
    TopicsChanged: ClassicMember._on_topics_changed,
    PollProgress: ClassicMember._on_poll_progress,
    PollExpired: ClassicMember._on_poll_expired,
    Rejoin: ClassicMember._on_rejoin,
    Leave: ClassicMember._on_leave_asked,
    Tick: ClassicMember._on_tick,
}
