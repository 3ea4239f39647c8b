"""The producer's options, and `retries`, which the admin client has as well.

Names, types, defaults and ranges are those of Apache Kafka 4.3's ProducerConfig.
Source: https://kafka.apache.org/documentation/#producerconfigs
"""

from __future__ import annotations

from typing import Final

from .option import ADMIN, INT_MAX, PRODUCER, Kind, Option, Status

_NO_TRANSACTIONS: Final = "penstock's own transactions need no outside coordinator"

PRODUCER_OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "key.serializer", Kind.CALLABLE, None, "high",
        "A function from the key to bytes; None takes bytes as they are. Java requires a class here.",
        PRODUCER,
    ),
    Option(
        "value.serializer", Kind.CALLABLE, None, "high",
        "A function from the value to bytes; None takes bytes as they are. Java requires a class here.",
        PRODUCER,
    ),
    Option(
        "acks", Kind.STRING, "all", "low",
        "Who must have a record before it counts as stored: `all` (or -1) in-sync replicas, `1` the leader, `0` nobody.",
        PRODUCER, choices=("all", "-1", "0", "1"),
    ),
    Option(
        "enable.idempotence", Kind.BOOLEAN, True, "low",
        "Number the batches so that a retry never stores a record twice or out of order (KIP-98). Needs `acks=all`, retries and at most "
        "five requests in flight.",
        PRODUCER,
    ),
    Option(
        "linger.ms", Kind.LONG, 5, "medium",
        "How long a batch waits for more records before it is sent.",
        PRODUCER, minimum=0,
    ),
    Option(
        "batch.size", Kind.INT, 16_384, "medium",
        "The bytes of a batch that is sent without waiting for `linger.ms`.",
        PRODUCER, minimum=0,
    ),
    Option(
        "buffer.memory", Kind.LONG, 33_554_432, "high",
        "The most bytes of records that wait to be sent. When it is full, `send()` waits up to `max.block.ms`.",
        PRODUCER, minimum=0,
    ),
    Option(
        "max.block.ms", Kind.LONG, 60_000, "medium",
        "How long `send()` may wait for room in the buffer or for metadata.",
        PRODUCER, minimum=0,
    ),
    Option(
        "max.request.size", Kind.INT, 1_048_576, "medium",
        "The most bytes of one request, and so of one record.",
        PRODUCER, minimum=0,
    ),
    Option(
        "compression.type", Kind.STRING, "none", "high",
        "The codec of batches. Larger batches compress better.",
        PRODUCER, choices=("none", "gzip", "snappy", "lz4", "zstd"),
    ),
    Option(
        "compression.gzip.level", Kind.INT, -1, "medium",
        "The effort of gzip, 1 to 9; -1 is the codec's own default.",
        PRODUCER, minimum=-1, maximum=9,
    ),
    Option(
        "compression.lz4.level", Kind.INT, 9, "medium",
        "The effort of lz4.",
        PRODUCER, minimum=1, maximum=17,
    ),
    Option(
        "compression.zstd.level", Kind.INT, 3, "medium",
        "The effort of zstd.",
        PRODUCER, minimum=-131_072, maximum=22,
    ),
    Option(
        "max.in.flight.requests.per.connection", Kind.INT, 5, "low",
        "How many requests may wait for an answer on one connection.",
        PRODUCER, minimum=1,
    ),
    Option(
        "delivery.timeout.ms", Kind.INT, 120_000, "medium",
        "How long after `send()` a record is stored or reported as failed, with all retries. At least `linger.ms` + `request.timeout.ms`.",
        PRODUCER, minimum=0,
    ),
    Option(
        "retries", Kind.INT, INT_MAX, "high",
        "How often a failed request is sent again. Bound the time by `delivery.timeout.ms` rather than the number.",
        PRODUCER, minimum=0, maximum=INT_MAX,
    ),
    Option(
        "retries", Kind.INT, INT_MAX, "low",
        "How often a failed request is sent again.",
        ADMIN, minimum=0, maximum=INT_MAX, status=Status.NO_EFFECT,
        instead="retries are bounded by default.api.timeout.ms, or the timeout given",
    ),
    Option(
        "partitioner.class", Kind.CALLABLE, None, "medium",
        "What chooses the partition of a record that names none. None: by the hash of the key, as Java's client does, and for records "
        "without key the partition of the current batch.",
        PRODUCER, status=Status.NOT_YET, instead="pass partition= to send()",
    ),
    Option(
        "partitioner.ignore.keys", Kind.BOOLEAN, False, "medium",
        "Spread records over partitions as if they had no key.",
        PRODUCER,
    ),
    Option(
        "partitioner.adaptive.partitioning.enable", Kind.BOOLEAN, True, "low",
        "Send more records without key to brokers that answer sooner (KIP-794).",
        PRODUCER,
    ),
    Option(
        "partitioner.availability.timeout.ms", Kind.LONG, 0, "low",
        "Leave out partitions whose broker has not taken a batch for this long; 0 never does (KIP-794).",
        PRODUCER, minimum=0, status=Status.NOT_YET, instead="leave it at 0",
    ),
    Option(
        "metadata.max.idle.ms", Kind.LONG, 300_000, "low",
        "Forget a topic that was not written to for this long.",
        PRODUCER, minimum=5_000, status=Status.NO_EFFECT, instead="topics once written to stay known",
    ),
    Option(
        "transactional.id", Kind.STRING, None, "low",
        "The name under which a producer's transactions outlive it (KIP-98).",
        PRODUCER,
    ),
    Option(
        "transaction.timeout.ms", Kind.INT, 60_000, "low",
        "How long a transaction may stay open before the coordinator aborts it (KIP-98).",
        PRODUCER, minimum=1,
    ),
    Option(
        "transaction.two.phase.commit.enable", Kind.BOOLEAN, False, "low",
        "Let an outside coordinator end the producer's transactions (KIP-939).",
        PRODUCER, status=Status.NOT_YET, instead=_NO_TRANSACTIONS,
    ),
)  # fmt: skip
