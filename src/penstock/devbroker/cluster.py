"""What the broker is about: topics with their logs, producer ids, and the journals that make them last."""

from __future__ import annotations

import base64
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .codes import Code, RequestRefused
from .log import PartitionLog
from .options import TOPIC_SETTINGS, BrokerOptions, check_topic_config
from .storage import Journal, Storage

log = logging.getLogger("penstock.devbroker")

NODE_ID = 1
LEGAL_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
MAX_PARTITIONS = 10_000
PRODUCER_ID_BLOCK = 1000  # ids are journalled by the block, as Kafka's controller hands them out (KIP-730)


@dataclass(slots=True)
class Topic:
    """`config` holds only what was set; defaults are in options."""

    name: str
    id: uuid.UUID
    config: dict[str, str] = field(default_factory=dict)
    partitions: list[PartitionLog] = field(default_factory=list)

    @property
    def folder(self) -> str:
        return self.id.hex

    def setting(self, name: str) -> str:
        return self.config.get(name, TOPIC_SETTINGS[name].default)

    def apply(self) -> None:
        """Hand the settings that act to the logs."""
        for partition in self.partitions:
            partition.max_batch_bytes = int(self.setting("max.message.bytes"))
            partition.log_append_time = self.setting("message.timestamp.type") == "LogAppendTime"
            partition.retention_bytes = int(self.setting("retention.bytes"))


class Cluster:
    """All topics of one broker. Written by the broker's thread only."""

    def __init__(self, storage: Storage, options: BrokerOptions) -> None:
        self.options = options
        self.topics: dict[str, Topic] = {}
        self.topic_ids: dict[uuid.UUID, Topic] = {}
        self.cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.on_topic_changed: Callable[[Topic], None] = lambda topic: None  # made, or grown
        self.on_topic_deleted: Callable[[str], None] = lambda name: None
        self._storage = storage
        self._next_producer_id = self._producer_ids_below = 0
        self._meta = self._load_meta()

    # ------------------------------------------------------------------ topics
    def check_name(self, name: str) -> None:
        if not LEGAL_NAME.fullmatch(name) or name in (".", ".."):
            raise RequestRefused(
                Code.INVALID_TOPIC_EXCEPTION,
                f"the topic name {name[:260]!r} is not 1 to 249 of a-z A-Z 0-9 . _ -",
            )

    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        config: Mapping[str, Any] | None = None,
        dry: bool = False,
    ) -> Topic:
        """A new topic, durable when this returns. Raises RequestRefused."""
        self.check_name(name)
        if name in self.topics:
            raise RequestRefused(Code.TOPIC_ALREADY_EXISTS, f"the topic {name} exists")
        count = self.options.number("num.partitions") if partitions is None else partitions
        if not 1 <= count <= MAX_PARTITIONS:
            raise RequestRefused(
                Code.INVALID_PARTITIONS, f"{count} partitions for {name}: from 1 to {MAX_PARTITIONS}"
            )
        topic = Topic(name, uuid.uuid4(), check_topic_config(config or {}))
        if dry:
            return topic
        entry = {"topic": name, "id": topic.id.hex, "partitions": count, "config": topic.config}
        self._meta.append(entry)
        self._enter(topic, count)
        self.on_topic_changed(topic)
        return topic

    def add_partitions(self, name: str, count: int, dry: bool = False) -> None:
        """Partitions up to `count`. Raises RequestRefused."""
        topic = self.topic(name)
        if not len(topic.partitions) < count <= MAX_PARTITIONS:
            raise RequestRefused(
                Code.INVALID_PARTITIONS,
                f"the topic {name} has {len(topic.partitions)} partitions, {count} were asked for",
            )
        if not dry:
            self._meta.append({"grow": topic.id.hex, "partitions": count})
            self._grow(topic, count)
            self.on_topic_changed(topic)

    def delete_topic(self, topic: Topic) -> None:
        self._meta.append({"delete": topic.id.hex})
        del self.topics[topic.name], self.topic_ids[topic.id]
        for partition in topic.partitions:
            partition.delete()
        self._storage.drop_folder(topic.folder)
        self.on_topic_deleted(topic.name)

    def topic(self, name: str | None = None, topic_id: uuid.UUID | None = None) -> Topic:
        """By name or by id. Raises RequestRefused."""
        if name:
            if (topic := self.topics.get(name)) is not None:
                return topic
            raise RequestRefused(Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {name}")
        if topic_id is not None and (topic := self.topic_ids.get(topic_id)) is not None:
            return topic
        raise RequestRefused(Code.UNKNOWN_TOPIC_ID, f"there is no topic with id {topic_id}")

    def named(self, wire_topic: Any) -> Topic:
        """The topic that a part of a request names, whichever way its version does. Raises RequestRefused."""
        name = getattr(wire_topic, "name", None) or getattr(wire_topic, "topic", None)
        return self.topic(name, getattr(wire_topic, "topic_id", None))

    def log(self, topic: Topic, partition: int) -> PartitionLog:
        """Raises RequestRefused (UNKNOWN_TOPIC_OR_PARTITION)."""
        if not 0 <= partition < len(topic.partitions):
            raise RequestRefused(
                Code.UNKNOWN_TOPIC_OR_PARTITION, f"{topic.name} has no partition {partition}"
            )
        return topic.partitions[partition]

    def delete_records(self, topic: Topic, partition: int, offset: int) -> int:
        """The new log start offset; -1 asks for everything. Raises RequestRefused."""
        found = self.log(topic, partition)
        found.delete_before(found.high_watermark if offset == -1 else offset)
        self._meta.append({"start": topic.id.hex, "partition": partition, "offset": found.start_offset})
        return found.start_offset

    def new_producer_id(self) -> int:
        """An id no producer of this cluster ever had, restarts included."""
        if self._next_producer_id >= self._producer_ids_below:
            below = self._next_producer_id + PRODUCER_ID_BLOCK
            self._meta.append({"producer_ids_below": below})
            self._producer_ids_below = below
        self._next_producer_id += 1
        return self._next_producer_id - 1

    def close(self) -> None:
        for topic in self.topics.values():
            for partition in topic.partitions:
                partition.close()
        self._meta.close()
        self._storage.close()

    # ------------------------------------------------------------------ the journal of all that
    def _load_meta(self) -> Journal:
        journal = self._storage.journal("meta")
        entries, cut = journal.load()
        journal.close()
        if cut:
            log.warning("the journal of topics had a torn end: %d bytes were cut off", cut)
        counts: dict[str, int] = {}
        found: dict[str, Topic] = {}
        starts: dict[tuple[str, int], int] = {}
        deleted: list[str] = []
        for entry in entries:
            if "cluster" in entry:
                self.cluster_id = entry["cluster"]
            elif "topic" in entry:
                found[entry["id"]] = Topic(entry["topic"], uuid.UUID(entry["id"]), entry["config"])
                counts[entry["id"]] = entry["partitions"]
            elif "grow" in entry:
                counts[entry["grow"]] = entry["partitions"]
            elif "delete" in entry:
                found.pop(entry["delete"], None)
                deleted.append(entry["delete"])
            elif "start" in entry:
                starts[entry["start"], entry["partition"]] = entry["offset"]
            elif "producer_ids_below" in entry:
                self._next_producer_id = self._producer_ids_below = entry["producer_ids_below"]
        for folder in deleted:
            self._storage.drop_folder(folder)
        for topic in found.values():
            self._enter(topic, counts[topic.id.hex], starts)
        return self._storage.rewrite("meta", self._meta_entries())

    def _meta_entries(self) -> Iterator[dict[str, Any]]:
        yield {"cluster": self.cluster_id}
        yield {"producer_ids_below": self._producer_ids_below}
        for topic in self.topics.values():
            hex_id = topic.id.hex
            yield {
                "topic": topic.name,
                "id": hex_id,
                "partitions": len(topic.partitions),
                "config": topic.config,
            }
            for index, partition in enumerate(topic.partitions):
                if partition.start_offset:
                    yield {"start": hex_id, "partition": index, "offset": partition.start_offset}

    def _enter(self, topic: Topic, count: int, starts: Mapping[tuple[str, int], int] | None = None) -> None:
        self.topics[topic.name] = self.topic_ids[topic.id] = topic
        self._grow(topic, count, starts)

    def _grow(self, topic: Topic, count: int, starts: Mapping[tuple[str, int], int] | None = None) -> None:
        for index in range(len(topic.partitions), count):
            start = (starts or {}).get((topic.id.hex, index), 0)
            partition = PartitionLog(
                self._storage.segment(topic.folder, index), f"{topic.name}-{index}", start
            )
            topic.partitions.append(partition)
        topic.apply()
        if starts is not None:
            for partition in topic.partitions:
                if cut := partition.recover():
                    log.warning("%s had a torn end: %d bytes were cut off", partition.name, cut)
