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

_EXTRAS = {"httpx": "http", "psycopg": "postgres"}


def __getattr__(name: str) -> Any:
    """Sinks need drivers, so each is imported when it is asked for."""
    if name in _MODULES:
        try:
            return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        except ModuleNotFoundError as error:
            if (extra := _EXTRAS.get(error.name or "")) is None:
                raise
            raise ImportError(f"{name} needs {error.name}: pip install 'penstock[{extra}]'") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
