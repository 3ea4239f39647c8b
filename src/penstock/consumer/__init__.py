"""KafkaConsumer and AsyncKafkaConsumer: thin shells over the engine's core. They hold no state of the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .kafka_consumer import KafkaConsumer

if TYPE_CHECKING:
    from .async_consumer import AsyncKafkaConsumer

__all__ = ["AsyncKafkaConsumer", "KafkaConsumer"]


def __getattr__(name: str) -> Any:
    if name == "AsyncKafkaConsumer":
        from .async_consumer import AsyncKafkaConsumer

        return AsyncKafkaConsumer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
