"""What the coordinators must not forget: committed offsets and transactions, each in a journal of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.types import OffsetAndMetadata, TopicPartition

from .storage import Storage
from .transactions import Transaction, TransactionState

log = logging.getLogger("penstock.devbroker")

COMPACT_FROM = 20_000  # entries; a journal that grows past this, and is mostly history, is written anew

Offsets = dict[TopicPartition, OffsetAndMetadata]


class Store:
    """A journal, and what its entries add up to. Subclasses say how (`_apply`) and with which entries it begins anew."""

    name: str

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        journal = storage.journal(self.name)
        entries, cut = journal.load()
        journal.close()
        if cut:
            log.warning("the journal of %s had a torn end: %d bytes were cut off", self.name, cut)
        for entry in entries:
            self._apply(entry)
        self._journal = storage.rewrite(self.name, self._entries())

    def _write(self, entry: dict[str, Any]) -> None:
        self._journal.append(entry)
        self._apply(entry)
        if self._journal.entries > COMPACT_FROM + 10 * self._size():
            self._journal.close()
            self._journal = self._storage.rewrite(self.name, self._entries())

    def close(self) -> None:
        self._journal.close()

    def _apply(self, entry: dict[str, Any]) -> None:
        raise NotImplementedError

    def _entries(self) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def _size(self) -> int:
        raise NotImplementedError


@dataclass(slots=True)
class StoredGroup:
    """`pending`: by producer id, offsets that wait for the end of a transaction."""

    offsets: Offsets = field(default_factory=dict)
    pending: dict[int, Offsets] = field(default_factory=dict)


class OffsetStore(Store):
    """Committed offsets. The machine of groups decides; this only remembers."""

    name = "offsets"

    def __init__(self, storage: Storage) -> None:
        self.live: dict[str, StoredGroup] = {}
        super().__init__(storage)

    def store(
        self, group_id: str, offsets: Mapping[TopicPartition, OffsetAndMetadata | None], producer_id: int = -1
    ) -> None:
        self._write(self._entry(group_id, offsets, producer_id))

    def decide(self, group_id: str, producer_id: int, commit: bool) -> None:
        self._write({"group": group_id, "producer": producer_id, "commit": commit})

    def forget(self, group_id: str) -> None:
        self._write({"group": group_id, "gone": True})

    @staticmethod
    def _entry(
        group_id: str, offsets: Mapping[TopicPartition, OffsetAndMetadata | None], producer_id: int = -1
    ) -> dict[str, Any]:
        rows: list[list[Any]] = []
        for (topic, partition), value in offsets.items():
            more = [] if value is None else [value.offset, value.metadata, value.leader_epoch]
            rows.append([topic, partition, *more])
        entry: dict[str, Any] = {"group": group_id, "offsets": rows}
        return entry if producer_id < 0 else {**entry, "producer": producer_id}

    def _apply(self, entry: dict[str, Any]) -> None:
        if entry.get("gone"):
            self.live.pop(entry["group"], None)
            return
        group = self.live.setdefault(entry["group"], StoredGroup())
        producer_id = entry.get("producer", -1)
        if "commit" in entry:
            waiting = group.pending.pop(producer_id, {})
            if entry["commit"]:
                group.offsets.update(waiting)
            return
        offsets = group.offsets if producer_id < 0 else group.pending.setdefault(producer_id, {})
        for topic, partition, *value in entry["offsets"]:
            if value:
                offsets[TopicPartition(topic, partition)] = OffsetAndMetadata(*value)
            else:
                offsets.pop(TopicPartition(topic, partition), None)

    def _entries(self) -> Iterator[dict[str, Any]]:
        for group_id, group in self.live.items():
            yield self._entry(group_id, group.offsets)
            for producer_id, offsets in group.pending.items():
                yield self._entry(group_id, offsets, producer_id)

    def _size(self) -> int:
        return len(self.live)


class TransactionStore(Store):
    """Transactional ids, each as it last was."""

    name = "transactions"

    def __init__(self, storage: Storage) -> None:
        self.live: dict[str, Transaction] = {}
        super().__init__(storage)

    def store(self, transaction: Transaction) -> None:
        self._write(self._entry(transaction))

    @staticmethod
    def _entry(transaction: Transaction) -> dict[str, Any]:
        return {
            "id": transaction.transactional_id,
            "producer": transaction.producer_id,
            "epoch": transaction.epoch,
            "timeout": transaction.timeout_ms,
            "state": transaction.state.value,
            "partitions": [list(each) for each in sorted(transaction.partitions)],
            "groups": sorted(transaction.groups),
            "ended": list(transaction.ended),
        }

    def _apply(self, entry: dict[str, Any]) -> None:
        self.live[entry["id"]] = Transaction(
            entry["id"],
            entry["producer"],
            entry["epoch"],
            entry["timeout"],
            TransactionState(entry["state"]),
            {TopicPartition(topic, partition) for topic, partition in entry["partitions"]},
            set(entry["groups"]),
            ended=tuple(entry.get("ended", (-1, -1))),
        )

    def _entries(self) -> Iterator[dict[str, Any]]:
        return map(self._entry, self.live.values())

    def _size(self) -> int:
        return len(self.live)
