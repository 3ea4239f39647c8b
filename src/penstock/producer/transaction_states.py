"""The life of a producer's transactions: one table. Pure. Source: KIP-98, and the states of Kafka's TransactionManager.

UNINITIALIZED --initialized--> READY --begin--> OPEN --commit--> COMMITTING --ended--> READY
                                                 |  \\--abort--> ABORTING ----ended--> READY
                                                 \\--failed--> FAILED --abort--> ABORTING
any --fenced--> FENCED, for good
"""

from __future__ import annotations

from enum import Enum

from ..errors import IllegalStateError, ProducerFencedError, TransactionError
from ..types import TopicPartition


class TransactionState(Enum):
    """Where a transactional producer stands."""

    UNINITIALIZED = "without a producer id: call init_transactions()"
    READY = "between two transactions: call begin_transaction()"
    OPEN = "in a transaction"
    COMMITTING = "about to commit: call commit_transaction() again, until its outcome is known"
    ABORTING = "about to abort: call abort_transaction() again"
    FAILED = "in a transaction that has to be aborted: call abort_transaction()"
    FENCED = "fenced by another producer of the same transactional id: close this one"


_S = TransactionState
TRANSITIONS: dict[TransactionState, frozenset[TransactionState]] = {
    _S.UNINITIALIZED: frozenset({_S.READY, _S.FENCED}),
    _S.READY: frozenset({_S.OPEN, _S.FENCED, _S.UNINITIALIZED}),
    _S.OPEN: frozenset({_S.COMMITTING, _S.ABORTING, _S.FAILED, _S.FENCED}),
    _S.COMMITTING: frozenset({_S.READY, _S.FAILED, _S.FENCED}),
    _S.FAILED: frozenset({_S.ABORTING, _S.FENCED}),
    _S.ABORTING: frozenset({_S.READY, _S.FENCED}),
    _S.FENCED: frozenset(),
}


class TransactionStates:
    """One producer's. Written in the engine's thread; `state` is read by the user's, to refuse calls that do not fit."""

    def __init__(self, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self.state = TransactionState.UNINITIALIZED
        self.error: BaseException | None = None  # why it is FAILED or FENCED
        self.partitions: set[TopicPartition] = set()  # that the coordinator knows to be in the transaction
        self.groups: set[str] = set()  # likewise

    def go(self, state: TransactionState) -> None:
        """IllegalStateError for what the table does not have."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalStateError(
                f"transactional id {self.transactional_id!r}: cannot go to {state.name}, the producer is {self.state.value}"
            )
        self.state = state

    def need(self, what: str, *states: TransactionState) -> None:
        """An error that says what to call instead, unless it is in one of these states."""
        if self.state in states:
            return
        if self.state is TransactionState.FENCED:
            raise ProducerFencedError(
                f"{what}: another producer has taken transactional id {self.transactional_id!r} over; close this one"
            ) from self.error
        if self.state is TransactionState.FAILED:
            raise TransactionError(
                f"{what}: the transaction has to be aborted, since {self.error}"
            ) from self.error
        raise IllegalStateError(f"{what}: the producer is {self.state.value}")

    def begun(self) -> None:
        self.go(TransactionState.OPEN)
        self.error = None
        self.partitions.clear()
        self.groups.clear()

    def failed(self, error: BaseException) -> None:
        """Something of the open transaction has failed for good; the first reason is kept."""
        if self.state in (TransactionState.OPEN, TransactionState.COMMITTING):
            self.error = error
            self.state = TransactionState.FAILED

    def fenced(self, error: BaseException) -> None:
        if self.state is not TransactionState.FENCED:
            self.error = error
            self.state = TransactionState.FENCED

    @property
    def lost(self) -> BaseException | None:
        """Why what was sent in this transaction will not be stored, or not count."""
        return self.error if self.state in (TransactionState.FAILED, TransactionState.FENCED) else None

    @property
    def holds_anything(self) -> bool:
        """Whether the coordinator knows of anything that is to be ended."""
        return bool(self.partitions or self.groups)

    @property
    def may_send(self) -> bool:
        """Whether batches go out: until the transaction has failed."""
        return self.state in (TransactionState.OPEN, TransactionState.COMMITTING)
