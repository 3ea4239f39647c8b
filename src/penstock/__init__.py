"""penstock: the Kafka consumer for Python.

    from penstock import KafkaConsumer

    with KafkaConsumer('my-topic', bootstrap_servers='localhost:9092', group_id='my-group') as consumer:
        for record in consumer.poll(timeout=1000):
            print(record.key, record.value)

The public names; everything else may change. The slower ones are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors
from ._native import VERSION as __version__
from .types import (
    ConsumerGroupMetadata,
    Node,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    PartitionInfo,
    RecordMetadata,
    TimestampType,
    TopicPartition,
)

if TYPE_CHECKING:
    from ._native import ConsumerRecord, ConsumerRecords
    from .admin import Admin
    from .consumer import AsyncKafkaConsumer, KafkaConsumer
    from .devbroker import DevBroker
    from .group.assignors import Assignor, RebalanceProtocol
    from .group.protocol import MemberSubscription
    from .metrics import MetricName
    from .processing import (
        Adaptive,
        CircuitBreaker,
        DeadLetter,
        Deduplicate,
        Output,
        Processor,
        Reject,
        Retry,
        RetryThis,
        RetryTopic,
        Skip,
        SkipRecord,
        Spool,
        Stop,
    )
    from .processing.deduplication import MemoryStore, PostgresStore, RedisStore, SqliteStore
    from .producer import KafkaProducer
    from .sinks import DatabaseSink, HttpSink, PostgresSink, SqliteSink

_LAZY = {
    "Admin": "penstock.admin",
    "Assignor": "penstock.group.assignors",
    "AsyncKafkaConsumer": "penstock.consumer.async_consumer",
    "Adaptive": "penstock.processing",
    "CircuitBreaker": "penstock.processing",
    "ConsumerRecord": "penstock._native",
    "ConsumerRecords": "penstock._native",
    "DatabaseSink": "penstock.sinks",
    "DeadLetter": "penstock.processing",
    "Deduplicate": "penstock.processing",
    "DevBroker": "penstock.devbroker",
    "HttpSink": "penstock.sinks",
    "KafkaConsumer": "penstock.consumer.kafka_consumer",
    "KafkaProducer": "penstock.producer",
    "MemoryStore": "penstock.processing.deduplication",
    "MemberSubscription": "penstock.group.protocol",
    "MetricName": "penstock.metrics",
    "Output": "penstock.processing",
    "PostgresSink": "penstock.sinks",
    "PostgresStore": "penstock.processing.deduplication",
    "Processor": "penstock.processing",
    "RebalanceProtocol": "penstock.group.assignors",
    "RedisStore": "penstock.processing.deduplication",
    "Reject": "penstock.processing",
    "Retry": "penstock.processing",
    "RetryThis": "penstock.processing",
    "RetryTopic": "penstock.processing",
    "Skip": "penstock.processing",
    "SkipRecord": "penstock.processing",
    "Spool": "penstock.processing",
    "SqliteSink": "penstock.sinks",
    "SqliteStore": "penstock.processing.deduplication",
    "Stop": "penstock.processing",
}

__all__ = [
    "Adaptive",
    "Admin",
    "Assignor",
    "AsyncKafkaConsumer",
    "CircuitBreaker",
    "ConsumerGroupMetadata",
    "ConsumerRecord",
    "ConsumerRecords",
    "DatabaseSink",
    "DeadLetter",
    "Deduplicate",
    "DevBroker",
    "HttpSink",
    "KafkaConsumer",
    "KafkaProducer",
    "MemberSubscription",
    "MemoryStore",
    "MetricName",
    "Node",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "Output",
    "PartitionInfo",
    "PostgresSink",
    "PostgresStore",
    "Processor",
    "RebalanceProtocol",
    "RecordMetadata",
    "RedisStore",
    "Reject",
    "Retry",
    "RetryThis",
    "RetryTopic",
    "Skip",
    "SkipRecord",
    "Spool",
    "SqliteSink",
    "SqliteStore",
    "Stop",
    "TimestampType",
    "TopicPartition",
    "__version__",
    "errors",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
