"""One view of the cluster, made from Metadata responses, each merged into the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ..types import Node, PartitionInfo, TopicPartition

NO_TOPIC_ID = bytes(16)
_NONE = 0
_UNKNOWN_TOPIC_OR_PARTITION = 3
_RELIABLE_EPOCHS_FROM = 9
"""Before Metadata version 9 a broker may name a leader epoch that is long over (KAFKA-9212)."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """`leader_id` and `leader_epoch` are -1 where not known; `error_code` is the partition's own."""

    leader_id: int = -1
    leader_epoch: int = -1
    replicas: tuple[int, ...] = ()
    in_sync_replicas: tuple[int, ...] = ()
    offline_replicas: tuple[int, ...] = ()
    error_code: int = 0


@dataclass(frozen=True, slots=True)
class TopicState:
    """`topic_id` is 16 zero bytes on a broker without topic ids (before Kafka 2.8)."""

    name: str
    topic_id: bytes = NO_TOPIC_ID
    partitions: Mapping[int, PartitionState] = field(default_factory=dict)
    is_internal: bool = False
    error_code: int = 0


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """Immutable. `version` grows by one with each merge; `controller_id` is -1 where not known. `doubted` names the topics whose
    next answer holds whatever was known before, unless its topic id shows that it is the same topic."""

    brokers: Mapping[int, Node] = field(default_factory=dict)
    topics: Mapping[str, TopicState] = field(default_factory=dict)
    controller_id: int = -1
    cluster_id: str | None = None
    version: int = 0
    doubted: frozenset[str] = frozenset()

    def leader(self, topic: str, partition: int) -> tuple[int, int]:
        """(node id, leader epoch) of a partition; (-1, -1) where there is none that can be reached."""
        state = self.partition(topic, partition)
        if state is None or state.leader_id not in self.brokers:
            return -1, -1
        return state.leader_id, state.leader_epoch

    def partition(self, topic: str, partition: int) -> PartitionState | None:
        known = self.topics.get(topic)
        return known.partitions.get(partition) if known else None

    def topic_id(self, topic: str) -> bytes:
        known = self.topics.get(topic)
        return known.topic_id if known else NO_TOPIC_ID

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Number of partitions of those topics that exist."""
        return {
            t: len(self.topics[t].partitions)
            for t in topics
            if t in self.topics and self.topics[t].partitions
        }

    def partition_racks(self, topics: Iterable[str]) -> dict[TopicPartition, frozenset[str]]:
        """The racks of each partition's replicas; empty where no broker says its rack (KIP-881)."""
        racks = {node.id: node.rack for node in self.brokers.values() if node.rack}
        if not racks:
            return {}
        return {
            TopicPartition(topic, number): frozenset(racks[r] for r in state.replicas if r in racks)
            for topic in topics
            if topic in self.topics
            for number, state in self.topics[topic].partitions.items()
        }

    def partition_infos(self, topic: str) -> list[PartitionInfo]:
        known = self.topics.get(topic)
        if known is None:
            return []
        return [
            PartitionInfo(
                topic,
                number,
                self.brokers.get(state.leader_id),
                state.replicas,
                state.in_sync_replicas,
                state.offline_replicas,
            )
            for number, state in sorted(known.partitions.items())
        ]

    def doubt(self, *, forget_brokers: bool = False) -> ClusterSnapshot:
        """This view before starting again from the bootstrap addresses (KIP-899): another cluster may stand there, whose leader epochs
        cannot be told from older ones. Topics are kept until then, so that none seems to be gone."""
        brokers = MappingProxyType({}) if forget_brokers else self.brokers
        return replace(self, brokers=brokers, doubted=frozenset(self.topics))

    def merge(self, response: Any, *, whole: bool = False) -> ClusterSnapshot:
        """This view with a Metadata response laid over it; `whole` says that the response lists all topics.

        An answer from a broker that lags behind must not undo what a newer one said: a partition keeps the higher leader
        epoch, unless the topic was made again under another id (KIP-320, KIP-516), or perhaps was.
        """
        reliable = getattr(response, "__version__", _RELIABLE_EPOCHS_FROM) >= _RELIABLE_EPOCHS_FROM
        brokers = {
            int(b.node_id): Node(int(b.node_id), b.host, int(b.port), getattr(b, "rack", None))
            for b in response.brokers
        }
        topics: dict[str, TopicState] = {} if whole else dict(self.topics)
        for answered in response.topics:
            name = str(answered.name) if answered.name is not None else None
            if name is None:
                continue
            topics[name] = self._merge_topic(name, answered, reliable)
        return replace(
            self,
            brokers=MappingProxyType(brokers) if brokers else self.brokers,
            topics=MappingProxyType(topics),
            controller_id=int(getattr(response, "controller_id", -1)),
            cluster_id=getattr(response, "cluster_id", None) or self.cluster_id,
            version=self.version + 1,
            doubted=self.doubted - {str(answered.name) for answered in response.topics}
            if self.doubted
            else self.doubted,
        )

    def _merge_topic(self, name: str, answered: Any, reliable: bool) -> TopicState:
        raw_id = getattr(answered, "topic_id", None)
        topic_id = raw_id.bytes if raw_id is not None else NO_TOPIC_ID
        before = self.topics.get(name)
        error_code = int(answered.error_code)
        if error_code not in (_NONE, _UNKNOWN_TOPIC_OR_PARTITION) and before is not None:
            return replace(before, error_code=error_code)
        same = before is not None and before.topic_id == topic_id
        if topic_id == NO_TOPIC_ID and name in self.doubted:
            same = False
        partitions: dict[int, PartitionState] = {}
        for answer in answered.partitions:
            number = int(answer.partition_index)
            state = PartitionState(
                int(answer.leader_id),
                int(getattr(answer, "leader_epoch", -1)) if reliable else -1,
                tuple(map(int, answer.replica_nodes)),
                tuple(map(int, answer.isr_nodes)),
                tuple(map(int, getattr(answer, "offline_replicas", ()))),
                int(answer.error_code),
            )
            old = before.partitions.get(number) if same and before else None
            if old is not None and old.leader_epoch > state.leader_epoch >= 0:
                state = old
            partitions[number] = state
        return TopicState(
            name, topic_id, MappingProxyType(partitions), bool(answered.is_internal), error_code
        )

    def is_leader_news(self, topic_partition: TopicPartition, leader_id: int, leader_epoch: int) -> bool:
        """Whether a hint of a broker names another leader, in a later epoch than is known, that can be reached (KIP-951)."""
        state = self.partition(*topic_partition)
        return state is not None and leader_epoch > state.leader_epoch and leader_id in self.brokers

    def with_leaders(self, hints: Mapping[TopicPartition, tuple[int, int]]) -> ClusterSnapshot:
        """The view after fetch responses named (node id, leader epoch) of new leaders; unchanged if none of it is news."""
        changed: dict[str, dict[int, PartitionState]] = {}
        for tp, (leader_id, leader_epoch) in hints.items():
            if self.is_leader_news(tp, leader_id, leader_epoch):
                partitions = changed.setdefault(tp.topic, {})
                partitions[tp.partition] = replace(
                    self.topics[tp.topic].partitions[tp.partition],
                    leader_id=leader_id,
                    leader_epoch=leader_epoch,
                )
        if not changed:
            return self
        topics = dict(self.topics)
        for name, partitions in changed.items():
            topics[name] = replace(
                topics[name], partitions=MappingProxyType({**topics[name].partitions, **partitions})
            )
        return replace(self, topics=MappingProxyType(topics), version=self.version + 1)
