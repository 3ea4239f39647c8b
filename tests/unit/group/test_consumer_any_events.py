"""Whatever comes, in whatever order, some things hold of the consumer protocol's machine."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.group import consumer_messages as c
from penstock.group import messages as g
from penstock.group.consumer import ConsumerMember
from penstock.group.consumer_states import HEARTBEATING, TRANSITIONS, ConsumerState
from penstock.types import TopicPartition

S = ConsumerState
CODES_SEEN = [0, 0, 0, 0, 7, 14, 15, 16, 25, 29, 30, 35, 69, 81, 82, 110, 111, 112, 128, -1, 999]
IDS = [b"t" * 16, b"u" * 16, b"v" * 16]
NOW = 99  # as an epoch: the machine's own
EPOCHS_SEEN = [-2, -1, 0, 1, 2, 3, NOW, NOW, NOW, NOW + 1]
ASSIGNMENTS = st.none() | st.sets(st.tuples(st.sampled_from(IDS), st.integers(0, 2)), max_size=5).map(
    lambda found: tuple(sorted(found))
)
NAMES = st.dictionaries(st.sampled_from(IDS), st.sampled_from("tuv"), max_size=3)
EVENTS = st.one_of(
    st.builds(g.Subscribe, st.sampled_from([("t",), ("t", "u"), ()])),
    st.builds(c.SubscribeRegex, st.sampled_from(["t.*", "u.*"])),
    st.builds(g.CoordinatorFound),
    st.builds(g.CoordinatorLost, st.just("lost")),
    st.builds(
        c.ConsumerHeartbeatAnswered,
        st.sampled_from(CODES_SEEN),
        st.none(),
        st.just("me"),
        st.sampled_from(EPOCHS_SEEN),
        st.sampled_from([3_000, 5_000]),
        ASSIGNMENTS,
        st.booleans(),
    ),
    st.builds(g.RequestFailed, st.just(g.RequestKind.HEARTBEAT), st.just("lost")),
    st.builds(c.TopicNames, NAMES),
    st.sampled_from([g.RevocationDone(), g.AssignmentDone(), g.LossDone(), g.TopicsChanged()]),
    st.sampled_from([g.PollProgress(), g.PollExpired(), g.Tick(), g.Rejoin("why")]),
    st.builds(g.Leave, st.sampled_from([None, True, False])),
)
EXPECTED = st.none()  # stands for the event that the machine waits for, so that sequences get anywhere
PASSED_MS = st.sampled_from([0, 1, 50, 1_000, 5_000, 70_000])
STEPS = st.builds(
    lambda ahead, steps: [(None, 1_000)] * ahead + steps,
    st.integers(0, 9),
    st.lists(st.tuples(EXPECTED | EVENTS, PASSED_MS), min_size=3, max_size=40),
)
Steps = list[tuple[c.ConsumerEvent | None, int]]


def yes(epoch: int, assignment: c.TopicIdPartitions | None, *, repeated: bool = False) -> c.ConsumerEvent:
    return c.ConsumerHeartbeatAnswered(0, None, "me", epoch, 5_000, assignment, repeated)


def no(code: int, *, repeated: bool = False) -> c.ConsumerEvent:
    return c.ConsumerHeartbeatAnswered(code, None, None, 0, 0, None, repeated)


LOST = g.RequestFailed(g.RequestKind.HEARTBEAT, "lost")


class Listener:
    """What the user sees: partitions given, and each taken by exactly one of revoked and lost; one callback at a time."""

    def __init__(self) -> None:
        self.owned: set[TopicPartition] = set()
        self.stopped: set[TopicPartition] = set()
        self.running: type | None = None  # the end of the callback that runs
        self.taken: set[TopicPartition] = set()

    def hear(self, effect: c.ConsumerEffect) -> None:
        if isinstance(effect, g.StopFetching):
            assert set(effect.partitions) <= self.owned - self.stopped, "stopped once, of what is owned"
            self.stopped |= set(effect.partitions)
        elif isinstance(effect, g.AssignPartitions):
            assert len(effect.partitions) == len(set(effect.partitions))
            assert self.owned <= set(effect.partitions), "what is not revoked stays"
            self.added = set(effect.partitions) - self.owned
            self.owned = set(effect.partitions)
        elif isinstance(effect, g.CallAssigned | g.CallRevoked | g.CallLost):
            assert self.running is None, "two callbacks at once"
            partitions = set(effect.partitions)
            if isinstance(effect, g.CallAssigned):
                self.running = g.AssignmentDone
                assert partitions == self.added
                return
            assert partitions, "nothing is no loss"
            assert partitions <= self.stopped
            self.taken = partitions
            self.running = g.RevocationDone if isinstance(effect, g.CallRevoked) else g.LossDone
            assert isinstance(effect, g.CallRevoked) or partitions == self.owned, "a loss is of all"

    def done(self, event: c.ConsumerEvent) -> None:
        if isinstance(event, g.Leave):  # the host has told the listener itself
            self.owned, self.stopped, self.taken, self.running = set(), set(), set(), None
        elif type(event) is self.running:
            self.running = None
            self.owned -= self.taken
            self.stopped -= self.taken
            self.taken = set()


def new_machine(instance: str | None) -> ConsumerMember:
    return ConsumerMember(
        group_id="group",
        group_instance_id=instance,
        rack_id=None,
        rebalance_timeout_ms=300_000,
        retry_backoff_ms=100,
        retry_backoff_max_ms=1_000,
        server_assignor=None,
        member_id="me",
    )


class Checked:
    """A machine whose every step is checked, with a connection that answers in order."""

    def __init__(self, instance: str | None) -> None:
        self.machine, self.listener = new_machine(instance), Listener()
        self.now_ms, self.round = 1_000, 0
        self.finding = False
        self.sent: list[int] = []  # the epochs of the open requests
        self.repeated: c.RepeatHeartbeat | None = None
        self.unresolved: tuple[bytes, ...] = ()

    def expected(self) -> c.ConsumerEvent:
        """What would come next if all went well."""
        machine = self.machine
        self.round += 1
        given_ids = tuple((IDS[i % 3], i % 2) for i in range(self.round % 4))
        if self.listener.running is not None:
            done: c.ConsumerEvent = self.listener.running()
            return done
        if machine.state is S.UNSUBSCRIBED:
            return g.Subscribe(("t",))
        if self.finding:
            return g.CoordinatorFound()
        if self.sent:
            epoch = self.sent[0]
            return yes(epoch if epoch < 0 else max(1, machine.generation_id), given_ids)
        if self.unresolved:
            ids, self.unresolved = self.unresolved, ()
            return c.TopicNames({i: i.decode()[0] for i in ids})
        if self.repeated is not None:
            return yes(machine.generation_id + self.round % 2, given_ids, repeated=True)
        if machine.state is S.FENCED:
            return g.Leave()
        return g.Tick() if machine.next_deadline_ms() is not None else g.PollProgress()

    def step(self, given_event: c.ConsumerEvent | None, passed_ms: int) -> None:
        event = self.expected() if given_event is None else given_event
        self.now_ms += passed_ms
        if isinstance(event, g.RevocationDone | g.LossDone | g.AssignmentDone):
            if self.listener.running is not type(event):
                return  # nobody was asked
        elif isinstance(event, g.CoordinatorFound | g.CoordinatorLost):
            if not self.finding:
                return
            self.finding = False
        elif isinstance(event, c.ConsumerHeartbeatAnswered):
            if event.member_epoch >= NOW:
                epoch = self.machine.generation_id + event.member_epoch - NOW
                event = replace(event, member_epoch=epoch)
            if event.repeated:
                if self.repeated is None:
                    return  # the connection reports none of what it has stopped
                if not event.error_code:
                    self.repeated = replace(self.repeated, member_epoch=event.member_epoch)
            elif self.sent:
                self.sent.pop(0)
            else:
                return
        elif isinstance(event, g.RequestFailed) and self.sent:
            self.sent.pop(0)
        self._checked(event)

    def _checked(self, event: c.ConsumerEvent) -> None:
        machine = self.machine
        before, generation_before = machine.state, machine.generation_id
        self.listener.done(event)
        effects = machine.handle(event, self.now_ms)
        for effect in effects:
            self.listener.hear(effect)
            if isinstance(effect, g.CallAssigned) and effect.partitions:
                assert not any(epoch > 0 for epoch in self.sent), "the coordinator is told they are not owned"
            elif isinstance(effect, c.SendConsumerHeartbeat):
                self._heard(effect)
            elif isinstance(effect, c.RepeatHeartbeat):
                assert self.repeated != effect, "said twice"
                self.repeated = effect
            elif isinstance(effect, g.StopHeartbeats):
                assert self.repeated is not None
                self.repeated = None
            elif isinstance(effect, g.FindCoordinator):
                assert not self.finding, "one search at a time"
                self.finding = True
            elif isinstance(effect, c.ResolveTopicIds):
                self.unresolved = effect.ids
        assert set(machine.assignment) == self.listener.owned
        due_ms = machine.next_deadline_ms()
        assert due_ms is None or due_ms > self.now_ms
        self._heartbeats_fit()
        if machine.generation_id not in (generation_before, -1):
            assert isinstance(event, c.ConsumerHeartbeatAnswered)
            assert before is S.JOINING or machine.generation_id > generation_before
        kinds = [type(effect) for effect in effects]
        assert (g.Left in kinds) <= (machine.state is S.UNSUBSCRIBED)
        assert kinds.count(c.SendConsumerHeartbeat) <= 1
        assert g.CommitBeforeRevoke not in kinds or kinds.index(g.CommitBeforeRevoke) < kinds.index(
            g.CallRevoked
        )

    def _heard(self, sent: c.SendConsumerHeartbeat) -> None:
        machine = self.machine
        assert sent.member_id == "me"
        assert sent.group_instance_id == machine.group_instance_id
        if sent.member_epoch == 0:
            assert machine.state is S.JOINING
            assert sent.topic_partitions == (), "a coordinator lets none join that owns something"
            assert not self.listener.owned
            assert sent.rebalance_timeout_ms == 300_000
            assert sent.subscribed_topic_names or sent.subscribed_topic_regex
        elif sent.member_epoch > 0:
            assert machine.state in HEARTBEATING
            assert sent.member_epoch == machine.generation_id
            assert all(epoch < 0 for epoch in self.sent), "one at a time"
            assert sent.topic_partitions is not None
        else:
            assert machine.state in (S.LEAVING, S.EXPIRED, S.RELEASING)
            assert sent.member_epoch == -1 or machine.group_instance_id is not None
            assert sent.topic_partitions is None
        self.sent.append(sent.member_epoch)
        assert len(self.sent) <= 8

    def _heartbeats_fit(self) -> None:
        """Repeated exactly while this is a member, with its epoch; save while a request is open that may move it."""
        machine = self.machine
        member = machine.state in HEARTBEATING
        assert member == (machine.generation_id > 0)
        if self.repeated is not None:
            assert member
            assert self.repeated.member_epoch == machine.generation_id
        elif member and machine._coordinator_known:
            assert machine._open


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([None, "instance"]), STEPS)
def test_any_sequence(instance: str | None, steps: Steps) -> None:
    checked = Checked(instance)
    for event, passed_ms in steps:
        checked.step(event, passed_ms)


@settings(deadline=None)
@given(STEPS)
def test_events_that_nobody_waits_for_break_nothing(steps: Steps) -> None:
    machine, now_ms = new_machine(None), 1_000
    for event, passed_ms in steps:
        now_ms += passed_ms
        machine.handle(g.Tick() if event is None else event, now_ms)
        due_ms = machine.next_deadline_ms()
        assert due_ms is None or due_ms > now_ms


def random_event(rng: random.Random) -> c.ConsumerEvent:
    assignment = tuple((i, 0) for i in rng.sample(IDS, rng.randrange(4)))
    answer = c.ConsumerHeartbeatAnswered(
        rng.choice(CODES_SEEN),
        None,
        "me",
        rng.choice(EPOCHS_SEEN),
        5_000,
        rng.choice([None, assignment]),
        rng.random() < 0.5,
    )
    events: list[c.ConsumerEvent] = [
        g.Subscribe(rng.choice([("t",), ("t", "u"), ()])),
        c.SubscribeRegex("t.*"),
        g.CoordinatorFound(),
        g.CoordinatorLost("lost"),
        answer,
        answer,
        LOST,
        c.TopicNames({i: i.decode()[0] for i in rng.sample(IDS, rng.randrange(4))}),
        rng.choice([g.RevocationDone(), g.AssignmentDone(), g.LossDone(), g.TopicsChanged(), g.Tick()]),
        g.PollProgress(),
        g.PollExpired(),
        g.Leave(rng.choice([None, None, True, False])),
    ]
    return rng.choice(events)


# what may go wrong in a state, where it takes more than one mishap to go every way
MEMBERS: list[c.ConsumerEvent] = [
    *(no(code, repeated=True) for code in (16, 25, 30, 82, 110)),
    no(25),
    yes(NOW, (), repeated=True),
    g.PollExpired(),
    c.TopicNames({IDS[0]: "v", IDS[1]: "u"}),
    g.Subscribe(()),
    g.Leave(False),
    LOST,
]
MISHAPS: dict[ConsumerState, list[c.ConsumerEvent]] = {
    S.FINDING: [g.CoordinatorLost("lost"), g.PollExpired(), g.Subscribe(())],
    S.BACKING_OFF: [g.PollExpired(), g.Subscribe(())],
    S.JOINING: [no(110), no(111), no(82), no(30), no(16), LOST, g.PollExpired(), yes(1, ((IDS[2], 0),))],
    S.RELEASING: [LOST, no(16), no(25), no(30), g.Subscribe(()), g.PollExpired(), no(82)],
    S.STABLE: MEMBERS,
    S.REVOKING: MEMBERS,
    S.ASSIGNING: MEMBERS,
    S.LOSING: [g.Subscribe(()), LOST, no(25), no(16)],
    S.EXPIRED: [g.Subscribe(()), LOST, no(25), yes(-1, None), no(16), g.PollProgress(), g.PollProgress()],
    S.LEAVING: [LOST, LOST, LOST, LOST, g.CoordinatorLost("lost"), no(25)],
    S.FAILED: [g.Leave(), g.Subscribe(())],
    S.FENCED: [g.Leave()],
}


def test_long_walks_keep_it_all_and_go_every_way_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: set[tuple[ConsumerState, str, ConsumerState]] = set()
    go = ConsumerMember._go

    def noted(machine: ConsumerMember, state: ConsumerState) -> None:
        gone.add((machine.state, machine._cause.__name__, state))
        go(machine, state)

    monkeypatch.setattr(ConsumerMember, "_go", noted)
    monkeypatch.setattr("penstock.group.consumer._LEAVE_TRIES", 3)  # so that walks come to the last one
    for seed in range(600):
        rng = random.Random(seed)
        checked = Checked(None if seed % 3 else "instance")
        for _ in range(150):
            event = None if rng.random() < rng.choice([0.5, 0.9]) else random_event(rng)
            state = checked.machine.state
            if state in MISHAPS and rng.random() < (0.6 if state is S.LEAVING else 0.3):
                event = rng.choice(MISHAPS[state])
            try:
                checked.step(event, rng.choice([0, 1, 50, 1_000, 5_000, 70_000]))
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


@settings(deadline=None)
@given(st.sampled_from([None, "instance"]), STEPS, st.sampled_from([None, True, False]))
def test_after_any_sequence_leaving_ends_in_bounded_steps(
    instance: str | None, steps: Steps, leave_group: bool | None
) -> None:
    checked = Checked(instance)
    for event, passed_ms in steps:
        checked.step(event, passed_ms)
    checked.step(g.Leave(leave_group), 0)
    for _ in range(60):
        if checked.machine.state is S.UNSUBSCRIBED:
            break
        checked.step(g.CoordinatorFound() if checked.finding else no(16) if checked.sent else g.Tick(), 5_000)
    assert checked.machine.state is S.UNSUBSCRIBED
    assert checked.machine.generation_id == -1


@settings(deadline=None)
@given(st.sampled_from([None, "instance"]), STEPS)
def test_after_any_sequence_it_settles_when_all_goes_well(instance: str | None, steps: Steps) -> None:
    """The last target that was told is what is owned and what the coordinator was told, and heartbeats are repeated."""
    checked = Checked(instance)
    for event, passed_ms in steps:
        checked.step(event, passed_ms)
    for _ in range(60):
        checked.step(None, 1_000)
    machine = checked.machine
    target = ((IDS[0], 0), (IDS[1], 1))
    names = c.TopicNames({i: i.decode()[0] for i in IDS})
    wanted = {TopicPartition("t", 0), TopicPartition("u", 1)}
    for _ in range(20):
        resting = machine.state is S.STABLE and checked.repeated is not None and not checked.sent
        if resting and set(machine.assignment) == wanted:
            break
        if checked.sent and checked.listener.running is None and machine.state is not S.LEAVING:
            epoch = checked.sent[0]
            checked.step(yes(epoch if epoch < 0 else max(1, machine.generation_id), target), 0)
        elif resting:
            checked.step(yes(machine.generation_id, target, repeated=True), 0)
            checked.step(names, 0)
        else:
            checked.step(None, 1_000)
    else:
        raise AssertionError(f"still {machine.state.name} with {machine.assignment}")


@settings(deadline=None)
@given(STEPS)
def test_the_same_events_give_the_same_effects(steps: Steps) -> None:
    first, second = new_machine(None), new_machine(None)
    now_ms = 0
    for event, passed_ms in steps:
        now_ms += passed_ms
        known = g.Tick() if event is None else event
        assert first.handle(known, now_ms) == second.handle(known, now_ms)
