"""What a transactional producer says to coordinators. Lives in the engine's thread. Sources: KIP-98, KIP-360, KIP-447, KIP-890.

Two protocols are spoken, by the cluster's feature transaction.version. At 0 and 1, Kafka 2.1 to 3.x and what was upgraded from there,
partitions and groups are added to the transaction before the first batch and the offsets go out. From 2 on brokers add them by themselves
(Produce 12, TxnOffsetCommit 5), and each EndTxn answers with the epoch of the next transaction: whatever arrives late is refused. An
EndTxn that is repeated, since its answer was lost, carries the epoch of its own transaction, and is answered with the next one again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..engine.client import CONTROL, ClusterClient
from ..engine.connection import DisconnectedError
from ..engine.coordinator import by_topic
from ..errors import BrokerError, CommitFailedError, KafkaError, ProducerFencedError, TransactionError
from ..protocol import Api, error_for, error_name, is_retriable
from ..types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from .sequences import ProducerIdentity
from .transaction_states import TransactionState, TransactionStates

_log = logging.getLogger("penstock.producer")

_TRANSACTION = 1  # FindCoordinator's key type
_NOT_COORDINATOR = frozenset({15, 16})
_INVALID_TXN_STATE = 48
_TRANSACTION_ABORTABLE = 120
CONCURRENT_TRANSACTIONS = 51
CONCURRENT_BACKOFF_MS = 20
"""The markers of the transaction before are still being written: that takes milliseconds."""
_FENCED = frozenset({47, 90})  # INVALID_PRODUCER_EPOCH, PRODUCER_FENCED
_GROUP_MOVED_ON = frozenset({22, 25, 82, 110, 113})
"""ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, FENCED_MEMBER_EPOCH, STALE_MEMBER_EPOCH."""
_KEEPS_EPOCH_SINCE = 3
"""The version of InitProducerId by which a producer raises its own epoch, and no other's (KIP-360)."""
_VERSION_2 = ((Api.PRODUCE, 12), (Api.TXN_OFFSET_COMMIT, 5), (Api.END_TXN, 5))
_HIGHEST_BEFORE = {Api.END_TXN: 4, Api.TXN_OFFSET_COMMIT: 4}
_PRODUCE_BEFORE = 11


class Transactions:
    """One transactional producer's talk with its coordinator. `identity` is the sender's; `by_version_2`: the transaction that is open, or
    the next one, is one of transaction.version 2. It changes between two transactions only."""

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
        self.by_version_2 = False
        self._adding: set[TopicPartition] = set()
        self._adders: set[asyncio.Task[Any]] = set()
        self._nodes: dict[tuple[int, str], int] = {}  # coordinators by (key type, key)

    # ------------------------------------------------------------ beginning

    async def initialize(self) -> None:
        """A producer id and an epoch; whoever had the id before is fenced, and what it left open is aborted."""
        self._take(await self._ask_for_identity(-1, -1))
        self.by_version_2 = self._offers_version_2()
        self.states.go(TransactionState.READY)

    @property
    def produce_version(self) -> int | None:
        """The highest version of Produce that this transaction may use (None: any): 12 adds the partition by itself."""
        return None if self.by_version_2 else _PRODUCE_BEFORE

    def _offers_version_2(self) -> bool:
        """What the newest features say that any broker has told of (KIP-584). A cluster may be up- or downgraded at any time; brokers take
        a transaction to its end as it has begun."""
        newest = self._client.newest_versions
        if newest is None:
            return self.by_version_2
        return newest.features.levels.get("transaction.version", 0) >= 2 and all(
            newest.reaches(api, version) for api, version in _VERSION_2
        )

    def _take(self, answer: Any) -> None:
        """The id and epoch to go on with; the sequence numbers of each partition begin anew with it, at its next batch."""
        self._identity.producer_id = int(answer.producer_id)
        self._identity.epoch = int(answer.producer_epoch)

    async def _can_raise_epoch(self) -> bool:
        connection = await self._client.any_connection()
        return connection.versions is None or connection.versions.reaches(
            Api.INIT_PRODUCER_ID, _KEEPS_EPOCH_SINCE
        )

    async def _raise_epoch(self) -> None:
        """Between two transactions: the sequence numbers begin anew, under the next epoch (KIP-360)."""
        if not await self._can_raise_epoch():
            # Asked without our own epoch, the coordinator would fence whoever has taken the id over meanwhile.
            error = TransactionError(
                "this broker cannot raise a producer's epoch after a failure (KIP-360, Kafka 2.5): make a new producer"
            )
            self.states.fenced(error)
            raise error
        try:
            self._take(await self._ask_for_identity(self._identity.producer_id, self._identity.epoch))
        except (BrokerError, TransactionError) as error:
            raise self._refused_for_good(error) from error

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
        """Have the coordinator take these in; the sender is woken once it has. By version 2 the first batch itself does."""
        if not self.states.may_send:
            return
        if self.by_version_2:
            self.states.partitions.update(partitions)
            return
        missing = set(partitions) - self.states.partitions - self._adding
        if missing:
            self._adding |= missing
            adder = self._client.engine.spawn(self._add(missing), "adding partitions to the transaction")
            self._adders.add(adder)
            adder.add_done_callback(self._adders.discard)

    async def _add(self, partitions: set[TopicPartition]) -> None:
        """Until it is known whether they are in. Nobody ends the transaction before: an AddPartitionsToTxn that is repeated after EndTxn
        would begin another one, which nobody ends."""
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
                wanted=lambda: self.states.may_send,
            )
            self.states.partitions |= partitions
        except KafkaError as error:
            self.states.failed(error)
        finally:
            self._adding -= partitions
            self._wake()

    async def send_offsets(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], member: ConsumerGroupMetadata
    ) -> None:
        """The group's offsets as part of the transaction, if this member's generation still holds (KIP-447).

        Given up half way, the transaction has failed: without these offsets its records must not be committed."""
        states = self.states
        states.need("send_offsets_to_transaction()", TransactionState.OPEN)
        base: dict[str, Any] = {
            "transactional_id": states.transactional_id,
            "producer_id": self._identity.producer_id,
            "producer_epoch": self._identity.epoch,
            "group_id": member.group_id,
        }
        states.unsure = True  # until it is answered; what has failed stays so
        try:
            if not self.by_version_2 and member.group_id not in states.groups:
                await self._request(
                    Api.ADD_OFFSETS_TO_TXN, f"adding group {member.group_id!r} to the transaction", **base
                )
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
            states.groups.add(member.group_id)
            states.unsure = False
        except KafkaError as error:
            states.failed(error)
            raise
        except asyncio.CancelledError:
            states.failed(TransactionError("sending offsets to it was given up before they were answered"))
            raise

    async def end(self, *, commit: bool) -> None:
        """EndTxn, until its outcome is known, and what has to be done before the next transaction. Called again after its time was over it
        goes on where it was."""
        while self._adders:
            await asyncio.wait(self._adders)
        states = self.states
        if states.holds_anything:
            answer = await self._end(commit)
            states.ended()
            if int(getattr(answer, "producer_id", -1)) >= 0:
                self._take(answer)
        was_2, now_2 = self.by_version_2, self._offers_version_2()
        # Version 2 has a new epoch with each EndTxn. Its first transaction needs one too: else what is late of the one before, by
        # version 1, would be taken for its own. For the same reason so does one after a request was repeated: EndTxn goes out, its
        # connection breaks, it goes out again and is answered, the next transaction begins, and the first EndTxn arrives and commits
        # half of it.
        late = states.repeated and not was_2 and await self._can_raise_epoch()
        if not was_2 and (states.unclean or now_2 or late):
            await self._raise_epoch()
        states.unclean = states.repeated = False
        self.by_version_2 = now_2

    async def _end(self, commit: bool) -> Any:
        """The answer of EndTxn; None where the coordinator has nothing to abort."""
        what = "committing the transaction" if commit else "aborting the transaction"
        states = self.states
        try:
            return await self._request(
                Api.END_TXN,
                what,
                transactional_id=states.transactional_id,
                producer_id=self._identity.producer_id,
                producer_epoch=self._identity.epoch,
                committed=commit,
            )
        except TransactionError as error:
            if commit:
                states.failed(error)
                raise
            raise self._refused_for_good(error) from error
        except BrokerError as error:
            if not commit and not self.by_version_2 and error.code == _INVALID_TXN_STATE:
                # Version 1 aborts only what it knows of: what we were unsure of has not arrived. A new epoch keeps it out.
                states.unclean = True
                return None
            raise self._refused_for_good(error) from error

    def _refused_for_good(self, error: KafkaError) -> ProducerFencedError:
        """Trying again would not help, and how the transaction has ended is not for us to say: whoever takes the id over finds out."""
        if isinstance(error, ProducerFencedError):
            return error
        self.states.fenced(error)
        return ProducerFencedError(f"{error}; close this producer, and begin with a new one")

    # ------------------------------------------------------------ requests

    async def _request(
        self,
        api: Api,
        what: str,
        *,
        group: str | None = None,
        wanted: Callable[[], bool] = lambda: True,
        **fields: Any,
    ) -> Any:
        """One request to the transaction's coordinator, or the group's, tried again until the caller's time is over. Once it is not
        `wanted` any more, it ends as soon as an answer tells that it was not done."""
        backoff = self._client.retry_backoff()
        key = (0, group) if group is not None else (_TRANSACTION, self.states.transactional_id)
        what = f"{what} (transactional id {self.states.transactional_id!r})"
        at_most = None if self.by_version_2 else _HIGHEST_BEFORE.get(api)
        while True:
            code = 0
            try:
                if key not in self._nodes:
                    self._nodes[key] = await self._client.find_coordinator(key[1], key[0])
                answer = await self._client.request(
                    api, node_id=self._nodes[key], purpose=CONTROL, at_most=at_most, **fields
                )
                code = _gravest(answer)
            except DisconnectedError as error:
                _log.debug("%s: %s", what, error)
                self._nodes.pop(key, None)
                self.states.repeated = True
            else:
                if code == 0:
                    return answer
                self._refuse(code, what, wanted())
                if code in _NOT_COORDINATOR:
                    self._nodes.pop(key, None)
                _log.debug("%s: %s", what, error_name(code))
            wait_ms = CONCURRENT_BACKOFF_MS if code == CONCURRENT_TRANSACTIONS else backoff.next_ms()
            await asyncio.sleep(wait_ms / 1000)

    def _refuse(self, code: int, what: str, wanted: bool) -> None:
        """Raise what an error code means, unless another try may mend it."""
        if code in _FENCED:
            fenced = ProducerFencedError(
                f"{what}: {error_name(code)}: another producer has taken it over, or the transaction took longer than "
                "transaction.timeout.ms and was aborted; close this producer"
            )
            self.states.fenced(fenced)
            raise fenced
        if code == _TRANSACTION_ABORTABLE:
            raise TransactionError(f"{what}: {error_name(code)}: abort it, and begin another")
        if code in _GROUP_MOVED_ON:
            raise CommitFailedError(
                f"{what}: {error_name(code)}: the group has rebalanced, and the partitions belong to others"
            )
        if not is_retriable(code) or not wanted:
            raise error_for(code, what)


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
