"""Whatever comes, in whatever order, some things hold of the machine."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.group import messages as g
from penstock.group.assignors import RangeAssignor, RebalanceProtocol, assignors_for
from penstock.group.classic import ClassicMember
from penstock.group.protocol import MemberSubscription, encode_assignment, encode_subscription
from penstock.group.states import HEARTBEATING, TRANSITIONS, State
from penstock.types import TopicPartition

CODES_SEEN = [0, 0, 0, 0, 7, 14, 15, 16, 22, 23, 25, 26, 27, 30, 79, 81, 82, -1, 999]
CODES = st.sampled_from(CODES_SEEN)
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
    mine = encode_assignment([TopicPartition("t", p) for p in range(generation % 3)])
    protocol = "cooperative" if machine._strategy.cooperative else "range"
    me = g.JoinedMember("me", machine.group_instance_id, encode_subscription(MemberSubscription(("t",))))
    leader = "me" if generation % 2 else "a"
    return {
        State.UNSUBSCRIBED: g.Subscribe(("t",)),
        State.FINDING: g.CoordinatorFound(),
        State.BACKING_OFF: g.Tick(),
        State.JOINING: g.JoinAnswered(0, generation, protocol, leader, "me", (me,) if leader == "me" else ()),
        State.COUNTING: g.PartitionCounts({"t": 2}),
        State.SYNCING: g.SyncAnswered(0, protocol, mine),
        State.ASSIGNING: g.AssignmentDone(),
        State.STABLE: g.HeartbeatAnswered(27, machine.generation_id),
        State.PREPARING: g.RevocationDone(),
        State.REVOKING: g.RevocationDone(),
        State.EXPIRED: g.PollProgress(),
        State.FAILED: g.PollProgress(),
        State.FENCED: g.Leave(),
        State.LEAVING: g.LeaveAnswered(0),
    }[machine.state]


class Cooperative(RangeAssignor):
    """What it assigns is for the tests to say."""

    name = "cooperative"
    rebalance_protocols = (RebalanceProtocol.COOPERATIVE,)


class Listener:
    """What the user sees: partitions given, and each taken by exactly one of revoked and lost."""

    def __init__(self, cooperative: bool) -> None:
        self.cooperative = cooperative
        self.owned: set[TopicPartition] = set()
        self.taken: list[tuple[TopicPartition, ...]] = []  # a callback took these, Done has not come yet
        self.awaited: list[g.Event] = []  # the Done of each, in order
        self.stopped: set[TopicPartition] = set()
        self.given: set[TopicPartition] = (
            set()
        )  # by the last AssignPartitions, for the CallAssigned behind it

    def hear(self, effect: g.Effect) -> None:
        if isinstance(effect, g.AssignPartitions):
            self.given = set(effect.partitions) - self.owned
            assert self.owned <= set(effect.partitions), "what goes is revoked first"
            assert self.cooperative or self.given == set(effect.partitions)
            self.owned = set(effect.partitions)
        elif isinstance(effect, g.CallAssigned):
            assert set(effect.partitions) == self.given
        elif isinstance(effect, g.StopFetching):
            assert set(effect.partitions) <= self.owned
            assert effect.partitions
            self.stopped |= set(effect.partitions)
        elif isinstance(effect, g.CallRevoked | g.CallLost):
            assert set(effect.partitions) <= self.stopped
            assert not any(set(effect.partitions) & set(others) for others in self.taken), "told twice"
            if isinstance(effect, g.CallRevoked):
                assert not self.taken
                assert self.cooperative or set(effect.partitions) == self.owned
            else:
                assert set().union(*self.taken, effect.partitions) == self.owned, "all is lost"
            self.taken.append(effect.partitions)
            self.awaited.append(g.RevocationDone() if isinstance(effect, g.CallRevoked) else g.LossDone())
        elif isinstance(effect, g.SendJoin):
            assert not self.taken
            assert self.cooperative or not self.owned, "eager members own nothing while they join"

    def done(self, event: g.Event) -> None:
        if isinstance(event, g.RevocationDone | g.LossDone):
            gone = set(self.taken.pop(0))
            self.awaited.pop(0)
            self.owned -= gone
            self.stopped -= gone
        elif isinstance(event, g.Leave):  # the host has told the listener itself
            self.owned, self.stopped, self.taken, self.awaited = set(), set(), [], []


def new_machine(instance: str | None, cooperative: bool = False) -> ClassicMember:
    return ClassicMember(
        group_id="group",
        group_instance_id=instance,
        session_timeout_ms=45_000,
        rebalance_timeout_ms=300_000,
        heartbeat_interval_ms=3_000,
        retry_backoff_ms=100,
        retry_backoff_max_ms=1_000,
        assignors=assignors_for([Cooperative] if cooperative else ["range", "roundrobin"]),
    )


class Checked:
    """A machine whose every step is checked."""

    def __init__(self, instance: str | None, cooperative: bool) -> None:
        self.machine, self.listener = new_machine(instance, cooperative), Listener(cooperative)
        self.now_ms, self.beating, self.finding, self.generation = 1_000, -1, 0, 0

    def step(self, given_event: g.Event | None, passed_ms: int) -> None:
        self.now_ms += passed_ms
        event = expected(self.machine, self.generation) if given_event is None else given_event
        if isinstance(event, g.HeartbeatAnswered) and event.generation_id == 1:
            event = g.HeartbeatAnswered(event.error_code, self.machine.generation_id)
        if isinstance(event, g.RevocationDone | g.LossDone):
            if not self.listener.awaited:
                return  # nobody was asked
            event = self.listener.awaited[0]
        if isinstance(event, g.AssignmentDone) and self.machine.state is not State.ASSIGNING:
            return
        self._checked(event)

    def _checked(self, event: g.Event) -> None:
        machine, now_ms = self.machine, self.now_ms
        before, generation_before = machine.state, machine.generation_id
        self.generation += before is State.JOINING
        self.listener.done(event)
        if isinstance(event, g.CoordinatorFound | g.CoordinatorLost):
            self.finding = 0
        effects = machine.handle(event, now_ms)
        for effect in effects:
            self.listener.hear(effect)
            if isinstance(effect, g.KeepHeartbeating):
                self.beating = effect.generation_id
            elif isinstance(effect, g.StopHeartbeats):
                assert effect is effects[0], "before a join is sent"
                self.beating = -1
            self.finding += isinstance(effect, g.FindCoordinator)
        kinds = [type(effect) for effect in effects]
        if self.beating >= 0:
            assert machine.state in HEARTBEATING
            assert self.beating == machine.generation_id
        elif machine.state in (State.ASSIGNING, State.STABLE):
            assert not machine._coordinator_known
        assert self.finding <= 1, "one search at a time"
        assert kinds.count(g.SendJoin) + kinds.count(g.SendSync) <= 1
        due_ms = machine.next_deadline_ms()
        assert due_ms is None or due_ms > now_ms
        if machine.state in (State.STABLE, State.ASSIGNING):
            assert machine.generation_id >= 0
            assert set(machine.assignment) == self.listener.owned
        if machine.generation_id not in (generation_before, -1):
            assert isinstance(event, g.JoinAnswered)
            assert before is State.JOINING
        assert (g.Left in kinds) <= (machine.state is State.UNSUBSCRIBED)


@settings(max_examples=500)
@given(st.sampled_from([None, "instance"]), st.booleans(), STEPS)
def test_any_sequence(instance: str | None, cooperative: bool, steps: Steps) -> None:
    checked = Checked(instance, cooperative)
    for event, passed_ms in steps:
        checked.step(event, passed_ms)


def random_event(rng: random.Random) -> g.Event:
    code = rng.choice(CODES_SEEN)
    mine = encode_assignment([TopicPartition("t", p) for p in range(rng.randrange(2))])
    me = g.JoinedMember("me", None, rng.choice([b"\0", encode_subscription(MemberSubscription(("t",)))]))
    members = (me,) if rng.random() < 0.5 else ()
    return rng.choice(
        [
            g.Subscribe(rng.choice([("t",), ("t", "u"), ()])),
            g.CoordinatorFound(),
            g.CoordinatorLost("lost"),
            g.JoinAnswered(
                code,
                rng.randrange(3),
                rng.choice(["range", "sticky"]),
                rng.choice(["me", "a"]),
                "me",
                members,
                rng.random() < 0.2,
            ),
            g.SyncAnswered(code, rng.choice(["range", None, "sticky"]), rng.choice([mine, mine, b"?"])),
            g.HeartbeatAnswered(code, 1),
            g.HeartbeatAnswered(code, rng.randrange(3)),
            g.LeaveAnswered(code),
            g.RequestFailed(rng.choice(list(g.RequestKind)), "lost"),
            g.PartitionCounts({"t": 2}),
            rng.choice(
                [
                    g.RevocationDone(),
                    g.AssignmentDone(),
                    g.LossDone(),
                    g.TopicsChanged(),
                    g.Rejoin("why"),
                    g.Tick(),
                ]
            ),
            g.PollProgress(),
            g.PollExpired(),
            g.Leave(),
        ]
    )


# what may go wrong in a state, where it takes more than one mishap to go every way
MISHAPS: dict[State, list[g.Event]] = {
    State.FINDING: [g.PollExpired(), g.CoordinatorLost("lost")],
    State.BACKING_OFF: [g.PollExpired()],
    State.COUNTING: [g.PollExpired()],
    State.REVOKING: [
        g.Leave(),
        g.PollExpired(),
        g.HeartbeatAnswered(25, 1),
        g.HeartbeatAnswered(30, 1),
        g.HeartbeatAnswered(82, 1),
    ],
    State.JOINING: [
        g.PollExpired(),
        g.RequestFailed(g.RequestKind.JOIN, "lost"),
        g.CoordinatorLost("lost"),
        g.JoinAnswered(79, -1, "", "", "me", ()),
        g.JoinAnswered(25, -1, "", "", "", ()),
    ],
    State.SYNCING: [
        g.PollExpired(),
        g.RequestFailed(g.RequestKind.SYNC, "lost"),
        g.CoordinatorLost("lost"),
        g.SyncAnswered(82, None, b""),
        g.SyncAnswered(22, None, b""),
    ],
    State.ASSIGNING: [g.CoordinatorLost("lost"), g.HeartbeatAnswered(25, 1), g.HeartbeatAnswered(82, 1)],
    State.STABLE: [g.CoordinatorLost("lost"), g.HeartbeatAnswered(25, 1), g.HeartbeatAnswered(82, 1)],
    State.PREPARING: [g.CoordinatorLost("lost"), g.HeartbeatAnswered(30, 1), g.HeartbeatAnswered(82, 1)],
    State.FAILED: [g.Leave()],
    State.FENCED: [g.Leave()],
    State.LEAVING: [g.CoordinatorFound(), g.RequestFailed(g.RequestKind.LEAVE, "lost")],
}


def test_long_walks_keep_it_all_and_go_every_way_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: set[tuple[State, str, State]] = set()
    go = ClassicMember._go

    def noted(machine: ClassicMember, state: State) -> None:
        gone.add((machine.state, machine._cause.__name__, state))
        go(machine, state)

    monkeypatch.setattr(ClassicMember, "_go", noted)
    monkeypatch.setattr("penstock.group.classic._LEAVE_TRIES", 3)  # so that walks come to the last one
    for seed in range(900):
        rng = random.Random(seed)
        checked = Checked(None if seed % 3 else "instance", cooperative=seed % 2 == 1)
        for _ in range(150):
            event = None if rng.random() < rng.choice([0.5, 0.9]) else random_event(rng)
            state = checked.machine.state
            if state in MISHAPS and rng.random() < (0.8 if state is State.LEAVING else 0.3):
                event = rng.choice(MISHAPS[state])
            try:
                checked.step(event, rng.choice([0, 1, 50, 1_000, 3_000, 60_000]))
            except AssertionError as error:
                raise AssertionError(
                    f"seed {seed}, in {checked.machine.state.name}, after {event}"
                ) from error
    table = {
        (state, cause.__name__, target)
        for state, ways in TRANSITIONS.items()
        for cause, targets in ways.items()
        for target in targets
    }
    assert gone <= table
    assert table - gone == set(), "ways that the table lists and that nothing goes"


@given(STEPS)
def test_after_any_sequence_leaving_ends_in_bounded_steps(steps: Steps) -> None:
    machine, now_ms = new_machine(None), 1_000
    for event, passed_ms in steps:
        now_ms += passed_ms
        machine.handle(expected(machine, 1) if event is None else event, now_ms)
    effects = machine.handle(g.Leave(), now_ms)
    for _ in range(60):
        if machine.state is State.UNSUBSCRIBED:
            break
        now_ms += 5_000
        sent = any(isinstance(effect, g.SendLeave) for effect in effects)
        in_flight = sent or (machine.next_deadline_ms() is None and not machine._finding)
        answer = g.LeaveAnswered(16) if in_flight else g.CoordinatorFound() if machine._finding else g.Tick()
        effects = machine.handle(answer, now_ms)
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
