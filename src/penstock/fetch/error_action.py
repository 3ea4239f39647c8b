"""What each error code of a fetched partition asks for.

Source: the error codes of the Fetch response, https://kafka.apache.org/protocol#The_Messages_Fetch, and KIP-320, KIP-516.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class FetchErrorAction(Enum):
    """What the engine does with a partition whose fetch failed."""

    RETRY = auto()
    """Fetch again after a backoff with fresh metadata: leaders move, replicas lag, brokers restart."""
    RESET = auto()
    """The position is outside the log: `auto.offset.reset` decides."""
    RAISE = auto()
    """Neither time nor metadata mends it: poll() raises."""


_ACTIONS: Final[dict[int, FetchErrorAction]] = {
    1: FetchErrorAction.RESET,  # OFFSET_OUT_OF_RANGE
    2: FetchErrorAction.RAISE,  # CORRUPT_MESSAGE: the broker's own copy is damaged
    3: FetchErrorAction.RETRY,  # UNKNOWN_TOPIC_OR_PARTITION: new, deleted, or this broker lags behind
    5: FetchErrorAction.RETRY,  # LEADER_NOT_AVAILABLE
    6: FetchErrorAction.RETRY,  # NOT_LEADER_OR_FOLLOWER
    9: FetchErrorAction.RETRY,  # REPLICA_NOT_AVAILABLE
    29: FetchErrorAction.RAISE,  # TOPIC_AUTHORIZATION_FAILED
    31: FetchErrorAction.RAISE,  # CLUSTER_AUTHORIZATION_FAILED
    56: FetchErrorAction.RETRY,  # KAFKA_STORAGE_ERROR: a disk failed; another replica takes over
    74: FetchErrorAction.RETRY,  # FENCED_LEADER_EPOCH: our metadata is old
    75: FetchErrorAction.RETRY,  # UNKNOWN_LEADER_EPOCH: the broker's is
    76: FetchErrorAction.RAISE,  # UNSUPPORTED_COMPRESSION_TYPE
    78: FetchErrorAction.RETRY,  # OFFSET_NOT_AVAILABLE: the new leader has not caught up with its own high watermark
    100: FetchErrorAction.RETRY,  # UNKNOWN_TOPIC_ID: deleted, or made again under another id
    103: FetchErrorAction.RETRY,  # INCONSISTENT_TOPIC_ID
}


def action_for(error_code: int) -> FetchErrorAction:
    """What to do. A code that is not listed may pass (-1 UNKNOWN_SERVER_ERROR is what overloaded brokers say): try again."""
    return _ACTIONS.get(error_code, FetchErrorAction.RETRY)
