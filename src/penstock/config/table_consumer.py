"""The consumer's options.

Names, types, defaults and ranges are those of Apache Kafka 4.3's ConsumerConfig, where no comment says otherwise.
Source: https://kafka.apache.org/documentation/#consumerconfigs
"""

from __future__ import annotations

from typing import Final

from .option import CONSUMER, Kind, Option, Status

CONSUMER_OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "group.id", Kind.STRING, None, "high",
        "The group that this consumer is a member of. Needed by `subscribe()` and to commit; `assign()` works without.",
        CONSUMER,
    ),
    Option(
        "group.instance.id", Kind.STRING, None, "medium",
        "A name of this member that outlives a restart. With it the member is static: it may be away for `session.timeout.ms` without a "
        "rebalance (KIP-345). Each running member needs its own.",
        CONSUMER,
    ),
    Option(
        "group.protocol", Kind.STRING, "classic", "high",
        "The rebalance protocol: `classic`; `consumer`, in which the coordinator assigns and only what moves stops (KIP-848, Kafka 4.0 and "
        "later); or penstock's own `auto`: `consumer` where the cluster offers it, else `classic`.",
        CONSUMER, choices=("classic", "consumer", "auto"),
    ),
    Option(
        "group.remote.assignor", Kind.STRING, None, "medium",
        "The broker's assignor, with `group.protocol=consumer` (KIP-848): Kafka has `uniform` and `range`. None: the broker's default.",
        CONSUMER,
    ),
    Option(
        "session.timeout.ms", Kind.INT, 45_000, "high",
        "A member that the coordinator has not heard of for this long is taken out of the group, and its partitions go to others. Must lie "
        "between the broker's `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.",
        CONSUMER, minimum=1,
    ),
    Option(
        "heartbeat.interval.ms", Kind.INT, 3_000, "high",
        "The time between heartbeats to the coordinator. Less than `session.timeout.ms`, at most a third of it as a rule.",
        CONSUMER, minimum=1,
    ),
    Option(
        "partition.assignment.strategy", Kind.LIST, ("range", "cooperative-sticky"), "medium",
        "The assignors that this member supports, best first; the group uses one that all members have. `range` keeps neighbours together "
        "and gives partition n of topics with equally many partitions to one member; `roundrobin` deals all partitions out one by one; "
        "`sticky` and `cooperative-sticky` balance all topics together and move as little as they can, the latter without stopping what "
        "stays (KIP-429). An entry is one of these names, Java's class name of it, or an `Assignor` of one's own (a subclass, or an "
        "instance for this consumer alone). Rebalancing is cooperative only if every entry supports it.",
        CONSUMER, choices=("range", "roundrobin", "sticky", "cooperative-sticky"),
    ),
    Option(
        "max.poll.interval.ms", Kind.INT, 300_000, "medium",
        "The longest time between two calls of `poll()`. A member that takes longer leaves the group, so that others can go on; its next "
        "`poll()` joins again. Also how long a rebalance waits for this member.",
        CONSUMER, minimum=1,
    ),
    Option(
        "max.poll.records", Kind.INT, 500, "medium",
        "The most records that one `poll()` returns. Does not change how much is fetched.",
        CONSUMER, minimum=1,
    ),
    Option(
        "enable.auto.commit", Kind.BOOLEAN, True, "medium",
        "Commit in the background, every `auto.commit.interval.ms`, what earlier polls returned; also before a revocation and on "
        "`close()`. Without `group.id` nothing is committed.",
        CONSUMER,
    ),
    Option(
        "auto.commit.interval.ms", Kind.INT, 5_000, "low",
        "The time between two automatic commits, with `enable.auto.commit`.",
        CONSUMER, minimum=0,
    ),
    Option(
        "auto.offset.reset", Kind.STRING, "latest", "medium",
        "Where to start in a partition where the group has committed nothing, or whose committed offset no longer exists: `earliest`, "
        "`latest`, `by_duration:PT1H` (that long before now, an ISO-8601 duration; KIP-1106), or `none` (an error).",
        CONSUMER,
    ),
    Option(
        "key.deserializer", Kind.CALLABLE, None, "high",
        "A function from bytes to the key; None leaves bytes. Called when `record.key` is first read, and never with None. Java requires "
        "a class here.",
        CONSUMER,
    ),
    Option(
        "value.deserializer", Kind.CALLABLE, None, "high",
        "A function from bytes to the value; None leaves bytes. Called when `record.value` is first read, and never with None. Java "
        "requires a class here.",
        CONSUMER,
    ),
    Option(
        "isolation.level", Kind.STRING, "read_uncommitted", "medium",
        "`read_committed` returns records of transactions only once they are committed, and reads up to the last stable offset; "
        "`read_uncommitted` returns all (KIP-98).",
        CONSUMER, choices=("read_committed", "read_uncommitted"),
    ),
    Option(
        "fetch.min.bytes", Kind.INT, 1, "high",
        "A broker answers a fetch when it has this much, or when `fetch.max.wait.ms` is over. More means fewer, larger answers.",
        CONSUMER, minimum=0,
    ),
    Option(
        "fetch.max.wait.ms", Kind.INT, 500, "low",
        "How long a broker may wait for `fetch.min.bytes`. Less than `request.timeout.ms`.",
        CONSUMER, minimum=0,
    ),
    Option(
        "fetch.max.bytes", Kind.INT, 52_428_800, "medium",
        "The most bytes in one fetch answer. A single larger batch still comes, so that reading goes on.",
        CONSUMER, minimum=0,
    ),
    Option(
        "max.partition.fetch.bytes", Kind.INT, 1_048_576, "high",
        "The most bytes of one partition in one fetch answer. A single larger batch still comes, so that reading goes on.",
        CONSUMER, minimum=0,
    ),
    Option(
        "fetch.buffer.bytes", Kind.LONG, 16_777_216, "medium",
        "The most bytes of decoded records that wait for `poll()`. When it is full, the sockets are not read until there is room.",
        CONSUMER, minimum=1, own=True,
    ),
    Option(
        "fetch.max.batch.bytes", Kind.LONG, 268_435_456, "medium",
        "The most bytes of one record batch after decompression. A larger one is a RecordTooLargeError, not an exhausted memory.",
        CONSUMER, minimum=1, own=True,
    ),
    Option(
        "check.crcs", Kind.BOOLEAN, True, "low",
        "Check the checksum of every record batch, so that bytes damaged on the way or on a disk are an error, not a record.",
        CONSUMER,
    ),
    Option(
        "client.rack", Kind.STRING, "", "low",
        "Where this client runs. Brokers with a rack-aware replica selector let it read from a follower nearby (KIP-392).",
        CONSUMER,
    ),
    Option(
        "exclude.internal.topics", Kind.BOOLEAN, True, "medium",
        "Leave Kafka's own topics, such as `__consumer_offsets`, out of a subscription by pattern and out of `topics()`.",
        CONSUMER,
    ),
    Option(
        "allow.auto.create.topics", Kind.BOOLEAN, True, "medium",
        "Let the broker create a topic that is subscribed to or assigned and does not exist, if the broker allows it too.",
        CONSUMER,
    ),
    Option(
        "interceptor.classes", Kind.OBJECTS, (), "low",
        "Objects that see what is consumed and committed: instances, classes, or texts such as `my_package.audit:Interceptor`. Each has "
        "any of `configure(config)`, `on_consume(records)` (returns the records that `poll()` is to return), `on_commit(offsets)` and "
        "`close()`. They are called in this order, each with what the one before returned; what they raise is logged, not raised "
        "(KIP-42).",
        CONSUMER,
    ),
    Option(
        "enable.metrics.push", Kind.BOOLEAN, True, "low",
        "Send this consumer's measurements to brokers that ask for them (KIP-714). Nothing is sent to others.",
        CONSUMER,
    ),
    Option(
        "metrics.sample.window.ms", Kind.LONG, 30_000, "low",
        "The length of one window over which means, extremes and rates are computed.",
        CONSUMER, minimum=1,
    ),
    Option(
        "metrics.num.samples", Kind.INT, 2, "low",
        "How many windows are kept: means, extremes and rates are over as many times `metrics.sample.window.ms`.",
        CONSUMER, minimum=1,
    ),
    Option(
        "share.acknowledgement.mode", Kind.STRING, "implicit", "medium",
        "How a share consumer acknowledges records (KIP-932).",
        CONSUMER, choices=("implicit", "explicit"), status=Status.NOT_YET, instead="share groups are not in this version",
    ),
    Option(
        "share.acquire.mode", Kind.STRING, "batch_optimized", "medium",
        "How many records a share consumer acquires at once (KAFKA-19020).",
        CONSUMER, choices=("batch_optimized", "record_limit"), status=Status.NOT_YET,
        instead="share groups are not in this version",
    ),
)  # fmt: skip
