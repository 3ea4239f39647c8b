"""What the cluster looks like: brokers, leaders, epochs, topic ids. Immutable snapshots; no I/O, no clock."""

from .addresses import Address, parse_bootstrap
from .snapshot import NO_TOPIC_ID, ClusterSnapshot, PartitionState, TopicState

__all__ = ["NO_TOPIC_ID", "Address", "ClusterSnapshot", "PartitionState", "TopicState", "parse_bootstrap"]
