"""Exactly once from topic to topic: what handlers returned, and the offsets of what they were given, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import (
    AuthorizationError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    RecordTooLargeError,
    TransactionError,
)
from ..producer import KafkaProducer
from ..types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from .work import Output

_COMMIT_TRIES = 5
_HOPELESS = (AuthorizationError, RecordTooLargeError)
"""Of an output: the next transaction would carry it again, and fail again."""

_log = logging.getLogger("penstock.processing")


class TransactionalCommitter:
    """One transactional producer. Blocking; one call at a time, from any thread, but for close(), which ends the others."""

    def __init__(self, **config: Any) -> None:
        """`config`: a producer's options, transactional.id among them."""
        self._producer = KafkaProducer(**config)
        self._has_to_abort = False  # an abort took too long, and has to be called again before anything else

    def start(self) -> None:
        """Take the transactional id over."""
        self._producer.init_transactions()

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        outputs: Sequence[tuple[str, Output]],
        member: ConsumerGroupMetadata,
    ) -> None:
        """All of it, or nothing. TransactionError and CommitFailedError: nothing, and another call may do better;
        ProducerFencedError: this producer is done for. RecordTooLargeError, AuthorizationError: an output cannot be written."""
        producer = self._producer
        if self._has_to_abort:
            self._abort(None)
        producer.begin_transaction()
        try:
            for topic, out in outputs:
                producer.produce(topic, out.value, out.key, out.headers, out.partition, out.timestamp_ms)
            producer.send_offsets_to_transaction(offsets, member)
            self._commit()
        except ProducerFencedError:
            raise
        except KafkaError as error:
            self._abort(error)
            if isinstance(error.__cause__, _HOPELESS):
                raise error.__cause__ from error
            raise

    def _commit(self) -> None:
        """Until the outcome is known. Where it stays unknown the producer is given up: whoever takes its id over ends the transaction, and
        the group's offsets tell how."""
        for _ in range(_COMMIT_TRIES):
            try:
                return self._producer.commit_transaction()
            except KafkaTimeoutError as error:
                unknown: KafkaError = error
                _log.warning("it is not known yet whether a transaction is committed: %s", error)
            except TransactionError:
                raise
            except KafkaError as error:  # an answer that makes no sense, say
                unknown = error
                break
        raise ProducerFencedError(
            f"it stays unknown whether a transaction is committed: {unknown}; start again"
        ) from unknown

    def _abort(self, error: KafkaError | None) -> None:
        _log.debug("a transaction is aborted: %s", error)
        self._has_to_abort = True
        try:
            self._producer.abort_transaction()
            self._has_to_abort = False
        except TransactionError:
            raise
        except KafkaError as failure:
            raise TransactionError(f"a transaction could not be aborted: {failure}") from error

    def close(self, timeout_s: float) -> None:
        """Idempotent. What is open is aborted, or by the coordinator, or by who takes the transactional id over."""
        self._producer.close(timeout_s * 1000)
