"""Admin's shell: each call is a coroutine of the engine, waited for."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping
from os import getpid
from types import TracebackType
from typing import Any, Literal, TypeVar

from ..config import resolve
from ..engine.client import ClusterClient, with_client_id
from ..engine.list_offsets import EARLIEST, LATEST
from ..engine.thread import EngineThread
from ..errors import ClosedError
from ..types import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from . import groups as _groups
from . import topics as _topics
from .types import ClusterDescription, ConfigEntry, GroupDescription, GroupListing, NewTopic, TopicDescription

T = TypeVar("T")
Timeout = float | datetime.timedelta
OffsetSpec = Literal["earliest", "latest", "max_timestamp"] | int | datetime.datetime

_MAX_TIMESTAMP = -3  # KIP-734
_SPECS = {"earliest": EARLIEST, "latest": LATEST, "max_timestamp": _MAX_TIMESTAMP}
_HIGH_WATERMARK = -1


class Admin:
    """Looks after topics, groups and offsets.

        with Admin(bootstrap_servers='localhost:9092') as admin:
            admin.create_topics([NewTopic('orders', num_partitions=6)])

    Options are Apache Kafka's AdminClientConfig, with its names, defaults and meanings; see docs/configuration.md. Any thread
    may call. A call waits at most `timeout` (ms or a timedelta; `default.api.timeout.ms` by default) and raises
    KafkaTimeoutError, ConnectionFailedError where no broker could be reached, AuthorizationError, or a BrokerError with the
    broker's code. Where several names are given, all are tried; the error is that of the first that failed and its message tells
    of all. It does not survive fork() (ForkedError). Source: org.apache.kafka.clients.admin.Admin.
    """

    def __init__(self, **config: Any) -> None:
        self._closed = True  # until everything below has worked: __del__ may see a half-made object
        self._config = with_client_id("admin", resolve("admin", config))
        self._default_timeout_ms = float(self._config["default.api.timeout.ms"])
        self._request_timeout_ms = int(self._config["request.timeout.ms"])
        self._pid = getpid()
        self._engine = EngineThread(f"Admin {self._config['client.id']}")
        self._client = ClusterClient(self._engine, self._config, allow_auto_create=False)
        self._closed = False
        self._engine.post(self._client.start)
        self._engine.start()

    # ------------------------------------------------------------ topics

    def create_topics(
        self, topics: Iterable[NewTopic | str], *, validate_only: bool = False, timeout: Timeout | None = None
    ) -> None:
        """Create topics (a name alone: with the broker's defaults) and wait until the metadata shows them with leaders.

        BrokerError with the name TOPIC_ALREADY_EXISTS, INVALID_REPLICATION_FACTOR, ... `validate_only` creates nothing.
        """
        wanted = [
            topic if isinstance(topic, NewTopic) else NewTopic(topic) for topic in _several(topics, "topics")
        ]
        self._call(
            "creating topics",
            timeout,
            _topics.create,
            wanted,
            validate_only,
            self._request_timeout_ms,
        )

    def delete_topics(self, names: Iterable[str], *, timeout: Timeout | None = None) -> None:
        """Delete topics with all their records, and wait until the metadata shows them no more."""
        wanted = _several(names, "names")
        self._call("deleting topics", timeout, _topics.delete, wanted, self._request_timeout_ms)

    def describe_topics(
        self, names: Iterable[str] | None = None, *, timeout: Timeout | None = None
    ) -> dict[str, TopicDescription]:
        """Topics and their partitions, by name: these, or all. UnknownTopicOrPartitionError for a name that does not exist."""
        wanted = None if names is None else _several(names, "names")
        return self._call("describing topics", timeout, _topics.describe, wanted)

    def create_partitions(
        self, totals: Mapping[str, int], *, validate_only: bool = False, timeout: Timeout | None = None
    ) -> None:
        """Let topics grow to so many partitions in all. Keys move: murmur2 takes the number of partitions into account."""
        self._call(
            "adding partitions",
            timeout,
            _topics.create_partitions,
            dict(totals),
            validate_only,
            self._request_timeout_ms,
        )

    def describe_configs(
        self, topic: str | None = None, *, broker: int | None = None, timeout: Timeout | None = None
    ) -> dict[str, ConfigEntry]:
        """The options of a topic, or of a broker by its node id, by name."""
        if (topic is None) == (broker is None):
            raise ValueError("describe_configs() takes a topic or a broker, one of them")
        return self._call("describing options", timeout, _topics.configs, topic, broker)

    # ------------------------------------------------------------ records

    def list_offsets(
        self,
        specs: Mapping[TopicPartition, OffsetSpec],
        *,
        isolation_level: Literal["read_uncommitted", "read_committed"] = "read_uncommitted",
        timeout: Timeout | None = None,
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """For each partition the offset at its 'earliest' or 'latest' (next to be written) place, at 'max_timestamp', or the first
        whose timestamp is not below the given one (ms since 1970, or a datetime); None where no record is that young."""
        queries = {TopicPartition(*tp): _timestamp(spec) for tp, spec in specs.items()}
        isolation = {"read_uncommitted": 0, "read_committed": 1}[isolation_level]
        return self._call("listing offsets", timeout, _topics.find_offsets, queries, isolation)

    def delete_records(
        self, before: Mapping[TopicPartition, int | Literal["latest"]], *, timeout: Timeout | None = None
    ) -> dict[TopicPartition, int]:
        """Delete the records before an offset ('latest': all that are there now); the new first offset of each partition."""
        wanted = {
            TopicPartition(*tp): _HIGH_WATERMARK if offset == "latest" else int(offset)
            for tp, offset in before.items()
        }
        return self._call(
            "deleting records",
            timeout,
            _topics.delete_records,
            wanted,
            self._request_timeout_ms,
        )

    # ------------------------------------------------------------ groups

    def list_groups(
        self, *, states: Iterable[str] = (), types: Iterable[str] = (), timeout: Timeout | None = None
    ) -> list[GroupListing]:
        """The groups that the cluster knows, by name; those in `states` ("Stable", ...) and of `types` ("classic", ...) if given."""
        return self._call("listing groups", timeout, _groups.list_all, list(states), list(types))

    def describe_group(self, group_id: str, *, timeout: Timeout | None = None) -> GroupDescription:
        """A group's state, members and their partitions. GroupError (GROUP_ID_NOT_FOUND) if there is none of that name."""
        return self._call(f"describing group {group_id!r}", timeout, _groups.describe, group_id)

    def group_offsets(
        self, group_id: str, *, timeout: Timeout | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """All that the group has committed; empty if there is nothing, or no such group."""
        return self._call(f"reading offsets of {group_id!r}", timeout, _groups.offsets, group_id)

    def alter_group_offsets(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, int | OffsetAndMetadata],
        *,
        timeout: Timeout | None = None,
    ) -> None:
        """Set what the group has committed, backwards too; makes the group if there is none. GroupError while it has members."""
        wanted = {
            TopicPartition(*tp): o if isinstance(o, OffsetAndMetadata) else OffsetAndMetadata(int(o))
            for tp, o in offsets.items()
        }
        for tp, offset in wanted.items():
            if offset.offset < 0:
                raise ValueError(f"cannot set offset {offset.offset} of {tp}: offsets start at 0")
        self._call(f"setting offsets of {group_id!r}", timeout, _groups.alter_offsets, group_id, wanted)

    def delete_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition], *, timeout: Timeout | None = None
    ) -> None:
        """Forget what the group has committed for these partitions. GroupError for topics that a member is subscribed to."""
        wanted = [TopicPartition(*tp) for tp in partitions]
        self._call(
            f"deleting offsets of {group_id!r}",
            timeout,
            _groups.delete_offsets,
            group_id,
            wanted,
        )

    def delete_groups(self, group_ids: Iterable[str], *, timeout: Timeout | None = None) -> None:
        """Delete groups without members, with their offsets. GroupError: NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND."""
        self._call("deleting groups", timeout, _groups.delete, _several(group_ids, "group_ids"))

    # ------------------------------------------------------------ the cluster

    def describe_cluster(self, *, timeout: Timeout | None = None) -> ClusterDescription:
        """Its id, its brokers, and the one that takes changes."""
        return self._call("describing the cluster", timeout, _topics.cluster)

    # ------------------------------------------------------------ life

    def close(self) -> None:
        """End the connections and the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if getpid() == self._pid:
            self._engine.post(self._client.close)
            self._engine.stop()

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._closed and getpid() == self._pid:
            _warn(
                f"unclosed {self!r}; use close() or a with block", ResourceWarning, source=self, stacklevel=2
            )
            self.close()

    def __repr__(self) -> str:
        config = getattr(self, "_config", None)
        return "<Admin, not constructed>" if config is None else f"<Admin client={config['client.id']!r}>"

    def _call(
        self, what: str, timeout: Timeout | None, work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> T:
        """Have the engine do work(client, *arguments) within the time and wait, open to Ctrl-C."""
        if self._closed:
            raise ClosedError("this Admin is closed; make a new one")
        timeout_ms = self._default_timeout_ms
        if timeout is not None:
            timeout_ms = (
                timeout.total_seconds() * 1000 if isinstance(timeout, datetime.timedelta) else float(timeout)
            )

        async def bounded() -> T:
            async with self._client.within(timeout_ms, what):
                return await work(self._client, *arguments)
            raise AssertionError("within() raises or lets through")

        return self._engine.ask(bounded)


def _several(names: Iterable[T], what: str) -> list[T]:
    """A list; a lone string is taken for the mistake that it is."""
    if isinstance(names, str):
        raise TypeError(f"{what} is a list, not one string: [{names!r}]")
    return list(names)


def _timestamp(spec: OffsetSpec) -> int:
    """What ListOffsets is asked for."""
    if isinstance(spec, str):
        if spec not in _SPECS:
            raise ValueError(
                f"an offset is 'earliest', 'latest', 'max_timestamp', ms since 1970 or a datetime; got {spec!r}"
            )
        return _SPECS[spec]
    if isinstance(spec, datetime.datetime):
        return int(spec.timestamp() * 1000)
    return int(spec)
