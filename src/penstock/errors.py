"""Every error that penstock raises, as a tree:

KafkaError                        retriable says whether the same call may succeed later
├── ConfigError                   also a ValueError: an unknown or ill-typed option
├── IllegalStateError             a call that does not fit what the object is doing
│   ├── ClosedError               use after close()
│   ├── ConcurrentUseError        one consumer, two threads at once
│   └── ForkedError               used in a forked child; make a new one there
├── WakeupError                   poll() left because of wakeup()
├── KafkaTimeoutError             also a TimeoutError: the time given was not enough
├── ConnectionFailedError         no broker could be reached; names each address and why
├── ProtocolError                 the peer sent what Kafka's protocol does not allow
│   └── UnsupportedVersionError   no version of a request that both sides speak
├── RecordError                   concerns one place of one partition: topic, partition, offset
│   ├── CorruptRecordError        bytes that are no record batch, or fail their checksum
│   ├── UnsupportedFormatError    a magic byte or a codec that penstock does not know
│   ├── RecordTooLargeError       larger than a limit of the configuration
│   └── DeserializationError      the user's deserializer raised; raw_key, raw_value, `field`
├── OffsetError                   concerns positions
│   ├── NoOffsetForPartitionError nothing committed, and auto.offset.reset is none
│   ├── OffsetOutOfRangeError     the position is outside the log, and auto.offset.reset is none
│   ├── LogTruncationError        records that were read are lost from the log, and auto.offset.reset is none
│   └── CommitRewindError         commit() below what was committed, without allow_rewind
├── CommitFailedError             the group moved on; the partitions belong to others now
│   └── RebalanceInProgressError  poll() has to take part in a rebalance first
├── TransactionError              the transaction cannot be committed: abort it, and begin another
│   └── ProducerFencedError       another producer has the transactional id, or it is refused: this one is done for
├── ProcessingError               concerns handlers and what they are given
│   ├── HandlerTimeoutError       a handler took longer than its `timeout`
│   ├── WorkerDiedError           the process that ran a handler died
│   ├── DeduplicationError        the store of what is done is away, or refuses; no handler is called without it
│   └── HandlerStoppedError       a handler's failure, under its policy, ends the processor; the cause is `__cause__`
├── SinkError                     a sink could not store records
│   ├── FencedError               another owner has taken over: nothing of this one is stored any more
│   └── SchemaError               the destination does not fit what is to be stored
└── BrokerError                   any other error code of the protocol: `code`, `name`
    ├── UnknownTopicOrPartitionError
    ├── AuthorizationError        the cluster refuses this user; `resource` says what
    ├── GroupError                the coordinator refuses this member
    └── ProduceError              a record was not stored
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .types import OffsetAndMetadata, TopicPartition


class KafkaError(Exception):
    """The root of all errors of penstock. `retriable`: the same call may succeed later, without any change."""

    retriable: bool = False


class ConfigError(KafkaError, ValueError):
    """An option that does not exist, or has a value it cannot have."""


class IllegalStateError(KafkaError):
    """A call that does not fit what the object is doing."""


class ClosedError(IllegalStateError):
    """The object was closed."""


class ConcurrentUseError(IllegalStateError):
    """A consumer belongs to one thread at a time; only wakeup() may be called from another."""


class ForkedError(IllegalStateError):
    """Connections and threads do not survive fork(): make a new object in the child."""


class WakeupError(KafkaError):
    """poll() or another blocking call ended early because wakeup() was called."""

    retriable = True


class KafkaTimeoutError(KafkaError, TimeoutError):
    """The time that was given was not enough."""

    retriable = True


class ConnectionFailedError(KafkaTimeoutError):
    """No broker could be reached in the configured time. `attempts` maps each address to what happened there."""

    def __init__(self, message: str, attempts: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.attempts = attempts or {}


class ProtocolError(KafkaError):
    """The peer sent what Kafka's protocol does not allow."""


class UnsupportedVersionError(ProtocolError):
    """There is no version of a request that both the broker and penstock speak."""


class RecordError(KafkaError):
    """Concerns one place of one partition. seek(topic_partition, offset + 1) goes past it."""

    def __init__(self, message: str, topic: str, partition: int, offset: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


class CorruptRecordError(RecordError):
    """A record batch whose bytes make no sense or fail their checksum."""


class UnsupportedFormatError(RecordError):
    """A magic byte or a compression codec that penstock does not know."""


class RecordTooLargeError(RecordError):
    """A record or batch is larger than a limit of the configuration."""


class DeserializationError(RecordError):
    """The user's deserializer raised for one record; the cause is `__cause__`.

    `field` is "key" or "value"; `raw_key` and `raw_value` are the bytes as they stand in the log.
    """

    def __init__(
        self,
        message: str,
        topic: str,
        partition: int,
        offset: int,
        field: str,
        raw_key: bytes | None,
        raw_value: bytes | None,
    ) -> None:
        super().__init__(message, topic, partition, offset)
        self.field = field
        self.raw_key = raw_key
        self.raw_value = raw_value


class OffsetError(KafkaError):
    """Concerns positions. `partitions` names those concerned."""

    def __init__(self, message: str, partitions: Iterable[TopicPartition] = ()) -> None:
        super().__init__(message)
        self.partitions = tuple(partitions)


class NoOffsetForPartitionError(OffsetError):
    """Nothing is committed for a partition and `auto.offset.reset` is none."""


class OffsetOutOfRangeError(OffsetError):
    """The position is outside the log and `auto.offset.reset` is none."""


class LogTruncationError(OffsetError):
    """A new leader's log lacks records that were read, and `auto.offset.reset` is none (KIP-320).

    `offsets` holds each partition's position, `divergent_offsets` the first offset whose record is another one now, or none at all
    (without those partitions whose leader cannot tell). seek() to that one goes on without a gap.
    """

    def __init__(
        self,
        message: str,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        divergent_offsets: Mapping[TopicPartition, OffsetAndMetadata],
    ) -> None:
        super().__init__(message, offsets)
        self.offsets = dict(offsets)
        self.divergent_offsets = dict(divergent_offsets)


class CommitRewindError(OffsetError):
    """A commit below what this consumer committed before; pass allow_rewind=True to mean it."""


class CommitFailedError(KafkaError):
    """The group has moved on without this member; its partitions belong to others, and the commit was refused."""


class RebalanceInProgressError(CommitFailedError):
    """A commit while the group rebalances and waits for this consumer's poll(). Call poll(), then commit what is still assigned."""

    retriable = True


class TransactionError(KafkaError):
    """Something of the transaction has failed, so that it cannot be committed: call abort_transaction(), then begin again. The cause is
    `__cause__`."""

    retriable = True


class ProducerFencedError(TransactionError):
    """Another producer has taken the transactional id over, or the coordinator refuses this one for good (`__cause__`). It can only be
    closed; a transaction that it had not ended is ended by the coordinator: aborted, unless its commit had begun."""

    retriable = False


class ProcessingError(KafkaError):
    """Concerns handlers and what they are given."""


class HandlerTimeoutError(ProcessingError, TimeoutError):
    """A handler took longer than its `timeout`; it was cancelled where that is possible."""

    retriable = True


class WorkerDiedError(ProcessingError):
    """The process that ran a handler died while it did. `exit_code` is negative for a signal."""

    retriable = True

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DeduplicationError(ProcessingError):
    """The store that knows which effects are done could not be asked, or told. A retriable one is tried again for ever, and is no attempt
    of the handler; any other ends the processor, since handlers do not run without the store."""

    def __init__(self, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.retriable = retriable


class HandlerStoppedError(ProcessingError):
    """A handler has failed, and its policy says to stop; the cause is `__cause__`. Nothing was committed past the record."""

    def __init__(self, message: str, topic: str, partition: int, offset: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset


class SinkError(KafkaError):
    """A sink could not store records."""

    def __init__(self, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.retriable = retriable


class FencedError(SinkError):
    """Another owner has taken over: nothing of this one is stored any more."""


class SchemaError(SinkError):
    """The destination does not fit what is to be stored."""


class BrokerError(KafkaError):
    """An error code of Kafka's protocol. `code` is the number, `name` is Kafka's name in capitals.

    Source: https://kafka.apache.org/protocol#protocol_error_codes
    """

    def __init__(
        self, message: str, code: int = -1, name: str = "UNKNOWN_SERVER_ERROR", retriable: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.retriable = retriable


class UnknownTopicOrPartitionError(BrokerError):
    """The cluster has no such topic or partition."""


class AuthorizationError(BrokerError):
    """The cluster refuses this user."""


class GroupError(BrokerError):
    """The coordinator refuses this member or this request of the group."""


class ProduceError(BrokerError):
    """A record was not stored."""
