"""A group in one thread under a virtual clock: the brokers, their log, and what the checkers know of both.

The machines are the real ones: penstock.group's and penstock.devbroker.groups. What is simulated is what lies between and around
them: a network that delays, loses and cuts, coordinators that move and restart, topics that come, grow and go, hosts that
poll, stall, die and come back. All chance comes from one seed, which replays a run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from penstock.devbroker import group_events as b
from penstock.devbroker.consumer_model import ConsumerGroup
from penstock.devbroker.groups import GroupCoordinator, GroupLimits
from penstock.group.protocol import decode_assignment
from penstock.types import OffsetAndMetadata, TopicPartition

from .clock import Clock
from .network import Reply, Request

if TYPE_CHECKING:
    from .host import Host

GROUP = "group"
NODES = 3
NOT_COORDINATOR, LOADING, UNKNOWN_TOPIC = 16, 14, 3
RECORD_EVERY_MS = 40  # in each partition

assignment_of = lru_cache(maxsize=4096)(decode_assignment)


class Violation(AssertionError):
    """Something that must hold did not."""


@dataclass(eq=False, slots=True)
class Log:
    """One partition of one topic id. `seen`: how far any consumer's polls have returned records; `committed`: the group's offset."""

    made_ms: int
    seen: int = 0
    committed: int = 0
    deleted: bool = False


@dataclass(slots=True)
class Topic:
    id: bytes
    logs: list[Log]


class Token:
    """A request that the coordinator may hold for long. Where it has moved meanwhile, what it says at last is for nobody."""

    __slots__ = ("reply",)

    def __init__(self, reply: Reply) -> None:
        self.reply: Reply | None = reply


@dataclass(slots=True)
class Counts:
    """What a run was worth. `rebalances`: generations and epochs in which the members or what they own were others than before."""

    rebalances: int = 0
    commits: int = 0
    assigned: int = 0
    revoked: int = 0
    lost: int = 0


class World:
    """Brokers, log and judges. `faults` is how often something goes wrong, from 0 to 1; `trace` takes a line per event, if there is one."""

    def __init__(
        self, seed: int, topics: dict[str, int], limits: GroupLimits | None = None, trace: Callable[[str], None] | None = None
    ) -> None:  # fmt: skip
        self.random = random.Random(seed)
        self.clock = Clock()
        self.trace = trace
        self.faults = 0.0
        self.counts = Counts()
        self.hosts: list[Host] = []
        self.topics: dict[str, Topic] = {}
        self.node = 0  # the coordinator's
        self.loading_until_ms = 0
        self.no_records_after_ms: int | None = None
        self.joined: dict[str, int] = {}  # classic members: the generation that each last took part in
        self.missed: dict[str, int] = {}  # those of them that took no part in the generation before that one
        self.changed = False  # who owns what, or who is a member, since the checkers looked last
        self._limits = limits or GroupLimits()
        self._tokens: dict[Token, None] = {}  # in the order of asking
        self._names = 0
        self._counted: tuple[Hashable, Hashable] = (None, None)
        self.coordinator = self._new_coordinator()
        self._tick_due: int | None = None
        for name, partitions in topics.items():
            self.grow(name, partitions)

    def _new_coordinator(self) -> GroupCoordinator:
        return GroupCoordinator(self._new_id, self._limits)

    def _new_id(self, client: str) -> str:
        self._names += 1
        return f"{client}-{self._names}"

    def note(self, who: str, what: Callable[[], str]) -> None:
        """A line for the trace; made only if somebody reads it."""
        if self.trace is not None:
            self.trace(f"{self.clock.now_ms:>8} ms  {who:<12} {what()}")

    # ------------------------------------------------------------ the network

    def delay_ms(self) -> int:
        if self.faults and self.random.random() < self.faults:
            return self.random.randrange(200, 3_000)
        return 1 + int(self.random.random() * 29)

    def loses(self) -> bool:
        return self.faults > 0 and self.random.random() < self.faults

    def flips(self) -> bool:
        return self.random.random() < 0.5

    # ------------------------------------------------------------ topics and records

    def grow(self, name: str, by: int = 1) -> None:
        """More partitions; a topic that there is not is made."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name.encode().ljust(16, b"."), [])
        topic.logs += [Log(self.clock.now_ms) for _ in range(by)]
        self.note("cluster", lambda: f"{name} has {len(topic.logs)} partitions")
        self._tell_topic(name)
        self._tell_hosts()

    def delete(self, name: str) -> None:
        topic = self.topics.pop(name)
        for log in topic.logs:
            log.deleted = True
        self.note("cluster", lambda: f"{name} is deleted")
        self._handle(b.TopicDeleted(None, name))
        self._tell_hosts()

    def _tell_topic(self, name: str) -> None:
        topic = self.topics[name]
        self._handle(b.TopicChanged(None, name, topic.id, len(topic.logs)))

    def _tell_hosts(self) -> None:
        for host in self.hosts:
            host.metadata_soon()

    def metadata(self) -> dict[str, tuple[bytes, int]]:
        return {name: (topic.id, len(topic.logs)) for name, topic in self.topics.items()}

    def log(self, tp: TopicPartition) -> Log | None:
        topic = self.topics.get(tp.topic)
        return topic.logs[tp.partition] if topic is not None and tp.partition < len(topic.logs) else None

    def end(self, log: Log) -> int:
        now_ms = self.clock.now_ms
        if self.no_records_after_ms is not None:
            now_ms = min(now_ms, self.no_records_after_ms)
        return max(0, now_ms - log.made_ms) // RECORD_EVERY_MS

    # ------------------------------------------------------------ the coordinator

    def at_broker(self, node: int, request: Request, reply: Reply) -> None:
        if node != self.node:
            reply(NOT_COORDINATOR)
        elif self.clock.now_ms < self.loading_until_ms:
            reply(LOADING)
        else:
            request.serve(reply)

    def submit(self, event: Callable[[Any], b.Event], reply: Reply) -> None:
        """Hand an event to the coordinator, which may answer much later."""
        token = Token(reply)
        self._tokens[token] = None
        self._handle(event(token))

    def _handle(self, event: b.Event) -> None:
        for effect in self.coordinator.handle(event, self.clock.now_ms):
            if isinstance(effect, b.Reply) and effect.token is not None:
                self._answer(effect.token, effect.answer)
        self._count()
        self.changed = True
        due_ms = self.coordinator.next_deadline_ms()
        if due_ms is not None and due_ms != self._tick_due:
            self._tick_due = due_ms
            self.clock.after(due_ms - self.clock.now_ms, lambda: self._tick(due_ms))

    def _answer(self, token: Token, answer: Any) -> None:
        self._tokens.pop(token, None)
        reply, token.reply = token.reply, None
        if isinstance(answer, b.Joined) and not answer.code:
            if 0 <= self.joined.get(answer.member_id, -1) < answer.generation - 1 and answer.leader:
                self.missed[answer.member_id] = answer.generation
            self.joined[answer.member_id] = answer.generation
        if reply is not None:
            reply(answer)

    def _tick(self, due_ms: int) -> None:
        if self._tick_due == due_ms:
            self._tick_due = None
            self._handle(b.Tick())

    def _count(self) -> None:
        group = self.coordinator.groups.get(GROUP)
        if group is None:
            return
        if group.consumer is not None:
            at: Hashable = ("consumer", group.consumer.assignment_epoch)
        else:
            at = ("classic", group.generation, group.state)
        if at == self._counted[0]:
            return
        if group.consumer is not None:
            now: Hashable = frozenset(group.consumer.target.items())
        elif group.state is b.GroupState.STABLE:
            now = frozenset((member.member_id, member.assignment) for member in group.members.values())
        else:
            return
        self.counts.rebalances += now != self._counted[1]
        self._counted = (at, now)
        self.note("coordinator", lambda: f"rebalanced: {at}")

    def move_coordinator(self, loads_for_ms: int) -> None:
        """Another broker takes over with all that this one knew. What it held open is refused."""
        self.node = (self.node + 1) % NODES
        self.loading_until_ms = self.clock.now_ms + loads_for_ms
        self.note("cluster", lambda: f"node {self.node} coordinates, after loading for {loads_for_ms} ms")
        tokens, self._tokens = self._tokens, {}
        for token in tokens:
            reply, token.reply = token.reply, None
            if reply is not None:
                reply(NOT_COORDINATOR)

    def restart_coordinator(self, loads_for_ms: int) -> None:
        """kill -9 of the broker, which reads its log again: offsets and the epoch are there, members are not.

        The epoch, as Kafka keeps it: what was sent before and arrives now must not happen to name the right one.
        """
        self.loading_until_ms = self.clock.now_ms + loads_for_ms
        self.note("cluster", lambda: f"node {self.node} restarts, and loads for {loads_for_ms} ms")
        before = self.coordinator.groups.get(GROUP)
        self._tokens.clear()
        self._tick_due = None
        self.coordinator = self._new_coordinator()
        if before is not None:
            self.coordinator.restore(GROUP, before.offsets, {})
            group = self.coordinator.groups[GROUP]
            group.generation = before.generation
            if before.consumer is not None:
                group.consumer = ConsumerGroup(before.consumer.epoch, before.consumer.epoch)
        self.joined.clear()
        for name in self.topics:
            self._tell_topic(name)
        for host in self.hosts:
            host.cut("the broker is gone")

    # ------------------------------------------------------------ offsets

    def fetch_offsets(self, member_id: str | None, epoch: int, partitions: list[TopicPartition]) -> Any:
        """Committed offsets as OffsetFetch tells them, or an error code."""
        group = self.coordinator.groups.get(GROUP)
        if group is not None and group.consumer is not None:
            code = self.coordinator.consumers.fetch_code(group.consumer, member_id, epoch)
            if code:
                return int(code)
        offsets = group.offsets if group is not None else {}
        return {tp: offsets[tp].offset if tp in offsets else None for tp in partitions}

    def commit_offsets(
        self,
        who: str,
        identity: tuple[str, int, str | None],
        offsets: dict[TopicPartition, int],
        reply: Reply,
    ) -> None:
        """OffsetCommit as a broker does it: 0, or the gravest code. What the coordinator takes is judged."""
        member_id, generation, instance = identity
        known = {tp: OffsetAndMetadata(offset) for tp, offset in offsets.items() if self.log(tp) is not None}

        def answered(answer: Any) -> None:
            if isinstance(answer, int):
                reply(answer)
                return
            if not answer.code:
                self._judge_commit(who, member_id, {tp: entry.offset for tp, entry in known.items()})
            reply(int(answer.code) or (UNKNOWN_TOPIC if len(known) < len(offsets) else 0))

        def make(token: Any) -> b.Event:
            return b.CommitOffsets(token, GROUP, generation, member_id, instance, known)

        self.submit(make, answered)

    def _judge_commit(self, who: str, member_id: str, offsets: dict[TopicPartition, int]) -> None:
        """No commit is accepted of what is another's; none goes back; none passes what was returned by a poll."""
        self.counts.commits += 1
        self.note(who, lambda: f"committed {offsets}")
        for tp, offset in offsets.items():
            owner = self.owner(tp)
            if owner not in (None, member_id):
                raise Violation(f"a commit of {tp} by {who} ({member_id}) was accepted, but {owner} owns it")
            log = self.log(tp)
            assert log is not None
            if offset < log.committed:
                raise Violation(f"{who} took {tp} back from {log.committed} to {offset}")
            if offset > log.seen:
                raise Violation(f"{who} committed {offset} of {tp}, of which only {log.seen} were returned")
            log.committed = offset

    def owner(self, tp: TopicPartition) -> str | None:
        """The member id whose the partition is, as the coordinator sees it."""
        group = self.coordinator.groups.get(GROUP)
        if group is None:
            return None
        if group.consumer is not None:
            return group.consumer.holders.get((self.topics[tp.topic].id, tp.partition))
        for member in group.members.values():
            if member.assignment and tp in assignment_of(member.assignment):
                return member.member_id
        return None

    def is_member(self, host: Host) -> bool:
        """Whether the coordinator counts it as current: to its present generation, or to its group of KIP-848."""
        group = self.coordinator.groups.get(GROUP)
        member_id = host.machine.member_id
        if group is None or not member_id or host.machine.generation_id < 0:
            return False
        if group.consumer is None:
            # One that missed a generation hears of it with the answer to its next join; then it loses all.
            heard = host.machine.generation_id >= self.missed.get(member_id, 0)
            return heard and member_id in group.members and self.joined.get(member_id) == group.generation
        member = group.consumer.members.get(member_id)
        return member is not None and (member.classic is not None) == host.is_classic
