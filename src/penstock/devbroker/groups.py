"""The group coordinator: a pure state machine over all groups. No socket, no clock, no chance.

`handle(event, now_ms)` takes one event and returns effects, in the order in which they must be performed;
`next_deadline_ms()` says when a Tick is due. Follows Apache Kafka's classic protocol: KIP-62 (rebalance timeout),
KIP-134 (initial delay), KIP-345 (static members), KIP-394 (known member ids), KIP-447, KIP-814.

    Empty --join--> PreparingRebalance --all joined, or time is up--> CompletingRebalance --leader's sync--> Stable
    any --a member joins anew, leaves or is silent too long--> PreparingRebalance; without members left: Empty
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.types import OffsetAndMetadata, TopicPartition

from .codes import Code
from .consumer_groups import ConsumerGroups
from .group_events import (
    Answered,
    CommitOffsets,
    ConsumerHeartbeat,
    DeleteGroup,
    DeleteOffsets,
    Effect,
    EndTransaction,
    Event,
    GroupState,
    Heartbeat,
    Joined,
    JoinGroup,
    LeaveGroup,
    Left,
    Reply,
    StoreDecision,
    StoreDeletion,
    StoreOffsets,
    Synced,
    SyncGroup,
    Tick,
    TopicChanged,
    TopicDeleted,
)
from .group_model import NEW_MEMBER_JOIN_TIMEOUT_MS, Group, GroupLimits, Member
from .mixed_groups import MixedGroups

__all__ = ["GroupCoordinator", "GroupLimits"]

EMPTY = GroupState.EMPTY
PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
STABLE = GroupState.STABLE


class GroupCoordinator:
    """See the module. `new_member_id` makes an id unlike all before, given a client or instance id."""

    def __init__(self, new_member_id: Callable[[str], str], limits: GroupLimits | None = None) -> None:
        self.groups: dict[str, Group] = {}
        self._new_member_id = new_member_id
        self._limits = limits or GroupLimits()
        self.consumers = ConsumerGroups(self.groups, new_member_id, self._limits, self._rebalance)
        self._mixed = MixedGroups(self.consumers, new_member_id, self._limits)

    def restore(
        self,
        group_id: str,
        offsets: dict[TopicPartition, OffsetAndMetadata],
        pending: dict[int, dict[TopicPartition, OffsetAndMetadata]],
    ) -> None:
        """Offsets of an earlier life, before the first event; the pending ones by producer id."""
        waiting = {producer_id: dict(each) for producer_id, each in pending.items()}
        self.groups[group_id] = Group(group_id, offsets=dict(offsets), pending_offsets=waiting)

    def next_deadline_ms(self) -> int | None:
        deadlines = (group.next_deadline_ms() for group in self.groups.values())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """One event; what time alone brings is settled first, so a late Tick changes no outcome."""
        effects = [effect for group in tuple(self.groups.values()) for effect in self._expire(group, now_ms)]
        match event:
            case JoinGroup():
                effects += self._join(event, now_ms)
            case SyncGroup():
                effects += self._sync(event, now_ms)
            case Heartbeat():
                effects += self._heartbeat(event, now_ms)
            case ConsumerHeartbeat():
                effects += self.consumers.heartbeat(event, now_ms)
            case LeaveGroup():
                effects += self._leave(event, now_ms)
            case CommitOffsets():
                effects += self._commit(event, now_ms)
            case EndTransaction():
                effects += self._end_transaction(event)
            case DeleteGroup():
                effects += self._delete_group(event)
            case DeleteOffsets():
                effects += self._delete_offsets(event)
            case TopicChanged():
                self.consumers.topic_changed(event)
                effects.append(Reply(event.token, Answered(Code.NONE)))
            case TopicDeleted():
                effects += self._topic_deleted(event)
            case Tick():
                pass
        return effects

    # ------------------------------------------------------------------ joining
    def _join(self, event: JoinGroup, now_ms: int) -> list[Effect]:
        def refuse(code: Code, member_id: str = event.member_id) -> list[Effect]:
            return [Reply(event.token, Joined(code, member_id))]

        if not event.group_id:
            return refuse(Code.INVALID_GROUP_ID)
        limits = self._limits
        if not limits.min_session_timeout_ms <= event.session_timeout_ms <= limits.max_session_timeout_ms:
            return refuse(Code.INVALID_SESSION_TIMEOUT)
        group = self.groups.get(event.group_id)
        if group is not None and group.consumer is not None:
            if group.consumer.members:
                return self._mixed.join(group, event, now_ms)
            group.consumer = None  # nobody is there: whoever comes first says which protocol it is
        if group is None:
            if event.member_id:
                return refuse(Code.UNKNOWN_MEMBER_ID)
            group = Group(event.group_id)
        if not group.supports(event):
            return refuse(Code.INCONSISTENT_GROUP_PROTOCOL)
        self.groups[group.group_id] = group
        if not event.member_id and event.instance_id in group.static_ids:
            return self._replace_static(group, event, now_ms)
        if not event.member_id:
            if len(group.members) + len(group.pending) >= limits.max_size:
                return refuse(Code.GROUP_MAX_SIZE_REACHED)
            member_id = self._new_member_id(event.instance_id or event.client_id)
            if event.instance_id is None and event.member_id_required:
                group.pending[member_id] = now_ms + event.session_timeout_ms
                return refuse(Code.MEMBER_ID_REQUIRED, member_id)
            return self._add(group, event, member_id, now_ms)
        if event.member_id in group.pending:
            if event.instance_id is not None:
                return refuse(Code.UNKNOWN_MEMBER_ID)
            del group.pending[event.member_id]
            return self._add(group, event, event.member_id, now_ms)
        code = self._fencing(group, event.member_id, event.instance_id)
        if code is not Code.NONE:
            return refuse(code)
        return self._join_again(group, group.members[event.member_id], event, now_ms)

    def _add(self, group: Group, event: JoinGroup, member_id: str, now_ms: int) -> list[Effect]:
        member = Member(
            member_id,
            event.instance_id,
            event.client_id,
            event.client_host,
            event.session_timeout_ms,
            event.rebalance_timeout_ms,
            event.protocols,
            now_ms + NEW_MEMBER_JOIN_TIMEOUT_MS,
            join_token=event.token,
        )
        if not group.members:
            group.protocol_type = event.protocol_type
        group.members[member_id] = member
        if event.instance_id is not None:
            group.static_ids[event.instance_id] = member_id
        if group.leader_id is None:
            group.leader_id = member_id
        if group.gathering_until_ms is not None and group.rebalance_deadline_ms is not None:
            # KIP-134: each newcomer prolongs the gathering, but never past the rebalance timeout.
            delay = self._limits.initial_rebalance_delay_ms
            group.gathering_until_ms = min(now_ms + delay, group.rebalance_deadline_ms)
        return self._rebalance(group, now_ms)

    def _join_again(self, group: Group, member: Member, event: JoinGroup, now_ms: int) -> list[Effect]:
        """A known member joins: it was told to, or its subscription changed, or its answer got lost on the way."""
        same = member.protocols == event.protocols
        # An older JoinGroup of the same member is answered, or its connection would hang for ever.
        effects = group.release_join(member, Joined(Code.REBALANCE_IN_PROGRESS, member.member_id))
        effects += group.release_sync(member, Synced(Code.REBALANCE_IN_PROGRESS))
        member.update(event)
        is_leader = member.member_id == group.leader_id
        answer_lost = group.state is COMPLETING and same
        nothing_new = group.state is STABLE and same and not is_leader
        if answer_lost or nothing_new:
            member.session_deadline_ms = now_ms + member.session_timeout_ms
            return [*effects, Reply(event.token, group.join_answer(member))]
        member.join_token = event.token
        return effects + self._rebalance(group, now_ms)

    def _replace_static(self, group: Group, event: JoinGroup, now_ms: int) -> list[Effect]:
        """A static member is back in a new process: it takes the old one's place, which is fenced (KIP-345)."""
        assert event.instance_id is not None
        old = group.members.pop(group.static_ids[event.instance_id])
        effects = group.release_join(old, Joined(Code.FENCED_INSTANCE_ID, old.member_id))
        effects += group.release_sync(old, Synced(Code.FENCED_INSTANCE_ID))
        was_leader = group.leader_id == old.member_id
        member = old
        fenced_id, member.member_id = old.member_id, self._new_member_id(event.instance_id)
        member.update(event)
        lease_ms = NEW_MEMBER_JOIN_TIMEOUT_MS if member.is_new else member.session_timeout_ms
        member.session_deadline_ms = now_ms + lease_ms
        group.members[member.member_id] = member
        group.static_ids[event.instance_id] = member.member_id
        if was_leader:
            group.leader_id = member.member_id
        if group.state is STABLE and group.select_protocol() == group.protocol_name:
            # No rebalance. A returning leader must not compute an assignment: from v9 on it is told so (KIP-814),
            # before that it is shown its former id as the leader, and takes itself for a follower.
            member.synced = True
            skip = was_leader and event.may_skip_assignment
            leader = fenced_id if was_leader and not skip else None
            return [*effects, Reply(event.token, group.join_answer(member, leader=leader, skip=skip))]
        member.join_token = event.token
        return effects + self._rebalance(group, now_ms)

    # ------------------------------------------------------------------ rebalancing
    def _rebalance(self, group: Group, now_ms: int) -> list[Effect]:
        """Enter PreparingRebalance, or see whether a rebalance under way can complete."""
        effects: list[Effect] = []
        if group.state is not PREPARING:
            for member in group.members.values():
                if member.sync_token is not None:
                    member.session_deadline_ms = now_ms + member.session_timeout_ms
                effects += group.release_sync(member, Synced(Code.REBALANCE_IN_PROGRESS))
            delay = self._limits.initial_rebalance_delay_ms
            group.rebalance_deadline_ms = now_ms + group.rebalance_timeout_ms
            if group.state is EMPTY and delay > 0:
                group.gathering_until_ms = min(now_ms + delay, group.rebalance_deadline_ms)
            group.state = PREPARING
            group.sync_deadline_ms = None
        return effects + self._maybe_complete(group, now_ms)

    def _maybe_complete(self, group: Group, now_ms: int) -> list[Effect]:
        if group.state is not PREPARING or group.rebalance_deadline_ms is None:
            return []
        if group.gathering_until_ms is not None and now_ms < group.gathering_until_ms and group.members:
            return []
        late = now_ms >= group.rebalance_deadline_ms
        if not (late or group.all_joined or not (group.members or group.pending)):
            return []
        return self._complete(group, now_ms)

    def _complete(self, group: Group, now_ms: int) -> list[Effect]:
        """A new generation of those who joined. Absent dynamic members are out; absent static ones keep their place."""
        for member in tuple(group.members.values()):
            if member.join_token is None and member.instance_id is None:
                self._forget(group, member)
        joined = [member for member in group.members.values() if member.join_token is not None]
        if group.members and not joined:
            group.rebalance_deadline_ms = now_ms + group.rebalance_timeout_ms
            return []
        group.rebalance_deadline_ms = group.gathering_until_ms = None
        group.generation += 1
        if not group.members:
            group.state, group.leader_id, group.protocol_name = EMPTY, None, None
            return []
        if group.leader_id is None or group.members[group.leader_id].join_token is None:
            group.leader_id = joined[0].member_id
        group.protocol_name = group.select_protocol()
        group.state = COMPLETING
        group.sync_deadline_ms = now_ms + group.rebalance_timeout_ms
        effects: list[Effect] = []
        for member in group.members.values():
            member.synced = (
                False  # what it had before is kept until then: it may have it still, should the group migrate
            )
        for member in joined:
            member.is_new = False
            member.session_deadline_ms = now_ms + member.session_timeout_ms
            effects += group.release_join(member, group.join_answer(member))
        return effects

    def _forget(self, group: Group, member: Member) -> None:
        del group.members[member.member_id]
        if member.instance_id is not None and group.static_ids.get(member.instance_id) == member.member_id:
            del group.static_ids[member.instance_id]
        if group.leader_id == member.member_id:
            group.leader_id = next(iter(group.members), None)

    def _remove(self, group: Group, member: Member, now_ms: int) -> list[Effect]:
        """A member is out: it left, or was silent too long. Its parked requests are answered."""
        effects = group.release_join(member, Joined(Code.UNKNOWN_MEMBER_ID, member.member_id))
        effects += group.release_sync(member, Synced(Code.UNKNOWN_MEMBER_ID))
        self._forget(group, member)
        return effects + self._rebalance(group, now_ms)

    # ------------------------------------------------------------------ syncing, heartbeats, leaving
    def _member_code(
        self, group: Group | None, member_id: str, instance_id: str | None, generation: int
    ) -> Code:
        if group is None:
            return Code.UNKNOWN_MEMBER_ID
        code = self._fencing(group, member_id, instance_id)
        if code is Code.NONE and generation != group.generation:
            return Code.ILLEGAL_GENERATION
        return code

    @staticmethod
    def _fencing(group: Group, member_id: str, instance_id: str | None) -> Code:
        if instance_id is not None and instance_id in group.static_ids:
            return Code.NONE if group.static_ids[instance_id] == member_id else Code.FENCED_INSTANCE_ID
        if instance_id is not None or member_id not in group.members:
            return Code.UNKNOWN_MEMBER_ID
        return Code.NONE

    def _sync(self, event: SyncGroup, now_ms: int) -> list[Effect]:
        group = self.groups.get(event.group_id)
        if group is not None and group.consumer is not None:
            return self._mixed.sync(group, event, now_ms)
        code = self._member_code(group, event.member_id, event.instance_id, event.generation)
        if group is None or code is not Code.NONE:
            return [Reply(event.token, Synced(code if event.group_id else Code.INVALID_GROUP_ID))]
        names = ((event.protocol_type, group.protocol_type), (event.protocol_name, group.protocol_name))
        if any(given is not None and given != known for given, known in names):
            return [Reply(event.token, Synced(Code.INCONSISTENT_GROUP_PROTOCOL))]
        if group.state is PREPARING:
            return [Reply(event.token, Synced(Code.REBALANCE_IN_PROGRESS))]
        member = group.members[event.member_id]
        member.synced = True
        member.session_deadline_ms = now_ms + member.session_timeout_ms
        effects = group.release_sync(
            member, Synced(Code.REBALANCE_IN_PROGRESS)
        )  # an older request of its own
        if group.state is STABLE:
            return [*effects, Reply(event.token, group.sync_answer(member)), *self._after_sync(group)]
        member.sync_token = event.token
        if member.member_id == group.leader_id:
            assignments = dict(event.assignments)
            group.state = STABLE
            for each in group.members.values():
                each.assignment = assignments.get(each.member_id, b"")
                if each.sync_token is not None:
                    each.session_deadline_ms = now_ms + each.session_timeout_ms
                effects += group.release_sync(each, group.sync_answer(each))
        return effects + self._after_sync(group)

    @staticmethod
    def _after_sync(group: Group) -> list[Effect]:
        if group.state is STABLE and all(member.synced for member in group.members.values()):
            group.sync_deadline_ms = None
        return []

    def _heartbeat(self, event: Heartbeat, now_ms: int) -> list[Effect]:
        group = self.groups.get(event.group_id)
        if group is not None and group.consumer is not None:
            return self._mixed.heartbeat(group, event, now_ms)
        code = self._member_code(group, event.member_id, event.instance_id, event.generation)
        if group is None or code is not Code.NONE:
            return [Reply(event.token, Answered(code if event.group_id else Code.INVALID_GROUP_ID))]
        member = group.members[event.member_id]
        member.session_deadline_ms = now_ms + member.session_timeout_ms
        code = Code.REBALANCE_IN_PROGRESS if group.state is PREPARING else Code.NONE
        return [Reply(event.token, Answered(code))]

    def _leave(self, event: LeaveGroup, now_ms: int) -> list[Effect]:
        group = self.groups.get(event.group_id)
        if not event.group_id:
            return [Reply(event.token, Left(Code.INVALID_GROUP_ID))]
        if group is not None and group.consumer is not None:
            return self._mixed.leave(group, event, now_ms)
        effects: list[Effect] = []
        answers: list[tuple[str, str | None, Code]] = []
        for member_id, instance_id in event.members:
            code = Code.UNKNOWN_MEMBER_ID
            if group is not None and member_id in group.pending and instance_id is None:
                del group.pending[member_id]
                effects += self._maybe_complete(group, now_ms)
                code = Code.NONE
            elif group is not None:
                # An administrator names a static member by its instance id alone (KIP-345).
                known_id = member_id or group.static_ids.get(instance_id or "", "")
                code = self._fencing(group, known_id, instance_id)
                if code is Code.NONE:
                    effects += self._remove(group, group.members[known_id], now_ms)
            answers.append((member_id, instance_id, code))
        return [*effects, Reply(event.token, Left(Code.NONE, tuple(answers)))]

    # ------------------------------------------------------------------ time
    def _expire(self, group: Group, now_ms: int) -> list[Effect]:
        deadline = group.next_deadline_ms()
        if deadline is None or deadline > now_ms:
            return []
        if group.consumer is not None:
            return self.consumers.expire(group, now_ms)
        effects: list[Effect] = []
        for member_id in [each for each, due in group.pending.items() if due <= now_ms]:
            del group.pending[member_id]
        # Removing one member may complete a rebalance, which drops others: look again whether each is still there.
        for member in tuple(group.members.values()):
            silent = not member.waits and member.session_deadline_ms <= now_ms
            if silent and member.member_id in group.members:
                effects += self._remove(group, member, now_ms)
        if group.sync_deadline_ms is not None and group.sync_deadline_ms <= now_ms:
            # The leader's assignment, or a member's wish for it, did not come within the rebalance timeout.
            group.sync_deadline_ms = None
            for member in tuple(group.members.values()):
                if not member.synced and member.member_id in group.members:
                    effects += self._remove(group, member, now_ms)
        if group.gathering_until_ms is not None and group.gathering_until_ms <= now_ms:
            group.gathering_until_ms = None
            if group.state is PREPARING and group.members:
                effects += self._complete(group, now_ms)
        return effects + self._maybe_complete(group, now_ms)

    # ------------------------------------------------------------------ offsets
    def _commit(self, event: CommitOffsets, now_ms: int) -> list[Effect]:
        group = self.groups.get(event.group_id)
        code = self._commit_code(group, event, now_ms)
        if code is not Code.NONE:
            return [Reply(event.token, Answered(code))]
        if group is None:
            group = self.groups[event.group_id] = Group(event.group_id)
        limit = self._limits.max_metadata_bytes
        codes = {
            partition: Code.OFFSET_METADATA_TOO_LARGE if len(offset.metadata.encode()) > limit else Code.NONE
            for partition, offset in event.offsets.items()
        }
        accepted = {key: value for key, value in event.offsets.items() if codes[key] is Code.NONE}
        reply = Reply(event.token, Answered(Code.NONE, codes))
        if event.producer_id >= 0:
            group.pending_offsets.setdefault(event.producer_id, {}).update(accepted)
            return [StoreOffsets(group.group_id, accepted, event.producer_id), reply]
        group.offsets.update(accepted)
        return [StoreOffsets(group.group_id, accepted), reply] if accepted else [reply]

    def _commit_code(self, group: Group | None, event: CommitOffsets, now_ms: int) -> Code:
        if not event.group_id:
            return Code.INVALID_GROUP_ID
        if group is not None and group.consumer is not None:
            return self.consumers.commit_code(group.consumer, event)
        simple = event.generation < 0 and not event.member_id and event.instance_id is None
        if group is None and event.generation >= 0:
            # Kafka says GROUP_ID_NOT_FOUND from version 9 on, which ends a consumer. But Kafka's members outlive a restart.
            new = event.version >= 9 and event.producer_id < 0
            return Code.UNKNOWN_MEMBER_ID if new else Code.ILLEGAL_GENERATION
        if group is None or (group.state is EMPTY and event.generation < 0):
            return Code.NONE
        if event.producer_id >= 0 and simple:
            return Code.NONE  # a producer older than KIP-447 does not say which member it is
        code = self._member_code(group, event.member_id, event.instance_id, event.generation)
        if code is not Code.NONE:
            return code
        if group.state is COMPLETING:
            return Code.REBALANCE_IN_PROGRESS
        if event.producer_id < 0:
            member = group.members[event.member_id]
            member.session_deadline_ms = now_ms + member.session_timeout_ms
        return Code.NONE

    def _end_transaction(self, event: EndTransaction) -> list[Effect]:
        group = self.groups.get(event.group_id)
        offsets = group.pending_offsets.pop(event.producer_id, {}) if group is not None else {}
        reply = Reply(event.token, Answered(Code.NONE))
        if group is None or not offsets:
            return [reply]
        if event.commit:
            group.offsets.update(offsets)
        return [StoreDecision(group.group_id, event.producer_id, event.commit), reply]

    def _delete_group(self, event: DeleteGroup) -> list[Effect]:
        group = self.groups.get(event.group_id)
        if not event.group_id or group is None:
            code = Code.GROUP_ID_NOT_FOUND if event.group_id else Code.INVALID_GROUP_ID
            return [Reply(event.token, Answered(code))]
        if not group.is_empty:
            return [Reply(event.token, Answered(Code.NON_EMPTY_GROUP))]
        del self.groups[event.group_id]
        return [StoreDeletion(event.group_id), Reply(event.token, Answered(Code.NONE))]

    def _delete_offsets(self, event: DeleteOffsets) -> list[Effect]:
        group = self.groups.get(event.group_id)
        if group is None:
            return [Reply(event.token, Answered(Code.GROUP_ID_NOT_FOUND))]
        if group.members and group.protocol_type != "consumer":
            return [
                Reply(event.token, Answered(Code.NON_EMPTY_GROUP))
            ]  # its members' metadata is not ours to read
        codes = {
            each: Code.GROUP_SUBSCRIBED_TO_TOPIC if group.subscribes_to(each.topic) else Code.NONE
            for each in event.partitions
        }
        gone: dict[TopicPartition, OffsetAndMetadata | None] = {}
        for partition, code in codes.items():
            if code is Code.NONE and group.offsets.pop(partition, None) is not None:
                gone[partition] = None
        reply = Reply(event.token, Answered(Code.NONE, codes))
        return [StoreOffsets(group.group_id, gone), reply] if gone else [reply]

    def _topic_deleted(self, event: TopicDeleted) -> list[Effect]:
        """A topic of the same name made later is another one: old offsets mean nothing there."""
        self.consumers.topic_deleted(event.topic)
        effects: list[Effect] = []
        for group in self.groups.values():
            gone = {partition: None for partition in group.offsets if partition.topic == event.topic}
            for partition in gone:
                del group.offsets[partition]
            if gone:
                effects.append(StoreOffsets(group.group_id, gone))
            for producer_id, offsets in group.pending_offsets.items():
                void = {partition: None for partition in offsets if partition.topic == event.topic}
                for partition in void:
                    del offsets[partition]
                if void:
                    effects.append(StoreOffsets(group.group_id, void, producer_id))
        return [*effects, Reply(event.token, Answered(Code.NONE))]
