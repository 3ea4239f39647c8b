"""A group in one thread under a virtual clock: members, the network between, and the embedded broker's coordinator.

Both machines are the real ones: penstock.group.classic and penstock.devbroker.groups. What is simulated is what lies
between and around them: a network that delays, loses and cuts, hosts that poll, stall, die and come back. All chance comes from
one seed, which replays a run.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from penstock.devbroker import group_events as b
from penstock.devbroker.groups import GroupCoordinator
from penstock.group import messages as g
from penstock.group.assignors import assignors_for
from penstock.group.classic import ClassicMember
from penstock.types import OffsetAndMetadata, TopicPartition

GROUP = "group"
SESSION_MS, HEARTBEAT_MS, MAX_POLL_MS, REQUEST_MS = 10_000, 1_000, 20_000, 5_000
NOT_COORDINATOR, LOADING = 16, 14


class Clock:
    """What happens when, in order of time; equal times in order of asking."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, ms: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now_ms + max(0, ms), self._count, action))

    def run(self, until_ms: int, each: Callable[[], None]) -> None:
        """Everything up to a time; `each` looks at the world after every step."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
            each()
        self.now_ms = until_ms


@dataclass(eq=False)
class Request:
    """One request on its way; answered or failed once."""

    make: Callable[[Any], b.Event]
    answered: Callable[[Any], None]
    failed: Callable[[str], None]
    over: bool = False

    def answer(self, reply: Any) -> None:
        if not self.over:
            self.over = True
            self.answered(reply)

    def fail(self, reason: str) -> None:
        if not self.over:
            self.over = True
            self.failed(reason)


class Connection:
    """A member's connection to the coordinator: in order, one request at the broker at a time, broken as a whole."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: deque[Request] = deque()
        self._at_broker = False
        self.broken = False

    def send(self, request: Request, timeout_ms: int) -> None:
        clock = self._world.clock
        if self.broken:
            clock.after(self._world.delay_ms(), lambda: request.fail("no connection"))
            return
        self._waiting.append(request)
        clock.after(self._world.delay_ms(), self._deliver)
        clock.after(timeout_ms, lambda: None if request.over else self.cut("no answer in time"))
        if self._world.loses():
            clock.after(self._world.delay_ms(), lambda: self.cut("connection reset"))

    def _deliver(self) -> None:
        """The broker takes the next request when the one before is answered."""
        if not self._waiting or self._at_broker or self.broken:
            return
        self._at_broker = True
        self._world.at_coordinator(self._waiting[0], self._replied)

    def _replied(self, reply: Any) -> None:
        def arrive() -> None:
            if not self.broken:
                self._at_broker = False
                self._waiting.popleft().answer(reply)
                self._deliver()

        self._world.clock.after(self._world.delay_ms(), arrive)

    def cut(self, reason: str) -> None:
        self.broken = True
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            request.fail(reason)


class World:
    """The coordinator, the network and the log. `faults` is how often something goes wrong, from 0 to 1."""

    def __init__(self, seed: int, partitions: dict[str, int]) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.partitions = dict(partitions)
        self.faults = 0.0
        self.moved_until_ms = 0  # until then this broker is not the coordinator
        self.hosts: list[Host] = []
        self.accepted: list[
            tuple[str, int, dict[TopicPartition, int]]
        ] = []  # commits that the coordinator took
        self._names = 0
        self.coordinator = GroupCoordinator(self._new_id)
        self._tick_due: int | None = None

    def _new_id(self, client: str) -> str:
        self._names += 1
        return f"{client}-{self._names}"

    # ------------------------------------------------------------ the network

    def delay_ms(self) -> int:
        slow = self.random.random() < self.faults
        return self.random.randrange(200, 3_000) if slow else self.random.randrange(1, 30)

    def loses(self) -> bool:
        return self.random.random() < self.faults

    # ------------------------------------------------------------ the coordinator

    def at_coordinator(self, request: Request, reply: Callable[[Any], None]) -> None:
        if self.clock.now_ms < self.moved_until_ms:
            code = self.random.choice([NOT_COORDINATOR, LOADING])
            reply(code)
            return
        self._perform(self.coordinator.handle(request.make(reply), self.clock.now_ms))

    def _perform(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, b.Reply):
                effect.token(effect.answer)
        due_ms = self.coordinator.next_deadline_ms()
        if due_ms is not None and due_ms != self._tick_due:
            self._tick_due = due_ms
            self.clock.after(due_ms - self.clock.now_ms, self._tick)

    def _tick(self) -> None:
        self._tick_due = None
        self._perform(self.coordinator.handle(b.Tick(), self.clock.now_ms))

    def committed(self) -> dict[TopicPartition, int]:
        group = self.coordinator.groups.get(GROUP)
        return {tp: entry.offset for tp, entry in group.offsets.items()} if group is not None else {}


@dataclass
class Seen:
    """What the user of one host has seen, for the checkers."""

    owned: tuple[TopicPartition, ...] = ()
    stopped: bool = False
    calls: list[tuple[str, tuple[TopicPartition, ...]]] = field(default_factory=list)


class Host:
    """One consumer: the group driver and the user's thread, as engine/group_driver.py and poll() are to the machine."""

    def __init__(self, world: World, name: str, topics: tuple[str, ...], instance: str | None = None) -> None:
        self.world, self.name, self.topics, self.instance = world, name, topics, instance
        self.machine = ClassicMember(
            group_id=GROUP,
            group_instance_id=instance,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=MAX_POLL_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            retry_backoff_ms=100,
            retry_backoff_max_ms=1_000,
            assignors=assignors_for(["range"] if world.random.random() < 0.5 else ["range", "roundrobin"]),
            jitter=world.random.random,
        )
        self.seen = Seen()
        self.alive = True
        self.errors: list[int] = []
        self.positions: dict[TopicPartition, int] = {}
        self.isolated_until_ms = 0  # until then no new connection reaches the coordinator
        self._connection = Connection(world)
        self._callbacks: deque[Callable[[], None]] = deque()
        self._polled_at_ms = world.clock.now_ms
        self._expired = False
        self._counts: dict[str, int] | None = None
        self._queue: deque[g.Event] = deque()
        self._feeding = False
        self._armed_ms: int | None = None
        self._beats: g.KeepHeartbeating | None = None
        world.hosts.append(self)
        self.feed(g.Subscribe(topics))
        self._poll_later()
        self._watch_polls()

    # ------------------------------------------------------------ the driver

    def feed(self, event: g.Event) -> None:
        if not self.alive:
            return
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        while self._queue:
            now_ms = self.world.clock.now_ms
            for effect in self.machine.handle(self._queue.popleft(), now_ms):
                getattr(self, f"_do_{type(effect).__name__}")(effect)
            due_ms = self.machine.next_deadline_ms()
            assert due_ms is None or due_ms > now_ms
        self._feeding = False
        self._arm()

    def _arm(self) -> None:
        due_ms = self.machine.next_deadline_ms()
        if due_ms is not None and due_ms != self._armed_ms:
            self._armed_ms = due_ms
            self.world.clock.after(due_ms - self.world.clock.now_ms, lambda: self._on_timer(due_ms))

    def _on_timer(self, due_ms: int) -> None:
        if self._armed_ms != due_ms or not self.alive:
            return
        self._armed_ms = None
        self.feed(g.Tick())

    def _watch_polls(self) -> None:
        idle_ms = self.world.clock.now_ms - self._polled_at_ms
        if idle_ms > MAX_POLL_MS and not self._expired:
            self._expired = True
            self.feed(g.PollExpired())
        if self.alive:
            self.world.clock.after(MAX_POLL_MS + 1 - min(idle_ms, MAX_POLL_MS), self._watch_polls)

    def _connect(self) -> Connection:
        if self._connection.broken and self.world.clock.now_ms >= self.isolated_until_ms:
            self._connection = Connection(self.world)
        return self._connection

    def _send(
        self, kind: g.RequestKind, make: Callable[[Any], b.Event], read: Callable[[Any], g.Event], timeout_ms: int = REQUEST_MS
    ) -> None:  # fmt: skip
        self._connect().send(
            Request(
                make, lambda reply: self.feed(read(reply)), lambda why: self.feed(g.RequestFailed(kind, why))
            ),
            timeout_ms,
        )

    def _do_FindCoordinator(self, effect: g.FindCoordinator) -> None:
        self.world.clock.after(self.world.delay_ms(), lambda: self.feed(g.CoordinatorFound()))

    def _do_SendJoin(self, effect: g.SendJoin) -> None:
        def make(token: Any) -> b.Event:
            return b.JoinGroup(
                token, GROUP, effect.member_id, effect.group_instance_id, self.name, "host",
                effect.session_timeout_ms, effect.rebalance_timeout_ms, "consumer", effect.protocols,
            )  # fmt: skip

        def read(reply: Any) -> g.Event:
            if isinstance(reply, int):
                return g.JoinAnswered(reply, -1, "", "", "", ())
            members = tuple(g.JoinedMember(*member) for member in reply.members)
            name = reply.protocol_name or ""
            return g.JoinAnswered(
                int(reply.code),
                reply.generation,
                name,
                reply.leader,
                reply.member_id,
                members,
                reply.skip_assignment,
            )

        self._send(g.RequestKind.JOIN, make, read, MAX_POLL_MS + 5_000)

    def _do_SendSync(self, effect: g.SendSync) -> None:
        def make(token: Any) -> b.Event:
            return b.SyncGroup(
                token, GROUP, effect.generation_id, effect.member_id, effect.group_instance_id,
                "consumer", effect.protocol_name, effect.assignments,
            )  # fmt: skip

        def read(reply: Any) -> g.Event:
            if isinstance(reply, int):
                return g.SyncAnswered(reply, None, b"")
            return g.SyncAnswered(int(reply.code), reply.protocol_name, reply.assignment)

        self._send(g.RequestKind.SYNC, make, read, MAX_POLL_MS + 5_000)

    def _do_KeepHeartbeating(self, effect: g.KeepHeartbeating) -> None:
        self._beats = effect
        self.world.clock.after(0 if effect.at_once else effect.interval_ms, lambda: self._beat(effect))

    def _do_StopHeartbeats(self, effect: g.StopHeartbeats) -> None:
        self._beats = None

    def _beat(self, effect: g.KeepHeartbeating) -> None:
        """As the connection does: every interval, one at a time; a plain yes is nobody's news."""
        if self._beats is not effect or not self.alive:
            return

        def make(token: Any) -> b.Event:
            return b.Heartbeat(token, GROUP, effect.generation_id, effect.member_id, effect.group_instance_id)

        def answered(reply: Any) -> None:
            if self._beats is not effect:
                return
            self.world.clock.after(effect.interval_ms, lambda: self._beat(effect))
            code = reply if isinstance(reply, int) else int(reply.code)
            if code:
                self.feed(g.HeartbeatAnswered(code, effect.generation_id))

        def failed(why: str) -> None:
            if self._beats is effect:
                self.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, why))

        self._connect().send(Request(make, answered, failed), REQUEST_MS)

    def _do_SendLeave(self, effect: g.SendLeave) -> None:
        def make(token: Any) -> b.Event:
            return b.LeaveGroup(token, GROUP, ((effect.member_id, effect.group_instance_id),))

        def read(reply: Any) -> g.Event:
            return g.LeaveAnswered(reply if isinstance(reply, int) else int(reply.code))

        self._send(g.RequestKind.LEAVE, make, read)

    def _do_NeedPartitionCounts(self, effect: g.NeedPartitionCounts) -> None:
        def answer() -> None:
            counts = {t: self.world.partitions[t] for t in effect.topics if t in self.world.partitions}
            self._counts = {t: counts.get(t, 0) for t in effect.topics}
            self.feed(g.PartitionCounts(counts))

        self.world.clock.after(self.world.delay_ms(), answer)

    def metadata_changed(self) -> None:
        now = {t: self.world.partitions.get(t, 0) for t in self._counts or ()}
        if self._counts is not None and now != self._counts:
            self._counts = now
            self.feed(g.TopicsChanged())

    # ------------------------------------------------------------ what the user sees

    def _do_StopFetching(self, effect: g.StopFetching) -> None:
        self.seen.stopped = True

    def _do_CommitBeforeRevoke(self, effect: g.CommitBeforeRevoke) -> None:
        self._callbacks.append(self.commit)

    def _do_CallRevoked(self, effect: g.CallRevoked) -> None:
        self._callbacks.append(lambda: self._taken("revoked", effect.partitions, g.RevocationDone()))

    def _do_CallLost(self, effect: g.CallLost) -> None:
        self._callbacks.append(lambda: self._taken("lost", effect.partitions, g.LossDone()))

    def _taken(self, call: str, partitions: tuple[TopicPartition, ...], done: g.Event) -> None:
        self.seen.calls.append((call, partitions))
        self.seen.owned = ()
        self.positions = {}
        self.feed(done)

    def _do_AssignPartitions(self, effect: g.AssignPartitions) -> None:
        self.seen.owned, self.seen.stopped = effect.partitions, False
        committed = self.world.committed()
        self.positions = {tp: committed.get(tp, 0) for tp in effect.partitions}

    def _do_CallAssigned(self, effect: g.CallAssigned) -> None:
        def call() -> None:
            self.seen.calls.append(("assigned", effect.partitions))
            self.feed(g.AssignmentDone())

        self._callbacks.append(call)

    def _do_Raise(self, effect: g.Raise) -> None:
        self.errors.append(effect.error_code)

    def _do_Left(self, effect: g.Left) -> None:
        self.alive = False

    # ------------------------------------------------------------ the user

    def _poll_later(self) -> None:
        stalls = self.world.random.random() < self.world.faults / 4
        pause_ms = (
            self.world.random.randrange(MAX_POLL_MS, 2 * MAX_POLL_MS)
            if stalls
            else self.world.random.randrange(10, 1_000)
        )
        self.world.clock.after(pause_ms, self._poll)

    def _poll(self) -> None:
        if not self.alive:
            return
        self._polled_at_ms, self._expired = self.world.clock.now_ms, False
        self.feed(g.PollProgress())
        while self._callbacks and self.alive:
            self._callbacks.popleft()()
        if self.seen.owned and not self.seen.stopped:
            for tp in self.positions:
                self.positions[tp] += self.world.random.randrange(5)
            if self.world.random.random() < 0.3:
                self.commit()
        self._poll_later()

    def commit(self) -> None:
        """Send what was handled, under the membership of now, which may be none."""
        machine, offsets = self.machine, {tp: OffsetAndMetadata(o) for tp, o in self.positions.items()}
        if not offsets or machine.generation_id < 0:
            return
        member_id, generation = machine.member_id, machine.generation_id

        def make(token: Any) -> b.Event:
            def judged(answer: Any) -> None:
                if answer.code == 0:
                    self.world.accepted.append(
                        (self.name, generation, {tp: o.offset for tp, o in offsets.items()})
                    )
                token(answer)

            return b.CommitOffsets(judged, GROUP, generation, member_id, self.instance, offsets)

        self._connect().send(Request(make, lambda reply: None, lambda why: None), REQUEST_MS)

    def die(self) -> None:
        """kill -9: nothing is told to anybody."""
        self.alive = False
        self.seen.owned = ()
        self._connection.cut("the process is gone")

    def close(self) -> None:
        """As KafkaConsumer.close(): listener, then Leave."""
        if self.alive:
            while self._callbacks:
                self._callbacks.popleft()()
            self.seen.owned = ()
            self.positions = {}
            self.feed(g.Leave())

    def cut(self, isolated_ms: int = 0) -> None:
        """Break the connection, and let no new one through for a while."""
        self.isolated_until_ms = self.world.clock.now_ms + isolated_ms
        self._connection.cut("the network was cut")
