"""A consumer group of KIP-848 and its members as data, with the rules that concern one group alone.

A group has an epoch, which grows when its members, their subscriptions or the topics change; a target assignment, computed for
an epoch; and members, each on its own way (reconciliation) from what it has to its target:

    STABLE --has more than its target--> UNREVOKED_PARTITIONS --gave it back--+
       ^ \\                                                                    |
       |  +--its target is not free yet--> UNRELEASED_PARTITIONS <------------+
       +---------all that is free was given---------+
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

from .codes import Code, RequestRefused
from .consumer_assignors import ASSIGNORS, DEFAULT_ASSIGNOR, Partition, TopicImage

LEAVE_EPOCH = -1
STATIC_LEAVE_EPOCH = -2
NOTHING: frozenset[Partition] = frozenset()

# Looking around, references back and possessive quantifiers are not RE2's; [[:alpha:]] and the set operations that Python
# may have one day are not Python's.
NOT_ALIKE = re.compile(
    r"(?<!\\)(?:\\\\)*(?:\(\?(?:=|!|<=|<!|#|>|\(|P=)|\\[1-9]|[*+?}]\+|\[\[|\[:|\[[^\]]*(?:--|&&|~~|\|\|))"
)


class ConsumerGroupState(Enum):
    """Kafka's states of a consumer group, by the names that ConsumerGroupDescribe gives."""

    EMPTY = "Empty"  # no members; may have offsets
    ASSIGNING = "Assigning"  # the group's epoch is ahead of its target assignment's
    RECONCILING = "Reconciling"  # a member is not at its target yet
    STABLE = "Stable"


class MemberState(Enum):
    STABLE = "Stable"  # has what it may have
    UNREVOKED_PARTITIONS = "UnrevokedPartitions"  # must give up partitions, and has not said yet that it did
    UNRELEASED_PARTITIONS = "UnreleasedPartitions"  # waits for partitions that others still have


@dataclass(slots=True)
class ClassicSide:
    """What there is to know of a member that still speaks JoinGroup, in a group that changed protocols."""

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    join_deadline_ms: int | None = None  # was told to join again
    sync_deadline_ms: int | None = None  # has joined, and should ask for its assignment


@dataclass(slots=True)
class ConsumerMember:
    """Written by the coordinator only; what it holds by ConsumerGroup.hold alone."""

    member_id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    topics: frozenset[str] = frozenset()
    regex: str = ""
    assignor: str | None = None
    epoch: int = 0
    previous_epoch: int = 0
    state: MemberState = MemberState.STABLE
    assigned: frozenset[Partition] = NOTHING  # it may use these
    revoking: frozenset[Partition] = NOTHING  # it must give these back, and may have them still
    since: dict[Partition, int] = field(default_factory=dict)  # the epoch at which it got each (KIP-1251)
    session_deadline_ms: int | None = None
    revoke_deadline_ms: int | None = None
    classic: ClassicSide | None = None

    def advance(self, epoch: int) -> None:
        self.previous_epoch, self.epoch = self.epoch, epoch

    def next_deadline_ms(self) -> int | None:
        deadlines = [self.session_deadline_ms, self.revoke_deadline_ms]
        if self.classic is not None:
            deadlines += [self.classic.join_deadline_ms, self.classic.sync_deadline_ms]
        return min((each for each in deadlines if each is not None), default=None)


@dataclass(slots=True)
class ConsumerGroup:
    """Written by the coordinator only. Invariant: no partition is held (assigned, or being revoked) by two members."""

    epoch: int = 1  # so the first members are at 2, or at 1 if they read nothing
    assignment_epoch: int = 1  # nothing is assigned at epoch 1 (KAFKA-20268)
    members: dict[str, ConsumerMember] = field(default_factory=dict)
    static_ids: dict[str, str] = field(default_factory=dict)  # instance id -> member id
    target: dict[str, frozenset[Partition]] = field(default_factory=dict)
    holders: dict[Partition, str] = field(default_factory=dict)  # partition -> member id
    topics: dict[str, TopicImage] = field(default_factory=dict)  # those subscribed to, when last looked at
    stale: bool = False  # topics changed: look again at the next heartbeat

    @property
    def state(self) -> ConsumerGroupState:
        if not self.members:
            return ConsumerGroupState.EMPTY
        if self.epoch > self.assignment_epoch:
            return ConsumerGroupState.ASSIGNING
        if all(map(self.is_reconciled, self.members.values())):
            return ConsumerGroupState.STABLE
        return ConsumerGroupState.RECONCILING

    @property
    def assignor(self) -> str:
        """The one that most of those who name one name."""
        votes = Counter(sorted(each.assignor for each in self.members.values() if each.assignor))
        return votes.most_common(1)[0][0] if votes else DEFAULT_ASSIGNOR

    def next_deadline_ms(self) -> int | None:
        deadlines = (member.next_deadline_ms() for member in self.members.values())
        return min((each for each in deadlines if each is not None), default=None)

    # ------------------------------------------------------------------ subscriptions
    def reads(self, topic: str) -> bool:
        return any(reads(member, topic) for member in self.members.values())

    def look_at(self, topics: Mapping[str, TopicImage]) -> bool:
        """Take note of the topics that the members read; whether they are others than before."""
        self.stale = False
        found: set[str] = set()
        for member in self.members.values():
            found |= topics_of(member, topics)
        seen = {name: topics[name] for name in sorted(found)}
        changed, self.topics = seen != self.topics, seen
        return changed

    def assign(self) -> None:
        """A new target assignment, for the present epoch."""
        # Static members first: their places in the order survive a restart, so what they get changes least.
        order = sorted(
            self.members.values(),
            key=lambda each: (each.instance_id is None, each.instance_id or each.member_id),
        )
        subscriptions = {each.member_id: topics_of(each, self.topics) for each in order}
        self.target = ASSIGNORS[self.assignor](subscriptions, self.topics, self.target)
        self.assignment_epoch = self.epoch

    # ------------------------------------------------------------------ members
    def add(self, member: ConsumerMember) -> None:
        self.members[member.member_id] = member
        if member.instance_id is not None:
            self.static_ids[member.instance_id] = member.member_id

    def remove(self, member: ConsumerMember) -> None:
        self.hold(member, NOTHING, NOTHING)
        del self.members[member.member_id]
        self.target.pop(member.member_id, None)
        if member.instance_id is not None and self.static_ids.get(member.instance_id) == member.member_id:
            del self.static_ids[member.instance_id]

    def hold(
        self, member: ConsumerMember, assigned: frozenset[Partition], revoking: frozenset[Partition]
    ) -> None:
        """What a member has from now on. RuntimeError if another has some of it: the coordinator would be wrong."""
        for each in member.assigned | member.revoking:
            del self.holders[each]
        member.assigned, member.revoking = assigned, revoking
        member.since = {each: member.since.get(each, member.epoch) for each in assigned | revoking}
        for each in assigned | revoking:
            if self.holders.setdefault(each, member.member_id) != member.member_id:
                raise RuntimeError(f"{each} of {member.member_id} is held by {self.holders[each]}")

    def is_reconciled(self, member: ConsumerMember) -> bool:
        return member.state is MemberState.STABLE and member.epoch == self.assignment_epoch

    def waits_for_others(self, member: ConsumerMember) -> bool:
        missing = self.target.get(member.member_id, NOTHING) - member.assigned
        return member.state is MemberState.UNRELEASED_PARTITIONS and any(
            each in self.holders for each in missing
        )

    def reconcile(self, member: ConsumerMember, owned: frozenset[Partition] | None, now_ms: int) -> None:
        """One step from what a member has to its target (CurrentAssignmentBuilder in Kafka). `owned`: what it says it has."""
        if self.is_reconciled(member):
            return
        epoch = member.epoch
        if member.state is MemberState.UNREVOKED_PARTITIONS:
            if owned is None or owned & member.revoking:
                return
            epoch += 1
        target = self.target.get(member.member_id, NOTHING)
        kept, revoke = member.assigned & target, member.assigned - target
        if revoke and (owned is None or owned & revoke):
            member.state = MemberState.UNREVOKED_PARTITIONS
            member.advance(epoch)
            self.hold(member, kept, revoke)
            # Those who speak JoinGroup have timers of their own.
            member.revoke_deadline_ms = (
                now_ms + member.rebalance_timeout_ms if member.classic is None else None
            )
            return
        # What this very member has not given back until now is free at its next heartbeat, as in Kafka.
        free = frozenset(each for each in target - kept if each not in self.holders)
        done = kept | free == target
        member.state = MemberState.STABLE if done else MemberState.UNRELEASED_PARTITIONS
        member.advance(self.assignment_epoch)
        self.hold(member, kept | free, NOTHING)
        member.revoke_deadline_ms = None


# ---------------------------------------------------------------- subscriptions by regular expression
@lru_cache(maxsize=1024)
def compiled(regex: str) -> re.Pattern[str]:
    """Raises RequestRefused (INVALID_REGULAR_EXPRESSION). Kafka uses RE2; this is Python's, and refuses where they differ."""
    if (found := NOT_ALIKE.search(regex)) is not None:
        raise RequestRefused(
            Code.INVALID_REGULAR_EXPRESSION,
            f"SubscribedTopicRegex `{regex}`: RE2 and the embedded broker do not agree on {found.group()!r}",
        )
    try:
        return re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise RequestRefused(
            Code.INVALID_REGULAR_EXPRESSION,
            f"SubscribedTopicRegex `{regex}` is not a valid regular expression: {error}",
        ) from None


def reads(member: ConsumerMember, topic: str) -> bool:
    return topic in member.topics or bool(member.regex and compiled(member.regex).fullmatch(topic))


def topics_of(member: ConsumerMember, topics: Mapping[str, TopicImage]) -> frozenset[str]:
    """The existing topics that a member reads."""
    named = frozenset(name for name in member.topics if name in topics)
    if not member.regex:
        return named
    pattern = compiled(member.regex)
    return named | {name for name in topics if pattern.fullmatch(name)}
