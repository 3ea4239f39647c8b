"""The rule of commits: within an ownership a partition's committed offset never moves back by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import CommitRewindError
from ..types import OffsetAndMetadata, TopicPartition


class CommitLedger:
    """The highest offset that is known to be committed of each partition, since this member was given it: t = max(t, offset).

    A partition that is revoked is forgotten: whoever owns it next may commit further, and on its return its committed offset is
    read anew.
    """

    def __init__(self) -> None:
        self._committed: dict[TopicPartition, int] = {}

    def check(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], *, allow_rewind: bool
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """What to send. CommitRewindError names the partitions that would go back, unless `allow_rewind`.

        An offset equal to the committed one is sent: its metadata may differ, and it keeps offsets of idle groups alive.
        """
        back = {tp: o.offset for tp, o in offsets.items() if o.offset < self._committed.get(tp, 0)}
        if back and not allow_rewind:
            told = "; ".join(
                f"{tp}: {self._committed[tp]} is committed, {offset} was asked" for tp, offset in back.items()
            )
            raise CommitRewindError(
                f"the commit would move back ({told}); pass allow_rewind=True if records are meant to be read again",
                back,
            )
        return dict(offsets)

    def not_behind(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Only those that do not go back: for commits that nobody asked for by name (after a seek back, auto-commit waits)."""
        return {tp: o for tp, o in offsets.items() if o.offset >= self._committed.get(tp, 0)}

    def acknowledged(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """The coordinator has stored these, or has told them."""
        for tp, entry in offsets.items():
            self._committed[tp] = entry.offset

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are no longer ours."""
        for tp in partitions:
            self._committed.pop(tp, None)
