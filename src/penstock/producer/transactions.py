"""What a transactional producer says to coordinators. Lives in the engine's thread. Sources: KIP-98, KIP-360, KIP-447.

The protocol of transaction.version 0 and 1 is spoken, which every Kafka from 2.1 to 4.x takes: partitions are added before the first
batch goes to them. Brokers of KIP-890 verify each batch against the coordinator by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..engine.client import CONTROL, ClusterClient
from ..engine.connection import DisconnectedError
from ..engine.coordinator import by_topic
from ..errors import CommitFailedError, KafkaError, ProducerFencedError, TransactionError
from ..protocol import Api, error_for, error_name, is_retriable
from ..types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from .sequences import ProducerIdentity
from .transaction_states import TransactionState, TransactionStates

_log = logging.getLogger("penstock.producer")

_TRANSACTION = 1  # FindCoordinator's key type
_NOT_COORDINATOR = frozenset({15, 16})
_CONCURRENT_TRANSACTIONS = 51
_CONCURRENT_BACKOFF_S = 0.02
_FENCED = frozenset({47, 90})  # INVALID_PRODUCER_EPOCH, PRODUCER_FENCED
_GROUP_MOVED_ON = frozenset({22, 25, 82, 110, 113})
"""ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, FENCED_MEMBER_EPOCH, STALE_MEMBER_EPOCH."""
_KEEPS_EPOCH_SINCE = 3
"""The version of InitProducerId by which a producer raises its own epoch, and no other's (KIP-360)."""


class Transactions:
    """One transactional producer's talk with its coordinator. `identity` is the sender's."""

    def __init__(
        self,
        client: ClusterClient,
        states: TransactionStates,
        identity: ProducerIdentity,
        timeout_ms: int,
        wake: Callable[[], None],
    ) -> None:
        """`timeout_ms`: transaction.timeout.ms. `wake`: have the sender look again."""
        self.states = states
        self._client = client
        self._identity = identity
        self._timeout_ms = timeout_ms
        self._wake = wake
        self._adding: set[TopicPartition] = set()
        self._nodes: dict[tuple[int, str], int] = {}  # coordinators by (key type, key)

    # ------------------------------------------------------------ beginning

    async def initialize(self) -> None:
        """A producer id and an epoch; whoever had the id before is fenced, and what it left open is aborted."""
        answer = await self._ask_for_identity(-1, -1)
        self._identity.producer_id = int(answer.producer_id)
        self._identity.epoch = int(answer.producer_epoch)
        self.states.go(TransactionState.READY)

    async def raise_epoch(self) -> None:
        """After an abort: the sequence numbers begin anew, under the next epoch (KIP-360)."""
        connection = await self._client.any_connection()
        if (
            connection.versions is not None
            and connection.versions.pick(Api.INIT_PRODUCER_ID) < _KEEPS_EPOCH_SINCE
        ):
            # Asked without our own epoch, the coordinator would fence whoever has taken the id over meanwhile.
            error = TransactionError(
                "this broker cannot raise a producer's epoch after a failure (KIP-360, Kafka 2.5): make a new producer"
            )
            self.states.fenced(error)
            raise error
        answer = await self._ask_for_identity(self._identity.producer_id, self._identity.epoch)
        self._identity.producer_id = int(answer.producer_id)
        self._identity.epoch = int(answer.producer_epoch)

    async def _ask_for_identity(self, producer_id: int, epoch: int) -> Any:
        return await self._request(
            Api.INIT_PRODUCER_ID,
            "asking for a producer id",
            transactional_id=self.states.transactional_id,
            transaction_timeout=self._timeout_ms,
            producer_id=producer_id,
            producer_epoch=epoch,
        )

    # ------------------------------------------------------------ in a transaction

    def want(self, partitions: Collection[TopicPartition]) -> None:
        """Have the coordinator take these in; the sender is woken once it has."""
        missing = set(partitions) - self.states.partitions - self._adding
        if missing and self.states.may_send:
            self._adding |= missing
            self._client.engine.spawn(self._add(missing), "adding partitions to the transaction")

    async def _add(self, partitions: set[TopicPartition]) -> None:
        topics = [
            {"name": topic, "partitions": sorted(numbers)} for topic, numbers in by_topic(partitions).items()
        ]
        try:
            await self._request(
                Api.ADD_PARTITIONS_TO_TXN,
                f"adding {len(partitions)} partitions to the transaction",
                v3_and_below_transactional_id=self.states.transactional_id,
                v3_and_below_producer_id=self._identity.producer_id,
                v3_and_below_producer_epoch=self._identity.epoch,
                v3_and_below_topics=topics,
            )
            if self.states.may_send:
                self.states.partitions |= partitions
        except KafkaError as error:
            self.states.failed(error)
        finally:
            self._adding -= partitions
            self._wake()

    async def send_offsets(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], member: ConsumerGroupMetadata
    ) -> None:
        """The group's offsets as part of the transaction, if this member's generation still holds (KIP-447)."""
        states = self.states
        states.need("send_offsets_to_transaction()", TransactionState.OPEN)
        base: dict[str, Any] = {
            "transactional_id": states.transactional_id,
            "producer_id": self._identity.producer_id,
            "producer_epoch": self._identity.epoch,
            "group_id": member.group_id,
        }
        try:
            if member.group_id not in states.groups:
                await self._request(
                    Api.ADD_OFFSETS_TO_TXN, f"adding group {member.group_id!r} to the transaction", **base
                )
                states.groups.add(member.group_id)
            topics = [
                {
                    "name": topic,
                    "partitions": [_offset(n, offsets[TopicPartition(topic, n)]) for n in numbers],
                }
                for topic, numbers in by_topic(offsets).items()
            ]
            await self._request(
                Api.TXN_OFFSET_COMMIT,
                f"committing {len(offsets)} offsets of group {member.group_id!r} in the transaction",
                group=member.group_id,
                **base,
                generation_id=member.generation_id,
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                topics=topics,
            )
        except KafkaError as error:
            states.failed(error)
            raise

    async def end(self, *, commit: bool) -> None:
        """EndTxn, until its outcome is known. Asked twice it does no harm."""
        if self.states.holds_anything:
            await self._request(
                Api.END_TXN,
                "committing the transaction" if commit else "aborting the transaction",
                transactional_id=self.states.transactional_id,
                producer_id=self._identity.producer_id,
                producer_epoch=self._identity.epoch,
                committed=commit,
            )

    # ------------------------------------------------------------ requests

    async def _request(self, api: Api, what: str, *, group: str | None = None, **fields: Any) -> Any:
        """One request to the transaction's coordinator, or the group's, tried again until the caller's time is over."""
        backoff = self._client.retry_backoff()
        key = (0, group) if group is not None else (_TRANSACTION, self.states.transactional_id)
        what = f"{what} (transactional id {self.states.transactional_id!r})"
        while True:
            code = 0
            try:
                if key not in self._nodes:
                    self._nodes[key] = await self._client.find_coordinator(key[1], key[0])
                answer = await self._client.request(api, node_id=self._nodes[key], purpose=CONTROL, **fields)
                code = _gravest(answer)
            except DisconnectedError as error:
                _log.debug("%s: %s", what, error)
                self._nodes.pop(key, None)
            else:
                if code == 0:
                    return answer
                if code in _NOT_COORDINATOR:
                    self._nodes.pop(key, None)
                elif code in _FENCED:
                    fenced = ProducerFencedError(
                        f"{what}: {error_name(code)}: another producer has taken it over, or the transaction took longer than "
                        "transaction.timeout.ms and was aborted; close this producer"
                    )
                    self.states.fenced(fenced)
                    raise fenced
                elif code in _GROUP_MOVED_ON:
                    raise CommitFailedError(
                        f"{what}: {error_name(code)}: the group has rebalanced, and the partitions belong to others"
                    )
                elif not is_retriable(code):
                    raise error_for(code, what)
                _log.debug("%s: %s", what, error_name(code))
            await asyncio.sleep(
                _CONCURRENT_BACKOFF_S if code == _CONCURRENT_TRANSACTIONS else backoff.next_ms() / 1000
            )


def _offset(partition: int, entry: OffsetAndMetadata) -> dict[str, Any]:
    return {
        "partition_index": partition,
        "committed_offset": entry.offset,
        "committed_leader_epoch": entry.leader_epoch,
        "committed_metadata": entry.metadata,
    }


def _gravest(answer: Any) -> int:
    """An error code of the answer, one that no retry mends before one that it may; 0 where all is well."""
    codes = [int(getattr(answer, "error_code", 0))]
    for topic in getattr(answer, "results_by_topic_v3_and_below", ()):
        codes += [int(p.partition_error_code) for p in topic.results_by_partition]
    for topic in getattr(answer, "topics", ()):
        codes += [int(p.error_code) for p in topic.partitions]
    found = [code for code in codes if code]
    # OPERATION_NOT_ATTEMPTED (55) stands at partitions that were not looked at since another had an error.
    found = [code for code in found if code != 55] or found
    return next((code for code in found if not is_retriable(code)), found[0] if found else 0)
