"""Where records come to rest, exactly once: PostgreSQL first, any DB-API database, HTTP."""

from .sink import Sink

__all__ = ["Sink"]
