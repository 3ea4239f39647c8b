"""Effects that are no part of a transaction, mails and HTTP calls, are not repeated: what is done is noted in a store, by an id of the
record."""

import importlib
from typing import TYPE_CHECKING, Any

from .deduplicate import Deduplicate
from .store import Answer, DeduplicationStore

if TYPE_CHECKING:
    from .memory import MemoryStore
    from .postgres import PostgresStore
    from .redis import RedisStore
    from .sqlite import SqliteStore

__all__ = [
    "Answer",
    "Deduplicate",
    "DeduplicationStore",
    "MemoryStore",
    "PostgresStore",
    "RedisStore",
    "SqliteStore",
]

_LAZY = {"MemoryStore": "memory", "PostgresStore": "postgres", "RedisStore": "redis", "SqliteStore": "sqlite"}


def __getattr__(name: str) -> Any:
    """Stores need their databases' drivers, so each is imported when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
