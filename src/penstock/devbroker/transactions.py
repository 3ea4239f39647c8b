"""The transaction coordinator: a pure state machine over transactional ids (KIP-98, KIP-360, KIP-890).

Each call returns a code and the effects to perform in order. Where Kafka has PrepareCommit and PrepareAbort, waiting for
other brokers to write markers, here the decision is journalled and the markers follow in the same step; resume() makes
up for a crash in between.

    Empty --AddPartitions, AddOffsets--> Ongoing --EndTxn--> CompleteCommit | CompleteAbort --Add...--> Ongoing

By transaction.version 2 each end raises the epoch, so that nothing of a transaction that is late gets into the next one; a commit of
nothing is refused, an abort of nothing is not: it raises the epoch.

    Ongoing --time is up, or the id is taken by a new process--> CompleteAbort, with a higher epoch: the old one is fenced
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from penstock.types import TopicPartition

from .codes import Code

MAX_EPOCH = 2**15 - 2  # the last one is kept for fencing, as in Kafka


class TransactionState(Enum):
    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"


DECIDED = {TransactionState.PREPARE_COMMIT: True, TransactionState.PREPARE_ABORT: False}


@dataclass(slots=True)
class Transaction:
    """One transactional id. Written by the machine only."""

    transactional_id: str
    producer_id: int
    epoch: int
    timeout_ms: int
    state: TransactionState = TransactionState.EMPTY
    partitions: set[TopicPartition] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    deadline_ms: int | None = None
    ended: tuple[int, int] = (-1, -1)
    """Producer id and epoch of the last transaction, if its end raised the epoch: that end may be asked for again."""


@dataclass(frozen=True, slots=True)
class StoreTransaction:
    """Make this durable before what follows. A copy: the machine's own has gone on when the effect is performed."""

    transaction: Transaction


def store(found: Transaction, state: TransactionState) -> StoreTransaction:
    return StoreTransaction(
        replace(found, state=state, partitions=set(found.partitions), groups=set(found.groups))
    )


@dataclass(frozen=True, slots=True)
class WriteMarkers:
    """Write a control batch into each partition. `only_open`: not where the log knows of no open transaction."""

    producer_id: int
    epoch: int
    commit: bool
    partitions: tuple[TopicPartition, ...]
    only_open: bool = False


@dataclass(frozen=True, slots=True)
class EndGroupOffsets:
    """Let the offsets that were committed to this group in the transaction count, or drop them."""

    group_id: str
    producer_id: int
    commit: bool


Effect = StoreTransaction | WriteMarkers | EndGroupOffsets


class Transactions:
    """See the module. `new_producer_id` gives an id unlike all before."""

    def __init__(self, new_producer_id: Callable[[], int], max_timeout_ms: int = 900_000) -> None:
        self.by_id: dict[str, Transaction] = {}
        self.by_producer: dict[int, Transaction] = {}
        self._new_producer_id = new_producer_id
        self._max_timeout_ms = max_timeout_ms

    def resume(self, transaction: Transaction, now_ms: int) -> list[Effect]:
        """A transaction of an earlier life: what was decided is done now, what was open has its whole timeout again."""
        self.by_id[transaction.transactional_id] = transaction
        self.by_producer[transaction.producer_id] = transaction
        if transaction.state in DECIDED:
            return self._finish(transaction, DECIDED[transaction.state], only_open=True)
        if transaction.state is TransactionState.ONGOING:
            transaction.deadline_ms = now_ms + transaction.timeout_ms
        return []

    def next_deadline_ms(self) -> int | None:
        return min(
            (each.deadline_ms for each in self.by_id.values() if each.deadline_ms is not None), default=None
        )

    def tick(self, now_ms: int) -> list[Effect]:
        """Abort what is open for longer than its timeout; its producer is fenced by a higher epoch."""
        effects: list[Effect] = []
        for each in tuple(self.by_id.values()):
            if each.deadline_ms is not None and each.deadline_ms <= now_ms:
                each.epoch += 1
                each.ended = (-1, -1)
                effects += self._decide(each, False)
        return effects

    # ------------------------------------------------------------------ what producers ask
    def init(
        self, transactional_id: str, timeout_ms: int, producer_id: int, epoch: int
    ) -> tuple[Code, int, int, list[Effect]]:
        """(code, producer id, epoch, effects). producer_id and epoch are -1 unless the producer recovers (KIP-360)."""
        if not transactional_id:
            return Code.INVALID_REQUEST, -1, -1, []
        if not 0 < timeout_ms <= self._max_timeout_ms:
            return Code.INVALID_TRANSACTION_TIMEOUT, -1, -1, []
        found = self.by_id.get(transactional_id)
        effects: list[Effect] = []
        if found is None:
            found = Transaction(transactional_id, self._new_producer_id(), 0, timeout_ms)
            self.by_id[transactional_id] = self.by_producer[found.producer_id] = found
        else:
            if producer_id >= 0 and (producer_id, epoch) != (found.producer_id, found.epoch):
                return Code.PRODUCER_FENCED, -1, -1, []
            found.timeout_ms = timeout_ms
            found.ended = (-1, -1)
            found.epoch += 1
            if found.state is TransactionState.ONGOING:
                effects += self._decide(found, False)
            self._rotate(found)
            found.state = TransactionState.EMPTY
        effects.append(store(found, found.state))
        return Code.NONE, found.producer_id, found.epoch, effects

    def add(
        self,
        transactional_id: str,
        producer_id: int,
        epoch: int,
        now_ms: int,
        partitions: Iterable[TopicPartition] = (),
        group_id: str | None = None,
    ) -> tuple[Code, list[Effect]]:
        """AddPartitionsToTxn and AddOffsetsToTxn: the transaction begins with the first of them."""
        found, code = self._known(transactional_id, producer_id, epoch)
        if found is None:
            return code, []
        if found.state is not TransactionState.ONGOING:
            found.state = TransactionState.ONGOING
            found.deadline_ms = now_ms + found.timeout_ms
        found.partitions.update(partitions)
        if group_id is not None:
            found.groups.add(group_id)
        return Code.NONE, [store(found, found.state)]

    def end(
        self, transactional_id: str, producer_id: int, epoch: int, commit: bool
    ) -> tuple[Code, list[Effect]]:
        """EndTxn. The same decision again is no error: its first answer may have been lost."""
        found, code = self._known(transactional_id, producer_id, epoch)
        if found is None:
            return code, []
        if found.state is TransactionState.ONGOING:
            return Code.NONE, self._decide(found, commit)
        done = TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT
        return Code.NONE if found.state is done else Code.INVALID_TXN_STATE, []

    def end_and_go_on(
        self, transactional_id: str, producer_id: int, epoch: int, commit: bool
    ) -> tuple[Code, list[Effect]]:
        """EndTxn of transaction.version 2: the next transaction has the epoch after this one's."""
        found = self.by_id.get(transactional_id)
        if found is not None and found.ended == (producer_id, epoch):
            done = TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT
            return Code.NONE if found.state is done else Code.PRODUCER_FENCED, []
        found, code = self._known(transactional_id, producer_id, epoch)
        if found is None:
            return code, []
        if commit and found.state is not TransactionState.ONGOING:
            return Code.INVALID_TXN_STATE, []
        found.ended = (producer_id, epoch)
        found.epoch += 1
        return Code.NONE, self._decide(found, commit)

    def holds(
        self, producer_id: int, epoch: int, partitions: set[TopicPartition], group_id: str | None
    ) -> bool:
        """Whether all of this is in the open transaction of this epoch."""
        found = self.by_producer.get(producer_id)
        return (
            found is not None
            and found.state is TransactionState.ONGOING
            and found.epoch == epoch
            and partitions <= found.partitions
            and (group_id is None or group_id in found.groups)
        )

    def may_write(self, producer_id: int, epoch: int, partition: TopicPartition) -> Code:
        """Whether a transactional batch fits the open transaction (KIP-890's check, without which markers get lost)."""
        found = self.by_producer.get(producer_id)
        if found is None:
            return Code.INVALID_PRODUCER_ID_MAPPING
        if epoch != found.epoch:
            return Code.INVALID_PRODUCER_EPOCH
        fits = found.state is TransactionState.ONGOING and partition in found.partitions
        return Code.NONE if fits else Code.INVALID_TXN_STATE

    def may_commit_offsets(self, transactional_id: str, producer_id: int, epoch: int, group_id: str) -> Code:
        found, code = self._known(transactional_id, producer_id, epoch)
        if found is None:
            return Code.INVALID_PRODUCER_EPOCH if code is Code.PRODUCER_FENCED else code
        fits = found.state is TransactionState.ONGOING and group_id in found.groups
        return Code.NONE if fits else Code.INVALID_TXN_STATE

    # ------------------------------------------------------------------ inside
    def _known(self, transactional_id: str, producer_id: int, epoch: int) -> tuple[Transaction | None, Code]:
        found = self.by_id.get(transactional_id)
        if found is None or found.producer_id != producer_id:
            return None, Code.INVALID_PRODUCER_ID_MAPPING
        if found.epoch != epoch:
            return None, Code.PRODUCER_FENCED
        return found, Code.NONE

    def _rotate(self, found: Transaction) -> None:
        """A new producer id, if this one has no epochs left."""
        if found.epoch > MAX_EPOCH:
            self.by_producer.pop(found.producer_id, None)
            found.producer_id, found.epoch = self._new_producer_id(), 0
            self.by_producer[found.producer_id] = found

    def _decide(self, found: Transaction, commit: bool) -> list[Effect]:
        state = TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT
        return [store(found, state), *self._finish(found, commit)]

    def _finish(self, found: Transaction, commit: bool, only_open: bool = False) -> list[Effect]:
        effects: list[Effect] = [
            WriteMarkers(found.producer_id, found.epoch, commit, tuple(sorted(found.partitions)), only_open)
        ]
        effects += [EndGroupOffsets(group, found.producer_id, commit) for group in sorted(found.groups)]
        found.state = TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT
        found.deadline_ms = None
        found.partitions, found.groups = set(), set()
        self._rotate(found)
        return [*effects, store(found, found.state)]
