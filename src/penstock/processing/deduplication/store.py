"""What a store owes: of those who claim an id at once exactly one gets it, and what is confirmed is nobody's any more until it expires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

Answer = Literal["new", "done", "busy"]
"""To a claim: it is the caller's now; its effect has been done; another's claim stands."""

SWEEP_EVERY_S = 10.0
SWEEP_ROWS = 500


@runtime_checkable
class DeduplicationStore(Protocol):
    """Ids that are claimed or done. An id is in one of three states, and alone among stores and processes in it:

        free --claim--> claimed by an owner, until its lease is over --confirm by the owner--> done, until it expires --> free
                          |--release by the owner, or the lease is over--> free

    The owner of a claim may claim again: it is 'new' again, with a new lease, so that a claim whose answer was lost can be repeated.
    Likewise `confirm()`, which the owner may repeat.

    `ids` are distinct, 16 bytes each. Times are ms. Plain blocking calls, from any thread, several at once. A call that fails raises
    DeduplicationError, retriable where calling again can help; some of its ids may have been changed then. A store can be pickled as its
    settings, opens by itself at its first call, and does so again after close().
    """

    one_process: bool
    """Other processes would not see what is stored: it does not go with executor='process'."""

    def open(self) -> None:
        """Connect, and make what is missing. ConfigError or DeduplicationError say what is wrong."""

    def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
        """One answer for each, in order. What is 'new' is the owner's for `lease_ms`."""

    def confirm(self, ids: Sequence[bytes], owner: str, expires_ms: int) -> list[bytes]:
        """These are done, for `expires_ms`. Those that another has taken over meanwhile are left as they are, and returned."""

    def release(self, ids: Sequence[bytes], owner: str) -> None:
        """Give claims back; what is not this owner's claim stays."""

    def close(self) -> None:
        """Give connections back; what is stored stays. Idempotent."""


class Sweeping:
    """When the next few expired rows are to be deleted: now and then, and at once while there are more. Pure: time is given."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def is_due(self, now_s: float) -> bool:
        return now_s >= self._next_s

    def swept(self, rows: int, now_s: float) -> None:
        """So many were deleted, of SWEEP_ROWS at most."""
        self._next_s = now_s if rows >= SWEEP_ROWS else now_s + SWEEP_EVERY_S
