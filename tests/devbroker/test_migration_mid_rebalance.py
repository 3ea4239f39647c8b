"""Groups that change protocols (KIP-848) in the middle of something: nothing has two owners."""

from __future__ import annotations

from typing import Any

from penstock.devbroker import group_events as b
from penstock.devbroker.codes import Code
from penstock.devbroker.consumer_model import MemberState
from penstock.devbroker.groups import GroupCoordinator
from penstock.group.protocol import MemberSubscription, encode_assignment, encode_subscription
from penstock.types import TopicPartition

TOPIC = b"t" * 16
FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)


class Group:
    """A coordinator and what it answered last."""

    def __init__(self) -> None:
        self._ids = 0
        self.machine = GroupCoordinator(self._new_id)
        self.ask(b.TopicChanged, "t", TOPIC, 2)

    def _new_id(self, client: str) -> str:
        self._ids += 1
        return f"{client}-{self._ids}"

    def ask(self, event: Any, *fields: Any, **named: Any) -> Any:
        answers: list[Any] = []
        for effect in self.machine.handle(event(answers.append, *fields, **named), 0):
            if isinstance(effect, b.Reply):
                effect.token(effect.answer)
        return answers[-1] if answers else None

    def join(
        self,
        member_id: str,
        owned: tuple[TopicPartition, ...] = (),
        generation: int = -1,
        instance: str | None = None,
    ) -> Any:
        metadata = encode_subscription(MemberSubscription(("t",), owned, generation_id=generation))
        protocols = (("cooperative-sticky", metadata),)
        return self.ask(
            b.JoinGroup, "g", member_id, instance, "client", "host", 10_000, 20_000, "consumer", protocols,
            member_id_required=False,
        )  # fmt: skip

    def consumer(self, member_id: str, epoch: int = 0, instance: str | None = None) -> Any:
        return self.ask(
            b.ConsumerHeartbeat, "g", member_id, epoch, instance, rebalance_timeout_ms=20_000,
            topics=frozenset({"t"}), owned=frozenset(),
        )  # fmt: skip


def test_what_a_cooperative_member_is_giving_back_is_held_until_it_has() -> None:
    group = Group()
    me = group.join("").member_id
    generation = group.join(me, (FIRST, SECOND)).generation
    plan = ((me, encode_assignment([FIRST])),)
    group.ask(
        b.SyncGroup, "g", generation, me, assignments=plan
    )  # the second is taken from it, and revoked now
    newcomer = group.consumer("new")
    assert newcomer.assignment == frozenset()
    held = group.machine.groups["g"].consumer
    assert held is not None
    assert held.members[me].state is MemberState.UNREVOKED_PARTITIONS
    assert held.holders == {(TOPIC, 0): me, (TOPIC, 1): me}
    assert group.ask(b.Heartbeat, "g", generation, me).code == Code.REBALANCE_IN_PROGRESS
    group.join(me, (FIRST,), generation)
    assert held.holders == {(TOPIC, 0): me}
    assert group.consumer("new", newcomer.member_epoch).assignment == {(TOPIC, 1)}


def test_a_member_that_is_not_known_and_says_it_owns_something_must_lose_that_first() -> None:
    group = Group()
    assert group.consumer("new").assignment == {(TOPIC, 0), (TOPIC, 1)}
    assert group.join("put-out", (FIRST,), 3).code == Code.UNKNOWN_MEMBER_ID
    assert group.join("put-out").code == Code.NONE


def test_a_static_member_that_brings_the_classic_protocol_back_lets_all_join_who_are_on_their_way() -> None:
    """Stable, the group would tell nobody of the targets, and what they still have would be free for the next who comes."""
    group = Group()
    me = group.join("").member_id
    group.ask(b.SyncGroup, "g", 1, me, assignments=((me, encode_assignment([FIRST, SECOND])),))
    group.consumer(
        "new", instance="instance"
    )  # the target takes one from the first member, which has not heard of it
    group.join("", instance="instance")
    downgraded = group.machine.groups["g"]
    assert downgraded.consumer is None
    assert downgraded.state is b.GroupState.PREPARING_REBALANCE
    assert downgraded.members[me].assignment == encode_assignment([FIRST, SECOND])
