"""Members that speak JoinGroup, SyncGroup and Heartbeat in a group of the new protocol (KIP-848, "Online Migration"). Pure.

No member leads here: the coordinator assigns, JoinGroup is answered at once, and what it makes for the member to have is what
SyncGroup answers. A member learns by REBALANCE_IN_PROGRESS that it must join again: because there is a new target, because it
must give partitions back, or because those it waits for are free. Follows the "ToConsumerGroup" methods of GroupMetadataManager.
"""

from __future__ import annotations

from collections.abc import Callable

from .codes import Code, RequestRefused
from .consumer_groups import ConsumerGroups, refuse, replace_static
from .consumer_model import ClassicSide, ConsumerGroup, ConsumerMember, MemberState
from .consumer_protocol import Malformed, Subscription, decode_subscription
from .group_events import (
    Answered,
    Effect,
    Heartbeat,
    Joined,
    JoinGroup,
    LeaveGroup,
    Left,
    Reply,
    Synced,
    SyncGroup,
)
from .group_model import Group, GroupLimits
from .migration import CONSUMER, by_id, encoded, may_downgrade, to_classic


class MixedGroups:
    """See the module. All methods are for a group whose `consumer` is set."""

    def __init__(
        self, consumers: ConsumerGroups, new_member_id: Callable[[str], str], limits: GroupLimits
    ) -> None:
        self._machine = consumers
        self._new_member_id = new_member_id
        self._limits = limits

    # ------------------------------------------------------------------ JoinGroup
    def join(self, group: Group, event: JoinGroup, now_ms: int) -> list[Effect]:
        try:
            joined, effects = self._join(group, event, now_ms)
        except RequestRefused as error:
            return [Reply(event.token, Joined(error.code, event.member_id))]
        return [Reply(event.token, joined), *effects]

    def _join(self, group: Group, event: JoinGroup, now_ms: int) -> tuple[Joined, list[Effect]]:
        consumers = group.consumer
        assert consumers is not None
        member_id = event.member_id or self._new_member_id(event.instance_id or event.client_id)
        if len(consumers.members) >= self._limits.consumer_max_size and member_id not in consumers.members:
            refuse(Code.GROUP_MAX_SIZE_REACHED, "The consumer group is full.")
        subscription = self._subscription(consumers, event)
        if event.instance_id is None and not event.member_id and event.member_id_required:
            return Joined(Code.MEMBER_ID_REQUIRED, member_id), []
        if event.instance_id is None and member_id not in consumers.members and subscription.owned:
            # It was put out, or the broker has forgotten it, and what it thinks it owns may be another's by now: it has to lose that
            # first, as in a classic group. Kafka takes it in, and for a while there are two owners.
            refuse(Code.UNKNOWN_MEMBER_ID, f"{member_id} is no member of {event.group_id}.")
        member, former = self._member_for(consumers, event, member_id)
        changed = member.topics != subscription.topics or bool(member.regex)
        member.topics, member.regex = subscription.topics, ""
        member.rack_id = subscription.rack_id or member.rack_id
        member.assignor = None
        member.rebalance_timeout_ms = event.rebalance_timeout_ms
        member.client_id, member.client_host = event.client_id, event.client_host
        member.revoke_deadline_ms = None
        # From here on there is time to ask for the assignment; and no more wish that it joins.
        sync_deadline_ms = now_ms + event.rebalance_timeout_ms
        member.classic = ClassicSide(
            event.session_timeout_ms, event.protocols, sync_deadline_ms=sync_deadline_ms
        )
        member.session_deadline_ms = now_ms + event.session_timeout_ms
        consumers.add(member)
        self._machine.refresh(consumers, changed)
        consumers.reconcile(member, by_id(subscription.owned, self._machine.topics), now_ms)
        effects: list[Effect] = []
        if former is not None and former.classic is None and may_downgrade(consumers, self._limits):
            # A static member came back with the classic protocol, and it was the last one of the new. All go on as they are: nobody
            # left, so nobody need join again. Unless some are not where they should be: Kafka would leave them there, unaware.
            moves = not all(map(consumers.is_reconciled, consumers.members.values()))
            to_classic(group, self._machine.topic_names, now_ms, will_rebalance=moves)
            if moves:
                effects = self._machine.rebalance(group, now_ms)
        return Joined(Code.NONE, member.member_id, member.epoch, CONSUMER, event.protocols[0][0]), effects

    @staticmethod
    def _subscription(consumers: ConsumerGroup, event: JoinGroup) -> Subscription:
        """Raises RequestRefused if this member's protocols are not for this group."""
        sides = [each.classic for each in consumers.members.values() if each.classic is not None]
        names = {name for name, _ in event.protocols}
        known = [names & {name for name, _ in side.protocols} for side in sides]
        if event.protocol_type != CONSUMER or not set.intersection(names, *known):
            refuse(Code.INCONSISTENT_GROUP_PROTOCOL, f"The protocols of {event.member_id} are not supported.")
        try:
            return decode_subscription(event.protocols[0][1])
        except Malformed as error:
            refuse(Code.INCONSISTENT_GROUP_PROTOCOL, f"Not a consumer's subscription: {error}")

    def _member_for(
        self, consumers: ConsumerGroup, event: JoinGroup, member_id: str
    ) -> tuple[ConsumerMember, ConsumerMember | None]:
        """The member, perhaps a new one, and the static member whose place it takes."""
        if event.instance_id is None:
            return consumers.members.get(member_id) or ConsumerMember(member_id), None
        if event.member_id:
            return self._machine.static_member(consumers, event.instance_id, event.member_id), None
        former = consumers.members.get(consumers.static_ids.get(event.instance_id, ""))
        if former is None:
            return ConsumerMember(member_id, event.instance_id), None
        return replace_static(consumers, former, member_id), former

    # ------------------------------------------------------------------ SyncGroup, Heartbeat, LeaveGroup
    def _classic_member(
        self, consumers: ConsumerGroup, event: SyncGroup | Heartbeat
    ) -> tuple[ConsumerMember, ClassicSide]:
        if event.instance_id is not None:
            member = self._machine.static_member(consumers, event.instance_id, event.member_id)
        elif event.member_id in consumers.members:
            member = consumers.members[event.member_id]
        else:
            refuse(Code.UNKNOWN_MEMBER_ID, f"{event.member_id} is no member of {event.group_id}.")
        if member.classic is None:
            refuse(Code.UNKNOWN_MEMBER_ID, f"{event.member_id} does not speak the classic protocol.")
        if event.generation != member.epoch:
            refuse(Code.ILLEGAL_GENERATION, f"{event.member_id} is at {member.epoch}.")
        return member, member.classic

    def sync(self, group: Group, event: SyncGroup, now_ms: int) -> list[Effect]:
        consumers = group.consumer
        assert consumers is not None
        try:
            member, side = self._classic_member(consumers, event)
            names = ((event.protocol_type, CONSUMER), (event.protocol_name, side.protocols[0][0]))
            if any(given is not None and given != known for given, known in names):
                refuse(Code.INCONSISTENT_GROUP_PROTOCOL, f"{event.protocol_name} is not what it joined with.")
            # One that is giving partitions back has joined this epoch already, and must first end that.
            if consumers.epoch > member.epoch and member.state is not MemberState.UNREVOKED_PARTITIONS:
                self._expect_join(member, side, now_ms)
                refuse(Code.REBALANCE_IN_PROGRESS, "There is a new epoch.")
        except RequestRefused as error:
            return [Reply(event.token, Synced(error.code))]
        side.sync_deadline_ms = None
        member.session_deadline_ms = now_ms + side.session_timeout_ms
        assigned = encoded(member.assigned, self._machine.topic_names, side.protocols)
        return [Reply(event.token, Synced(Code.NONE, assigned, event.protocol_type, event.protocol_name))]

    def heartbeat(self, group: Group, event: Heartbeat, now_ms: int) -> list[Effect]:
        consumers = group.consumer
        assert consumers is not None
        try:
            member, side = self._classic_member(consumers, event)
        except RequestRefused as error:
            return [Reply(event.token, Answered(error.code))]
        member.session_deadline_ms = now_ms + side.session_timeout_ms
        waiting = member.state is MemberState.UNRELEASED_PARTITIONS
        if (
            member.epoch < consumers.epoch
            or member.state is MemberState.UNREVOKED_PARTITIONS
            or (waiting and not consumers.waits_for_others(member))
        ):
            self._expect_join(member, side, now_ms)
            return [Reply(event.token, Answered(Code.REBALANCE_IN_PROGRESS))]
        return [Reply(event.token, Answered(Code.NONE))]

    @staticmethod
    def _expect_join(member: ConsumerMember, side: ClassicSide, now_ms: int) -> None:
        if side.join_deadline_ms is None:
            side.join_deadline_ms = now_ms + member.rebalance_timeout_ms

    def leave(self, group: Group, event: LeaveGroup, now_ms: int) -> list[Effect]:
        """Also how an administrator removes members, whichever protocol they speak."""
        consumers = group.consumer
        assert consumers is not None
        leaving: dict[str, ConsumerMember] = {}
        answers: list[tuple[str, str | None, Code]] = []
        for member_id, instance_id in event.members:
            code = Code.NONE
            member = consumers.members.get(member_id)
            try:
                if instance_id is not None:
                    member = self._machine.static_member(consumers, instance_id, member_id)
                if member is None or member.member_id in leaving:
                    refuse(Code.UNKNOWN_MEMBER_ID, f"{member_id} is no member of {event.group_id}.")
                leaving[member.member_id] = member
            except RequestRefused as error:
                code = error.code
            answers.append((member_id, instance_id, code))
        effects = self._machine.remove(group, leaving.values(), now_ms)
        return [*effects, Reply(event.token, Left(Code.NONE, tuple(answers)))]
