"""Whatever comes, in whatever order, some things hold of the machine."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.group import messages as g
from penstock.group.assignors import assignors_for
from penstock.group.classic import ClassicMember
from penstock.group.protocol import MemberSubscription, encode_assignment, encode_subscription
from penstock.group.states import HEARTBEATING, State
from penstock.types import TopicPartition

CODES = st.sampled_from([0, 0, 0, 0, 7, 14, 15, 16, 22, 23, 25, 26, 27, 30, 79, 81, 82, -1, 999])
GENERATIONS = st.integers(1, 3)
PARTITIONS = st.sets(st.builds(TopicPartition, st.sampled_from("tu"), st.integers(0, 3)), max_size=4)
NAMES = st.sampled_from(["range", "roundrobin", "sticky"])
METADATA = st.one_of(
    st.binary(max_size=6),
    st.builds(lambda t: encode_subscription(MemberSubscription(tuple(t))), st.sets(st.sampled_from("tuv"))),
)
MEMBERS = st.lists(
    st.builds(g.JoinedMember, st.sampled_from(["me", "a", "b"]), st.none(), METADATA), max_size=3
).map(tuple)
ASSIGNMENT = st.one_of(PARTITIONS.map(sorted).map(encode_assignment), st.binary(max_size=6))
EVENTS = st.one_of(
    st.builds(g.Subscribe, st.sampled_from([("t",), ("t", "u"), ()])),
    st.builds(g.CoordinatorFound),
    st.builds(g.CoordinatorLost, st.just("lost")),
    st.builds(
        g.JoinAnswered, CODES, GENERATIONS, NAMES, st.sampled_from(["me", "a"]), st.just("me"), MEMBERS, st.booleans()
    ),
    st.builds(g.SyncAnswered, CODES, st.one_of(st.none(), NAMES), ASSIGNMENT),
    st.builds(g.HeartbeatAnswered, CODES, st.just(1)),  # 1 stands for the present generation
    st.builds(g.HeartbeatAnswered, CODES, GENERATIONS),
    st.builds(g.LeaveAnswered, CODES),
    st.builds(g.RequestFailed, st.sampled_from(list(g.RequestKind)), st.just("lost")),
    st.builds(g.PartitionCounts, st.dictionaries(st.sampled_from("tuv"), st.integers(0, 3))),
    st.sampled_from(
        [g.RevocationDone(), g.AssignmentDone(), g.LossDone(), g.TopicsChanged(), g.PollProgress(), g.PollExpired(), g.Leave()]
    ),
    st.builds(g.Rejoin, st.just("why")),
    st.builds(g.Tick),
)  # fmt: skip
EXPECTED = st.none()  # stands for the event that the machine waits for, so that sequences get anywhere
PASSED_MS = st.sampled_from([0, 1, 50, 1_000, 3_000, 60_000])
STEPS = st.builds(
    lambda ahead, steps: [(None, 1_000)] * ahead + steps,
    st.integers(0, 9),
    st.lists(st.tuples(st.one_of(EXPECTED, EVENTS), PASSED_MS), min_size=3, max_size=30),
)


Steps = list[tuple[g.Event | None, int]]


def expected(machine: ClassicMember, generation: int) -> g.Event:
    """What would come next if all went well."""
    mine = encode_assignment([TopicPartition("t", 0), TopicPartition("t", 1)])
    me = g.JoinedMember("me", machine.group_instance_id, encode_subscription(MemberSubscription(("t",))))
    leader = "me" if generation % 2 else "a"
    return {
        State.UNSUBSCRIBED: g.Subscribe(("t",)),
        State.FINDING: g.CoordinatorFound(),
        State.BACKING_OFF: g.Tick(),
        State.JOINING: g.JoinAnswered(0, generation, "range", leader, "me", (me,) if leader == "me" else ()),
        State.COUNTING: g.PartitionCounts({"t": 2}),
        State.SYNCING: g.SyncAnswered(0, "range", mine),
        State.ASSIGNING: g.AssignmentDone(),
        State.STABLE: g.HeartbeatAnswered(27, machine.generation_id),
        State.PREPARING: g.RevocationDone(),
        State.EXPIRED: g.PollProgress(),
        State.FAILED: g.PollProgress(),
        State.FENCED: g.Leave(),
        State.LEAVING: g.LeaveAnswered(0),
    }[machine.state]


class Listener:
    """What the user sees: partitions given, and taken by exactly one of revoked and lost."""

    def __init__(self) -> None:
        self.owned: tuple[TopicPartition, ...] = ()
        self.taken: tuple[TopicPartition, ...] | None = None  # a callback took these, Done has not come yet
        self.stopped = False

    def hear(self, effect: g.Effect, machine: ClassicMember) -> None:
        if isinstance(effect, g.AssignPartitions):
            assert self.owned == ()
            self.owned, self.stopped = effect.partitions, False
        elif isinstance(effect, g.CallAssigned):
            assert effect.partitions == self.owned
        elif isinstance(effect, g.StopFetching):
            assert effect.partitions == self.owned != ()
            self.stopped = True
        elif isinstance(effect, g.CallRevoked | g.CallLost):
            assert self.taken is None, "a second callback for the same partitions"
            assert self.stopped
            assert effect.partitions == self.owned
            self.taken = effect.partitions
        elif isinstance(effect, g.SendJoin):
            assert self.owned == (), "eager members own nothing while they join"

    def done(self, event: g.Event) -> None:
        if isinstance(
            event, g.RevocationDone | g.LossDone | g.Leave
        ):  # Leave: the host has told the listener itself
            self.owned, self.taken = (), None


def new_machine(instance: str | None) -> ClassicMember:
    return ClassicMember(
        group_id="group",
        group_instance_id=instance,
        session_timeout_ms=45_000,
        rebalance_timeout_ms=300_000,
        heartbeat_interval_ms=3_000,
        retry_backoff_ms=100,
        retry_backoff_max_ms=1_000,
        assignors=assignors_for(["range", "roundrobin"]),
    )


@settings(max_examples=1_500)
@given(st.sampled_from([None, "instance"]), STEPS)
def test_any_sequence(instance: str | None, steps: Steps) -> None:
    machine, listener = new_machine(instance), Listener()
    now_ms, heartbeats, finding, generation = 1_000, 0, 0, 0
    for given_event, passed_ms in steps:
        now_ms += passed_ms
        event = expected(machine, generation) if given_event is None else given_event
        if isinstance(event, g.HeartbeatAnswered) and event.generation_id == 1:
            event = g.HeartbeatAnswered(event.error_code, machine.generation_id)
        if isinstance(event, g.RevocationDone | g.LossDone) and listener.taken is None:
            continue  # nobody was asked
        if isinstance(event, g.AssignmentDone) and machine.state is not State.ASSIGNING:
            continue
        if isinstance(event, g.Leave) and listener.taken is not None:
            continue  # the host runs its callbacks first
        before, generation_before = machine.state, machine.generation_id
        generation += before is State.JOINING
        listener.done(event)
        if isinstance(event, g.HeartbeatAnswered) or event == g.RequestFailed(
            g.RequestKind.HEARTBEAT, "lost"
        ):
            heartbeats = 0
        if isinstance(event, g.CoordinatorFound | g.CoordinatorLost):
            finding = 0
        effects = machine.handle(event, now_ms)
        for effect in effects:
            listener.hear(effect, machine)
            if isinstance(effect, g.SendHeartbeat):
                heartbeats += 1
                assert machine.state in HEARTBEATING
                assert effect.generation_id == machine.generation_id >= 0
            finding += isinstance(effect, g.FindCoordinator)
        kinds = [type(effect) for effect in effects]
        assert heartbeats <= 1, "one heartbeat in flight"
        assert finding <= 1, "one search at a time"
        assert kinds.count(g.SendJoin) + kinds.count(g.SendSync) <= 1
        due_ms = machine.next_deadline_ms()
        assert due_ms is None or due_ms > now_ms
        if machine.state in (State.STABLE, State.ASSIGNING):
            assert machine.generation_id >= 0
            assert machine.assignment == listener.owned
        if machine.generation_id not in (generation_before, -1):
            assert isinstance(event, g.JoinAnswered)
            assert before is State.JOINING
        assert (g.Left in kinds) <= (machine.state is State.UNSUBSCRIBED)


@given(STEPS)
def test_after_any_sequence_leaving_ends_in_bounded_steps(steps: Steps) -> None:
    machine, now_ms = new_machine(None), 1_000
    for event, passed_ms in steps:
        now_ms += passed_ms
        machine.handle(expected(machine, 1) if event is None else event, now_ms)
    effects = machine.handle(g.Leave(), now_ms)
    for _ in range(20):
        if machine.state is State.UNSUBSCRIBED:
            break
        sent = any(isinstance(effect, g.SendLeave) for effect in effects)
        effects = machine.handle(g.LeaveAnswered(16) if sent else g.CoordinatorFound(), now_ms)
    assert machine.state is State.UNSUBSCRIBED
    assert machine.next_deadline_ms() is None


@given(STEPS)
def test_the_same_events_give_the_same_effects(steps: Steps) -> None:
    first, second = new_machine(None), new_machine(None)
    now_ms = 0
    for event, passed_ms in steps:
        now_ms += passed_ms
        known = expected(first, 1) if event is None else event
        assert first.handle(known, now_ms) == second.handle(known, now_ms)
