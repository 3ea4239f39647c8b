"""What a spool is asked for with."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import ConfigError

_LEAST_BYTES = 1024 * 1024
_UNIT_BYTES = {"KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_UNIT_BYTES |= {unit.replace("B", "iB"): 1024**power for power, unit in enumerate(list(_UNIT_BYTES), 1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)")


def to_bytes(size: int | str) -> int:
    """Bytes of a number of them, or of text with a unit: '512MB', '2GB', '1GiB'. ConfigError otherwise."""
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is None:
            raise ConfigError(f"{size!r} is no size; write a number of bytes, or '512MB', '2GB', '1GiB'")
        return int(float(match[1]) * _UNIT_BYTES[match[2]])
    if isinstance(size, bool) or not isinstance(size, int):
        raise ConfigError(f"a size is a number of bytes, or text as '2GB'; got {size!r}")
    return size


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
        self.max_bytes = to_bytes(max_bytes)
        self.read_ahead = read_ahead
        if self.max_bytes < _LEAST_BYTES:
            raise ConfigError(f"Spool(max_bytes={max_bytes!r}): at least 1 MiB")

    def __repr__(self) -> str:
        return f"Spool({str(self.folder)!r}, max_bytes={self.max_bytes}, read_ahead={self.read_ahead})"
