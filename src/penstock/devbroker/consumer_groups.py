"""The coordinator of consumer groups, the protocol of KIP-848: pure, a part of GroupCoordinator. No socket, no clock, no chance.

One request does it all: a heartbeat joins, leaves, tells what changed and what the member has; its answer tells what the
member may have. Follows GroupMetadataManager and CurrentAssignmentBuilder of Apache Kafka. Where this differs, on purpose:
members are not kept over a restart of the broker, so a member of a group that is not known is told to join (UNKNOWN_MEMBER_ID);
regular expressions are Python's, and looked at again as soon as a topic is made.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import replace
from typing import NoReturn

from .codes import Code, RequestRefused
from .consumer_assignors import ASSIGNORS, TopicImage
from .consumer_model import (
    LEAVE_EPOCH,
    NOTHING,
    STATIC_LEAVE_EPOCH,
    ConsumerGroup,
    ConsumerMember,
    compiled,
)
from .group_events import (
    CommitOffsets,
    ConsumerHeartbeat,
    Effect,
    HeartbeatAnswered,
    Reply,
    TopicChanged,
)
from .group_model import Group, GroupLimits
from .migration import may_downgrade, to_classic, to_consumer


def refuse(code: Code, message: str) -> NoReturn:
    raise RequestRefused(code, message)


class ConsumerGroups:
    """See the module. `rebalance` starts a rebalance of a classic group, which a consumer group may become."""

    def __init__(
        self,
        groups: dict[str, Group],
        new_member_id: Callable[[str], str],
        limits: GroupLimits,
        rebalance: Callable[[Group, int], list[Effect]],
    ) -> None:
        self.topics: dict[str, TopicImage] = {}
        self.topic_names: dict[Hashable, str] = {}
        self._groups = groups
        self._new_member_id = new_member_id
        self._limits = limits
        self.rebalance = rebalance

    # ------------------------------------------------------------------ topics
    def topic_changed(self, event: TopicChanged) -> None:
        self.topics[event.topic] = TopicImage(event.topic_id, event.partitions)
        self.topic_names[event.topic_id] = event.topic
        self._look_again(event.topic)

    def topic_deleted(self, name: str) -> None:
        image = self.topics.pop(name, None)
        if image is not None:
            del self.topic_names[image.id]
        self._look_again(name)

    def _look_again(self, name: str) -> None:
        for group in self._groups.values():
            if group.consumer is not None and group.consumer.reads(name):
                group.consumer.stale = True

    # ------------------------------------------------------------------ heartbeats
    def heartbeat(self, event: ConsumerHeartbeat, now_ms: int) -> list[Effect]:
        try:
            self._check(event)
            if event.member_epoch in (LEAVE_EPOCH, STATIC_LEAVE_EPOCH):
                effects = self._leave(event, now_ms)
                answer = HeartbeatAnswered(Code.NONE, event.member_id, event.member_epoch)
            else:
                effects, answer = self._stay(event, now_ms)
        except RequestRefused as error:
            return [Reply(event.token, HeartbeatAnswered(error.code, message=error.message))]
        return [*effects, Reply(event.token, answer)]

    @staticmethod
    def _check(event: ConsumerHeartbeat) -> None:
        """What is wrong with a request whatever the group is."""
        for name, value in (
            ("GroupId", event.group_id),
            ("InstanceId", event.instance_id),
            ("RackId", event.rack_id),
        ):
            if value is not None and not value.strip():
                refuse(Code.INVALID_REQUEST, f"{name} can't be empty.")
        if not event.member_id and (event.member_epoch != 0 or event.version >= 1):
            refuse(Code.INVALID_REQUEST, "MemberId can't be empty.")
        if event.member_epoch < STATIC_LEAVE_EPOCH:
            refuse(Code.INVALID_REQUEST, f"MemberEpoch {event.member_epoch} is invalid.")
        if event.member_epoch == STATIC_LEAVE_EPOCH and event.instance_id is None:
            refuse(Code.INVALID_REQUEST, "InstanceId can't be null.")
        if event.member_epoch == 0:
            if event.rebalance_timeout_ms < 0:
                refuse(Code.INVALID_REQUEST, "RebalanceTimeoutMs must be provided in first request.")
            if event.owned is None or event.owned:
                refuse(Code.INVALID_REQUEST, "TopicPartitions must be empty when (re-)joining.")
            if event.topics is None and event.regex is None:
                refuse(
                    Code.INVALID_REQUEST,
                    "SubscribedTopicNames or SubscribedTopicRegex must be set in first request.",
                )
        if event.assignor is not None and event.assignor not in ASSIGNORS:
            known = ", ".join(ASSIGNORS)
            refuse(
                Code.UNSUPPORTED_ASSIGNOR,
                f"ServerAssignor {event.assignor} is not supported. Supported assignors: {known}.",
            )
        if event.regex:
            compiled(event.regex)

    def _stay(self, event: ConsumerHeartbeat, now_ms: int) -> tuple[list[Effect], HeartbeatAnswered]:
        """Join, or go on: the member as it is now, a new target if that changes it, one step towards the target."""
        effects, consumers = self._group_for(event, now_ms)
        member = self._member_for(consumers, event)
        had = member.assigned
        changed = self._update(member, event)
        consumers.add(member)
        self.refresh(consumers, changed)
        consumers.reconcile(member, event.owned, now_ms)
        member.session_deadline_ms = now_ms + self._limits.consumer_session_timeout_ms
        # A full request comes with a join, and when the member cannot know whether an answer was lost.
        subscribes = event.topics is not None or event.regex is not None
        full = event.rebalance_timeout_ms >= 0 and subscribes and event.owned is not None
        answer = HeartbeatAnswered(
            Code.NONE,
            member.member_id,
            member.epoch,
            self._limits.consumer_heartbeat_interval_ms,
            member.assigned if full or member.assigned != had else None,
        )
        return effects, answer

    def refresh(self, consumers: ConsumerGroup, changed: bool) -> None:
        """A new epoch if a subscription `changed` or a topic did; and the target that belongs to the epoch."""
        if changed or consumers.stale:
            changed = consumers.look_at(self.topics) or changed
            consumers.epoch += changed
        if consumers.epoch > consumers.assignment_epoch:
            consumers.assign()

    def _group_for(self, event: ConsumerHeartbeat, now_ms: int) -> tuple[list[Effect], ConsumerGroup]:
        """The group that a heartbeat is for; a join may make it, or make it of a classic one."""
        group = self._groups.get(event.group_id)
        if event.member_epoch != 0:
            if group is not None and group.consumer is not None:
                return [], group.consumer
            if group is not None and group.members:
                refuse(Code.GROUP_ID_NOT_FOUND, f"Group {event.group_id} is not a consumer group.")
            refuse(Code.UNKNOWN_MEMBER_ID, f"Member {event.member_id} is not a member of {event.group_id}.")
        members: Container[str] = ()
        count = 0
        if group is not None:
            members = known = group.members if group.consumer is None else group.consumer.members
            count = len(known)
        if count >= self._limits.consumer_max_size and event.member_id not in members:
            refuse(
                Code.GROUP_MAX_SIZE_REACHED,
                f"The consumer group has reached its maximum capacity of {self._limits.consumer_max_size} members.",
            )
        if group is None:
            group = self._groups[event.group_id] = Group(event.group_id)
        if group.consumer is not None:
            return [], group.consumer
        return to_consumer(group, self.topics, self._limits, now_ms)

    def _member_for(self, consumers: ConsumerGroup, event: ConsumerHeartbeat) -> ConsumerMember:
        """The member that a heartbeat is from, perhaps a new one. Changes nothing if it refuses."""
        if event.instance_id is None:
            member = consumers.members.get(event.member_id)
            if member is None and event.member_epoch != 0:
                refuse(
                    Code.UNKNOWN_MEMBER_ID, f"Member {event.member_id} is not a member of {event.group_id}."
                )
            if member is None:
                return ConsumerMember(event.member_id or self._new_member_id(event.client_id))
            self._check_epoch(member, event)
            return member
        if event.member_epoch != 0:
            member = self.static_member(consumers, event.instance_id, event.member_id)
            self._check_epoch(member, event)
            return member
        member_id = event.member_id or self._new_member_id(event.client_id)
        former = consumers.members.get(consumers.static_ids.get(event.instance_id, ""))
        if former is None:
            return ConsumerMember(member_id, event.instance_id)
        if former.epoch != STATIC_LEAVE_EPOCH and former.classic is None:
            refuse(
                Code.UNRELEASED_INSTANCE_ID,
                f"Static member {member_id} with instance id {event.instance_id} cannot join: the instance id is owned"
                f" by member {former.member_id}, which has not left.",
            )
        return replace_static(consumers, former, member_id)

    @staticmethod
    def static_member(consumers: ConsumerGroup, instance_id: str, member_id: str) -> ConsumerMember:
        """Raises RequestRefused: nobody has this instance id, or another than `member_id` (if that is given) has it."""
        known_id = consumers.static_ids.get(instance_id)
        if known_id is None:
            refuse(Code.UNKNOWN_MEMBER_ID, f"Instance id {instance_id} is unknown.")
        if member_id and known_id != member_id:
            refuse(
                Code.FENCED_INSTANCE_ID,
                f"Static member {member_id} with instance id {instance_id} was fenced by {known_id}.",
            )
        return consumers.members[known_id]

    @staticmethod
    def _check_epoch(member: ConsumerMember, event: ConsumerHeartbeat) -> None:
        """The answer with the present epoch may have been lost: then the member comes with the one before, and may have
        at most what it was given. In any other case of another epoch it has slept, and has what others may have now.
        One that joins anew has nothing (KAFKA-19233)."""
        given = event.member_epoch
        owned = event.owned
        answer_lost = given == member.previous_epoch and owned is not None and owned <= member.assigned
        if given == 0:
            return
        if given > member.epoch or (given < member.epoch and not answer_lost):
            kind = "greater" if given > member.epoch else "smaller"
            refuse(
                Code.FENCED_MEMBER_EPOCH,
                f"The consumer group member has a {kind} member epoch ({given}) than the one known by the group"
                f" coordinator ({member.epoch}). The member must abandon all its partitions and rejoin.",
            )

    @staticmethod
    def _update(member: ConsumerMember, event: ConsumerHeartbeat) -> bool:
        """What the request says anew; whether the subscription is another."""
        before = member.topics, member.regex
        member.topics = member.topics if event.topics is None else event.topics
        member.regex = member.regex if event.regex is None else event.regex
        member.rack_id = event.rack_id or member.rack_id
        member.assignor = event.assignor or member.assignor
        if event.rebalance_timeout_ms >= 0:
            member.rebalance_timeout_ms = event.rebalance_timeout_ms
        member.client_id, member.client_host = event.client_id, event.client_host
        member.classic = None
        return before != (member.topics, member.regex)

    # ------------------------------------------------------------------ leaving
    def _leave(self, event: ConsumerHeartbeat, now_ms: int) -> list[Effect]:
        group = self._groups.get(event.group_id)
        if group is None or group.consumer is None:
            refuse(Code.GROUP_ID_NOT_FOUND, f"Group {event.group_id} is not a consumer group.")
        consumers = group.consumer
        if event.instance_id is not None:
            member = self.static_member(consumers, event.instance_id, event.member_id)
            if event.member_epoch == STATIC_LEAVE_EPOCH:
                # It will be back within the session timeout, and finds its partitions. The timer runs on.
                member.epoch = STATIC_LEAVE_EPOCH
                consumers.hold(member, member.assigned, NOTHING)
                member.since = dict.fromkeys(member.assigned, 0)
                member.revoke_deadline_ms = None
                return []
        elif event.member_id in consumers.members:
            member = consumers.members[event.member_id]
        else:
            refuse(Code.UNKNOWN_MEMBER_ID, f"Member {event.member_id} is not a member of {event.group_id}.")
        return self.remove(group, (member,), now_ms)

    def remove(self, group: Group, members: Iterable[ConsumerMember], now_ms: int) -> list[Effect]:
        """Members are out: they left, or were silent or slow. What they had is free; the next heartbeat makes a new target."""
        consumers = group.consumer
        assert consumers is not None
        gone = tuple(members)
        if not gone:
            return []
        for member in gone:
            consumers.remove(member)
        if may_downgrade(consumers, self._limits):
            # The last one that spoke the new protocol is gone, and others are there: a classic group again.
            to_classic(group, self.topic_names, now_ms, will_rebalance=True)
            return self.rebalance(group, now_ms)
        consumers.look_at(self.topics)
        consumers.epoch += 1
        return []

    # ------------------------------------------------------------------ time
    def expire(self, group: Group, now_ms: int) -> list[Effect]:
        assert group.consumer is not None
        late = (
            member
            for member in group.consumer.members.values()
            if (due_ms := member.next_deadline_ms()) is not None and due_ms <= now_ms
        )
        return self.remove(group, late, now_ms)

    # ------------------------------------------------------------------ offsets
    def commit_code(self, consumers: ConsumerGroup, event: CommitOffsets) -> Code:
        """Whether this commit may be (ConsumerGroup.validateOffsetCommit in Kafka)."""
        transactional = event.producer_id >= 0
        if event.generation < 0 and not consumers.members:
            return Code.NONE
        member = consumers.members.get(event.member_id)
        if member is None:
            return Code.UNKNOWN_MEMBER_ID
        if not transactional and member.classic is None and event.version < 9:
            return Code.UNSUPPORTED_VERSION
        code = epoch_code(member, event.generation)
        if code is Code.STALE_MEMBER_EPOCH and self._owned_since(member, event):
            return Code.NONE
        # A producer knows nothing of member epochs.
        return Code.ILLEGAL_GENERATION if transactional and code is Code.STALE_MEMBER_EPOCH else code

    def _owned_since(self, member: ConsumerMember, event: CommitOffsets) -> bool:
        """Whether a member that has not heard of its present epoch had all these partitions in the one it names, and has
        them still: so nobody else had them in between (KIP-1251)."""
        if event.generation > member.epoch:
            return False
        named = (self.topics.get(topic) for topic, _ in event.offsets)
        held = (
            (image.id, number) if image else None
            for image, (_, number) in zip(named, event.offsets, strict=True)
        )
        return all(each in member.since and member.since[each] <= event.generation for each in held)

    @staticmethod
    def fetch_code(consumers: ConsumerGroup, member_id: str | None, epoch: int) -> Code:
        """Whether this member may ask for committed offsets (ConsumerGroup.validateOffsetFetch in Kafka)."""
        if member_id is None and epoch < 0:
            return Code.NONE
        member = consumers.members.get(member_id or "")
        return Code.UNKNOWN_MEMBER_ID if member is None else epoch_code(member, epoch)


def epoch_code(member: ConsumerMember, epoch: int) -> Code:
    if epoch == member.epoch:
        return Code.NONE
    return Code.STALE_MEMBER_EPOCH if member.classic is None else Code.ILLEGAL_GENERATION


def replace_static(consumers: ConsumerGroup, former: ConsumerMember, member_id: str) -> ConsumerMember:
    """A static member is back under another id: it has what it had, its target, and its subscription until it says another."""
    target = consumers.target.get(former.member_id, NOTHING)
    member = replace(
        former,
        member_id=member_id,
        epoch=0,
        previous_epoch=0,
        assigned=NOTHING,
        revoking=NOTHING,
        revoke_deadline_ms=None,
    )
    assigned, revoking = former.assigned, former.revoking
    consumers.remove(former)
    consumers.add(member)
    consumers.hold(member, assigned, revoking)
    consumers.target[member_id] = target
    return member
