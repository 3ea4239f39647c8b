"""Writing records: what a consumer needs of it, for dead letters, replies and tests, as quick as its reading."""

from .batch import DeliveryCallback, DeliveryFuture
from .kafka_producer import KafkaProducer, plain, refuse_too_large

__all__ = ["DeliveryCallback", "DeliveryFuture", "KafkaProducer", "plain", "refuse_too_large"]
