"""What a spool is asked for with."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConfigError
from ..units import to_size_bytes

_LEAST_BYTES = 1024 * 1024


class Spool:
    """A folder in which a processor keeps what it has fetched and not finished, so that a restart fetches and handles nothing twice.

    `max_bytes`: how much of the disk one instance uses at most; a number of bytes, or text as '2GB'. `read_ahead`: fetch on into the spool
    while memory is full. Several instances may share a folder: each takes a part of its own.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, max_bytes: int | str = "2GB", read_ahead: bool = True
    ) -> None:
        """ConfigError for a size that is none, or below 1 MiB."""
        self.folder = Path(folder)
        self.max_bytes = to_size_bytes(max_bytes)
        self.read_ahead = read_ahead
        if self.max_bytes < _LEAST_BYTES:
            raise ConfigError(f"Spool(max_bytes={max_bytes!r}): at least 1 MiB")

    def __repr__(self) -> str:
        return f"Spool({str(self.folder)!r}, max_bytes={self.max_bytes}, read_ahead={self.read_ahead})"
