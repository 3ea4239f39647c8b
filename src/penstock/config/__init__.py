"""One table of options: name, type, default, meaning. docs/configuration.md is generated from it."""

from .config import Config, resolve
from .durations import BY_DURATION, duration_ms, reset_duration_ms
from .option import ClientKind, Kind, Option, Status
from .table import BY_CLIENT, OPTIONS

__all__ = [
    "BY_CLIENT",
    "BY_DURATION",
    "OPTIONS",
    "ClientKind",
    "Config",
    "Kind",
    "Option",
    "Status",
    "duration_ms",
    "reset_duration_ms",
    "resolve",
]
