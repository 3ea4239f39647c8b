"""A consumer through what users do to it: other subscriptions, listeners and callbacks that raise, close() in the midst of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, TopicPartition
from penstock.devbroker import Delay
from penstock.errors import AuthorizationError, BrokerError, CommitFailedError, ConfigError, KafkaError
from penstock.group.assignors import RangeAssignor

JOIN_GROUP, LEAVE_GROUP, OFFSET_COMMIT, METADATA, CONSUMER_GROUP_HEARTBEAT = 11, 13, 8, 3, 68
GROUP_AUTHORIZATION_FAILED = 30
WAIT_S = 15.0


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(auto_create_topics_enable=False, group_consumer_heartbeat_interval_ms=100) as running:
        yield running


@pytest.fixture
def topic(broker: DevBroker) -> str:
    return made(broker)


def made(broker: DevBroker, prefix: str = "t", records: int = 5, partitions: int = 1) -> str:
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, partitions=partitions)
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(records):
            producer.send(name, b"%d" % number, partition=number % partitions)
    return name


def consumer_of(broker: DevBroker, *topics: str, **config: Any) -> KafkaConsumer:
    options = {
        "group_id": f"g-{uuid.uuid4().hex[:8]}",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 50,
    }
    if config.get("group_protocol") != "consumer":
        options["heartbeat_interval_ms"] = 100
    return KafkaConsumer(*topics, bootstrap_servers=broker.bootstrap_servers, **{**options, **config})


class Told:
    """A listener that notes what it hears; `raising` names the methods that then raise."""

    def __init__(self, *raising: str) -> None:
        self.events: list[tuple[str, list[TopicPartition]]] = []
        self._raising = raising

    def _hear(self, what: str, partitions: list[TopicPartition]) -> None:
        self.events.append((what, sorted(partitions)))
        if what in self._raising:
            raise RuntimeError(what)

    def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        self._hear("assigned", partitions)

    def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        self._hear("revoked", partitions)


def poll_until(consumer: KafkaConsumer, condition: Callable[[], Any], what: str) -> list[Any]:
    found: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        found += consumer.poll(timeout=20)
    return found


def topics_of(partitions: Iterable[TopicPartition]) -> set[str]:
    return {tp.topic for tp in partitions}


class Requests:
    """How many requests of an API the broker has had."""

    def __init__(self, broker: DevBroker, api: int) -> None:
        self.count = 0
        self.remove = broker.intercept(api, self._note)

    def _note(self, request: Any, connection: Any) -> None:
        self.count += 1


# ---------------------------------------------------------------- subscriptions


def test_a_leader_that_subscribes_to_a_topic_that_does_not_exist_does_not_rebalance_without_end(
    broker: DevBroker, topic: str
) -> None:
    missing, told, metadata = f"missing-{uuid.uuid4().hex[:8]}", Told(), Requests(broker, METADATA)
    with consumer_of(broker) as consumer:
        consumer.subscribe([topic, missing], listener=told)
        poll_until(consumer, consumer.assignment, "an assignment")
        before = metadata.count
        poll_until(consumer, lambda: metadata.count > before + 4, "metadata updates")
        assert [what for what, _ in told.events] == ["assigned"]
        broker.create_topic(missing)
        poll_until(
            consumer, lambda: topics_of(consumer.assignment()) == {topic, missing}, "the topic that came"
        )
    metadata.remove()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_one_subscription_follows_another(broker: DevBroker, protocol: str) -> None:
    key = uuid.uuid4().hex[:8]
    a, b = made(broker, f"a-{key}"), made(broker, f"b-{key}")

    def reads(consumer: KafkaConsumer, *topics: str) -> None:
        poll_until(consumer, lambda: topics_of(consumer.assignment()) == set(topics), f"reading {topics}")

    with consumer_of(broker, group_protocol=protocol, metadata_max_age_ms=200) as consumer:
        for subscription, wanted in (
            ({"pattern": f"a-{key}.*"}, a),
            ({"pattern": f"b-{key}.*"}, b),
            ({"topics": [a]}, a),
            ({"pattern": re.compile(f"b-{key}.*")}, b),
            ({"pattern": f"a-{key}.*"}, a),
        ):
            consumer.subscribe(**subscription)
            reads(consumer, wanted)
        consumer.subscribe(pattern=f"nothing-{key}.*")
        reads(consumer)
        late = made(broker, f"nothing-{key}")
        reads(consumer, late)
        consumer.unsubscribe()
        assert consumer.assignment() == set()
        consumer.subscribe(pattern=re.compile(f"b-{key}.*"))
        reads(consumer, b)


def test_poll_tells_of_a_topic_name_that_no_topic_can_have(broker: DevBroker) -> None:
    with consumer_of(broker, "no topic") as consumer, pytest.raises(BrokerError, match="'no topic'"):
        poll_until(consumer, lambda: False, "an error")


def test_a_topic_that_does_not_exist_is_told_in_the_log_once(
    broker: DevBroker, caplog: pytest.LogCaptureFixture
) -> None:
    name, metadata = f"missing-{uuid.uuid4().hex[:8]}", Requests(broker, METADATA)
    with caplog.at_level(logging.WARNING, "penstock"), consumer_of(broker, name) as consumer:
        poll_until(consumer, lambda: metadata.count > 6, "metadata updates")
    metadata.remove()
    assert len([r for r in caplog.records if name in r.getMessage()]) == 1


# ---------------------------------------------------------------- listeners and callbacks


def test_what_waits_behind_a_callback_that_raises_runs_in_the_next_poll(
    broker: DevBroker, topic: str
) -> None:
    ran: list[int] = []

    def raising(*told: object) -> None:
        ran.append(1)
        raise RuntimeError("the callback")

    with consumer_of(broker, topic) as consumer:
        poll_until(consumer, consumer.assignment, "an assignment")
        for future in [consumer.commit_async({TopicPartition(topic, 0): n}, raising) for n in (1, 2, 3)]:
            future.result(WAIT_S)
        with pytest.raises(RuntimeError, match="the callback"):
            poll_until(consumer, lambda: False, "the first")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the callback"):
                consumer.poll(timeout=0)
        assert len(ran) == 3


def test_close_leaves_the_group_whatever_callbacks_and_listeners_raise(broker: DevBroker, topic: str) -> None:
    ran: list[int] = []

    def raising(*told: object) -> None:
        ran.append(1)
        raise RuntimeError("the callback")

    left, told = Requests(broker, LEAVE_GROUP), Told("revoked")
    consumer = consumer_of(broker)
    consumer.subscribe([topic], listener=told)
    poll_until(consumer, consumer.assignment, "an assignment")
    for future in [consumer.commit_async({TopicPartition(topic, 0): n}, raising) for n in (1, 2)]:
        future.result(WAIT_S)
    with pytest.raises(RuntimeError, match="the callback"):
        consumer.close()
    left.remove()
    assert (len(ran), [what for what, _ in told.events], left.count) == (2, ["assigned", "revoked"], 1)


def test_unsubscribe_is_done_whatever_the_listener_raises(broker: DevBroker, topic: str) -> None:
    with consumer_of(broker) as consumer:
        consumer.subscribe([topic], listener=Told("revoked"))
        poll_until(consumer, consumer.assignment, "an assignment")
        with pytest.raises(RuntimeError, match="revoked"):
            consumer.unsubscribe()
        assert consumer.subscription() == set()
        consumer.assign([TopicPartition(topic, 0)])
        assert poll_until(consumer, lambda: consumer.position(TopicPartition(topic, 0)) == 5, "its records")


def test_a_revocation_interrupted_at_its_commit_is_told_and_done(
    broker: DevBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nobody would tell the group, which waits for it."""
    told, tp = Told(), TopicPartition(topic, 0)
    with consumer_of(broker, enable_auto_commit=True, auto_commit_interval_ms=3_600_000) as consumer:
        consumer.subscribe([topic], listener=told)
        poll_until(consumer, consumer.assignment, "an assignment")
        poll_until(consumer, lambda: consumer.position(tp) == 5, "its records")
        core = consumer._core
        monkeypatch.setattr(
            core.engine, "call", interrupted_at(core.engine.call, core.commits._commit_quietly)
        )
        consumer.enforce_rebalance()
        with pytest.raises(KeyboardInterrupt):
            poll_until(consumer, lambda: False, "the interrupt")
        poll_until(consumer, lambda: len(told.events) >= 3, "the next assignment")
        assert [what for what, _ in told.events] == ["assigned", "revoked", "assigned"]


def interrupted_at(call: Callable[..., Any], what: object) -> Callable[..., Any]:
    """engine.call() into which Ctrl-C comes, once, when it is asked for `what`."""
    left = [what]

    def interrupted(function: Any, *args: Any, **kwargs: Any) -> Any:
        if left and function == left[0]:
            left.clear()
            raise KeyboardInterrupt
        return call(function, *args, **kwargs)

    return interrupted


def test_a_loop_ends_where_close_is_called_in_it(broker: DevBroker, topic: str) -> None:
    group = f"g-{uuid.uuid4().hex[:8]}"
    consumer = consumer_of(broker, topic, group_id=group, enable_auto_commit=True)
    handed = 0
    for _ in consumer:
        handed += 1
        if handed == 2:
            consumer.close()
    assert handed == 2
    with consumer_of(broker, topic, group_id=group) as other:
        assert other.committed(TopicPartition(topic, 0)).offset == 2


# ---------------------------------------------------------------- commits


def test_assign_commits_what_was_read_of_partitions_that_it_drops(broker: DevBroker) -> None:
    topic = made(broker, records=6, partitions=2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    group = f"g-{uuid.uuid4().hex[:8]}"
    with consumer_of(
        broker, group_id=group, enable_auto_commit=True, auto_commit_interval_ms=3_600_000
    ) as consumer:
        consumer.assign([first])
        poll_until(consumer, lambda: consumer.position(first) == 3, "its records")
        consumer.assign([second])
        poll_until(consumer, lambda: consumer.committed(first) is not None, "the commit")
        assert consumer.committed(first).offset == 3


def test_an_auto_commit_waits_for_the_one_before(broker: DevBroker, topic: str) -> None:
    """While no coordinator answers, each poll() would leave one more behind."""
    held: Future[None] = Future()
    asked: list[int] = []

    def hold(request: Any, connection: Any) -> Any:
        asked.append(1)
        return held

    remove = broker.intercept(OFFSET_COMMIT, hold)
    with consumer_of(broker, topic, enable_auto_commit=True, auto_commit_interval_ms=0) as consumer:
        poll_until(consumer, lambda: asked, "a commit")
        for _ in range(50):
            consumer.poll(timeout=0)
        assert consumer._call(tasks_named, "_commit_quietly") == 1
        held.set_result(None)
        poll_until(consumer, lambda: len(asked) > 1, "the next commit")
    remove()


async def tasks_named(name: str) -> int:
    return sum(name in str(task.get_coro()) for task in asyncio.all_tasks())


def test_a_consumer_that_is_to_join_commits_nothing_past_the_group(broker: DevBroker, topic: str) -> None:
    """Before the first poll() it is no member: taken for somebody outside, it would undo what members of an idle group committed."""
    with consumer_of(broker, topic) as consumer, pytest.raises(CommitFailedError, match="poll"):
        consumer.commit({TopicPartition(topic, 0): 1})


def test_committed_needs_no_membership(broker: DevBroker, topic: str) -> None:
    """Of the consumer protocol's members an epoch is asked, which one that is refused does not have."""
    group, tp = f"g-{uuid.uuid4().hex[:8]}", TopicPartition(topic, 0)
    with consumer_of(broker, group_id=group) as other:
        other.assign([tp])
        other.commit({tp: 3})
    remove = broker.intercept(CONSUMER_GROUP_HEARTBEAT, lambda *_: GROUP_AUTHORIZATION_FAILED)
    with consumer_of(broker, topic, group_id=group, group_protocol="consumer") as consumer:
        with pytest.raises(AuthorizationError):
            poll_until(consumer, lambda: False, "an error")
        assert consumer.committed(tp, timeout=5_000).offset == 3
    remove()


def test_a_loop_that_was_left_goes_on_with_the_epoch_that_it_has_read_under(
    broker: DevBroker, topic: str
) -> None:
    """Without one nobody would ask the next leader whether it has what was read (KIP-320)."""
    tp = TopicPartition(topic, 0)
    with consumer_of(broker) as consumer:
        consumer.assign([tp])
        for record in consumer:
            if record.offset == 1:
                break
        place = consumer._fetcher.position(consumer._core.handles[tp])
        assert place == (2, record.leader_epoch)
        assert record.leader_epoch >= 0


# ---------------------------------------------------------------- assignors


class Failing(RangeAssignor):
    name = "failing"

    def assign(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no idea")


def test_poll_tells_of_an_assignor_that_raises(broker: DevBroker, topic: str) -> None:
    with (
        consumer_of(broker, topic, partition_assignment_strategy=[Failing]) as consumer,
        pytest.raises(KafkaError, match=r"failing.*no idea"),
    ):
        poll_until(consumer, lambda: False, "an error")


# ---------------------------------------------------------------- the end


def test_options_that_only_their_readers_find_wrong_leave_nothing_open(broker: DevBroker) -> None:
    for wrong in (
        {"interceptor_classes": ["no_such_module:Class"]},
        {"partition_assignment_strategy": [Failing, Failing()]},
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with pytest.raises(ConfigError):
                consumer_of(broker, "t", **wrong)
            gc.collect()
        assert [str(w.message) for w in seen] == []


def test_close_is_silent_where_nothing_is_wrong(
    broker: DevBroker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer: Future[None] = Future()
    asked: list[int] = []

    def hold(request: Any, connection: Any) -> Any:
        asked.append(1)
        return answer

    with consumer_of(broker) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        poll_until(consumer, lambda: consumer.position(TopicPartition(topic, 0)) == 5, "its records")
        remove = broker.intercept(METADATA, hold)
        consumer._core.engine.post(consumer._core.client.want_update)
        poll_until(consumer, lambda: asked, "a question that is open at close()")
        caplog.clear()
    remove()
    answer.set_result(None)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_who_goes_while_its_first_join_is_on_its_way_holds_nobody_up(broker: DevBroker, topic: str) -> None:
    """The coordinator gives a member id out in that answer (KIP-394), and until the session's timeout waits for its join."""
    group, asked = f"g-{uuid.uuid4().hex[:8]}", []

    def slow(request: Any, connection: Any) -> Any:
        asked.append(request.body.member_id)
        return Delay(0.2)

    remove = broker.intercept(JOIN_GROUP, slow)
    with consumer_of(broker, topic, group_id=group) as consumer:
        poll_until(consumer, lambda: asked, "its join")
        consumer.unsubscribe()
        remove()
        assert asked == [""]
        consumer.subscribe([topic])  # whose join is sent behind the one before
        poll_until(consumer, consumer.assignment, "an assignment")
