"""KafkaConsumer: a thin shell over the engine's core. It holds no state of the protocol."""

from .kafka_consumer import KafkaConsumer

__all__ = ["KafkaConsumer"]
