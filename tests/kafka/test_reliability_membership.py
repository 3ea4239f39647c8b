"""Leaving a group whose coordinator moves, and members that are static (KIP-345)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock import KafkaConsumer, TopicPartition
from penstock.devbroker import DevBroker
from penstock.errors import CommitFailedError, GroupError
from tests.support.history import Place, Read
from tests.support.kafka import RealKafka
from tests.support.members import Member, Members
from tests.support.workload import OFFSETS_TOPIC, coordinator_of, offsets_partition

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
LONG_MS = 60_000
"""A session that no test waits for: who goes on before has been told. The most that a broker allows by default in KIP-848."""

SOON_S = 20.0
"""Well within LONG_MS."""

LEAVE_GROUP = 13


PROTOCOLS = ["classic", "consumer"]


def membership(kafka: RealKafka, group: str, protocol: str, session_ms: int) -> dict[str, Any]:
    """The options of a member with that session, which in the consumer protocol (KIP-848) is a setting of the group."""
    if protocol == "classic":
        return {"group_id": group, "session_timeout_ms": session_ms, "heartbeat_interval_ms": 200}
    kafka.configure_group(group, consumer_session_timeout_ms=session_ms, consumer_heartbeat_interval_ms=200)
    return {"group_id": group, "group_protocol": "consumer"}


@contextmanager
def consumer_of(bootstrap: str, *topics: str, **config: Any) -> Iterator[KafkaConsumer]:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    with KafkaConsumer(*topics, bootstrap_servers=bootstrap, **{**options, **config}) as consumer:
        yield consumer


def poll_until(condition: Callable[[], Any], *consumers: KafkaConsumer, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        for consumer in consumers:
            consumer.poll(timeout=50)


class Polled:
    """A consumer that is polled in a thread of its own, and what its listener was told."""

    def __init__(self, bootstrap: str, topic: str, **config: Any) -> None:
        self.owned: set[TopicPartition] = set()
        self.calls: list[str] = []
        self.read: list[tuple[int, int]] = []
        self.error: BaseException | None = None
        self._bootstrap, self._topic, self._config = bootstrap, topic, config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="polled")

    def _run(self) -> None:
        try:
            with consumer_of(self._bootstrap, **self._config) as consumer:
                consumer.subscribe([self._topic], listener=self)
                while not self._stop.is_set():
                    self.read += [(r.partition, r.offset) for r in consumer.poll(timeout=50)]
        except BaseException as error:
            self.error = error

    def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("assigned")
        self.owned |= set(partitions)

    def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("revoked")
        self.owned -= set(partitions)

    def on_partitions_lost(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("lost")
        self.owned -= set(partitions)

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.error is None, f"{what}: it raised {self.error!r}"
            assert time.monotonic() < deadline, (
                f"{what}: not within {timeout_s} s; {self.calls}, owns {self.owned}"
            )
            time.sleep(0.02)

    def __enter__(self) -> Polled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)


# ------------------------------------------------------------ leaving


def move_coordinator(kafka: RealKafka, group: str) -> None:
    """Another broker leads the group's partition of __consumer_offsets; all brokers stay up."""
    from tools.kafka.kafka import java_tool

    old = coordinator_of(kafka, group)
    partition = offsets_partition(group, len(kafka.leaders(OFFSETS_TOPIC)))
    new = [old % 3 + 1, (old + 1) % 3 + 1, old]
    plan = {"version": 1, "partitions": [{"topic": OFFSETS_TOPIC, "partition": partition, "replicas": new}]}
    where = kafka.nodes[1].folder / f"{group}.json"
    where.write_text(json.dumps(plan))
    server = ["--bootstrap-server", kafka.bootstrap_servers]
    java_tool(
        "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        [*server, "--reassignment-json-file", str(where), "--execute"],
    )
    java_tool(
        "org.apache.kafka.tools.LeaderElectionCommand",
        [*server, "--election-type", "preferred", "--topic", OFFSETS_TOPIC, "--partition", str(partition)],
        check=False,  # it may lead already
    )
    deadline = time.monotonic() + WAIT_S
    while coordinator_of(kafka, group) == old:
        assert time.monotonic() < deadline, "the coordinator does not move"
        time.sleep(0.05)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "way",
    ["killed", "moved"],
)
def test_19_leave_retried(
    kafka3: RealKafka, topic: str, unique: Callable[[str], str], way: str, protocol: str
) -> None:
    """The coordinator is gone when a member closes: it still leaves, so that the other has all at once, not a session later."""
    kafka3.create_topic(topic, 4)
    group = unique("group")
    config = membership(kafka3, group, protocol, LONG_MS)
    with Polled(kafka3.bootstrap_servers, topic, **config) as stays:
        with consumer_of(kafka3.bootstrap_servers, topic, **config) as leaves:
            poll_until(lambda: len(leaves.assignment()) == len(stays.owned) == 2, leaves, what="two shares")
            if way == "killed":
                kafka3.kill(coordinator_of(kafka3, group))
            else:
                move_coordinator(kafka3, group)
        stays.until(lambda: len(stays.owned) == 4, "the partitions of the one that left", SOON_S)


@pytest.mark.parametrize("code", [14, 15, 16], ids=["loading", "not-available", "not-coordinator"])
def test_19_leave_retried_while_the_coordinator_is_not_ready(unique: Callable[[str], str], code: int) -> None:
    """COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR: twice, then yes."""
    group, refusals = unique("group"), [code, code]
    with DevBroker() as broker:
        broker.create_topic("t", 2)
        broker.intercept(LEAVE_GROUP, lambda request, connection: refusals.pop() if refusals else None)
        with consumer_of(broker.bootstrap_servers, "t", group_id=group) as leaves:
            poll_until(lambda: leaves.assignment(), leaves, what="the assignment")
        assert refusals == []
        with consumer_of(broker.bootstrap_servers, "t", group_id=group) as after:
            poll_until(lambda: len(after.assignment()) == 2, after, what="a group without the one that left")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_19_a_static_member_keeps_its_place(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str
) -> None:
    """close() of a static member gives nothing away (KIP-345; in KIP-848 it says so, by the epoch -2): only its session's end does."""
    kafka.create_topic(topic, 2)
    config = membership(kafka, unique("group"), protocol, 3_000)
    with Polled(kafka.bootstrap_servers, topic, **config, group_instance_id="stays") as stays:
        with consumer_of(kafka.bootstrap_servers, topic, **config, group_instance_id="leaves") as leaves:
            poll_until(lambda: len(leaves.assignment()) == len(stays.owned) == 1, leaves, what="two shares")
            before = len(stays.calls)
        closed = time.monotonic()
        stays.until(lambda: len(stays.owned) == 2, "what the other left behind")
        assert time.monotonic() - closed > 1.0, "it has left the group, as only a dynamic member does"
        assert stays.calls[before:] == (["revoked", "assigned"] if protocol == "classic" else ["assigned"])


# ------------------------------------------------------------ static members


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_20_static_bounce(kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str) -> None:
    """Back within its session with the partitions that it had, and the others notice nothing; under the classic protocol also after
    kill -9. In KIP-848 one that was killed still holds its name until its session ends, and its successor waits for that."""
    kafka.create_topic(topic, 4)
    group = unique("group")
    config = membership(kafka, group, protocol, 30_000 if protocol == "classic" else 5_000)
    static = {name.replace("_", "."): value for name, value in config.items() if name != "group_id"}
    static["group.instance.id"] = "bounced"
    with (
        Members(kafka.bootstrap_servers, topic) as members,
        Polled(kafka.bootstrap_servers, topic, group_instance_id="other", **config) as other,
    ):
        first = members.start("penstock", group, config=static)
        members.until(lambda: len(first.owned) == 2 and len(other.owned) == 2, "two shares")
        had, calls = set(first.owned), list(other.calls)

        first.stop()
        second = members.start("penstock", group, config=static)
        members.until(lambda: second.owned == had, "the same partitions after a restart")
        read_all(kafka, topic, members, second, other, had)
        assert other.calls == calls, "no rebalance"
        second.kill()
        third = members.start("penstock", group, config=static)
        members.until(lambda: len(third.owned) == 2 and len(other.owned) == 2, "two shares after a kill")
        if protocol == "classic":
            assert third.owned == had and other.calls == calls, "no rebalance"


def read_all(
    kafka: RealKafka, topic: str, members: Members, back: Member, other: Polled, had: set[Place]
) -> None:
    """Each of the two reads what is stored in a partition of its own."""
    place = min(had)
    kafka.produce(topic, [(None, b"%d" % n) for n in range(20)], partition=place.partition)
    members.until(lambda: read_by(back.events, place) == list(range(20)), "the records of one that is back")
    free = next(p for p in range(4) if Place(topic, p) not in had)
    kafka.produce(topic, [(None, b"%d" % n) for n in range(20)], partition=free)
    other.until(lambda: len(other.read) == 20, "the records of the other")


def read_by(events: list[Any], place: Place) -> list[int]:
    return [event.offset for event in events if isinstance(event, Read) and event.place == place]


def test_20_a_duplicate_instance_fences_the_first(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    """Two with one group.instance.id: under the classic protocol the later one has the place, and the earlier one is fenced,
    loses its partitions and is told so (KIP-345); others notice nothing."""
    kafka.create_topic(topic, 4)
    kafka.produce(topic, [(b"%d" % n, b"%d" % n) for n in range(100)])
    group = unique("group")
    config = {**membership(kafka, group, "classic", 30_000), "partition_assignment_strategy": "range"}
    calls: list[str] = []

    class Listener:
        def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
            calls.append("assigned")

        def on_partitions_lost(self, partitions: list[TopicPartition]) -> None:
            calls.append("lost")

        def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
            calls.append("revoked")

    with (
        Polled(kafka.bootstrap_servers, topic, group_instance_id="other", **config) as other,
        consumer_of(kafka.bootstrap_servers, group_instance_id="twice", **config) as first,
    ):
        first.subscribe([topic], listener=Listener())
        poll_until(
            lambda: len(first.assignment()) == 2 and len(other.owned) == 2 and calls[-1:] == ["assigned"],
            first,
            what="two shares",
        )
        had, noticed, told = first.assignment(), list(other.calls), len(calls)
        with Polled(kafka.bootstrap_servers, topic, group_instance_id="twice", **config) as second:
            with pytest.raises(GroupError, match="FENCED_INSTANCE_ID") as fenced:
                poll_until(lambda: False, first, what="the fence")
            assert fenced.value.name == "FENCED_INSTANCE_ID" and not fenced.value.retriable
            assert calls[told:] == ["lost"]
            assert first.assignment() == set()
            with pytest.raises((CommitFailedError, GroupError)):
                first.commit(dict.fromkeys(had, 1))
            with pytest.raises(GroupError, match="FENCED_INSTANCE_ID"):
                poll_until(lambda: False, first, what="again and again")
            second.until(lambda: second.owned == had, "the place of the first")
            assert kafka.committed(group, topic) == {}, "nothing of the fenced one was stored"
            assert other.calls == noticed, "no rebalance"


def test_20_a_duplicate_instance_waits_for_the_first(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    """Under the consumer protocol the name belongs to whoever holds it (UNRELEASED_INSTANCE_ID, KIP-848): the first reads on unharmed,
    the second has its place once the first has closed."""
    kafka.create_topic(topic, 2)
    config = membership(kafka, unique("group"), "consumer", 5_000)
    static = {**config, "group_instance_id": "twice"}
    with consumer_of(kafka.bootstrap_servers, topic, **static) as second:
        with Polled(kafka.bootstrap_servers, topic, **static) as first:
            first.until(lambda: len(first.owned) == 2, "all for the first")
            calls = list(first.calls)
            for number in range(20):
                assert not second.poll(timeout=50) and not second.assignment()
                kafka.produce(topic, [(None, b"%d" % number)], partition=number % 2)
                first.until(lambda n=number: len(first.read) == n + 1, "the first reads on")
            assert first.calls == calls
        assert first.error is None
        poll_until(lambda: len(second.assignment()) == 2, second, what="the place of the first")
