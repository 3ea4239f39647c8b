"""Whether a position still lies in the log after its leader changed (KIP-320). Pure.

A leader that was elected uncleanly may lack the end of what was read. What it calls the end of the epoch of the last record that
was read tells: what lies beyond was lost, and other records may stand there now.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

UNDEFINED: Final = -1


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """A leader's answer: the largest epoch in its log that is not above the one asked for, and the offset after its last record.

    Both are UNDEFINED where the log has no epoch as large as the one asked for, or no epochs at all (message format v1).
    """

    leader_epoch: int
    end_offset: int

    @property
    def is_undefined(self) -> bool:
        return UNDEFINED in (self.leader_epoch, self.end_offset)


class Verdict(Enum):
    """What an answer means for a position."""

    VALID = auto()
    """All that was read stands in the log. What lies beyond the position does so as far as the end of the epoch."""
    TRUNCATED = auto()
    """The log was cut below the position."""
    OTHER_HISTORY = auto()
    """The epoch of the position was never one of this log's: the topic was made again, or all that was read is lost."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`offset` and `leader_epoch` say where to go on; both UNDEFINED with OTHER_HISTORY, where nothing says it."""

    verdict: Verdict
    offset: int = UNDEFINED
    leader_epoch: int = UNDEFINED


def needs_validation(position_epoch: int, leader_epoch: int) -> bool:
    """Whether a position whose last record was written under `position_epoch` must be asked about at a leader of `leader_epoch`.

    Within one epoch a log only grows, so the leader that wrote the record has it. Without epochs nothing can be asked.
    """
    return position_epoch >= 0 and leader_epoch >= 0 and position_epoch != leader_epoch


def judge(offset: int, position_epoch: int, end: EpochEnd, leader_epoch: int) -> Judgement:
    """What the answer `end` to a question about `position_epoch` means for the position `offset`.

    `leader_epoch` is that of the leader that answered. Source: KIP-320; Java's SubscriptionState.maybeCompleteValidation, which
    also takes an undefined answer of a log without epochs for a truncation.
    """
    if end.is_undefined:
        if position_epoch > leader_epoch >= 0:
            return Judgement(Verdict.OTHER_HISTORY)
        return Judgement(Verdict.VALID, offset, position_epoch)
    if offset > end.end_offset:
        return Judgement(Verdict.TRUNCATED, end.end_offset, end.leader_epoch)
    # A smaller epoch than the one asked for: its records are gone, yet not one of them lies below the position's offset. The next
    # question must be about an epoch that the leader has.
    return Judgement(Verdict.VALID, offset, min(position_epoch, end.leader_epoch))
