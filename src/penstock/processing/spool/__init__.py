"""A local spool: what is fetched and not finished, on disk, within a limit."""

from .settings import Spool

__all__ = ["Spool"]
