"""Writing records: what a consumer needs of it, for dead letters, replies and tests, as quick as its reading."""

from .batch import DeliveryCallback, DeliveryFuture
from .kafka_producer import KafkaProducer, plain, record_size_bytes, refuse_too_large

__all__ = [
    "DeliveryCallback",
    "DeliveryFuture",
    "KafkaProducer",
    "plain",
    "record_size_bytes",
    "refuse_too_large",
]
