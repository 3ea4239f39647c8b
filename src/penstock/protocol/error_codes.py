"""Kafka's error codes, and which of penstock's errors tells of which.

Source: https://kafka.apache.org/protocol#protocol_error_codes
"""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from ..errors import (
    AuthorizationError,
    BrokerError,
    GroupError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)

_AUTHORIZATION: Final = {29, 30, 31, 53, 58, 65}
_UNKNOWN_TOPIC: Final = {3, 100}
_GROUP: Final = {22, 23, 24, 25, 26, 27, 28, 60, 68, 69, 79, 81, 82, 86, 110, 111, 112, 113}
_UNSUPPORTED_VERSION: Final = 35

_REMEDIES: Final[dict[int, str]] = {
    3: "create the topic, or check its name",
    17: "topic names hold letters, digits, '.', '_' and '-', at most 249 of them",
    29: "ask for an ACL on this topic",
    30: "ask for an ACL on this group",
    36: "choose another name, or delete the topic first",
    37: "ask for at least one partition",
    38: "the cluster has fewer brokers than the replication factor",
    68: "stop the members of the group first",
    86: "stop the members that are subscribed to it first",
    82: "another consumer runs with the same group.instance.id",
}


def error_name(code: int) -> str:
    """Kafka's own name of an error code, in capitals; UNKNOWN_CODE_n for one that is newer than penstock."""
    try:
        return ErrorCode(code).name.upper()
    except ValueError:
        return f"UNKNOWN_CODE_{code}"


def is_retriable(code: int) -> bool:
    """Whether Kafka marks this code as worth another try."""
    try:
        return ErrorCode(code).retriable
    except ValueError:
        return False


def error_for(code: int, what: str, detail: str | None = None) -> BrokerError | UnsupportedVersionError:
    """The error that tells of `code`: `what` says what was being done, to which topic, partition or group."""
    name = error_name(code)
    message = f"{what}: {name}"
    if detail:
        message += f" ({detail})"
    if code in _REMEDIES:
        message += f"; {_REMEDIES[code]}"
    if code == _UNSUPPORTED_VERSION:
        return UnsupportedVersionError(message)
    kind: type[BrokerError] = BrokerError
    if code in _AUTHORIZATION:
        kind = AuthorizationError
    elif code in _UNKNOWN_TOPIC:
        kind = UnknownTopicOrPartitionError
    elif code in _GROUP:
        kind = GroupError
    return kind(message, code, name, is_retriable(code))
