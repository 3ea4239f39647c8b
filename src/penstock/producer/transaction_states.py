"""The life of a producer's transactions: one table. Pure. Source: KIP-98, and the states of Kafka's TransactionManager.

UNINITIALIZED --initialized--> READY --begin--> OPEN --commit--> FLUSHING --all is stored--> COMMITTING --ended--> READY
                                                 |\\----abort------/\\--------abort--------> ABORTING ---ended--> READY
                                                 \\--failed (also from FLUSHING, COMMITTING)--> FAILED --abort--> ABORTING
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
    FLUSHING = "about to commit: call commit_transaction() again, or abort_transaction()"
    COMMITTING = "about to commit: call commit_transaction() again, until its outcome is known"
    ABORTING = "about to abort: call abort_transaction() again"
    FAILED = "in a transaction that has to be aborted: call abort_transaction()"
    FENCED = "fenced, or refused for good: close this one"


_S = TransactionState
TRANSITIONS: dict[TransactionState, frozenset[TransactionState]] = {
    _S.UNINITIALIZED: frozenset({_S.READY, _S.FENCED}),
    _S.READY: frozenset({_S.OPEN, _S.FENCED, _S.UNINITIALIZED}),
    _S.OPEN: frozenset({_S.FLUSHING, _S.ABORTING, _S.FAILED, _S.FENCED}),
    _S.FLUSHING: frozenset({_S.COMMITTING, _S.ABORTING, _S.FAILED, _S.FENCED}),
    _S.COMMITTING: frozenset({_S.READY, _S.FAILED, _S.FENCED}),
    _S.FAILED: frozenset({_S.ABORTING, _S.FENCED}),
    _S.ABORTING: frozenset({_S.READY, _S.FENCED}),
    _S.FENCED: frozenset(),
}
MAY_ABORT = (_S.OPEN, _S.FLUSHING, _S.FAILED, _S.ABORTING)
"""Where abort_transaction() may be called. Not while committing: the coordinator may have committed already."""


class TransactionStates:
    """One producer's. Written in the engine's thread, but for begun(); `state` is read by the user's, to refuse calls that do not fit.

    Fields of the open transaction: `partitions` and `groups` are those that the coordinator has been told of. `unsure`: it may have been
    told of something else, whose answer never came. `unclean`: batches were given up, or something has failed, so that the sequence
    numbers have holes, or a request is still on its way; an abort begins a new epoch then. It outlives an abort that takes several calls.
    `repeated`: a request to the coordinator had no answer and was sent again, so that the first one may still arrive.
    """

    def __init__(self, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self.state = TransactionState.UNINITIALIZED
        self.error: BaseException | None = None  # why it is FAILED or FENCED
        self.partitions: set[TopicPartition] = set()
        self.groups: set[str] = set()
        self.unsure = False
        self.unclean = False
        self.repeated = False

    def go(self, state: TransactionState) -> None:
        """IllegalStateError for what the table does not have."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalStateError(
                f"transactional id {self.transactional_id!r}: cannot go to {state.name}, the producer is {self.state.value}"
            )
        self.state = state

    def need(self, what: str, *states: TransactionState) -> None:
        """An error that says what to call instead, unless it is in one of these states."""
        state = self.state
        if state in states:
            return
        if state is TransactionState.FENCED:
            why = self.error or "another producer has taken it over"
            raise ProducerFencedError(
                f"{what}: the producer of transactional id {self.transactional_id!r} can only be closed: {why}"
            ) from self.error
        if state is TransactionState.FAILED:
            raise TransactionError(
                f"{what}: the transaction has to be aborted, since {self.error}"
            ) from self.error
        raise IllegalStateError(f"{what}: the producer is {state.value}")

    def begun(self) -> None:
        self.ended()
        self.error = None
        self.unclean = self.repeated = False
        self.go(TransactionState.OPEN)

    def ended(self) -> None:
        """The coordinator has ended it: there is nothing to be ended any more."""
        self.partitions.clear()
        self.groups.clear()
        self.unsure = False

    def failed(self, error: BaseException) -> None:
        """Something of the open transaction has failed for good; the first reason is kept."""
        if self.state in (TransactionState.OPEN, TransactionState.FLUSHING, TransactionState.COMMITTING):
            self.error = error
            self.unclean = True
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
        """Whether the coordinator knows, or may know, of anything that is to be ended."""
        return bool(self.partitions or self.groups or self.unsure)

    @property
    def may_send(self) -> bool:
        """Whether batches go out: until the transaction has failed, or is being ended."""
        return self.state in (TransactionState.OPEN, TransactionState.FLUSHING)
