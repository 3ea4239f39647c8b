"""Where records come to rest, exactly once: PostgreSQL, SQLite, any database that SQL reaches, HTTP."""

import importlib
from typing import TYPE_CHECKING, Any

from .sink import Sink

if TYPE_CHECKING:
    from .database import DatabaseSink
    from .http import HttpSink
    from .postgres import PostgresSink
    from .sqlite import SqliteSink

__all__ = ["DatabaseSink", "HttpSink", "PostgresSink", "Sink", "SqliteSink"]

_MODULES = {
    "DatabaseSink": "database",
    "HttpSink": "http",
    "PostgresSink": "postgres",
    "SqliteSink": "sqlite",
}


def __getattr__(name: str) -> Any:
    """Sinks need drivers, so each is imported when it is asked for."""
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
