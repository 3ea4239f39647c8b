"""What each group protocol offers, on Apache Kafka: the broker's assignors and patterns, the choice of a protocol, leaving and staying,
members and coordinators that die."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock import KafkaConsumer, KafkaProducer, TopicPartition
from penstock.devbroker import DevBroker
from penstock.errors import GroupError, UnsupportedVersionError
from tests.devbroker.test_old_brokers import HIGHEST
from tests.support import history as h
from tests.support.kafka import RealKafka
from tests.support.members import Members
from tests.support.polling import Polling, history_of, member_options, reads, shared_out, together, until
from tests.support.workload import Feed, coordinator_of

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
BOTH = ["classic", "consumer"]
SHORT_MS, LONG_MS = 3_000, 60_000
API_VERSIONS, CONSUMER_GROUP_HEARTBEAT, UNSUPPORTED_VERSION = 18, 68, 35


def options_of(kafka: RealKafka, group: str, protocol: str, session_ms: int = LONG_MS) -> dict[str, Any]:
    return member_options(kafka, group, "range" if protocol == "classic" else protocol, session_ms=session_ms)


@contextmanager
def consumer_of(bootstrap: str, *topics: str, **config: Any) -> Iterator[KafkaConsumer]:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "metadata_max_age_ms": 500}
    with KafkaConsumer(*topics, bootstrap_servers=bootstrap, **{**options, **config}) as consumer:
        yield consumer


def poll_until(condition: Callable[[], Any], *consumers: KafkaConsumer, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        for consumer in consumers:
            consumer.poll(timeout=50)


# ------------------------------------------------------------ who assigns, by what


@pytest.mark.parametrize("assignor", ["uniform", "range"])
def test_the_brokers_assignor_is_chosen_by_the_group(
    kafka: RealKafka, unique: Callable[[str], str], assignor: str
) -> None:
    """group.remote.assignor: range gives the same partitions of topics alike to one member; uniform an equal number to each."""
    topics = [kafka.create_topic(unique(name), 3) for name in ("t", "u")]
    options = options_of(kafka, unique("group"), "consumer")
    with (
        consumer_of(kafka.bootstrap_servers, *topics, group_remote_assignor=assignor, **options) as one,
        consumer_of(kafka.bootstrap_servers, *topics, group_remote_assignor=assignor, **options) as other,
    ):
        expected = [2, 4] if assignor == "range" else [3, 3]
        poll_until(
            lambda: sorted(len(consumer.assignment()) for consumer in (one, other)) == expected,
            *(one, other),
            what="both have their share",
        )
        assert len(one.assignment() | other.assignment()) == 6
        if assignor == "range":
            for consumer in (one, other):
                by_topic = [{tp.partition for tp in consumer.assignment() if tp.topic == t} for t in topics]
                assert by_topic[0] == by_topic[1]


def test_an_assignor_that_the_broker_does_not_have(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    kafka.create_topic(topic, 1)
    options = options_of(kafka, unique("group"), "consumer")
    with (
        consumer_of(kafka.bootstrap_servers, topic, group_remote_assignor="no-such", **options) as consumer,
        pytest.raises(GroupError, match="no-such"),
    ):
        poll_until(lambda: False, consumer, what="the refusal")


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("kind", ["text", "compiled"])
def test_patterns(kafka: RealKafka, unique: Callable[[str], str], protocol: str, kind: str) -> None:
    """A topic that is made later is read, one that only begins alike is not. By the consumer protocol brokers match a text."""
    prefix = unique("orders").replace("[", "-").replace("]", "-")
    wanted, other = f"{prefix}-1", f"{prefix}-x"
    for name in (wanted, other):
        kafka.create_topic(name, 2)
        kafka.produce(name, [(None, b"0")] * 10)
    pattern = re.escape(prefix) + "-[0-9]+"
    options = options_of(kafka, unique("group"), protocol)
    with consumer_of(kafka.bootstrap_servers, **options) as consumer:
        consumer.subscribe(pattern=pattern if kind == "text" else re.compile(pattern))
        seen: dict[str, int] = {}

        def read(name: str, count: int) -> None:
            deadline = time.monotonic() + WAIT_S
            while seen.get(name, 0) < count:
                assert time.monotonic() < deadline, f"{name}: {seen}"
                for record in consumer.poll(timeout=100):
                    seen[record.topic] = seen.get(record.topic, 0) + 1

        read(wanted, 10)
        later = kafka.create_topic(f"{prefix}-22", 2)
        kafka.produce(later, [(None, b"0")] * 10)
        read(later, 10)
        kafka.produce(wanted, [(None, b"0")] * 10)
        read(wanted, 20)
        assert set(seen) == {wanted, later}
        assert {tp.topic for tp in consumer.assignment()} == {wanted, later}
        assert consumer._core.membership.pattern_at_broker == (protocol == "consumer" and kind == "text")


@pytest.mark.parametrize("protocol", BOTH)
def test_enforce_rebalance(kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str) -> None:
    """A new generation with all members of before; with the consumer protocol nothing, as in Java."""
    kafka.create_topic(topic, 2)
    group = unique("group")
    options = options_of(kafka, group, protocol)
    with (
        consumer_of(kafka.bootstrap_servers, topic, **options) as one,
        consumer_of(kafka.bootstrap_servers, topic, **options) as other,
    ):
        both = (one, other)
        poll_until(lambda: all(len(c.assignment()) == 1 for c in both), *both, what="two shares")
        before = [consumer.group_metadata() for consumer in both]
        assert {me.group_id for me in before} == {group}
        assert len({me.member_id for me in before}) == 2 and before[0].generation_id > 0
        one.enforce_rebalance("a test")
        if protocol == "classic":
            moved = before[0].generation_id + 1
            poll_until(
                lambda: all(c.group_metadata().generation_id == moved for c in both),
                *both,
                what="a rebalance",
            )
        else:
            for _ in range(20):
                for consumer in both:
                    consumer.poll(timeout=20)
            assert [consumer.group_metadata() for consumer in both] == before
        assert [c.group_metadata().member_id for c in both] == [me.member_id for me in before]
        poll_until(lambda: all(len(c.assignment()) == 1 for c in both), *both, what="two shares again")


# ------------------------------------------------------------ leaving and staying


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize(
    ("static", "leave_group", "leaves"),
    [
        (False, None, True),
        (False, False, False),
        (True, None, False),
        (True, True, True),
        (True, False, False),
    ],
)
def test_close_leaves_or_stays(
    kafka: RealKafka,
    topic: str,
    unique: Callable[[str], str],
    protocol: str,
    static: bool,
    leave_group: bool | None,
    leaves: bool,
) -> None:
    """close(leave_group=...), KIP-1092: whoever leaves is replaced at once, whoever stays when its session ends."""
    kafka.create_topic(topic, 2)
    group = unique("group")
    options = options_of(kafka, group, protocol, LONG_MS if leaves else SHORT_MS)
    name = {"group_instance_id": "the-one"} if static else {}
    with Polling("other", kafka.bootstrap_servers, [topic], **options) as other:
        other.until(lambda: len(other.owned) == 2, "all for one")
        consumer = KafkaConsumer(topic, bootstrap_servers=kafka.bootstrap_servers, **options, **name)
        try:
            poll_until(lambda: len(consumer.assignment()) == 1 == len(other.owned), consumer, what="shares")
            calls = list(other.calls)
        finally:
            consumer.close(leave_group=leave_group)
        closed_s = time.monotonic()
        if not leaves:
            while time.monotonic() < closed_s + SHORT_MS / 3000:
                assert other.calls == calls, "it has left"
                time.sleep(0.05)
        other.until(lambda: len(other.owned) == 2, "what the other had", LONG_MS / 2000)


def test_an_instance_id_that_is_held_is_waited_for(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """UNRELEASED_INSTANCE_ID (KIP-848): the holder was killed, its session ends, and the name is free: no error, no other name."""
    kafka.create_topic(topic, 2)
    group = unique("group")
    options = options_of(kafka, group, "consumer", SHORT_MS)
    config = {"group.protocol": "consumer", "group.instance.id": "held"}
    with Members(kafka.bootstrap_servers, topic) as members:
        holder = members.start("penstock", group, config=config)
        members.until(lambda: len(holder.owned) == 2, "the holder has all")
        holder.kill()
        with consumer_of(kafka.bootstrap_servers, topic, group_instance_id="held", **options) as consumer:
            poll_until(lambda: len(consumer.assignment()) == 2, consumer, what="the name is free")


# ------------------------------------------------------------ which protocol


def log_lines(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.INFO)


@pytest.fixture(scope="module")
def without_848() -> Iterator[RealKafka]:
    """An Apache Kafka whose groups are classic only."""
    cluster = RealKafka(1, {"group.coordinator.rebalance.protocols": "classic"})
    cluster.start()
    yield cluster
    cluster.stop()


def auto(bootstrap: str, topic: str, group: str, caplog: pytest.LogCaptureFixture) -> str:
    """Which protocol the log says that group.protocol=auto has taken; records are read by it."""
    caplog.set_level(logging.INFO, "penstock")
    with consumer_of(bootstrap, topic, group_id=group, group_protocol="auto") as consumer:
        deadline = time.monotonic() + WAIT_S
        while not consumer.poll(timeout=200):
            assert time.monotonic() < deadline
        consumer.commit()
    found = re.findall(r"joining by the (\w+) protocol", log_lines(caplog))
    assert found, "the log says nothing"
    return str(found[-1])


def test_auto_takes_what_the_cluster_offers(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(None, b"0")])
    assert auto(kafka.bootstrap_servers, topic, unique("group"), caplog) == "consumer"


def test_auto_on_a_cluster_whose_groups_are_classic(
    without_848: RealKafka, topic: str, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    without_848.create_topic(topic, 1)
    without_848.produce(topic, [(None, b"0")])
    assert auto(without_848.bootstrap_servers, topic, unique("group"), caplog) == "classic"


def test_consumer_on_a_cluster_whose_groups_are_classic(
    without_848: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    without_848.create_topic(topic, 1)
    with (
        consumer_of(
            without_848.bootstrap_servers, topic, group_id=unique("group"), group_protocol="consumer"
        ) as consumer,
        pytest.raises(UnsupportedVersionError, match=r"group\.protocol to classic"),
    ):
        poll_until(lambda: False, consumer, what="the refusal")


@contextmanager
def embedded(**options: Any) -> Iterator[DevBroker]:
    """With a topic t of two partitions, and a record in each."""
    with DevBroker(**options) as broker:
        broker.create_topic("t", 2)
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for number in range(2):
                producer.send("t", b"0", partition=number)
        yield broker


@pytest.mark.parametrize("protocols", ["classic,consumer", "classic"])
def test_auto_on_the_embedded_broker(protocols: str, caplog: pytest.LogCaptureFixture) -> None:
    with embedded(**{"group.coordinator.rebalance.protocols": protocols}) as broker:
        expected = "consumer" if "consumer" in protocols else "classic"
        assert auto(broker.bootstrap_servers, "t", "g", caplog) == expected


@pytest.mark.parametrize("release", HIGHEST)
def test_auto_on_releases_from_before(release: str, caplog: pytest.LogCaptureFixture) -> None:
    """Down to Kafka 2.1, by the request versions that each had."""
    keys = [
        {"api_key": key, "min_version": 0, "max_version": highest}
        for key, highest in HIGHEST[release].items()
    ]
    with embedded() as broker:
        broker.intercept(API_VERSIONS, lambda request, connection: {"api_keys": keys})
        assert auto(broker.bootstrap_servers, "t", "g", caplog) == "classic"


def test_auto_where_the_request_is_offered_and_refused(caplog: pytest.LogCaptureFixture) -> None:
    """As brokers do whose group.version is still 0."""
    with embedded() as broker:
        broker.intercept(CONSUMER_GROUP_HEARTBEAT, lambda request, connection: UNSUPPORTED_VERSION)
        assert auto(broker.bootstrap_servers, "t", "g", caplog) == "classic"


def test_auto_matches_a_pattern_itself_where_the_coordinator_cannot(caplog: pytest.LogCaptureFixture) -> None:
    """The brokers were to match it; now the consumer does, with all topics that there are."""
    with embedded() as broker:
        broker.intercept(CONSUMER_GROUP_HEARTBEAT, lambda request, connection: UNSUPPORTED_VERSION)
        with consumer_of(broker.bootstrap_servers, group_id="g", group_protocol="auto") as consumer:
            consumer.subscribe(pattern="[s-u]")
            poll_until(lambda: len(consumer.assignment()) == 2, consumer, what="the topic that matches")
            broker.create_topic("u")
            poll_until(lambda: len(consumer.assignment()) == 3, consumer, what="another that matches")


def test_auto_joins_a_classic_group_that_may_not_change(caplog: pytest.LogCaptureFixture) -> None:
    """group.consumer.migration.policy=disabled: the coordinator knows no such consumer group, and its classic members go on."""
    caplog.set_level(logging.INFO, "penstock")
    with embedded(**{"group.consumer.migration.policy": "disabled"}) as broker:
        where = broker.bootstrap_servers
        with (
            consumer_of(where, "t", group_id="g", heartbeat_interval_ms=100) as old,
            consumer_of(where, "t", group_id="g", heartbeat_interval_ms=100, group_protocol="auto") as new,
        ):
            poll_until(lambda: len(old.assignment()) == 2, old, what="all for one")
            poll_until(
                lambda: len(old.assignment()) == 1 == len(new.assignment()), *(old, new), what="two shares"
            )
    assert re.findall(r"joining by the (\w+) protocol", log_lines(caplog))[-1] == "classic"


def test_consumer_is_refused_by_a_classic_group_that_may_not_change() -> None:
    with (
        embedded(**{"group.consumer.migration.policy": "disabled"}) as broker,
        consumer_of(broker.bootstrap_servers, "t", group_id="g") as old,
        consumer_of(broker.bootstrap_servers, "t", group_id="g", group_protocol="consumer") as new,
    ):
        poll_until(lambda: len(old.assignment()) == 2, old, what="all for one")
        with pytest.raises(GroupError, match=r"not a consumer group.*GROUP_ID_NOT_FOUND"):
            poll_until(lambda: False, old, new, what="the refusal")
        assert len(old.assignment()) == 2


# ------------------------------------------------------------ who dies


@pytest.mark.parametrize("protocol", BOTH)
def test_a_killed_member_is_replaced_within_its_session(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str
) -> None:
    """kill -9: when its session is over another reads on from what it committed."""
    kafka.create_topic(topic, 4)
    group = unique("group")
    options = options_of(kafka, group, protocol, SHORT_MS)
    config = {name.replace("_", "."): value for name, value in options.items() if name != "group_id"}
    with (
        Feed(kafka, topic) as feed,
        Members(kafka.bootstrap_servers, topic) as members,
        Polling("stays", kafka.bootstrap_servers, [topic], **options) as stays,
    ):
        dies = members.start("penstock", group, config=config)
        members.until(lambda: len(dies.owned) == 2 == len(stays.owned) and dies.reads > 100, "two shares")
        dies.kill()
        stays.until(lambda: len(stays.owned) == 4, "what the killed one had", SHORT_MS / 1000 + 10)
        feed.stop()

        def all_read() -> bool:
            events = {**members.events(), "stays": list(stays.events)}
            return not h.unseen(h.History(list(feed.acknowledged), events))

        stays.until(all_read, "all is read")
        history = h.History(list(feed.acknowledged), {**members.events(), "stays": list(stays.events)})
    assert h.no_loss(history) == [] and h.contiguous(history) == [] and h.offsets_agree(history) == []
    assert h.commits_cover_only_what_was_read(history) == []


@pytest.mark.parametrize("protocol", BOTH)
def test_the_coordinator_dies_and_the_members_stay(
    kafka3: RealKafka, topic: str, unique: Callable[[str], str], protocol: str
) -> None:
    """Another broker takes the group over from the log: the same members, the same generation, nothing revoked, commits go on."""
    kafka3.create_topic(topic, 4)
    group, places = unique("group"), [h.Place(topic, number) for number in range(4)]
    options = options_of(kafka3, group, protocol)
    crew = [Polling(name, kafka3.bootstrap_servers, [topic], **options) for name in ("a", "b")]
    with Feed(kafka3, topic) as feed, together(*crew):
        until(crew, lambda: shared_out(crew, places), "two shares")
        until(crew, lambda: all(len(reads(one)) > 100 for one in crew), "both read")
        members, calls = [one.member for one in crew], [list(one.calls) for one in crew]
        old = coordinator_of(kafka3, group)
        kafka3.kill(old)
        counts = [len(reads(one)) for one in crew]
        until(
            crew,
            lambda: all(len(reads(one)) > count + 300 for one, count in zip(crew, counts, strict=True)),
            "both read on",
        )
        until(crew, lambda: coordinator_of(kafka3, group) not in (old, -1), "another coordinator")
        feed.stop()
        until(crew, lambda: not h.unseen(history_of(crew, feed.acknowledged)), "all is read")
        until(crew, lambda: kafka3.committed(group, topic) == kafka3.end_offsets(topic), "all is committed")
        assert [one.member for one in crew] == members and [one.calls for one in crew] == calls
        history = history_of(crew, feed.acknowledged)
    assert h.contiguous(history) == [] and h.only_while_owned(history) == []


def test_group_metadata_of_one_who_is_no_member(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    kafka.create_topic(topic, 1)
    group = unique("group")
    with consumer_of(kafka.bootstrap_servers, group_id=group) as consumer:
        me = consumer.group_metadata()
        assert (me.group_id, me.generation_id, me.member_id, me.group_instance_id) == (group, -1, "", None)
        consumer.assign([TopicPartition(topic, 0)])
        assert consumer.group_metadata().generation_id == -1
