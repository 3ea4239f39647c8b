"""Membership by the consumer protocol (KIP-848): a pure state machine.

The coordinator assigns; a member reconciles what it owns with its target assignment, step by step, and says when it is done. All goes by
heartbeats. This machine sends one itself where there is news (a join, another subscription, a reconciled assignment, a leave); in between
the connection repeats a plain one without it.
Sources: KIP-848, KIP-1082 (the client makes the member id), KIP-1092 (leaving); Kafka's GroupMetadataManager for what a coordinator
accepts; AbstractMembershipManager and ConsumerHeartbeatRequestManager of its Java client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from ..protocol import is_retriable
from ..types import TopicPartition
from . import consumer_messages as c
from . import messages as g
from .backoff import Backoff
from .consumer_assignment import Reconciliation, TopicIdPartition
from .consumer_heartbeat import (
    LEAVE,
    LEAVE_FOR_NOW,
    UNRELEASED_FOR_MS,
    Heartbeats,
    OpenRequests,
    Request,
    told_of,
)
from .consumer_states import HEARTBEATING, TRANSITIONS, ConsumerState
from .early import EarlyHeartbeats

_LOAD_IN_PROGRESS, _NOT_AVAILABLE, _NOT_COORDINATOR, _UNKNOWN_MEMBER_ID = 14, 15, 16, 25
_TOPIC_AUTHORIZATION_FAILED, _GROUP_ID_NOT_FOUND = 29, 69
_FENCED_INSTANCE_ID, _FENCED_MEMBER_EPOCH, _UNRELEASED_INSTANCE_ID = 82, 110, 111
_MOVED: Final = (_NOT_AVAILABLE, _NOT_COORDINATOR)
_GONE: Final = (_UNKNOWN_MEMBER_ID, _GROUP_ID_NOT_FOUND)  # a group that is no more has no members
_LEFT: Final = (0, _FENCED_INSTANCE_ID, *_GONE)  # to a leave: nothing is held under this member's id

_LEAVE_TRIES = 12

_S = ConsumerState
_GIVING_UP: Final = frozenset({_S.LOSING, _S.EXPIRED, _S.FAILED, _S.FENCED})


class ConsumerMember:
    """One membership. `member_id` stays the same throughout; `generation_id`, the member epoch, is -1 while there is none."""

    def __init__(
        self,
        *,
        group_id: str,
        group_instance_id: str | None,
        rack_id: str | None,
        rebalance_timeout_ms: int,
        retry_backoff_ms: int,
        retry_backoff_max_ms: int,
        server_assignor: str | None,
        member_id: str,
        jitter: Callable[[], float] = lambda: 0.5,
        early_heartbeats: bool = False,
    ) -> None:
        """`jitter` gives numbers from 0 to 1, `member_id` a fresh one: chance is the engine's, not the machine's.

        `early_heartbeats`: beside the regular ones, where partitions are on their way (early.py)."""
        self.group_id = group_id
        self.group_instance_id = group_instance_id
        self.member_id = member_id
        self.state = _S.UNSUBSCRIBED
        self._heartbeats = Heartbeats(
            member_id, group_instance_id, rack_id, rebalance_timeout_ms, server_assignor
        )
        # the membership
        self._epoch = -1
        self._interval_ms = (
            5_000  # until the coordinator says; group.consumer.heartbeat.interval.ms by default
        )
        self._held = False  # the coordinator may have a membership under this member id
        self._held_before_join = False
        self._partitions = Reconciliation()
        self._first = True  # no assignment was taken since the join
        self._reduced = False  # by a revocation, and the user was not told yet what is left
        # what is open
        self._open = OpenRequests()
        self._revoked_untold = False
        self._heartbeats_rest = False  # until the open request is answered: it may move the epoch
        self._awaited: type | None = None  # the end of the one callback that runs
        self._taken: frozenset[TopicIdPartition] = frozenset()  # by the revocation that runs
        self._coordinator_known = False
        self._finding = False
        self._repeated: c.RepeatHeartbeat | None = None
        # time
        self._retry_at_ms: int | None = None
        self._resolve_at_ms: int | None = None
        self._early = EarlyHeartbeats(early_heartbeats)
        self._backoff = Backoff(retry_backoff_ms, retry_backoff_max_ms, jitter)
        self._resolve_backoff = Backoff(retry_backoff_ms, retry_backoff_max_ms, jitter)
        self._unreleased_since_ms: int | None = None
        self._polled = False  # since the poll interval passed
        self._leave_tries = 0
        self._leave_epoch = LEAVE
        self._cause: type = g.Tick
        self._out: list[c.ConsumerEffect] = []

    @property
    def generation_id(self) -> int:
        """The member epoch, for commits; -1 while there is none."""
        return self._epoch

    @property
    def assignment(self) -> tuple[TopicPartition, ...]:
        """What is owned now: a partition that is taken away is owned until its callback has returned."""
        return self._partitions.partitions()

    # ------------------------------------------------------------ the machine's two questions

    def handle(self, event: c.ConsumerEvent, now_ms: int) -> list[c.ConsumerEffect]:
        """Take an event in and say what is to be done, in order."""
        self._out = []
        self._cause = type(event)
        _HANDLERS[type(event)](self, event, now_ms)
        self._settle(now_ms)
        self._cause = g.Tick
        self._do_what_is_due(now_ms)
        self._tell_news()
        self._keep_heartbeats()
        return self._out

    def next_deadline_ms(self) -> int | None:
        """When Tick is due, later than the last handle(); None while only an event can change anything."""
        times_ms = (self._retry_at_ms, self._resolve_at_ms, self._early.at_ms)
        return min((at for at in times_ms if at is not None), default=None)

    # ------------------------------------------------------------ events: the subscription and the coordinator

    def _on_subscribe(self, event: g.Subscribe | c.SubscribeRegex, now_ms: int) -> None:
        beats, before = self._heartbeats, (self._heartbeats.topics, self._heartbeats.pattern)
        beats.topics = tuple(sorted(set(event.topics))) if isinstance(event, g.Subscribe) else ()
        beats.pattern = event.pattern if isinstance(event, c.SubscribeRegex) else None
        if self.state is _S.UNSUBSCRIBED:
            if beats.subscribed:
                self._join(now_ms)
        elif before != (beats.topics, beats.pattern):
            beats.subscription_due = True

    def _on_coordinator_found(self, event: g.CoordinatorFound, now_ms: int) -> None:
        self._finding = False
        self._coordinator_known = True
        if self.state is _S.FINDING:
            self._join(now_ms)
        elif self.state is _S.LEAVING:
            self._retry_at_ms = None
            self._send_leave(self._leave_epoch)
        elif self._is_member():
            self._heartbeats.all_due = True  # nobody knows what the one before has heard
            self._retry_at_ms = None

    def _on_coordinator_lost(self, event: g.CoordinatorLost, now_ms: int) -> None:
        self._finding = False
        self._coordinator_known = False
        if self.state is _S.LEAVING:
            self._end()
        elif self.state is _S.FINDING:
            self._back_off(now_ms)
        elif self._is_member():
            self._retry_at_ms = now_ms + self._backoff.next_ms()

    # ------------------------------------------------------------ events: answers

    def _on_answer(self, event: c.ConsumerHeartbeatAnswered, now_ms: int) -> None:
        answered = None if event.repeated else self._open.close()
        if event.repeated and self._repeated is not None and not event.error_code:
            # The connection has taken the epoch already. Told again, it would begin anew, and what else it has heard would be dropped.
            self._repeated = replace(self._repeated, member_epoch=event.member_epoch)
        if self._is_member():
            if event.error_code:
                self._refused(event, now_ms)
            else:
                self._accepted(event, now_ms)
        elif self.state is _S.JOINING and answered is Request.JOIN:
            self._join_answered(event, now_ms)
        elif self.state is _S.RELEASING and answered is Request.LEAVE:
            self._release_answered(event, now_ms)
        else:
            self._late_answer(answered, event.error_code, now_ms)

    def _late_answer(self, answered: Request | None, code: int, now_ms: int) -> None:
        """To a leave; or to what was sent before the membership was given up."""
        if answered is Request.LEAVE and code in _LEFT:
            self._held_before_join = False
            self._held = Request.JOIN in self._open
        if self.state is _S.LEAVING:
            if answered is Request.LEAVE and not self._open:
                self._leave_answered(code, now_ms)
        elif code in _MOVED:
            self._coordinator_known = False

    def _join_answered(self, event: c.ConsumerHeartbeatAnswered, now_ms: int) -> None:
        code = event.error_code
        if code:
            self._held = (self._held_before_join or code == _FENCED_MEMBER_EPOCH) and code not in _GONE
        if code == 0 and event.member_epoch > 0:
            self._unreleased_since_ms = None
            self._accepted(event, now_ms)
            self._early.begin(now_ms, self._interval_ms, self._interval_ms // 8)
        elif code in (_FENCED_MEMBER_EPOCH, _UNRELEASED_INSTANCE_ID) and self._held_before_join:
            # The id is this member's alone, so what the coordinator holds is an earlier membership of its own: the answer that told of it
            # or that ended it was lost, or its epoch was fenced. Brokers before KAFKA-19233, and for static members later ones, let
            # none join over it; without a leave it would stand until its session ends.
            self._go(_S.RELEASING)
            self._send_leave(LEAVE if self.group_instance_id is None else LEAVE_FOR_NOW)
        elif code == _FENCED_MEMBER_EPOCH:
            self._back_off(now_ms)
        elif code == _UNRELEASED_INSTANCE_ID:
            self._await_release(event, now_ms)
        else:
            self._join_refused(event, "joining", now_ms)

    def _await_release(self, event: c.ConsumerHeartbeatAnswered, now_ms: int) -> None:
        if self._unreleased_since_ms is None:
            self._unreleased_since_ms = now_ms
        if now_ms - self._unreleased_since_ms < UNRELEASED_FOR_MS:
            self._back_off(now_ms)
        else:
            self._fail(event, "joining")

    def _join_refused(self, event: c.ConsumerHeartbeatAnswered, doing: str, now_ms: int) -> None:
        code = event.error_code
        if code in _MOVED:
            self._coordinator_known = False
        if code in (0, _UNKNOWN_MEMBER_ID) or is_retriable(code):
            self._back_off(now_ms)
        else:
            self._fail(event, doing)

    def _release_answered(self, event: c.ConsumerHeartbeatAnswered, now_ms: int) -> None:
        # FENCED_INSTANCE_ID: it is another member that holds the instance id. The join will say so again, and it is waited for then.
        if event.error_code in _LEFT:
            self._held = False
            self._join(now_ms)
        else:
            self._join_refused(event, "leaving an earlier membership of", now_ms)

    def _accepted(self, event: c.ConsumerHeartbeatAnswered, now_ms: int) -> None:
        if event.member_epoch <= 0 or event.member_epoch < self._epoch:
            return  # of before a later one
        self._backoff.reset()
        self._follow(event)
        if not self._heartbeats.due and not self._open:
            self._heartbeats.heard()
        if event.assignment is not None:
            self._partitions.target = frozenset(event.assignment)
            self._resolve_backoff.reset()
            self._ask_names(now_ms)
        if self.state in (_S.JOINING, _S.STABLE):
            self._reconcile()

    def _follow(self, event: c.ConsumerHeartbeatAnswered) -> None:
        """Take the epoch and the interval."""
        moved, self._epoch = event.member_epoch != self._epoch, event.member_epoch
        if event.heartbeat_interval_ms > 0:
            self._interval_ms = event.heartbeat_interval_ms
        if moved and self._repeated is not None and not event.repeated:
            # One may be under way with the epoch before, and its answer is lost with it: whatever it tells is asked for again.
            self._heartbeats.all_due = True

    def _refused(self, event: c.ConsumerHeartbeatAnswered, now_ms: int) -> None:
        """A heartbeat of a member was answered by an error. Whatever it told may be unheard: all is told again."""
        code = event.error_code
        if code == _TOPIC_AUTHORIZATION_FAILED:
            # Refused unheard: the membership stands, with the subscription of before, and goes on with what it is assigned.
            self._heartbeats.subscription_due = True
            self._raise(event, "subscribing in")
            self._retry_at_ms = now_ms + self._backoff.next_ms()
            return
        self._heartbeats.all_due = True
        if code in _MOVED:
            self._lose_coordinator(now_ms)
        elif code == _FENCED_MEMBER_EPOCH or code in _GONE:
            self._held = code == _FENCED_MEMBER_EPOCH
            self._lose(now_ms)
        elif is_retriable(code):
            self._retry_at_ms = now_ms + self._backoff.next_ms()
        else:
            self._fail(event, "heartbeating in")

    def _on_request_failed(self, event: g.RequestFailed, now_ms: int) -> None:
        failed = self._open.close()
        if self._is_member():
            # The coordinator may have heard it or not.
            self._heartbeats.all_due = True
            self._lose_coordinator(now_ms)
        elif self.state in (_S.JOINING, _S.RELEASING):
            if not self._open:
                self._coordinator_known = False
                self._back_off(now_ms)
        elif self.state is _S.LEAVING:
            if failed is Request.LEAVE and not self._open:
                self._leave_answered(_NOT_COORDINATOR, now_ms)
        elif self.state in _GIVING_UP:
            self._coordinator_known = False

    # ------------------------------------------------------------ events: reconciling

    def _on_topic_names(self, event: c.TopicNames, now_ms: int) -> None:
        self._partitions.learn(event.names)
        self._ask_names(now_ms)
        if self.state is _S.STABLE:
            self._reconcile()

    def _on_callback_done(self, event: g.RevocationDone | g.LossDone | g.AssignmentDone, now_ms: int) -> None:
        if self._awaited is not type(event):
            return  # of a membership that was left
        self._awaited = None
        if isinstance(event, g.LossDone):
            self._partitions.owned = {}
        elif isinstance(event, g.RevocationDone):
            self._partitions.drop(self._taken)
            self._taken = frozenset()
            if self.state is _S.REVOKING:
                self._revoked_untold = self._reduced = True
                self._reconcile()
        elif self.state is _S.ASSIGNING:
            self._heartbeats.owned_due = True
            self._reconcile()

    def _reconcile(self) -> None:
        """One step from what is owned to the target: take away what is not in it, else add the rest, else rest.

        A target that comes while a callback runs is looked at when it has returned, so that no two run at once. What was revoked and
        is in the newest target again is assigned again.

        Nothing is added while a request is open that tells what is owned, or may have been heard without an answer: the member is
        given t-0, says for another reason that it owns nothing, begins to read t-0; meanwhile the coordinator wants t-0 for another, reads
        that it is not owned, and gives it away. The answer tells what may be added.
        """
        owned, reachable = self._partitions.owned, self._partitions.reachable()
        gone = {key: tp for key, tp in owned.items() if reachable.get(key) != tp}
        added = tuple(sorted(tp for key, tp in reachable.items() if key not in owned))
        if gone:
            partitions = tuple(sorted(gone.values()))
            self._go(_S.REVOKING)
            self._awaited, self._taken = g.RevocationDone, frozenset(gone)
            self._out += [
                g.StopFetching(partitions),
                g.CommitBeforeRevoke(partitions),
                g.CallRevoked(partitions),
            ]
        elif added and (self._open or self._heartbeats.all_due):
            self._rest()
        elif added or self._reduced or (self._first and not self._partitions.target):
            self._partitions.owned, self._awaited = reachable, g.AssignmentDone
            self._first = self._reduced = False
            self._go(_S.ASSIGNING)
            self._out += [g.AssignPartitions(self.assignment), g.CallAssigned(added)]
        else:
            self._rest()

    def _rest(self) -> None:
        if self.state is not _S.STABLE:
            self._go(_S.STABLE)

    def _ask_names(self, now_ms: int) -> None:
        """Ask for names that are missing, at once for a new target; again, after a backoff, for the metadata may lag behind."""
        unresolved = self._partitions.unresolved()
        if not unresolved:
            self._resolve_at_ms = None
        elif self._resolve_backoff.failures == 0 or (
            self._resolve_at_ms is not None and now_ms >= self._resolve_at_ms
        ):
            self._out.append(c.ResolveTopicIds(unresolved))
            self._resolve_at_ms = now_ms + self._resolve_backoff.next_ms()

    # ------------------------------------------------------------ events: the user's thread

    def _on_poll_progress(self, event: g.PollProgress, now_ms: int) -> None:
        self._polled = True
        if self.state is _S.FENCED:
            self._out.append(g.Raise(_FENCED_INSTANCE_ID, f"polling in group {self.group_id!r}"))
        elif self.state is _S.FAILED and self._is_free():
            self._unreleased_since_ms = None
            self._join(now_ms)

    def _on_poll_expired(self, event: g.PollExpired, now_ms: int) -> None:
        self._polled = False
        if _S.EXPIRED not in TRANSITIONS[self.state].get(g.PollExpired, ()):
            return
        releasing = self.state is _S.RELEASING
        self._give_up()
        self._go(_S.EXPIRED)
        if self._held and self._coordinator_known and not releasing:
            self._send_leave(LEAVE if self.group_instance_id is None else LEAVE_FOR_NOW)

    def _on_leave_asked(self, event: g.Leave, now_ms: int) -> None:
        if self.state is _S.LEAVING:
            return
        static = self.group_instance_id is not None
        self._leave_epoch = LEAVE_FOR_NOW if static and not event.leave_group else LEAVE
        tells = self._held and (static or event.leave_group is not False)
        self._forget_membership()
        self._partitions.owned, self._taken, self._awaited = {}, frozenset(), None
        if self.state is _S.UNSUBSCRIBED or not tells:
            self._end()
            return
        self._go(_S.LEAVING)
        self._leave_tries = _LEAVE_TRIES
        if self._coordinator_known:
            self._send_leave(self._leave_epoch)
        else:
            self._find()

    def _leave_answered(self, code: int, now_ms: int) -> None:
        if code not in (_LOAD_IN_PROGRESS, *_MOVED) or self._leave_tries == 0:
            self._end()
            return
        self._coordinator_known = self._coordinator_known and code == _LOAD_IN_PROGRESS
        self._retry_at_ms = now_ms + self._backoff.next_ms()

    def _ignore(self, event: c.ConsumerEvent, now_ms: int) -> None:
        """Tick: what is due is seen to after every event. TopicsChanged: the coordinator watches the topics. Rejoin: a member of this
        protocol cannot ask for a rebalance; enforce_rebalance() does nothing here, as in Java's consumer."""

    # ------------------------------------------------------------ after every event

    def _settle(self, now_ms: int) -> None:
        """Who is out of the group tells the user, once no other callback runs, and joins again, once nothing is owned or open."""
        if self.state not in _GIVING_UP:
            return
        if self._partitions.owned and self._awaited is None:
            self._awaited = g.LossDone
            self._out.append(g.CallLost(self.assignment))
        elif self._is_free() and (self.state is _S.LOSING or (self.state is _S.EXPIRED and self._polled)):
            self._join(now_ms)

    def _do_what_is_due(self, now_ms: int) -> None:
        if self._retry_at_ms is not None and now_ms >= self._retry_at_ms:
            self._retry_at_ms = None
            if self.state is _S.BACKING_OFF:
                self._join(now_ms)
            elif not self._coordinator_known and (self._is_member() or self.state is _S.LEAVING):
                self._find()
            elif self.state is _S.LEAVING:
                self._send_leave(self._leave_epoch)
        if self._resolve_at_ms is not None and now_ms >= self._resolve_at_ms:
            self._ask_names(now_ms)
        # For a while after the join: what others own reaches this member only once they have heard of it and let it go, one after another,
        # and the coordinator tells that in answers alone.
        if not self._is_member():
            self._early.end()
        elif self._early.take(now_ms):
            self._heartbeats.owned_due = True

    def _tell_news(self) -> None:
        beats = self._heartbeats
        can = self._is_member() and self._coordinator_known and self._retry_at_ms is None
        if can and beats.due and not self._open:
            # A heartbeat that is repeated meanwhile, with the epoch before, would be fenced: none is, and the answer to one that is under
            # way is dropped. A coordinator tells an assignment once; only who tells everything is told everything again. What was
            # merely added moves no epoch: heartbeats go on then, lest Python, kept from the GIL for a minute just now, lose all.
            self._heartbeats_rest = beats.all_due or beats.subscription_due or self._revoked_untold
            beats.all_due = self._heartbeats_rest
            self._revoked_untold = False
            self._open.add(Request.NEWS)
            self._out.append(beats.news(self._epoch, self._partitions.owned_ids()))

    def _keep_heartbeats(self) -> None:
        """Say what the connection repeats, where it is not that already."""
        wanted = None
        if self._is_member() and self._coordinator_known and not (self._open and self._heartbeats_rest):
            wanted = c.RepeatHeartbeat(self.member_id, self._epoch, self.group_instance_id, self._interval_ms)
        if wanted == self._repeated:
            return
        self._repeated = wanted
        if wanted is None:
            self._out.insert(0, g.StopHeartbeats())
        else:
            self._out.append(wanted)

    # ------------------------------------------------------------ steps

    def _go(self, state: ConsumerState) -> None:
        if state not in TRANSITIONS[self.state].get(self._cause, ()):
            raise AssertionError(
                f"group {self.group_id!r}: {self._cause.__name__} does not lead from {self.state.name} to {state.name}"
            )
        self.state = state

    def _is_member(self) -> bool:
        return self.state in HEARTBEATING

    def _is_free(self) -> bool:
        return not self._partitions.owned and self._awaited is None and not self._open

    def _join(self, now_ms: int) -> None:
        self._retry_at_ms = None
        if not self._heartbeats.subscribed:
            self._go(_S.UNSUBSCRIBED)  # the coordinator refuses who subscribes to nothing
        elif not self._coordinator_known:
            self._go(_S.FINDING)
            self._find()
        else:
            self._go(_S.JOINING)
            self._held_before_join, self._held = self._held, True
            self._open.add(Request.JOIN)
            self._out.append(self._heartbeats.join())

    def _send_leave(self, epoch: int) -> None:
        self._leave_tries = max(0, self._leave_tries - 1)
        self._open.add(Request.LEAVE)
        self._out.append(self._heartbeats.leave(epoch))

    def _lose(self, now_ms: int) -> None:
        """The membership is gone, and with it the partitions; the user hears of it in the next poll, then this member joins."""
        self._give_up()
        if self._is_free():
            self._join(now_ms)
        else:
            self._go(_S.LOSING)

    def _fail(self, event: c.ConsumerHeartbeatAnswered, doing: str) -> None:
        self._give_up()
        fenced = event.error_code == _FENCED_INSTANCE_ID
        if fenced:
            self._held = False  # what there is under this instance id is another's
        self._go(_S.FENCED if fenced else _S.FAILED)
        self._raise(event, doing)

    def _raise(self, event: c.ConsumerHeartbeatAnswered, doing: str) -> None:
        message = told_of(event, f"{doing} group {self.group_id!r}", self.group_instance_id)
        self._out.append(g.Raise(event.error_code, message))

    def _give_up(self) -> None:
        """Out of the group: read nothing more of what is owned. What a revocation takes was stopped already."""
        owned = self._partitions.owned
        if going := tuple(sorted(tp for key, tp in owned.items() if key not in self._taken)):
            self._out.append(g.StopFetching(going))
        self._forget_membership()

    def _forget_membership(self) -> None:
        self._epoch = -1
        self._partitions.target = frozenset()
        self._first, self._reduced = True, False
        self._heartbeats.nothing_due()
        self._revoked_untold = False
        self._retry_at_ms = self._resolve_at_ms = None
        self._resolve_backoff.reset()

    def _lose_coordinator(self, now_ms: int) -> None:
        """Search anew after a backoff, for the others may name the one that is gone until they have noticed it themselves."""
        self._coordinator_known = False
        if not self._finding and self._retry_at_ms is None:
            self._retry_at_ms = now_ms + self._backoff.next_ms()

    def _find(self) -> None:
        if not self._finding:
            self._finding = True
            self._out.append(g.FindCoordinator())

    def _back_off(self, now_ms: int) -> None:
        self._go(_S.BACKING_OFF)
        self._retry_at_ms = now_ms + self._backoff.next_ms()

    def _end(self) -> None:
        self._heartbeats.topics, self._heartbeats.pattern = (), None
        self._retry_at_ms = None
        if self.state is not _S.UNSUBSCRIBED:
            self._go(_S.UNSUBSCRIBED)
        self._out.append(g.Left())


_HANDLERS: Final[Mapping[type, Callable[..., None]]] = {
    g.Subscribe: ConsumerMember._on_subscribe,
    c.SubscribeRegex: ConsumerMember._on_subscribe,
    g.CoordinatorFound: ConsumerMember._on_coordinator_found,
    g.CoordinatorLost: ConsumerMember._on_coordinator_lost,
    c.ConsumerHeartbeatAnswered: ConsumerMember._on_answer,
    g.RequestFailed: ConsumerMember._on_request_failed,
    c.TopicNames: ConsumerMember._on_topic_names,
    g.RevocationDone: ConsumerMember._on_callback_done,
    g.LossDone: ConsumerMember._on_callback_done,
    g.AssignmentDone: ConsumerMember._on_callback_done,
    g.TopicsChanged: ConsumerMember._ignore,
    g.PollProgress: ConsumerMember._on_poll_progress,
    g.PollExpired: ConsumerMember._on_poll_expired,
    g.Rejoin: ConsumerMember._ignore,
    g.Leave: ConsumerMember._on_leave_asked,
    g.Tick: ConsumerMember._ignore,
}
