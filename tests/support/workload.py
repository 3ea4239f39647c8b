"""One run under faults: producers of unique values, consumers in processes of their own, and what is done to them and to the brokers."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.history import Acknowledged, History, Place, unseen
from tests.support.kafka import QUIET, RealKafka
from tests.support.members import Member, Members
from tests.support.proxy import BOTH

SOAK_SECONDS = float(os.environ.get("PENSTOCK_SOAK_SECONDS", "0"))
"""How long the longer variants run; 0: the short ones."""

OFFSETS_TOPIC = "__consumer_offsets"
PARTITIONS = 6
BURST = 20
SESSION_MS = 3_000
PROGRESS = 300
CONSUMER_PROTOCOL = "consumer"
MEMBER_CONFIG = {
    "request.timeout.ms": 3_000,
    "metadata.max.age.ms": 2_000,
    "max.poll.records": 200,
}


class Feed:
    """Stores unique values with all acknowledgements and idempotence, in threads, until it is stopped.

    One request at a time to each broker: with several, librdkafka can call a record stored that is not. A leader refuses the first batch;
    another one, which does not know the producer yet, takes the second, under any sequence number; the first one's next try is below
    that, and answered as a duplicate.
    """

    def __init__(self, kafka: RealKafka, topic: str, *, producers: int = 2, per_second: int = 300) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.refused: list[str] = []
        self._bootstrap = kafka.bootstrap_servers
        self._topic = topic
        self._pause_s = BURST / per_second
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"p{n}",), name=f"feed-{n}") for n in range(producers)
        ]

    def _delivered(self, error: object, message: Any) -> None:
        if error is not None:
            self.refused.append(str(error))
            return
        place = Place(message.topic(), message.partition())
        self.acknowledged.append(Acknowledged(message.value().decode(), place, message.offset()))

    def _run(self, name: str) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "max.in.flight": 1,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 120_000,
                "topic.metadata.refresh.interval.ms": 1_000,
                **QUIET,
            }
        )
        number = 0
        while not self._stop.wait(self._pause_s):
            for _ in range(BURST):
                producer.produce(
                    self._topic, f"{name}:{number}", key=b"%d" % (number % 97), on_delivery=self._delivered
                )
                number += 1
            producer.poll(0)
        if producer.flush(120):
            self.refused.append(f"{name}: values that were neither stored nor refused")

    def __enter__(self) -> Feed:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """No more values; returns when the last one is acknowledged."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()


def offsets_partition(group: str, partitions: int) -> int:
    """Where the group's commits are stored: Java's String.hashCode, Utils.abs, modulo. Source: GroupCoordinator.partitionFor."""
    code = 0
    for letter in group:
        code = (31 * code + ord(letter)) & 0xFFFFFFFF
    return (min(code, 2**32 - code) & 0x7FFFFFFF) % partitions


def coordinator_of(kafka: RealKafka, group: str) -> int:
    """The node that leads the group's partition of __consumer_offsets; -1 while there is none."""
    leaders = kafka.leaders(OFFSETS_TOPIC)
    return leaders[offsets_partition(group, len(leaders))]


def stored_commits(kafka: RealKafka, group: str) -> list[tuple[Place, int]]:
    """All that the coordinator has stored for the group, in order; deletions are left out.

    Source of the layout: OffsetCommitKey.json and OffsetCommitValue.json of Kafka's group coordinator.
    """
    partition = offsets_partition(group, len(kafka.leaders(OFFSETS_TOPIC)))
    options = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": "watch",
        "enable.auto.commit": False,
        **QUIET,
    }
    consumer = Consumer({**options, "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    found: list[tuple[Place, int]] = []
    try:
        consumer.assign([TopicPartition(OFFSETS_TOPIC, partition, 0)])
        while True:
            message = consumer.poll(30)
            if message is None or message.error() is not None:
                assert message is not None, f"{OFFSETS_TOPIC}-{partition} was not read to its end"
                return found
            entry = _commit_of(message.key(), group)
            if entry is not None and message.value() is not None:
                found.append((entry, struct.unpack_from(">hq", message.value())[1]))
    finally:
        consumer.close()


def all_stored_commits(kafka: RealKafka, group: str, topic: str) -> list[tuple[Place, int]]:
    """The same, once it ends with what the coordinator tells: a broker that has just become the leader shows its log's end late."""
    deadline = time.monotonic() + 30
    while True:
        found = stored_commits(kafka, group)
        told = kafka.committed(group, topic)
        if {place.partition: offset for place, offset in found} == told:
            return found
        assert time.monotonic() < deadline, f"the log ends with {dict(found)}, the coordinator tells {told}"
        time.sleep(0.1)


def _commit_of(key: bytes | None, group: str) -> Place | None:
    """The partition that a record of __consumer_offsets is about, if it is a commit of this group."""
    if key is None or struct.unpack_from(">h", key)[0] not in (0, 1):
        return None
    position = 2
    texts = []
    for _ in range(2):
        (size,) = struct.unpack_from(">h", key, position)
        texts.append(key[position + 2 : position + 2 + size].decode())
        position += 2 + size
    return Place(texts[1], struct.unpack_from(">i", key, position)[0]) if texts[0] == group else None


class Workload:
    """The run. Each fault ends healed. `late` says why not all was seen in time, if it was not."""

    def __init__(
        self, kafka: RealKafka, topic: str, group: str, members: Members, feed: Feed, assignor: str
    ) -> None:
        """`assignor`: one of partition.assignment.strategy, or CONSUMER_PROTOCOL for KIP-848, where the coordinator assigns."""
        if assignor == CONSUMER_PROTOCOL:
            self.config = {**MEMBER_CONFIG, "group.protocol": "consumer"}
            kafka.configure_group(
                group, consumer_session_timeout_ms=SESSION_MS, consumer_heartbeat_interval_ms=500
            )
        else:
            self.config = {
                **MEMBER_CONFIG,
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": 500,
                "partition.assignment.strategy": assignor,
            }
        self.kafka = kafka
        self.topic = topic
        self.group = group
        self.members = members
        self.feed = feed
        self.late = ""
        self.whole = members.start(
            "penstock", None, assign=range(PARTITIONS), config=MEMBER_CONFIG, name="assigned"
        )

    def begin(self, size: int) -> None:
        """That many members of the group, each with its share."""
        for _ in range(size):
            self.add()
        self.members.until(self.shared_out, "the first assignment")
        self.progress("before the faults")

    def add(self) -> Member:
        return self.members.start("penstock", self.group, config=self.config, pace_ms=5)

    @property
    def group_members(self) -> list[Member]:
        return [m for m in self.members.running if m is not self.whole and not m.killed]

    def shared_out(self) -> bool:
        """Every partition has one owner, by what the members noted, and every member has some."""
        owned = [place for member in self.group_members for place in member.owned]
        return len(owned) == len(set(owned)) == PARTITIONS and all(m.owned for m in self.group_members)

    def progress(self, when: str) -> None:
        """A few hundred more records were read, both by the group and by the one that reads all."""
        for reader, name in (
            (self._read_by_group, "the group"),
            (lambda: self.whole.reads, "the assigned one"),
        ):
            before = reader()
            self.members.until(lambda r=reader, b=before: r() >= b + PROGRESS, f"{name} goes on {when}")

    def _read_by_group(self) -> int:
        return sum(member.reads for member in self.members.all if member is not self.whole)

    # -- faults
    def fault(self, name: str) -> None:
        getattr(self, name)()
        self.progress(f"after {name}")

    def consumer_killed(self) -> None:
        victim = random.choice([m for m in self.group_members if m.owned])
        victim.kill()
        self.add()
        self.members.until(self.shared_out, "another takes over from the killed member")

    def consumer_stopped(self) -> None:
        """SIGSTOP for longer than its session: others read on, and when it wakes its commits must be refused."""
        victim = random.choice([m for m in self.group_members if m.owned])
        held = set(victim.owned)
        victim.pause()

        def taken_over() -> bool:
            return held <= {place for m in self.group_members if m is not victim for place in m.owned}

        try:
            self.members.until(taken_over, "others take over from the stopped member")
            self.progress("while a member is stopped")
        finally:
            victim.resume()
        self.members.until(self.shared_out, "the stopped member is back")

    def leader_killed(self) -> None:
        self._kill(self._leader())

    def coordinator_killed(self) -> None:
        self._kill(coordinator_of(self.kafka, self.group))

    def leader_cut(self) -> None:
        self._cut(self._leader())

    def coordinator_cut(self) -> None:
        self._cut(coordinator_of(self.kafka, self.group))

    def connections_reset(self) -> None:
        for _ in range(5):
            for proxy in self.kafka.proxies.values():
                proxy.reset()
            self._read_a_little()

    def _leader(self) -> int:
        """A node that leads partitions but not the group, if there is one."""
        coordinator = coordinator_of(self.kafka, self.group)
        leaders = sorted(set(self.kafka.leaders(self.topic).values()) - {-1})
        return random.choice([node for node in leaders if node != coordinator] or leaders)

    def _kill(self, node: int) -> None:
        self.kafka.kill(node)
        try:
            if len(self.kafka.nodes) > 1:
                self.progress(f"while node {node} is dead")
        finally:
            self.kafka.restart(node)
        self.kafka.wait_leaders(self.topic, PARTITIONS)

    def _cut(self, node: int) -> None:
        """Bytes between clients and this node are lost in both directions, for longer than a session; the producers are not behind
        the proxies."""
        proxy = self.kafka.proxies[node]
        proxy.blackhole = BOTH
        try:
            time.sleep(SESSION_MS / 1000 + 2)
        finally:
            proxy.heal()
            proxy.reset()

    def _read_a_little(self) -> None:
        before = self._read_by_group()
        self.members.until(lambda: self._read_by_group() > before, "the group goes on")

    # -- the end
    def finish(self, bound_s: float = 60.0) -> History:
        """No more faults, no more values; wait until all is seen (or the bound is over), have the members leave, and tell what was."""
        self.feed.stop()
        try:
            self.members.until(self._all_seen, "all acknowledged records are seen", bound_s)
        except AssertionError as late:
            self.late = str(late)  # the checkers say what is missing
        for member in self.group_members:
            member.ask_to_stop()
        self.whole.ask_to_stop()
        for member in [*self.group_members, self.whole]:
            member.stop()
        return History(list(self.feed.acknowledged), self.members.events())

    def _all_seen(self) -> bool:
        acknowledged = list(self.feed.acknowledged)
        return not any(
            unseen(History(acknowledged, {member.name: list(member.events) for member in members}))
            for members in ([self.whole], self._ever_in_group())
        )

    def _ever_in_group(self) -> list[Member]:
        return [member for member in self.members.all if member is not self.whole]
