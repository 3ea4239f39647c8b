"""Heartbeats ahead of their interval: when, how many, and that they end."""

from __future__ import annotations

from penstock.group import consumer_messages as c
from penstock.group import messages as g
from penstock.group.assignors import assignors_for
from penstock.group.classic import ClassicMember
from penstock.group.consumer import ConsumerMember
from penstock.group.early import FIRST_MS, EarlyHeartbeats
from penstock.group.protocol import encode_assignment
from penstock.group.states import State
from penstock.types import TopicPartition

INTERVAL_MS = 3_000
T0 = TopicPartition("t", 0)
ID = bytes(15) + b"t"


def test_delays_double_up_to_the_longest_and_end_with_the_interval() -> None:
    early = EarlyHeartbeats(True)
    early.begin(1_000, INTERVAL_MS, 500)
    times = []
    while early.at_ms is not None:
        times.append(early.at_ms - 1_000)
        assert not early.take(early.at_ms - 1)
        assert early.take(early.at_ms)
    assert times == [50, 150, 350, 750, 1_250, 1_750, 2_250, 2_750]


def test_a_short_interval_has_one_at_most() -> None:
    early = EarlyHeartbeats(True)
    early.begin(0, FIRST_MS, 0)
    assert early.take(FIRST_MS) and early.at_ms is None


def test_who_may_not_has_none() -> None:
    early = EarlyHeartbeats(False)
    early.begin(0, INTERVAL_MS, 500)
    assert early.at_ms is None


def _classic(strategy: str) -> ClassicMember:
    return ClassicMember(
        group_id="group",
        group_instance_id=None,
        session_timeout_ms=10_000,
        rebalance_timeout_ms=300_000,
        heartbeat_interval_ms=INTERVAL_MS,
        retry_backoff_ms=100,
        retry_backoff_max_ms=1_000,
        assignors=assignors_for([strategy]),
        early_heartbeats=True,
    )


def _assigned(machine: ClassicMember, strategy: str) -> None:
    machine.handle(g.Subscribe(("t",)), 1_000)
    machine.handle(g.CoordinatorFound(), 1_000)
    machine.handle(g.JoinAnswered(0, 1, strategy, "other", "me", ()), 1_000)
    machine.handle(g.SyncAnswered(0, strategy, encode_assignment((T0,))), 1_000)
    machine.handle(g.AssignmentDone(), 1_000)
    assert machine.state is State.STABLE


def _beats(effects: list[g.Effect]) -> list[g.KeepHeartbeating]:
    return [effect for effect in effects if isinstance(effect, g.KeepHeartbeating)]


def test_a_cooperative_member_heartbeats_early_after_each_rebalance() -> None:
    machine = _classic("cooperative-sticky")
    _assigned(machine, "cooperative-sticky")
    early = []
    while (at_ms := machine.next_deadline_ms()) is not None:
        (beat,) = _beats(machine.handle(g.Tick(), at_ms))
        assert beat.at_once and beat.generation_id == 1
        early.append(at_ms - 1_000)
    assert early == [50, 150, 350, 750, 1_550]
    effects = machine.handle(g.HeartbeatAnswered(27, 1), 4_000)
    assert any(isinstance(effect, g.SendJoin) for effect in effects)
    assert machine.next_deadline_ms() is None, "none while a join is on its way"


def test_an_eager_member_keeps_to_the_interval() -> None:
    machine = _classic("range")
    _assigned(machine, "range")
    assert machine.next_deadline_ms() is None


def test_no_early_heartbeat_outlives_the_membership() -> None:
    machine = _classic("cooperative-sticky")
    _assigned(machine, "cooperative-sticky")
    assert machine.next_deadline_ms() == 1_050
    effects = machine.handle(g.Leave(None), 1_020)
    assert machine.next_deadline_ms() is None
    assert not _beats([*effects, *machine.handle(g.Tick(), 1_050)])


def _consumer() -> ConsumerMember:
    return ConsumerMember(
        group_id="group",
        group_instance_id=None,
        rack_id=None,
        rebalance_timeout_ms=300_000,
        retry_backoff_ms=100,
        retry_backoff_max_ms=1_000,
        server_assignor=None,
        member_id="me",
        early_heartbeats=True,
    )


def _answer(epoch: int, *partitions: tuple[bytes, int]) -> c.ConsumerHeartbeatAnswered:
    return c.ConsumerHeartbeatAnswered(0, None, "me", epoch, INTERVAL_MS, tuple(partitions), False)


def test_a_member_that_has_joined_asks_early_and_takes_what_others_let_go() -> None:
    machine = _consumer()
    machine.handle(c.TopicNames({ID: "t"}), 1_000)
    machine.handle(g.Subscribe(("t",)), 1_000)
    machine.handle(g.CoordinatorFound(), 1_000)
    machine.handle(_answer(1), 1_000)
    machine.handle(g.AssignmentDone(), 1_000)
    machine.handle(_answer(1), 1_001)  # to the heartbeat that has told that nothing is owned
    assert machine.next_deadline_ms() == 1_050
    effects = machine.handle(g.Tick(), 1_050)
    (beat,) = [effect for effect in effects if isinstance(effect, c.SendConsumerHeartbeat)]
    assert (beat.member_epoch, beat.topic_partitions) == (1, ())
    assert not any(isinstance(effect, g.StopHeartbeats) for effect in effects), "the connection's go on"
    effects = machine.handle(_answer(1, (ID, 0)), 1_052)
    assert [effect.partitions for effect in effects if isinstance(effect, g.AssignPartitions)] == [(T0,)]


def test_a_member_asks_early_for_one_interval() -> None:
    machine = _consumer()
    machine.handle(g.Subscribe(("t",)), 1_000)
    machine.handle(g.CoordinatorFound(), 1_000)
    machine.handle(_answer(1), 1_000)
    machine.handle(g.AssignmentDone(), 1_000)
    sent = 0
    for now_ms in range(1_000, 8_000, 10):
        effects = [*machine.handle(_answer(1), now_ms), *machine.handle(g.Tick(), now_ms)]
        sent += sum(isinstance(effect, c.SendConsumerHeartbeat) for effect in effects)
    assert 5 <= sent <= 12
    assert machine.next_deadline_ms() is None
