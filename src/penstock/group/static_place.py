"""What a static member has to remember over a join that may change nothing (KIP-345). Pure."""

from __future__ import annotations

from typing import Final

_ANY: Final = -2


class StaticPlace:
    """A static member that joins without a member id is given its own place back, without a rebalance, while its group stands. What it
    was to be rebalanced for is then still to be done: it asks again."""

    def __init__(self) -> None:
        self._asked: str | None = None  # what a join without a member id is to bring about
        self._generation_id = -1  # of the last join; _ANY: whichever it is now counts as the same

    def joins(self, member_id: str, reason: str | None) -> None:
        """JoinGroup is sent, for a reason if there is one beside joining."""
        if not member_id:
            self._asked = reason or self._asked

    def joined(self, generation_id: int) -> str | None:
        """JoinGroup was answered; returns why another join is wanted, if it is."""
        asked, self._asked = self._asked, None
        same = self._generation_id in (generation_id, _ANY)
        self._generation_id = generation_id
        return asked if same else None

    def lost(self) -> None:
        """It said that it owned something, and has lost it. A leader may be keeping that for this member, which is given its place back
        and would not know."""
        self._asked, self._generation_id = "others may be kept from what it lost", _ANY

    def left(self) -> None:
        """The membership is over."""
        self._asked = None
