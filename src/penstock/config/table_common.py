"""The options that every client has: connections, metadata, retries, measurements.

Names, types, defaults and ranges are those of Apache Kafka 4.3's CommonClientConfigs.
Source: https://kafka.apache.org/documentation/#configuration
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from .option import ADMIN, ALL, CONSUMER, PRODUCER, REQUIRED, Kind, Option, Status

_MEASURING: Final = "only a consumer measures"

COMMON: Final[tuple[Option, ...]] = (
    Option(
        "bootstrap.servers", Kind.LIST, REQUIRED, "high",
        "Where to find the cluster: `host:port` entries, as a list or separated by commas, IPv6 addresses in brackets. One that answers "
        "is enough, since it names the others; two or three make the start survive a dead broker.",
        ALL,
    ),
    Option(
        "client.id", Kind.STRING, "", "low",
        "A name for this client. Brokers write it to their logs and apply quotas by it.",
        ALL,
    ),
    Option(
        "client.dns.lookup", Kind.STRING, "use_all_dns_ips", "medium",
        "How a host name with several addresses is used. `use_all_dns_ips` tries one after the other.",
        ALL,
        choices=("use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"),
        not_yet=("resolve_canonical_bootstrap_servers_only",),
    ),
    Option(
        "metadata.max.age.ms", Kind.LONG, 300_000, "low",
        "Metadata of brokers and partitions is asked for again after this time at the latest, even when nothing went wrong, so that new "
        "partitions are seen.",
        ALL, minimum=0,
    ),
    Option(
        "metadata.recovery.strategy", Kind.STRING, "rebootstrap", "low",
        "What to do when no known broker can be reached: `rebootstrap` starts again from `bootstrap.servers`, `none` goes on trying the "
        "known brokers (KIP-899).",
        ALL, choices=("rebootstrap", "none"),
    ),
    Option(
        "metadata.recovery.rebootstrap.trigger.ms", Kind.LONG, 300_000, "low",
        "With `rebootstrap`: how long the known brokers may give no metadata, though they can be reached, before the client leaves them "
        "and starts again from `bootstrap.servers` (KIP-1102). When none can be reached it does so at once.",
        ALL, minimum=0,
    ),
    Option(
        "send.buffer.bytes", Kind.INT, 131_072, "medium",
        "The size of the socket's send buffer (SO_SNDBUF); -1 leaves it to the operating system.",
        ALL, minimum=-1,
    ),
    Option(
        "receive.buffer.bytes", Kind.INT, 65_536, "medium",
        "The size of the socket's receive buffer (SO_RCVBUF); -1 leaves it to the operating system, which lets it grow with the "
        "traffic. A consumer's default is -1, where Java's is 65536: while one response is decoded the next one can then arrive whole, "
        "which doubles the rate at which 100-byte records are read.",
        ALL, minimum=-1, per_client=MappingProxyType({"producer": 32_768, "consumer": -1}),
    ),
    Option(
        "reconnect.backoff.ms", Kind.LONG, 50, "low",
        "The wait before a broker that could not be reached is tried again; doubles with each failure up to `reconnect.backoff.max.ms`, "
        "with jitter.",
        ALL, minimum=0,
    ),
    Option(
        "reconnect.backoff.max.ms", Kind.LONG, 1_000, "low",
        "The longest wait before a broker that could not be reached is tried again.",
        ALL, minimum=0,
    ),
    Option(
        "retry.backoff.ms", Kind.LONG, 100, "low",
        "The wait before a failed request is sent again; doubles with each failure up to `retry.backoff.max.ms`, with jitter (KIP-580).",
        ALL, minimum=0,
    ),
    Option(
        "retry.backoff.max.ms", Kind.LONG, 1_000, "low",
        "The longest wait before a failed request is sent again (KIP-580).",
        ALL, minimum=0,
    ),
    Option(
        "request.timeout.ms", Kind.INT, 30_000, "medium",
        "How long a broker may take to answer a request. Afterwards the connection is closed and the request counts as failed.",
        ALL, minimum=0,
    ),
    Option(
        "default.api.timeout.ms", Kind.INT, 60_000, "medium",
        "How long a call that waits, such as `commit()` or `position()`, may take with all its retries when it is not given a timeout.",
        CONSUMER + ADMIN, minimum=0,
    ),
    Option(
        "socket.connection.setup.timeout.ms", Kind.LONG, 10_000, "medium",
        "How long opening a connection may take.",
        ALL, minimum=0,
    ),
    Option(
        "socket.connection.setup.timeout.max.ms", Kind.LONG, 30_000, "medium",
        "The longest that opening a connection may take after earlier attempts failed.",
        ALL, minimum=0, status=Status.NO_EFFECT,
        instead="each attempt is given socket.connection.setup.timeout.ms",
    ),
    Option(
        "connections.max.idle.ms", Kind.LONG, 540_000, "medium",
        "Close a connection that was not used for this long.",
        ALL, status=Status.NO_EFFECT, instead="the broker closes what is idle, and penstock reconnects",
        per_client=MappingProxyType({"admin": 300_000}),
    ),
    # A consumer measures and pushes: its own entries are in table_consumer.py.
    Option(
        "enable.metrics.push", Kind.BOOLEAN, True, "low",
        "Send the client's measurements to brokers that ask for them (KIP-714).",
        PRODUCER + ADMIN, status=Status.NO_EFFECT, instead="only a consumer sends any", per_client=MappingProxyType({"admin": False}),
    ),
    Option(
        "metrics.sample.window.ms", Kind.LONG, 30_000, "low",
        "The length of one window of the Java client's measurements.",
        PRODUCER + ADMIN, minimum=0, status=Status.NO_EFFECT, instead=_MEASURING,
    ),
    Option(
        "metrics.num.samples", Kind.INT, 2, "low",
        "How many windows the Java client's measurements keep.",
        PRODUCER + ADMIN, minimum=1, status=Status.NO_EFFECT, instead=_MEASURING,
    ),
    Option(
        "metrics.recording.level", Kind.STRING, "INFO", "low",
        "How fine the Java client's measurements are.",
        ALL, choices=("INFO", "DEBUG", "TRACE"), status=Status.NO_EFFECT, instead="all is measured always",
    ),
    Option(
        "metric.reporters", Kind.LIST, ("org.apache.kafka.common.metrics.JmxReporter",), "low",
        "Java classes that the Java client reports its measurements to.",
        ALL, status=Status.NO_EFFECT, instead="Java classes cannot be run here",
    ),
    Option(
        "interceptor.classes", Kind.LIST, (), "low",
        "Java classes that see each record on its way.",
        PRODUCER, status=Status.NOT_YET, instead="wrap send() in Python",
    ),
    Option(
        "config.providers", Kind.LIST, (), "low",
        "Java classes that look up values written as `${provider:path}`.",
        ALL, status=Status.NOT_YET, instead="read secrets in Python and pass the values",
    ),
    Option(
        "bootstrap.controllers", Kind.LIST, (), "high",
        "Controllers to talk to in place of brokers (KIP-919).",
        ADMIN, status=Status.NOT_YET, instead="give bootstrap.servers",
    ),
)  # fmt: skip
