"""A real Apache Kafka for tests, and what tests do around the consumer: make topics, fill and inspect them.

Filling and looking use confluent-kafka, so that a test of ours is never only our own word against itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from tools.kafka.kafka import HOST, KafkaCluster, free_port

from tests.support.proxy import Proxy

ADMIN_TIMEOUT_S = 30.0
PROXIED = "PROXIED"

NO_COORDINATOR_YET = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
QUIET = {"log_level": 2}  # librdkafka tells stderr of every broker that a test has stopped

Message = tuple[bytes | None, bytes | None]


class RealKafka(KafkaCluster):
    """A KafkaCluster with helpers. `proxies`: by node id, the proxy before that node's PROXIED listener."""

    def __init__(self, brokers: int = 1, config: Mapping[str, object] | None = None) -> None:
        super().__init__(brokers, config, extra_listeners={PROXIED: "PLAINTEXT"})
        self.proxies: dict[int, Proxy] = {}
        for node in self.nodes.values():
            node.advertised[PROXIED] = (HOST, free_port())

    @property
    def proxied_bootstrap_servers(self) -> str:
        """A client that begins here stays behind `proxies`, which must have been opened."""
        return self.bootstrap(PROXIED)

    @contextlib.contextmanager
    def open_proxies(self) -> Iterator[dict[int, Proxy]]:
        """A proxy before each broker, on the address that the broker advertises on its PROXIED listener."""
        with contextlib.ExitStack() as stack:
            for node in self.nodes.values():
                _, port = node.advertised[PROXIED]
                proxy = Proxy((HOST, node.ports[PROXIED]), port=port)
                self.proxies[node.id] = stack.enter_context(proxy)
            try:
                yield self.proxies
            finally:
                self.proxies = {}

    # -- topics
    @cached_property
    def admin(self) -> AdminClient:
        """Kept: its pending results fail when it is collected before they are there."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, **QUIET})

    def create_topic(
        self,
        topic: str,
        partitions: int = 1,
        *,
        replication: int | None = None,
        config: Mapping[str, object] | None = None,
        replica_assignment: Sequence[Sequence[int]] | None = None,
    ) -> str:
        """Make a topic and wait until every partition has a leader; returns its name."""
        settings = {name: str(value) for name, value in (config or {}).items()}
        if replica_assignment is not None:
            new = NewTopic(
                topic,
                len(replica_assignment),
                replica_assignment=[list(nodes) for nodes in replica_assignment],
                config=settings,
            )
        else:
            new = NewTopic(topic, partitions, replication or min(3, len(self.nodes)), config=settings)
        self.admin.create_topics([new], operation_timeout=ADMIN_TIMEOUT_S)[topic].result(ADMIN_TIMEOUT_S)
        expected = partitions if replica_assignment is None else len(replica_assignment)
        self.wait_leaders(topic, expected)
        return topic

    def wait_leaders(self, topic: str, partitions: int, timeout_s: float = ADMIN_TIMEOUT_S) -> dict[int, int]:
        """Wait until the topic has that many partitions with a leader; returns leader by partition."""
        deadline = time.monotonic() + timeout_s
        leaders = self.leaders(topic)
        while len(leaders) < partitions or -1 in leaders.values():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{topic} has leaders {leaders} after {timeout_s} s, {partitions} were expected"
                )
            time.sleep(0.02)
            leaders = self.leaders(topic)
        return leaders

    def leaders(self, topic: str) -> dict[int, int]:
        """The leader's node id (-1: none) by partition; empty while the topic is unknown."""
        metadata = self.admin.list_topics(topic, timeout=ADMIN_TIMEOUT_S).topics.get(topic)
        if metadata is None or metadata.error is not None:
            return {}
        return {number: partition.leader for number, partition in metadata.partitions.items()}

    def configure_group(self, group: str, **settings: object) -> None:
        """Dynamic settings of a group of the consumer protocol, underscores for dots: consumer_session_timeout_ms=2000."""
        entries = [
            ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            for name, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(ADMIN_TIMEOUT_S)
        asked = ConfigResource(ResourceType.GROUP, group)
        deadline = time.monotonic() + ADMIN_TIMEOUT_S
        while True:  # until the broker has read it in the metadata's log
            told = self.admin.describe_configs([asked])[asked].result(ADMIN_TIMEOUT_S)
            if all(told[entry.name].value == entry.value for entry in entries):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the settings of group {group} do not hold after {ADMIN_TIMEOUT_S} s")
            time.sleep(0.02)

    def delete_topic(self, topic: str) -> None:
        self.admin.delete_topics([topic], operation_timeout=ADMIN_TIMEOUT_S)[topic].result(ADMIN_TIMEOUT_S)

    # -- records
    def produce(
        self,
        topic: str,
        messages: Iterable[Message],
        *,
        partition: int | None = None,
        config: Mapping[str, object] | None = None,
        headers: list[tuple[str, bytes | None]] | None = None,
    ) -> list[tuple[int, int]]:
        """Store (key, value) pairs with acks=all, in order; returns (partition, offset) of each."""
        places: list[tuple[int, int]] = []
        failures: list[str] = []

        def delivered(error: object, message: object) -> None:
            if error is not None:
                failures.append(str(error))
                return
            places.append((message.partition(), message.offset()))  # type: ignore[attr-defined]

        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                **QUIET,
                **(config or {}),
            }
        )
        where = {} if partition is None else {"partition": partition}
        for key, value in messages:
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=delivered, headers=headers, **where)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        left = producer.flush(60)
        if left or failures:
            raise RuntimeError(f"{left} records for {topic} were not stored; refused: {failures[:3]}")
        return places

    def end_offsets(self, topic: str) -> dict[int, int]:
        """The high watermark by partition."""
        with self.reader("end-offsets") as consumer:
            return {
                number: consumer.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=ADMIN_TIMEOUT_S
                )[1]
                for number in self.leaders(topic)
            }

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What the group has committed, by partition; partitions without a commit are left out."""
        with self.reader(group) as consumer:
            partitions = [TopicPartition(topic, number) for number in self.leaders(topic)]
            deadline = time.monotonic() + ADMIN_TIMEOUT_S
            while True:
                try:
                    found = consumer.committed(partitions, timeout=ADMIN_TIMEOUT_S)
                    break
                except KafkaException as error:  # the offsets' topic is being made, say
                    if error.args[0].code() not in NO_COORDINATOR_YET or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
        return {place.partition: place.offset for place in found if place.offset >= 0}

    @contextlib.contextmanager
    def reader(self, group: str, **config: object) -> Iterator[Consumer]:
        """A confluent-kafka consumer that has joined nothing; option names with underscores for dots."""
        options = {name.replace("_", "."): value for name, value in config.items()}
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                **QUIET,
                **options,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()
