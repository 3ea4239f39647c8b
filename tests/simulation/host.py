"""One consumer around its machine: what the engine does (engine/group_driver.py, engine/membership.py, engine/heartbeats.py)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.devbroker import group_events as b
from penstock.group import consumer_messages as c
from penstock.group import messages as g
from penstock.group.assignors import assignors_for
from penstock.group.classic import ClassicMember
from penstock.group.consumer import ConsumerMember
from penstock.types import TopicPartition

from .heart import Beating, Heart
from .network import Connection, Link, Reply, Request
from .user import User
from .world import GROUP, Log, World

GRACE_MS = 5_000
LOOKUP_MS = 100
NEVER_MS = 1 << 60


@dataclass(frozen=True, slots=True)
class Settings:
    """What a member is configured with. `strategy` None: it speaks the consumer protocol."""

    strategy: tuple[str, ...] | None
    instance: str | None = None
    server_assignor: str | None = None
    session_ms: int = 10_000
    heartbeat_ms: int = 1_000
    max_poll_ms: int = 20_000
    request_ms: int = 5_000
    auto_commit: bool = True


@dataclass(eq=False, slots=True)
class Handle:
    """One assigned partition from its assignment on. `position` None: not known yet; `fetched`: whether poll may return of it."""

    log: Log | None
    position: int | None = None
    fetched: bool = True


def code_of(reply: Any) -> int:
    return reply if isinstance(reply, int) else int(reply.code)


class Host:
    """The engine of one consumer; `user` is its user's thread."""

    def __init__(self, world: World, name: str, topics: tuple[str, ...], settings: Settings) -> None:
        self.world, self.name, self.topics, self.settings = world, name, topics, settings
        self.pattern = False  # it subscribes to all topics of one letter, found by the coordinator
        self.instance = settings.instance
        self.is_classic = settings.strategy is not None
        self.machine: Any = self._machine()
        self.alive = True
        self.errors: list[int] = []
        self.handles: dict[TopicPartition, Handle] = {}
        self.waits_for_user = False
        self.link = Link()
        self.known = world.metadata()
        self._node: int | None = None
        self._finders: list[tuple[Callable[[], None], Callable[[str], None]]] = []
        self._connections: dict[tuple[str, int], Connection] = {}
        self._hearts: dict[Connection, Heart] = {}
        self._beating_at: Connection | None = None
        self._beating_wanted: object | None = None
        self._beating_for = -1
        self._found_before = False
        self._counts: dict[str, int] | None = None
        self._unresolved: frozenset[bytes] = frozenset()
        self._commit_first = False
        self._callbacks_out = 0
        self._memberships = 0
        self._is_out = True
        self._queue: deque[Any] = deque()
        self._feeding = False
        self._armed_ms: int | None = None
        world.hosts.append(self)
        self.user = User(self)

    def _machine(self) -> Any:
        settings, chance = self.settings, self.world.random.random
        if settings.strategy is None:
            return ConsumerMember(
                group_id=GROUP, group_instance_id=settings.instance, rack_id=None, rebalance_timeout_ms=settings.max_poll_ms,
                retry_backoff_ms=100, retry_backoff_max_ms=1_000, server_assignor=settings.server_assignor,
                member_id=f"id-{self.name}", early_heartbeats=True, jitter=chance,
            )  # fmt: skip
        return ClassicMember(
            group_id=GROUP, group_instance_id=settings.instance, session_timeout_ms=settings.session_ms,
            rebalance_timeout_ms=settings.max_poll_ms, heartbeat_interval_ms=settings.heartbeat_ms, retry_backoff_ms=100,
            retry_backoff_max_ms=1_000, assignors=assignors_for(settings.strategy), early_heartbeats=True, jitter=chance,
        )  # fmt: skip

    def wanted(self) -> Any:
        return c.SubscribeRegex("[a-z]") if self.pattern else g.Subscribe(self.topics)

    def subscribes_to(self, topic: str) -> bool:
        return len(topic) == 1 if self.pattern else topic in self.topics

    def identity(self) -> tuple[str, int]:
        return self.machine.member_id, self.machine.generation_id

    def membership(self) -> tuple[str, int, int]:
        """The identity, and which membership it is of: a coordinator that has forgotten its members counts epochs from the start."""
        return *self.identity(), self._memberships

    @property
    def is_rebalancing(self) -> bool:
        return self.is_classic and self.machine.rebalancing

    # ------------------------------------------------------------ the machine

    def feed(self, event: Any) -> None:
        if not self.alive:
            return
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        while self._queue:
            now_ms, event = self.world.clock.now_ms, self._queue.popleft()
            effects = self.machine.handle(event, now_ms)
            is_out = self.machine.generation_id < 0
            self._memberships += self._is_out and not is_out
            self._is_out = is_out
            if self.world.trace is not None and (effects or not isinstance(event, g.PollProgress)):
                self._note(event, effects)
            for effect in effects:
                getattr(self, f"_do_{type(effect).__name__}")(effect)
            due_ms = self.machine.next_deadline_ms()
            if due_ms is not None and due_ms <= now_ms:
                raise AssertionError(f"{self.name}: a deadline at {due_ms} ms is left over at {now_ms} ms")
        self._feeding = False
        if due_ms is not None and due_ms != self._armed_ms and self.alive:
            self._armed_ms = due_ms
            self.world.clock.after(due_ms - now_ms, partial(self._on_timer, due_ms))

    def _note(self, event: Any, effects: list[Any]) -> None:
        lines = "".join(f"\n{'':28}-> {effect}" for effect in effects)
        self.world.note(self.name, lambda: f"{event} : {self.machine.state.name}{lines}")

    def _on_timer(self, due_ms: int) -> None:
        if self._armed_ms == due_ms:
            self._armed_ms = None
            self.feed(g.Tick())

    # ------------------------------------------------------------ the coordinator

    def lost_coordinator(self) -> None:
        self._node = None

    def find(self, found: Callable[[], None], failed: Callable[[str], None]) -> None:
        """One search serves all who wait."""
        if self._node is not None:
            found()
            return
        self._finders.append((found, failed))
        if len(self._finders) > 1:
            return
        clock = self.world.clock
        cut = self.link.is_cut(clock.now_ms)
        clock.after(self.settings.request_ms if cut else self.world.delay_ms(), lambda: self._searched(cut))

    def _searched(self, failed: bool) -> None:
        if not self.alive:
            return
        if not failed:
            stale = self.world.loses()  # that broker has not heard yet that the coordinator moved
            self._node = (self.world.node + stale) % 3
        finders, self._finders = self._finders, []
        for told, refused in finders:
            if failed:
                refused("no broker can be reached")
            else:
                self.find(told, refused)

    def _connection(self, purpose: str) -> Connection:
        assert self._node is not None
        old = self._connections.get((purpose, self._node))
        if old is not None and not old.broken:
            return old
        connection = Connection(self.world, self.link, self._node)
        connection.on_closed = partial(self._on_closed, connection)
        self._connections[purpose, self._node] = connection
        return connection

    def _request(self, purpose: str, request: Request, timeout_ms: int) -> None:
        told = request.failed

        def failed(reason: str) -> None:
            self.lost_coordinator()
            told(reason)

        request.failed = failed
        self.find(lambda: self._connection(purpose).send(request, timeout_ms), told)

    def request_control(self, request: Request) -> None:
        """What is sent apart from the group's requests: offsets, and leaving by the classic protocol."""
        self._request("control", request, self.settings.request_ms)

    def _exchange(
        self, kind: g.RequestKind, make: Callable[[Any], b.Event], read: Callable[[Any], Any], *,
        timeout_ms: int, purpose: str = "group", beat: bool = False,
    ) -> None:  # fmt: skip
        request = Request(
            lambda reply: self.world.submit(make, reply),
            lambda reply: self.feed(read(reply)),
            lambda reason: self.feed(g.RequestFailed(kind, reason)),
            beat,
        )
        self._request(purpose, request, timeout_ms)

    def _do_FindCoordinator(self, effect: g.FindCoordinator) -> None:
        if self._found_before:
            self.lost_coordinator()
        self._found_before = True
        self.find(
            lambda: self.feed(g.CoordinatorFound()), lambda reason: self.feed(g.CoordinatorLost(reason))
        )

    # ------------------------------------------------------------ the classic protocol

    def _do_SendJoin(self, effect: g.SendJoin) -> None:
        def make(token: Any) -> b.Event:
            return b.JoinGroup(
                token, GROUP, effect.member_id, effect.group_instance_id, self.name, "host",
                effect.session_timeout_ms, effect.rebalance_timeout_ms, "consumer", effect.protocols,
            )  # fmt: skip

        def read(reply: Any) -> Any:
            if isinstance(reply, int):
                return g.JoinAnswered(reply, -1, "", "", "", ())
            members = tuple(g.JoinedMember(*member) for member in reply.members)
            name = reply.protocol_name or ""
            return g.JoinAnswered(
                int(reply.code), reply.generation, name, reply.leader, reply.member_id, members, reply.skip_assignment
            )  # fmt: skip

        timeout_ms = effect.rebalance_timeout_ms + GRACE_MS
        self._exchange(g.RequestKind.JOIN, make, read, timeout_ms=timeout_ms)

    def _do_SendSync(self, effect: g.SendSync) -> None:
        def make(token: Any) -> b.Event:
            return b.SyncGroup(
                token, GROUP, effect.generation_id, effect.member_id, effect.group_instance_id,
                "consumer", effect.protocol_name, effect.assignments,
            )  # fmt: skip

        def read(reply: Any) -> Any:
            if isinstance(reply, int):
                return g.SyncAnswered(reply, None, b"")
            return g.SyncAnswered(int(reply.code), reply.protocol_name, reply.assignment)

        timeout_ms = self.settings.max_poll_ms + GRACE_MS
        self._exchange(g.RequestKind.SYNC, make, read, timeout_ms=timeout_ms)

    def _do_SendLeave(self, effect: g.SendLeave) -> None:
        def make(token: Any) -> b.Event:
            return b.LeaveGroup(token, GROUP, ((effect.member_id, effect.group_instance_id),))

        self._exchange(
            g.RequestKind.LEAVE, make, lambda reply: g.LeaveAnswered(code_of(reply)), timeout_ms=GRACE_MS, purpose="control"
        )  # fmt: skip

    def _do_NeedPartitionCounts(self, effect: g.NeedPartitionCounts) -> None:
        def answer() -> None:
            if missing:
                self.known = self.world.metadata()
            counts = {topic: self.known[topic][1] for topic in effect.topics if topic in self.known}
            self._counts = {topic: counts.get(topic, 0) for topic in effect.topics}
            self.feed(g.PartitionCounts(counts))

        missing = any(topic not in self.known for topic in effect.topics)
        self.world.clock.after(self.world.delay_ms() if missing else 0, answer)

    def metadata_soon(self) -> None:
        """The cluster has changed; this client hears of it in a while."""
        delay_ms = self.world.delay_ms() + self.world.random.randrange(300)
        self.world.clock.after(delay_ms, self._metadata_changed)

    def _metadata_changed(self) -> None:
        self.known = self.world.metadata()
        self._tell_names()
        if self._counts is not None:
            now = {topic: self.known.get(topic, (b"", 0))[1] for topic in self._counts}
            if now != self._counts:
                self._counts = now
                self.feed(g.TopicsChanged())

    # ------------------------------------------------------------ the consumer protocol

    def _do_SendConsumerHeartbeat(self, effect: c.SendConsumerHeartbeat) -> None:
        topics, owned = effect.subscribed_topic_names, effect.topic_partitions

        def make(token: Any) -> b.Event:
            return b.ConsumerHeartbeat(
                token, GROUP, effect.member_id, effect.member_epoch, effect.group_instance_id, effect.rack_id,
                effect.rebalance_timeout_ms, None if topics is None else frozenset(topics), effect.subscribed_topic_regex,
                effect.server_assignor, None if owned is None else frozenset(owned), self.name, "host",
            )  # fmt: skip

        self._exchange(
            g.RequestKind.HEARTBEAT,
            make,
            self._read_heartbeat,
            timeout_ms=self.settings.request_ms,
            beat=True,
        )

    @staticmethod
    def _read_heartbeat(reply: Any, *, repeated: bool = False) -> c.ConsumerHeartbeatAnswered:
        if isinstance(reply, int):
            return c.ConsumerHeartbeatAnswered(reply, None, None, 0, 0, None, repeated=repeated)
        assignment = None if reply.assignment is None else tuple(sorted(reply.assignment))
        return c.ConsumerHeartbeatAnswered(
            int(reply.code), reply.message, reply.member_id, reply.member_epoch, reply.heartbeat_interval_ms, assignment,
            repeated=repeated,
        )  # fmt: skip

    def _do_ResolveTopicIds(self, effect: c.ResolveTopicIds) -> None:
        asked = self._unresolved = frozenset(effect.ids)
        if not self._tell_names():
            self.world.clock.after(self.world.delay_ms(), lambda: self._look_up(asked))

    def _look_up(self, asked: frozenset[bytes]) -> None:
        if self._unresolved is asked and asked and self.alive:
            if not self.link.is_cut(self.world.clock.now_ms):
                self.known = self.world.metadata()
            if not self._tell_names():
                self.world.clock.after(LOOKUP_MS, lambda: self._look_up(asked))

    def _tell_names(self) -> bool:
        if not self._unresolved:
            return True
        names = {topic_id: name for name, (topic_id, _) in self.known.items() if topic_id in self._unresolved}
        if not names:
            return False
        done = self._unresolved <= names.keys()
        self._unresolved = frozenset() if done else self._unresolved - names.keys()
        self.feed(c.TopicNames(names))
        return done

    # ------------------------------------------------------------ heartbeats that the connection repeats

    def _do_KeepHeartbeating(self, effect: g.KeepHeartbeating) -> None:
        self._beating_for = effect.generation_id

        def serve(epoch: int, reply: Reply) -> None:
            self.world.submit(
                lambda token: b.Heartbeat(token, GROUP, effect.generation_id, effect.member_id, effect.group_instance_id), reply
            )  # fmt: skip

        what = Beating(serve, lambda reply, _: code_of(reply) == 0, 0, effect.interval_ms, follows=False)
        self._repeat(what, 0 if effect.at_once else effect.interval_ms)

    def _do_RepeatHeartbeat(self, effect: c.RepeatHeartbeat) -> None:
        def serve(epoch: int, reply: Reply) -> None:
            self.world.submit(
                lambda token: b.ConsumerHeartbeat(
                    token, GROUP, effect.member_id, epoch, effect.group_instance_id
                ),
                reply,
            )

        def is_plain(reply: Any, epoch: int) -> bool:
            if isinstance(reply, int) or reply.code or reply.assignment is not None:
                return False
            return reply.member_epoch == epoch and reply.heartbeat_interval_ms == effect.interval_ms

        what = Beating(serve, is_plain, effect.member_epoch, effect.interval_ms, follows=True)
        self._repeat(what, effect.interval_ms)

    def _repeat(self, what: Beating, first_in_ms: int) -> None:
        wanted = self._beating_wanted = object()

        def begin() -> None:
            if self._beating_wanted is wanted:
                self._begin_beating(what, first_in_ms)

        def failed(reason: str) -> None:
            if self._beating_wanted is wanted:
                self.lost_coordinator()
                self.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, reason))

        self.find(begin, failed)

    def _begin_beating(self, what: Beating, first_in_ms: int) -> None:
        connection = self._connection("group")
        if connection.broken:  # it could not be opened
            self.world.clock.after(
                self.world.delay_ms(), partial(self._on_closed, connection, "no connection")
            )
        if connection not in self._hearts:
            answer_ms = min(self.settings.request_ms, self.settings.session_ms)
            self._hearts[connection] = Heart(self.world, connection, self._on_heartbeat, answer_ms)
        self._beating_at = connection
        self._hearts[connection].start(what, first_in_ms)

    def _do_StopHeartbeats(self, effect: g.StopHeartbeats) -> None:
        self._beating_wanted = None
        if self._beating_at is not None:
            if self._beating_at in self._hearts:
                self._hearts[self._beating_at].stop()
            self._beating_at = None

    def _on_heartbeat(self, reply: Any) -> None:
        if self._beating_wanted is None:
            return
        if self.is_classic:
            self.feed(g.HeartbeatAnswered(code_of(reply), self._beating_for))
        else:
            self.feed(self._read_heartbeat(reply, repeated=True))

    def _on_closed(self, connection: Connection, reason: str) -> None:
        self._hearts.pop(connection, None)
        if self._beating_at is connection and self._beating_wanted is not None:
            self._beating_at, self._beating_wanted = None, None
            self.lost_coordinator()
            self.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, reason))

    # ------------------------------------------------------------ partitions

    def _do_StopFetching(self, effect: g.StopFetching) -> None:
        for tp in effect.partitions:
            if tp in self.handles:
                self.handles[tp].fetched = False

    def _do_CommitBeforeRevoke(self, effect: g.CommitBeforeRevoke) -> None:
        self._commit_first = True

    def _do_CallRevoked(self, effect: g.CallRevoked) -> None:
        commit, self._commit_first = self._commit_first, False
        self.user.hand_revocation(effect.partitions, commit, self._called(g.RevocationDone()))

    def _do_CallLost(self, effect: g.CallLost) -> None:
        self._commit_first = False
        self.user.hand_loss(effect.partitions, self._called(g.LossDone()))

    def _do_CallAssigned(self, effect: g.CallAssigned) -> None:
        self.user.hand_assignment(effect.partitions, self._called(g.AssignmentDone()))

    def _called(self, event: Any) -> Callable[[], None]:
        self._callbacks_out += 1
        self.waits_for_user = True

        def done() -> None:
            self._callbacks_out -= 1
            self.waits_for_user = self._callbacks_out > 0
            self.feed(event)

        return done

    def _do_AssignPartitions(self, effect: g.AssignPartitions) -> None:
        self.drop([tp for tp in self.handles if tp not in effect.partitions])
        added = {tp: Handle(self.world.log(tp)) for tp in effect.partitions if tp not in self.handles}
        self.handles.update(added)
        for handle in added.values():
            handle.fetched = False  # until the listener has run
        self.world.changed = True
        self._resolve(added)

    def drop(self, partitions: Any) -> None:
        """From here on poll returns nothing of these."""
        for tp in partitions:
            self.handles.pop(tp, None)
        self.user.commits.ledger.forget(partitions)

    def _resolve(self, wanted: dict[TopicPartition, Handle]) -> None:
        """Positions from the committed offsets, tried again until they are there or of no interest."""
        asked = {tp: handle for tp, handle in wanted.items() if self.handles.get(tp) is handle}
        if not asked or not self.alive:
            return
        member_id, epoch = (None, -1) if self.is_classic else self.identity()

        def again(reason: str) -> None:
            self.world.clock.after(LOOKUP_MS, lambda: self._resolve(asked))

        def answered(reply: Any) -> None:
            if isinstance(reply, int):
                if reply in (15, 16):
                    self.lost_coordinator()
                again("")
                return
            for tp, handle in asked.items():
                if self.handles.get(tp) is handle and handle.log is not None:
                    self.user.start_at(tp, handle, reply[tp] or 0)

        self.request_control(
            Request(
                lambda reply: reply(self.world.fetch_offsets(member_id, epoch, list(asked))), answered, again
            )
        )

    def _do_Raise(self, effect: g.Raise) -> None:
        self.errors.append(effect.error_code)
        self.user.raised(effect.error_code)

    def _do_Left(self, effect: g.Left) -> None:
        if self.user.closed:
            self._end("the consumer is closed")

    # ------------------------------------------------------------ ends

    def _end(self, reason: str) -> None:
        self.alive = False
        self.handles = {}
        self._queue.clear()
        self._beating_wanted = None
        for connection in self._connections.values():
            connection.cut(reason)
        if self in self.world.hosts:
            self.world.note(self.name, lambda: reason)

    def die(self, reason: str = "the process is killed") -> None:
        """kill -9: nothing is told to anybody."""
        if self.alive:
            self._end(reason)

    def cut(self, reason: str = "the network was cut") -> None:
        """Break the connections; new ones are opened at the next need."""
        for connection in list(self._connections.values()):
            connection.cut(reason)
