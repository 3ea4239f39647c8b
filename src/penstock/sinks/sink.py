"""What a sink owes: rows and offsets in one transaction, and no row of an owner whose time is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from .._native import ConsumerRecords
from ..types import TopicPartition


@runtime_checkable
class Sink(Protocol):
    """Stores records exactly once, since it stores the offsets with them; or, without offsets of its own, names each record by its place.

    Plain blocking calls. `write()` calls do not overlap each other; `assigned()`, `revoked()` and `close()` may come from another thread
    than `write()`, and while it is under way, where that takes longer than a revocation or a stop waits: a sink that stores offsets lets
    them wait for it, one that does not lets it end early. A method may raise; a ``SinkError`` says by `retriable` whether calling again
    can help.
    """

    def open(self, group_id: str) -> None:
        """Connect, check the schema, make the table of offsets if it is missing. Errors say what is wrong and the remedy."""

    def assigned(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Take these over: from here on, the owner before can write nothing of them (a new epoch is stored). Where to go on, for those
        of which something was stored; the others go on at what the group has committed."""

    def write(self, records: ConsumerRecords) -> None:
        """Rows of these records, and the offsets after them, in one transaction. FencedError if another has taken one over.

        A batch for which it raised is given again before any later one: the offsets after that would pass it."""

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Nothing more of these will be written by this owner."""

    def close(self) -> None:
        """Give connections back; idempotent."""
