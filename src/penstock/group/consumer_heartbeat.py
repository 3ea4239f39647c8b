"""What a member of the consumer protocol puts into its heartbeats: all of it, or what changed, or nothing but its epoch (KIP-848)."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

from .consumer_assignment import TopicIdPartition
from .consumer_messages import ConsumerHeartbeatAnswered, SendConsumerHeartbeat

JOIN: Final = 0
LEAVE: Final = -1
LEAVE_FOR_NOW: Final = -2
"""Member epochs with a meaning of their own; a static member leaves for now and keeps its place for the session's timeout."""


UNRELEASED_FOR_MS: Final = 60_000
"""How long another holder of this group.instance.id is waited for: the longest session that a broker allows by default
(group.consumer.max.session.timeout.ms), so that one that died is gone by then."""

_UNSUPPORTED_VERSION, _UNRELEASED_INSTANCE_ID = 35, 111


def told_of(event: ConsumerHeartbeatAnswered, doing: str, group_instance_id: str | None) -> str:
    """What a refusal is told to the user with, beside the error's name: what was done, what the coordinator says, the remedy."""
    message = f"{doing} (the coordinator says: {event.error_message})" if event.error_message else doing
    if event.error_code == _UNSUPPORTED_VERSION:
        remedy = "set group.protocol=classic"
        message += f": its coordinator does not speak the consumer protocol (KIP-848); {remedy}"
    elif event.error_code == _UNRELEASED_INSTANCE_ID:
        held = f"another member has held group.instance.id={group_instance_id!r} for {UNRELEASED_FOR_MS} ms"
        message += f": {held}; end it first"
    return message


class Request(Enum):
    JOIN = auto()
    NEWS = auto()
    LEAVE = auto()


class Heartbeats:
    """Composes heartbeats from what the user wants and what was told before. Written by the machine only."""

    def __init__(
        self,
        member_id: str,
        group_instance_id: str | None,
        rack_id: str | None,
        rebalance_timeout_ms: int,
        server_assignor: str | None,
    ) -> None:
        self.topics: tuple[str, ...] = ()
        self.pattern: str | None = None
        # what the next one has to tell
        self.all_due = False
        self.subscription_due = False
        self.owned_due = False
        self._member_id = member_id
        self._group_instance_id = group_instance_id
        self._rack_id = rack_id or None  # a broker refuses an empty one
        self._rebalance_timeout_ms = rebalance_timeout_ms
        self._server_assignor = server_assignor
        # The coordinator may have one, and names alone would not replace it: a static member inherits its predecessor's.
        self._pattern_told = group_instance_id is not None

    @property
    def due(self) -> bool:
        return self.all_due or self.subscription_due or self.owned_due

    @property
    def subscribed(self) -> bool:
        """Whether there is a subscription that a coordinator takes in a join."""
        return bool(self.topics or self.pattern)

    def nothing_due(self) -> None:
        self.all_due = self.subscription_due = self.owned_due = False

    def heard(self) -> None:
        """The coordinator has taken all that was told."""
        self._pattern_told = self.pattern is not None

    def join(self) -> SendConsumerHeartbeat:
        """With nothing owned, as the coordinator demands."""
        self.all_due = True
        return self.news(JOIN, ())

    def news(self, member_epoch: int, owned: tuple[TopicIdPartition, ...]) -> SendConsumerHeartbeat:
        """What is due. What is owned always goes along: a repeated heartbeat may have been answered with a newer epoch meanwhile, and the
        coordinator takes the one before only together with what is owned."""
        names = regex = None
        if self.all_due or self.subscription_due:
            names = self.topics
            regex = self.pattern if self.pattern is not None else ("" if self._pattern_told else None)
            self._pattern_told = self._pattern_told or self.pattern is not None
        everything = self.all_due
        self.nothing_due()
        return SendConsumerHeartbeat(
            self._member_id,
            member_epoch,
            self._group_instance_id,
            self._rack_id if everything else None,
            self._rebalance_timeout_ms if everything else -1,
            names,
            regex,
            self._server_assignor if everything else None,
            owned,
        )

    def leave(self, member_epoch: int) -> SendConsumerHeartbeat:
        return SendConsumerHeartbeat(self._member_id, member_epoch, self._group_instance_id)


class OpenRequests:
    """What was sent and not yet answered, in the order of the answers. A handful: news wait until there are none, leaves are bounded."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __contains__(self, request: Request) -> bool:
        return request in self._requests

    def add(self, request: Request) -> None:
        self._requests.append(request)

    def close(self) -> Request | None:
        """The oldest one, if there is one: it was answered, or is not going to be. A coordinator answers in order."""
        return self._requests.popleft() if self._requests else None
