"""The producer's options, read once into plain fields."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config
from ..errors import ConfigError

_ACKS = {"all": -1, "-1": -1, "0": 0, "1": 1}
_BROKER_REMEMBERS_BATCHES = 5  # per producer and partition, for telling a repeated batch: KIP-98, KAFKA-5494


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """Names and meanings are ProducerConfig's. `acks` is -1 for all; `compression_level` None is the codec's own default."""

    acks: int = -1
    idempotent: bool = True
    linger_ms: int = 5
    batch_size_bytes: int = 16_384
    buffer_memory_bytes: int = 33_554_432
    max_request_size_bytes: int = 1_048_576
    compression: str = "none"
    compression_level: int | None = None
    max_in_flight: int = 5
    delivery_timeout_ms: int = 120_000
    request_timeout_ms: int = 30_000
    retries: int = 2_147_483_647
    retry_backoff_ms: int = 100
    retry_backoff_max_ms: int = 1_000
    max_block_ms: int = 60_000
    ignore_keys: bool = False
    adaptive_partitioning: bool = True
    transactional_id: str | None = None
    transaction_timeout_ms: int = 60_000

    @classmethod
    def of(cls, config: Config) -> ProducerSettings:
        """ConfigError where options contradict each other; an idempotence that was not asked for by name gives way."""
        acks = _ACKS[str(config["acks"])]
        in_flight = int(config["max.in.flight.requests.per.connection"])
        compression = str(config["compression.type"])
        linger_ms, request_ms = int(config["linger.ms"]), int(config["request.timeout.ms"])
        delivery_ms = int(config["delivery.timeout.ms"])
        if delivery_ms < linger_ms + request_ms:
            if "delivery.timeout.ms" in config.given:
                raise ConfigError(
                    f"delivery.timeout.ms ({delivery_ms}) is less than linger.ms ({linger_ms}) + request.timeout.ms "
                    f"({request_ms}): raise it, or lower the others"
                )
            delivery_ms = linger_ms + request_ms
        return cls(
            acks=acks,
            idempotent=_idempotent(config, acks, in_flight),
            linger_ms=linger_ms,
            batch_size_bytes=max(1, int(config["batch.size"])),
            buffer_memory_bytes=int(config["buffer.memory"]),
            max_request_size_bytes=int(config["max.request.size"]),
            compression=compression,
            compression_level=_level(config, f"compression.{compression}.level"),
            max_in_flight=in_flight,
            delivery_timeout_ms=delivery_ms,
            request_timeout_ms=request_ms,
            retries=int(config["retries"]),
            retry_backoff_ms=int(config["retry.backoff.ms"]),
            retry_backoff_max_ms=int(config["retry.backoff.max.ms"]),
            max_block_ms=int(config["max.block.ms"]),
            ignore_keys=bool(config["partitioner.ignore.keys"]),
            adaptive_partitioning=bool(config["partitioner.adaptive.partitioning.enable"]),
            transactional_id=_transactional_id(config, acks, in_flight),
            transaction_timeout_ms=int(config["transaction.timeout.ms"]),
        )


def _level(config: Config, option: str) -> int | None:
    """The codec's level if one was given; -1 is gzip's word for its own default."""
    if option not in config.given or (option == "compression.gzip.level" and config[option] == -1):
        return None
    return int(config[option])


def _transactional_id(config: Config, acks: int, in_flight: int) -> str | None:
    """Transactions need sequence numbers (KIP-98)."""
    name: str | None = config["transactional.id"]
    if name is not None and not _idempotent(config, acks, in_flight):
        raise ConfigError(
            f"transactional.id={name!r} needs enable.idempotence=True, acks=all, retries, and at most {_BROKER_REMEMBERS_BATCHES} requests "
            "in flight; leave these options out"
        )
    return name


def _idempotent(config: Config, acks: int, in_flight: int) -> bool:
    """Whether sequence numbers are sent. They need acks=all, retries and at most 5 requests in flight (KIP-679)."""
    if not config["enable.idempotence"]:
        return False
    conflicts = []
    if acks != -1:
        conflicts.append(f"acks={config['acks']}")
    if in_flight > _BROKER_REMEMBERS_BATCHES:
        conflicts.append(f"max.in.flight.requests.per.connection={in_flight}")
    if int(config["retries"]) == 0:
        conflicts.append("retries=0")
    if conflicts and "enable.idempotence" in config.given:
        raise ConfigError(
            f"enable.idempotence=True does not go with {' and '.join(conflicts)}: it needs acks=all, retries, and at most "
            f"{_BROKER_REMEMBERS_BATCHES} requests in flight; drop them, or set enable.idempotence=False"
        )
    return not conflicts
