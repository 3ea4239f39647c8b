"""What the cluster looks like: brokers, leaders, epochs, topic ids. Immutable snapshots; no I/O, no clock."""

from .addresses import Address, parse_bootstrap
from .snapshot import ClusterSnapshot, PartitionState, TopicState

__all__ = ["Address", "ClusterSnapshot", "PartitionState", "TopicState", "parse_bootstrap"]
