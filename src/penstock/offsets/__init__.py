"""What may be committed. Pure: no I/O, no clock."""

from .commit import CommitLedger

__all__ = ["CommitLedger"]
