"""Membership by the classic protocol, eager or cooperative: a pure state machine.

`handle(event, now_ms)` returns what is to be done, `next_deadline_ms()` says when Tick is due. The machine never waits: what takes
time is an effect, and its outcome an event.
Eager: everything is given back before a join. Cooperative, if all assignors can do it (KIP-429): partitions are kept and read through a
join, and only those that the new assignment takes away are revoked, after which another join gives them to others.
Source: AbstractCoordinator and ConsumerCoordinator of Apache Kafka's Java client; KIP-62, KIP-345, KIP-394, KIP-429.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..errors import ProtocolError
from ..protocol import is_retriable
from ..types import TopicPartition
from . import messages as g
from .assignors import Assignor
from .backoff import Backoff
from .early import EarlyHeartbeats
from .protocol import decode_assignment
from .states import HEARTBEATING, TRANSITIONS, State
from .static_place import StaticPlace
from .strategy import Strategy

_LOAD_IN_PROGRESS, _NOT_AVAILABLE, _NOT_COORDINATOR = 14, 15, 16
_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID, _REBALANCE_IN_PROGRESS = 22, 25, 27
_MEMBER_ID_REQUIRED, _FENCED_INSTANCE_ID = 79, 82
_INCONSISTENT_GROUP_PROTOCOL = 23
_LEAVE_TRIES = 12  # some ten seconds; close() gives up earlier if its time is over
_MEMBER_ID_IN_MS = 1_000  # how long leaving waits for the member id that a join on its way brings
_POLLED_FOR = frozenset(State) - {
    State.UNSUBSCRIBED,
    State.EXPIRED,
    State.LEAVING,
    State.FAILED,
    State.FENCED,
}


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
        early_heartbeats: bool = False,
    ) -> None:
        """`jitter` gives numbers from 0 to 1: chance is the engine's, not the machine's.

        `early_heartbeats`: beside the regular ones, where partitions are on their way (early.py)."""
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
        self._strategy = Strategy(assignors, rack_id)
        self._backoff = Backoff(retry_backoff_ms, retry_backoff_max_ms, jitter)
        self._topics: tuple[str, ...] = ()
        self._coordinator_known = False
        self._finding = False
        self._beating: tuple[int, str] | None = None  # whom heartbeats are for: generation, member id
        self._beat_at_once = False
        self._early = EarlyHeartbeats(early_heartbeats)
        self._target: tuple[TopicPartition, ...] = ()  # what REVOKING leads to
        self._taking: deque[frozenset[TopicPartition]] = deque()  # what callbacks that are not done take away
        self._retry_at_ms: int | None = None
        self._rejoin_wanted: str | None = None
        self._place = StaticPlace()
        self._leave_tries = 0
        self._poll_expired = False  # while a join or sync is in flight: seen to when its answer is here
        self._cause: type = g.Tick
        self._out: list[g.Effect] = []

    @property
    def rebalancing(self) -> bool:
        """Whether the generation is about to change, without the user having to do anything for it."""
        return self.state in (State.JOINING, State.COUNTING, State.SYNCING, State.FINDING, State.BACKING_OFF)

    # ------------------------------------------------------------ the machine's two questions

    def handle(self, event: g.Event, now_ms: int) -> list[g.Effect]:
        """Take an event in and say what is to be done, in order."""
        self._out = []
        self._cause = type(event)
        _HANDLERS[type(event)](self, event, now_ms)
        if self.state is State.STABLE and self._rejoin_wanted is not None:
            self._cause = g.Rejoin
            self._begin_rejoin(now_ms)
        self._cause = g.Tick
        self._do_what_is_due(now_ms)
        self._keep_heartbeats()
        return self._out

    def next_deadline_ms(self) -> int | None:
        """When Tick is due, later than the last handle(); None while only an event can change anything."""
        return min((at for at in (self._retry_at_ms, self._early.at_ms) if at is not None), default=None)

    # ------------------------------------------------------------ events

    def _on_subscribe(self, event: g.Subscribe, now_ms: int) -> None:
        changed = tuple(sorted(event.topics)) != self._topics
        self._topics = tuple(sorted(event.topics))
        if self.state is State.UNSUBSCRIBED:
            self._join(now_ms)
        elif changed:
            self._rejoin_wanted = "the subscription changed"

    def _on_coordinator_found(self, event: g.CoordinatorFound, now_ms: int) -> None:
        self._finding = False
        self._coordinator_known = True
        if self.state is State.FINDING:
            self._join(now_ms)
        elif self.state is State.LEAVING:
            self._send_leave("the coordinator moved")
        elif self._heartbeats_flow():
            self._beat_at_once = True  # the session may be near its end

    def _on_coordinator_lost(self, event: g.CoordinatorLost, now_ms: int) -> None:
        self._finding = False
        self._coordinator_known = False
        if self.state is State.LEAVING:
            self._end()
        elif self.state is State.FINDING:
            self._back_off(now_ms)
        elif self._heartbeats_flow():
            self._retry_at_ms = now_ms + self._backoff.next_ms()

    def _on_join(self, event: g.JoinAnswered, now_ms: int) -> None:
        if self.state is State.LEAVING and not self.member_id:
            self._leave_as(event.member_id if event.error_code in (0, _MEMBER_ID_REQUIRED) else "")
            return
        if self.state is not State.JOINING:
            return
        code = event.error_code
        if code == 0:
            self._joined(event, now_ms)
        elif code == _MEMBER_ID_REQUIRED:
            self.member_id = event.member_id
            if not self._expire_late(now_ms):
                self._join(now_ms)
        elif code == _UNKNOWN_MEMBER_ID:
            self._forget_membership()
            self._join_anew(now_ms)
        else:
            self._join_failed(code, "joining", now_ms)

    def _joined(self, event: g.JoinAnswered, now_ms: int) -> None:
        self._backoff.reset()
        # A static member keeps its place when a generation is formed without it: what it owned then is another's by now. Who leads is
        # said by classic coordinators; in a group that migrates (KIP-848) epochs skip, and the coordinator knows what each owns.
        missed = event.leader_id != "" and 0 <= self.generation_id < event.generation_id - 1
        self.member_id = event.member_id
        self.generation_id = event.generation_id
        if missed and self.assignment:
            self._forget_membership(keep_id=True)
            if not self._expire_late(now_ms):
                self._lose(now_ms)
            return
        still_wanted = self._place.joined(event.generation_id)
        self._rejoin_wanted = self._rejoin_wanted or still_wanted
        self.protocol_name = event.protocol_name
        self.is_leader = event.leader_id == event.member_id
        if self._expire_late(now_ms):
            return
        if not self.is_leader:
            self._sync(())
            return
        try:
            topics = self._strategy.lead(event)
        except ProtocolError as error:
            self._fail(_INCONSISTENT_GROUP_PROTOCOL, f"leading group {self.group_id!r}: {error}")
            return
        self._go(State.COUNTING)
        self._out.append(g.NeedPartitionCounts(topics))

    def _on_counts(self, event: g.PartitionCounts, now_ms: int) -> None:
        if self.state is not State.COUNTING or self._expire_late(now_ms):
            return
        try:
            self._sync(self._strategy.divide(self.protocol_name, event))
        except ProtocolError as error:
            self._fail(_INCONSISTENT_GROUP_PROTOCOL, f"leading group {self.group_id!r}: {error}")

    def _sync(self, assignments: tuple[tuple[str, bytes], ...]) -> None:
        self._go(State.SYNCING)
        self._out.append(
            g.SendSync(
                self.generation_id, self.member_id, self.group_instance_id, self.protocol_name, assignments
            )
        )

    def _on_sync(self, event: g.SyncAnswered, now_ms: int) -> None:
        if self.state is not State.SYNCING:
            return
        code = event.error_code
        if code == 0:
            if not self._expire_late(now_ms):
                self._take(event, now_ms)
        elif code in (_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID):
            self._forget_membership(keep_id=code == _ILLEGAL_GENERATION)
            if not self._expire_late(now_ms):
                self._lose(now_ms)
        elif code == _REBALANCE_IN_PROGRESS:
            if not self._expire_late(now_ms):
                self._join(now_ms)
        else:
            self._join_failed(code, "syncing", now_ms)

    def _take(self, event: g.SyncAnswered, now_ms: int) -> None:
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
        self._strategy.took(self.protocol_name, assignment, self.generation_id)
        self._target = assignment
        if self._strategy.cooperative:
            self._early.begin(now_ms, self._heartbeat_interval_ms, self._heartbeat_interval_ms)
        kept = frozenset(assignment)
        if revoked := tuple(tp for tp in self.assignment if tp not in kept):
            # Others are to have these, but only after this member has let them go: a second rebalance gives them away.
            self._rejoin_wanted = f"{len(revoked)} partitions were revoked for others"
            self._revoke(revoked, State.REVOKING)
        else:
            self._give()

    def _give(self) -> None:
        owned, self.assignment, self._target = frozenset(self.assignment), self._target, ()
        self._go(State.ASSIGNING)
        added = tuple(tp for tp in self.assignment if tp not in owned)
        self._out += [g.AssignPartitions(self.assignment), g.CallAssigned(added)]

    def _join_failed(self, code: int, doing: str, now_ms: int) -> None:
        if code in (_NOT_AVAILABLE, _NOT_COORDINATOR):
            self._coordinator_known = False
            self._back_off(now_ms)
        elif is_retriable(code) or code == _REBALANCE_IN_PROGRESS:
            self._back_off(now_ms)
        else:
            self._fail(code, f"{doing} group {self.group_id!r}")

    def _on_heartbeat(self, event: g.HeartbeatAnswered, now_ms: int) -> None:
        if event.generation_id != self.generation_id or not self._heartbeats_flow():
            return
        code = event.error_code
        if code in (0, _REBALANCE_IN_PROGRESS):
            self._backoff.reset()
            if code and self.state is not State.PREPARING:
                self._rejoin_wanted = "the group rebalances"
        elif code in (_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID):
            self._forget_membership(keep_id=code == _ILLEGAL_GENERATION)
            self._lose(now_ms)
        elif code in (_NOT_AVAILABLE, _NOT_COORDINATOR):
            self._lose_coordinator(now_ms)
        elif not is_retriable(code):
            self._forget_membership()
            self._fail(code, f"heartbeating in group {self.group_id!r}")

    def _on_request_failed(self, event: g.RequestFailed, now_ms: int) -> None:
        if event.kind is g.RequestKind.HEARTBEAT:
            if self._heartbeats_flow():
                # No good answer for a while: this coordinator may be gone. The partitions stay: a new coordinator starts the
                # session anew, and says so itself if this member is no longer one.
                self._lose_coordinator(now_ms)
        elif self.state is State.LEAVING and not self.member_id:
            self._leave_as("")
        elif event.kind is g.RequestKind.LEAVE:
            self._on_leave(g.LeaveAnswered(_NOT_COORDINATOR), now_ms)
        elif self.state is (State.JOINING if event.kind is g.RequestKind.JOIN else State.SYNCING):
            self._coordinator_known = False
            self._back_off(now_ms)

    def _on_revocation_done(self, event: g.RevocationDone | g.LossDone, now_ms: int) -> None:
        if not self._taking:
            return
        gone = self._taking.popleft()
        self.assignment = tuple(tp for tp in self.assignment if tp not in gone)
        if self._taking:
            return
        if self.state is State.PREPARING:
            self._join(now_ms)
        elif self.state is State.REVOKING:
            self._give()

    def _on_assignment_done(self, event: g.AssignmentDone, now_ms: int) -> None:
        if self.state is State.ASSIGNING:
            self._go(State.STABLE)

    def _on_topics_changed(self, event: g.TopicsChanged, now_ms: int) -> None:
        if self.is_leader and self.state not in (State.UNSUBSCRIBED, State.LEAVING):
            self._rejoin_wanted = "the partitions of a topic changed"

    def _on_rejoin(self, event: g.Rejoin, now_ms: int) -> None:
        if self.state not in (State.UNSUBSCRIBED, State.LEAVING):
            self._rejoin_wanted = event.reason

    def _on_poll_progress(self, event: g.PollProgress, now_ms: int) -> None:
        self._poll_expired = False
        if self.state is State.FENCED:
            self._out.append(g.Raise(_FENCED_INSTANCE_ID, f"polling in group {self.group_id!r}"))
        elif self.state in (State.EXPIRED, State.FAILED) and not self.assignment:
            self._join(now_ms)

    def _on_poll_expired(self, event: g.PollExpired, now_ms: int) -> None:
        if self.state in (State.JOINING, State.COUNTING, State.SYNCING):
            # The answer is waited for: given up here, it would come when the next join is in flight and be taken for its own.
            self._poll_expired = True
        elif self.state in _POLLED_FOR:
            self._expire(now_ms)

    def _expire_late(self, now_ms: int) -> bool:
        """Whether the user had stopped polling while an answer was waited for, and the group is left now for that."""
        if not self._poll_expired:
            return False
        self._poll_expired = False
        self._expire(now_ms)
        return True

    def _expire(self, now_ms: int) -> None:
        """Leave; the next poll joins again, after it has heard of what is lost."""
        self._leave_expired()
        self._retry_at_ms = None
        self._strategy.forget()
        if self.assignment:
            self._lose(now_ms)
        else:
            self._go(State.EXPIRED)

    def _leave_expired(self) -> None:
        """Tell the coordinator once, without waiting for its answer; a static member keeps its place (KIP-345)."""
        if self.member_id and self.group_instance_id is None and self._coordinator_known:
            self._out.append(g.SendLeave(self.member_id, None, "max.poll.interval.ms passed without a poll"))
        self._forget_membership()

    def _on_leave_asked(self, event: g.Leave, now_ms: int) -> None:
        if self.state is State.LEAVING:
            return
        self.assignment = ()
        self._taking.clear()
        self._poll_expired = False
        self._rejoin_wanted = None
        self._place.left()
        self._retry_at_ms = None
        leaves = self.group_instance_id is None if event.leave_group is None else event.leave_group
        if leaves and not self.member_id and self.state is State.JOINING:
            # The answer is to bring a member id, for whose join the coordinator would wait until the session's timeout (KIP-394). Brokers
            # without that hold the answer until all have joined: they are not waited for.
            self._leave_tries = _LEAVE_TRIES
            self._go(State.LEAVING)
            self._retry_at_ms = now_ms + _MEMBER_ID_IN_MS
        elif self.state is State.UNSUBSCRIBED or not self.member_id or not leaves:
            self._end()
        else:
            self._leave_tries = _LEAVE_TRIES
            self._go(State.LEAVING)
            if self._coordinator_known:
                self._send_leave("the consumer closes or unsubscribes")
            else:
                self._find()

    def _leave_as(self, member_id: str) -> None:
        """The join that was on its way is answered; empty: it has made no member."""
        self._retry_at_ms = None
        if member_id:
            self.member_id = member_id
            self._send_leave("the consumer closes or unsubscribes")
        else:
            self._end()

    def _send_leave(self, reason: str) -> None:
        self._leave_tries -= 1
        self._out.append(g.SendLeave(self.member_id, self.group_instance_id, reason))

    def _on_leave(self, event: g.LeaveAnswered, now_ms: int) -> None:
        if self.state is not State.LEAVING:
            return
        if (
            event.error_code in (_LOAD_IN_PROGRESS, _NOT_AVAILABLE, _NOT_COORDINATOR)
            and self._leave_tries > 0
        ):
            # Until the others notice that a coordinator is gone they name it again; tries one upon the other would be over by then.
            self._coordinator_known = False
            self._retry_at_ms = now_ms + self._backoff.next_ms()
        else:
            self._end()

    def _on_tick(self, event: g.Tick, now_ms: int) -> None:
        """What is due is seen to after every event."""

    def _do_what_is_due(self, now_ms: int) -> None:
        self._beat_early(now_ms)
        if self._retry_at_ms is not None and now_ms >= self._retry_at_ms:
            self._retry_at_ms = None
            if self.state is State.BACKING_OFF:
                self._join(now_ms)
            elif self.state is State.LEAVING and not self.member_id:
                self._end()
            elif not self._coordinator_known and (self._heartbeats_flow() or self.state is State.LEAVING):
                self._find()

    def _beat_early(self, now_ms: int) -> None:
        """Where a cooperative rebalance moves partitions a second one follows at once (KIP-429), and only who gave some away knows. All
        others, the one who waits for them too, would hear of it a heartbeat.interval.ms later."""
        if not (self._heartbeats_flow() and self._coordinator_known):
            self._early.end()
        elif self._early.take(now_ms):
            self._beating, self._beat_at_once = None, True

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
        self._place.joins(self.member_id, self._rejoin_wanted)
        self._rejoin_wanted = None
        self._out.append(
            g.SendJoin(
                self._session_timeout_ms,
                self._rebalance_timeout_ms,
                self.member_id,
                self.group_instance_id,
                self._strategy.offers(self._topics, self.assignment, self.generation_id),
                reason,
            )
        )

    def _begin_rejoin(self, now_ms: int) -> None:
        going = self.assignment
        if self._strategy.cooperative:
            going = tuple(tp for tp in going if tp.topic not in self._topics)
        if going:
            self._revoke(going, State.PREPARING)
        else:
            self._join(now_ms)

    def _revoke(self, partitions: tuple[TopicPartition, ...], state: State) -> None:
        self._go(state)
        self._taking.append(frozenset(partitions))
        self._out += [g.StopFetching(partitions), g.CommitBeforeRevoke(partitions), g.CallRevoked(partitions)]

    def _lose(self, now_ms: int) -> None:
        """The membership is gone, and with it the partitions; the user hears of it in the next poll, then this member joins.

        Of what is being revoked the user hears already; the coordinator will refuse a commit of it."""
        self._tell_loss()
        self._target = ()
        if not self._taking:
            self._join(now_ms)
        elif self.state is not State.PREPARING:
            self._go(State.PREPARING)

    def _tell_loss(self) -> None:
        taken = frozenset().union(*self._taking)
        if rest := tuple(tp for tp in self.assignment if tp not in taken):
            self._taking.append(frozenset(rest))
            self._out += [g.StopFetching(rest), g.CallLost(rest)]
        static = self.group_instance_id is not None
        if self._strategy.cooperative and static and not self.member_id and self.assignment:
            self._place.lost()

    def _join_anew(self, now_ms: int) -> None:
        """The coordinator does not know this member: after a backoff, unless a callback comes between."""
        if self.assignment:
            if not self._expire_late(now_ms):
                self._lose(now_ms)
        else:
            self._back_off(now_ms)

    def _fail(self, code: int, message: str) -> None:
        self._tell_loss()
        self._target = ()
        self._retry_at_ms = None
        self._poll_expired = False
        self._strategy.forget()
        self._go(State.FENCED if code == _FENCED_INSTANCE_ID else State.FAILED)
        self._out.append(g.Raise(code, message))

    def _forget_membership(self, *, keep_id: bool = False) -> None:
        if not keep_id:
            self.member_id = ""
        self.generation_id = -1

    def _lose_coordinator(self, now_ms: int) -> None:
        """Search anew after a backoff, for the others may name the one that is gone until they have noticed it themselves."""
        self._coordinator_known = False
        if not self._finding:
            self._retry_at_ms = now_ms + self._backoff.next_ms()

    def _find(self) -> None:
        if not self._finding:
            self._finding = True
            self._out.append(g.FindCoordinator())

    def _back_off(self, now_ms: int) -> None:
        if self._expire_late(now_ms):
            return
        self._go(State.BACKING_OFF)
        self._retry_at_ms = now_ms + self._backoff.next_ms()

    def _end(self) -> None:
        self._forget_membership()
        self._topics = ()
        self._target = ()
        if self.state is not State.UNSUBSCRIBED:
            self._go(State.UNSUBSCRIBED)
        self._out.append(g.Left())

    def _heartbeats_flow(self) -> bool:
        return self.state in HEARTBEATING and self.generation_id >= 0

    def _keep_heartbeats(self) -> None:
        """Heartbeats are repeated by the connection; this says for whom, and when to stop.

        They stop before a join is sent: the coordinator answers in order, so one sent behind the join would wait with it.
        """
        flow = self._heartbeats_flow() and self._coordinator_known
        wanted = (self.generation_id, self.member_id) if flow else None
        at_once, self._beat_at_once = self._beat_at_once, False
        if wanted == self._beating:
            return
        self._beating = wanted
        if wanted is None:
            self._out.insert(0, g.StopHeartbeats())
        else:
            self._out.append(
                g.KeepHeartbeating(*wanted, self.group_instance_id, self._heartbeat_interval_ms, at_once)
            )


_HANDLERS: Final[Mapping[type, Callable[..., None]]] = {
    g.Subscribe: ClassicMember._on_subscribe,
    g.CoordinatorFound: ClassicMember._on_coordinator_found,
    g.CoordinatorLost: ClassicMember._on_coordinator_lost,
    g.JoinAnswered: ClassicMember._on_join,
    g.SyncAnswered: ClassicMember._on_sync,
    g.HeartbeatAnswered: ClassicMember._on_heartbeat,
    g.LeaveAnswered: ClassicMember._on_leave,
    g.RequestFailed: ClassicMember._on_request_failed,
    g.RevocationDone: ClassicMember._on_revocation_done,
    g.LossDone: ClassicMember._on_revocation_done,
    g.AssignmentDone: ClassicMember._on_assignment_done,
    g.PartitionCounts: ClassicMember._on_counts,
    g.TopicsChanged: ClassicMember._on_topics_changed,
    g.PollProgress: ClassicMember._on_poll_progress,
    g.PollExpired: ClassicMember._on_poll_expired,
    g.Rejoin: ClassicMember._on_rejoin,
    g.Leave: ClassicMember._on_leave_asked,
    g.Tick: ClassicMember._on_tick,
}
