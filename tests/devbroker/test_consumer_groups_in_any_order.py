"""Groups of both protocols whatever happens, in any order: members come, sleep, die, lose answers; topics grow and go.

The coordinator's machine is the real one, clients and network are simulated, all chance comes from a seed that replays a run.
At every moment no partition is in use by two members, and in the end, when all is calm, everybody has a fair share.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from penstock.devbroker import group_events as e
from penstock.devbroker.codes import Code
from penstock.devbroker.consumer_model import ConsumerGroupState
from penstock.devbroker.consumer_protocol import decode_assignment, encode_assignment
from penstock.devbroker.groups import GroupCoordinator, GroupLimits
from penstock.types import TopicPartition

SESSION_MS, REBALANCE_MS = 10_000, 15_000
Owned = frozenset[TopicPartition]
NOTHING: Owned = frozenset()
LOST = (  # the last: a member that was out did not notice that the group became a classic one
    Code.FENCED_MEMBER_EPOCH,
    Code.UNKNOWN_MEMBER_ID,
    Code.FENCED_INSTANCE_ID,
    Code.GROUP_ID_NOT_FOUND,
)


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        ids = itertools.count()
        limits = GroupLimits(consumer_session_timeout_ms=SESSION_MS)
        self.machine = GroupCoordinator(lambda prefix: f"{prefix}-{next(ids)}", limits)
        self.now_ms = 0
        self.loss = 0.15
        self.topics: dict[str, int] = {}
        self.clients: list[Client] = []
        self.names = itertools.count()
        self.classic_kind = self.random.choice(("eager", "cooperative"))
        self.topic("t", self.random.randrange(1, 7))

    def topic(self, name: str, partitions: int) -> None:
        self.topics[name] = partitions
        self.handle(e.TopicChanged(None, name, f"id-{name}", partitions))

    def delete_topic(self, name: str) -> None:
        del self.topics[name]
        self.handle(e.TopicDeleted(None, name))

    def handle(self, event: e.Event) -> None:
        for effect in self.machine.handle(event, self.now_ms):
            if isinstance(effect, e.Reply) and effect.token is not None:
                if self.random.random() < self.loss:
                    effect.token(None)  # the connection broke: asked, not answered
                else:
                    effect.token(effect.answer)

    def pass_ms(self, duration_ms: int) -> None:
        end = self.now_ms + duration_ms
        while (due := self.machine.next_deadline_ms()) is not None and due <= end:
            assert due > self.now_ms - 1
            self.now_ms = max(self.now_ms, due)
            self.handle(e.Tick())
            self.check()
        self.now_ms = end

    def check(self) -> None:
        """What a client uses is what the coordinator thinks it may have still; which no two have."""
        group = self.machine.groups.get("g")
        if group is None:
            return
        known = group.members if group.consumer is None else group.consumer.members
        for client in self.clients:
            client.removed |= client.member_id not in known
        if group.consumer is None:
            return
        held: dict[Any, str] = {}
        for member in group.consumer.members.values():
            for each in member.assigned | member.revoking:
                assert held.setdefault(each, member.member_id) == member.member_id, "held twice"
        assert held == group.consumer.holders
        for client in self.clients:
            found = group.consumer.members.get(client.member_id)
            if client.alive and found is not None and not client.removed:
                has = found.assigned | found.revoking
                used = {(f"id-{topic}", number) for topic, number in client.owned if topic in self.topics}
                assert used <= has, f"{client.member_id} uses {used - has}"


class Client:
    """What both kinds share. `owned`: what it reads from."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.member_id = f"m{next(world.names)}"
        self.alive = True
        self.owned: Owned = NOTHING
        self.removed = True  # was out, and has not heard of it: what it does counts no more
        self.topics = frozenset({"t"})
        world.clients.append(self)

    def step(self) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError

    def ask(self, make: Callable[[Any], e.Event], read: Callable[[Any], None]) -> None:
        """An answer to a client that is gone is lost."""
        self.world.handle(make(lambda answer: read(answer) if self.alive else None))


class NewClient(Client):
    """ConsumerGroupHeartbeat. It gives up what it must, and takes what it may, when it gets round to it."""

    def __init__(self, world: World, instance: str | None = None) -> None:
        super().__init__(world)
        self.instance = instance
        self.epoch = 0
        self.target: Owned | None = None  # told, not done yet
        self.reported: Owned | None = None
        self.full = True

    def step(self) -> None:
        if self.target is not None and self.world.random.random() < 0.7:
            self.owned, self.target = self.target, None
        if self.world.loss and self.world.random.random() < 0.05:
            self.topics = frozenset(self.world.random.choice((("t",), ("t", "u"))))
            self.full = True
        owned = None if self.reported == self.owned and not self.full else self.owned
        self.reported = self.owned
        join = self.full or self.epoch == 0
        self.ask(
            lambda token: e.ConsumerHeartbeat(
                token, "g", self.member_id, self.epoch, self.instance, None, REBALANCE_MS if join else -1,
                self.topics if join else None, None, None, None if owned is None else ids(owned),
            ),
            self.heard,
        )  # fmt: skip

    def heard(self, answer: e.HeartbeatAnswered | None) -> None:
        if answer is None:
            # It cannot know what was in it: perhaps that what it was about to take is to be given back, and saying that it
            # has not got it was taken for giving it back.
            self.full, self.target = True, None
            return
        self.full = False
        if answer.code in LOST:
            self.epoch, self.owned, self.target, self.full = 0, NOTHING, None, True
        elif answer.code is Code.UNRELEASED_INSTANCE_ID:
            self.full = True
        else:
            assert answer.code is Code.NONE, answer
            assert answer.member_epoch >= self.epoch, "an epoch went back"
            self.epoch, self.removed = answer.member_epoch, False
            if answer.assignment is not None:
                told = frozenset(TopicPartition(topic[3:], number) for topic, number in answer.assignment)
                self.target = told
                self.owned &= told if self.world.random.random() < 0.3 else self.owned

    def leave(self) -> None:
        epoch = -2 if self.instance is not None and self.world.random.random() < 0.7 else -1
        if self.epoch > 0:
            self.ask(
                lambda token: e.ConsumerHeartbeat(token, "g", self.member_id, epoch, self.instance),
                lambda _: None,
            )
        self.alive = False


class ClassicClient(Client):
    """JoinGroup, SyncGroup, Heartbeat; in a classic group perhaps as leader."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.member_id = ""
        self.generation = -1
        self.joined = self.waits = False

    def step(self) -> None:
        if self.waits:
            return
        if self.joined:
            self.ask(lambda token: e.Heartbeat(token, "g", self.generation, self.member_id), self.heard)
            return
        if self.world.classic_kind == "eager":
            self.owned = NOTHING
        self.waits = True
        subscription = encode_subscription(self.topics, self.owned)
        self.ask(
            lambda token: e.JoinGroup(
                token, "g", self.member_id, None, "c", "/h", SESSION_MS, REBALANCE_MS, "consumer",
                ((self.world.classic_kind, subscription),),
            ),
            self.on_join,
        )  # fmt: skip

    def again(self, code: Code) -> None:
        """Not in the group as it is now."""
        self.joined = False
        if code in (Code.UNKNOWN_MEMBER_ID, Code.ILLEGAL_GENERATION):
            self.owned, self.generation = NOTHING, -1
        if code is Code.UNKNOWN_MEMBER_ID:
            self.member_id = ""

    def heard(self, answer: e.Answered | None) -> None:
        if answer is not None and answer.code is not Code.NONE:
            self.again(answer.code)

    def on_join(self, answer: e.Joined | None) -> None:
        self.waits = False
        if answer is None:
            return
        if answer.code is Code.MEMBER_ID_REQUIRED:
            self.member_id = answer.member_id
            return
        if answer.code is not Code.NONE:
            self.again(answer.code)
            return
        self.member_id, self.generation = answer.member_id, answer.generation
        self.waits = True
        plans = self.plan(answer) if answer.leader == answer.member_id else ()
        self.ask(
            lambda token: e.SyncGroup(token, "g", self.generation, self.member_id, assignments=plans),
            self.on_sync,
        )

    def plan(self, joined: e.Joined) -> tuple[tuple[str, bytes], ...]:
        """As leader: everybody keeps what it has, the rest goes round."""
        claims: dict[str, list[TopicPartition]] = {member: [] for member, _, _ in joined.members}
        free = {TopicPartition(name, n) for name, count in self.world.topics.items() for n in range(count)}
        for member, _, metadata in joined.members:
            topics, owned = decode_subscription(metadata)
            mine = sorted(owned & free)
            claims[member] += [each for each in mine if each.topic in topics]
            free -= owned
        readers = [member for member, _, _ in joined.members]
        for each in sorted(free):
            if each.topic == "t":
                claims[min(readers, key=lambda member: len(claims[member]))].append(each)
        return tuple((member, encode_assignment(1, partitions)) for member, partitions in claims.items())

    def on_sync(self, answer: e.Synced | None) -> None:
        self.waits = False
        if answer is None:
            return
        if answer.code is not Code.NONE:
            self.again(answer.code)
            return
        self.joined, self.removed = True, False
        self.owned = frozenset(decode_assignment(answer.assignment))

    def leave(self) -> None:
        if self.member_id:
            self.ask(lambda token: e.LeaveGroup(token, "g", ((self.member_id, None),)), lambda _: None)
        self.alive = False


def ids(owned: Owned) -> frozenset[Any]:
    return frozenset((f"id-{topic}", number) for topic, number in owned)


def encode_subscription(topics: frozenset[str], owned: Owned) -> bytes:
    """An assignment has the form that a subscription ends with."""
    names = b"".join(len(name).to_bytes(2) + name.encode() for name in sorted(topics))
    tail = encode_assignment(1, owned)[2:-4]
    return (1).to_bytes(2) + len(topics).to_bytes(4) + names + (-1).to_bytes(4, signed=True) + tail


def decode_subscription(data: bytes) -> tuple[frozenset[str], Owned]:
    from penstock.devbroker import consumer_protocol

    found = consumer_protocol.decode_subscription(data)
    return found.topics, frozenset(found.owned)


def act(world: World, mixed: bool) -> None:
    """One thing that may happen."""
    chance = world.random.random
    living = [client for client in world.clients if client.alive]
    if len(living) < 4 and chance() < 0.15:
        if mixed and chance() < 0.5:
            ClassicClient(world)
        else:
            used = {client.instance for client in living if isinstance(client, NewClient)}
            instance = world.random.choice((None, None, "i", "j"))
            NewClient(world, None if instance in used else instance)
    if living and chance() < 0.04:
        world.random.choice(living).leave()
    if living and chance() < 0.03:
        world.random.choice(living).alive = False  # kill -9
    if chance() < 0.02:
        world.topic("t", min(8, world.topics["t"] + 1))
    if chance() < 0.02 and "u" in world.topics:
        world.delete_topic("u")
    elif chance() < 0.02 and "u" not in world.topics:
        world.topic("u", 2)
    for client in living:
        if client.alive and chance() < 0.6:
            client.step()
            world.check()
    world.pass_ms(world.random.choice((0, 100, 500, 1_000, 4_000)))


def calm(world: World) -> None:
    """Nothing goes wrong any more, and in the end all have what they shall have."""
    world.loss = 0.0
    for client in world.clients:
        if isinstance(client, NewClient):
            client.topics, client.full = frozenset({"t"}), True
    for _ in range(60):
        world.pass_ms(1_000)
        for client in world.clients:
            if client.alive:
                client.step()
                world.check()


def settled(world: World) -> None:
    living = [client for client in world.clients if client.alive]
    group = world.machine.groups.get("g")
    if not living or group is None:
        return
    every = sorted(TopicPartition("t", number) for number in range(world.topics["t"]))
    used = sorted(each for client in living for each in client.owned if each.topic == "t")
    assert len(used) == len(set(used))
    if group.consumer is not None:  # a classic group grows with its topics only if its leader says so
        assert used == every
        assert group.consumer.state is ConsumerGroupState.STABLE
        assert {client.member_id for client in living} == set(group.consumer.members)
        if any(isinstance(client, NewClient) for client in living):
            sizes = [len(client.owned) for client in living]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("mixed", [False, True], ids=["new protocol", "both protocols"])
@pytest.mark.parametrize("first", range(0, 300, 100))
def test_whatever_happens(mixed: bool, first: int) -> None:
    for seed in range(first, first + 100):
        world = World(seed)
        try:
            for _ in range(120):
                act(world, mixed)
            calm(world)
            settled(world)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
