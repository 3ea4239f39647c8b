"""Commits of a processor: what is done, up to the first record that is not; and with transactions what handlers returned for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..consumer import AsyncKafkaConsumer
from ..errors import CommitFailedError, KafkaError
from ..types import OffsetAndMetadata, TopicPartition
from .finished import MAX_CHARS
from .lanes import Ownership
from .work import Output

if TYPE_CHECKING:
    from .transactions import TransactionalCommitter

_log = logging.getLogger("penstock.processing")


class Committer:
    """One commit at a time. `owned` is the runtime's, read here."""

    def __init__(
        self,
        consumer: AsyncKafkaConsumer,
        owned: Mapping[TopicPartition, Ownership],
        transactions: TransactionalCommitter | None,
        timeout_s: float,
    ) -> None:
        """`timeout_s`: of one commit without transactions; it is tried again at the next interval."""
        self._timeout_ms = timeout_s * 1000
        self._consumer = consumer
        self._owned = owned
        self._transactions = transactions
        # What lies beyond the offset has its outputs in memory until they are written with it: nobody may take it for done.
        self._most_metadata = 0 if transactions is not None else MAX_CHARS
        self._one = asyncio.Lock()
        self.failures = 0  # since the last commit that was stored

    async def for_ever(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self.commit()

    async def commit(self, partitions: Iterable[Ownership] | None = None) -> bool:
        """Commit what is new (of `partitions`); whether all of it is stored. What fails is told in the log, and tried at the next.

        A caller that is cancelled leaves the commit under way: its thread cannot be stopped, and the next commit has to come
        after it. Else outputs that it has written would be written again with those of the next transaction.
        """
        running = asyncio.ensure_future(self._commit(partitions))
        running.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # nobody may wait for it any more
        return await asyncio.shield(running)

    async def _commit(self, partitions: Iterable[Ownership] | None) -> bool:
        async with self._one:
            wanted = list(self._owned.values()) if partitions is None else list(partitions)
            entries: dict[TopicPartition, OffsetAndMetadata] = {}
            owners: dict[TopicPartition, Ownership] = {}
            for owned in wanted:
                if not owned.fenced and (entry := owned.to_commit(self._most_metadata)) is not None:
                    entries[owned.topic_partition] = entry
                    owners[owned.topic_partition] = owned
            if not entries:
                return True
            try:
                if self._transactions is None:
                    rewinds = any(owned.rewinds for owned in owners.values())
                    await self._consumer.commit(entries, allow_rewind=rewinds, timeout=self._timeout_ms)
                else:
                    await self._transact(self._transactions, entries, owners)
            except BaseException as error:
                for owned in owners.values():
                    owned.not_committed()
                return self._failed(error, len(entries))
            self.failures = 0
            for tp, owned in owners.items():
                owned.committed_as(entries[tp])
                owned.rewinds = False
            return True

    def _failed(self, error: BaseException, count: int) -> bool:
        """False, if the next commit may mend it."""
        if isinstance(
            error, CommitFailedError
        ):  # what is kept is committed after the rebalance, the rest by its new owner
            _log.info("a commit of %d partitions has to wait for a rebalance: %s", count, error)
            return False
        if not isinstance(error, KafkaError) or (self._transactions is not None and not error.retriable):
            raise error
        self.failures += 1
        _log.warning("a commit of %d partitions failed and will be tried again: %s", count, error)
        return False

    async def _transact(
        self,
        transactions: TransactionalCommitter,
        entries: Mapping[TopicPartition, OffsetAndMetadata],
        owners: Mapping[TopicPartition, Ownership],
    ) -> None:
        """What handlers returned for all that lies before the new offsets goes with them, in the order of the log.

        It is forgotten only once the transaction is committed: after an abort the next one carries it again.
        """
        outputs: list[tuple[str, Output]] = []
        written: list[tuple[Ownership, int]] = []
        for tp, owned in owners.items():
            below = sorted(offset for offset in owned.outputs if offset < entries[tp].offset)
            for offset in below:
                outputs.extend(owned.outputs[offset])
                written.append((owned, offset))
        metadata = self._consumer.group_metadata()
        await asyncio.to_thread(transactions.commit, dict(entries), outputs, metadata)
        for owned, offset in written:
            del owned.outputs[offset]
