"""Where records come to rest, exactly once: PostgreSQL first, any DB-API database, HTTP."""

from typing import TYPE_CHECKING, Any

from .sink import Sink

if TYPE_CHECKING:
    from .postgres import PostgresSink

__all__ = ["PostgresSink", "Sink"]


def __getattr__(name: str) -> Any:
    """Sinks need their databases' drivers, so each is imported when it is asked for."""
    if name == "PostgresSink":
        from .postgres import PostgresSink

        return PostgresSink
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
