"""Records that a sink's destination refuses for good: to a dead letter, or the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from .._native import ConsumerRecord, ConsumerRecords
from ..errors import SinkError
from ..types import TopicPartition

_log = logging.getLogger("penstock.sinks")

Refusals = list[tuple[int, BaseException]]
"""(index of the record in the batch, why)."""


class Refusing:
    """The part of a sink that puts records away. `dead_letter` is set by who runs the sink, before open().

    `_away`: the offsets that were put away and are not passed yet, by partition; a batch that is given again puts none away twice.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead_letter: Callable[[ConsumerRecord, BaseException], None] | None = None
        self.bad_rows = 0
        self._away: dict[TopicPartition, set[int]] = {}

    def _put_before(self, records: ConsumerRecords) -> set[int]:
        """The indices of those that were put away when the batch was given before."""
        if not any(tp in self._away for tp in records.partitions):
            return set()
        return {
            index
            for index, record in enumerate(records)
            if record.offset in self._away.get(record.topic_partition, ())
        }

    def _put_away(self, records: ConsumerRecords, refusals: Refusals, bad: set[int]) -> None:
        """Dead letters are stored before the offsets pass them. `bad` gets their indices. SinkError without `dead_letter`."""
        for index, error in sorted(refusals, key=lambda refusal: refusal[0]):
            record = records[index]
            place = f"{record.topic}-{record.partition} offset {record.offset}"
            if self.dead_letter is None:
                raise SinkError(
                    f"{place} is refused by {self.name}: {error}. Nothing from it on is stored; mend the destination, or give the sink a "
                    "dead_letter topic"
                ) from error
            reason = SinkError(f"{place} is refused by {self.name}: {error}")
            _log.warning("%s", reason)
            self.dead_letter(record, reason)
            self.bad_rows += 1
            self._away.setdefault(record.topic_partition, set()).add(record.offset)
            bad.add(index)

    def _passed(self, partitions: Iterable[TopicPartition]) -> None:
        """The offsets are behind what was put away, or the partitions are another's."""
        if self._away:
            for tp in partitions:
                self._away.pop(tp, None)


def search(indices: Sequence[int], attempt: Callable[[Sequence[int]], BaseException | None]) -> Refusals:
    """Which of these are refused, all others being stored. `attempt` stores a part, and keeps it, or says why it cannot.

    A part that is refused is cut in two until the parts are stored or have one row: about 2 log2(n) attempts for each bad row.
    """
    refusals: Refusals = []
    parts = [indices] if indices else []
    while parts:
        part = parts.pop()
        error = attempt(part)
        if error is None:
            continue
        if len(part) == 1:
            refusals.append((part[0], error))
            continue
        middle = len(part) // 2
        parts += [
            part[middle:],
            part[:middle],
        ]  # the first part first: of two rows with one key the later is refused
    return refusals
