"""The states of a membership by the consumer protocol (KIP-848), and every way between them.

All that decides which state may follow which is in this file; docs/group-states.md is drawn from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from .consumer_messages import ConsumerHeartbeatAnswered, SubscribeRegex, TopicNames
from .messages import (
    AssignmentDone,
    CoordinatorFound,
    CoordinatorLost,
    Leave,
    LossDone,
    PollExpired,
    PollProgress,
    RequestFailed,
    RevocationDone,
    Subscribe,
    Tick,
)


class ConsumerState(Enum):
    """Where a membership stands. The value says how it is entered, whether heartbeats flow and which callbacks run."""

    UNSUBSCRIBED = (
        "At first, after the group was left, and where a join is due while the subscription names nothing. No heartbeats, no callbacks; "
        "late answers are ignored."
    )
    FINDING = "It is to join and the coordinator is not known: FindCoordinator is under way. Nothing is owned. No heartbeats."
    BACKING_OFF = "A search or a join failed in a way that time may mend; it is tried again when the backoff is over. No heartbeats."
    JOINING = (
        "The heartbeat with epoch 0 is in flight; it is answered at once. Entered with nothing owned and no callback open. No other "
        "heartbeats: there is no epoch to send."
    )
    RELEASING = (
        "The coordinator still holds a membership under this member's id, since an answer was lost or its epoch was fenced, and lets none "
        "join over it. A heartbeat that leaves it is in flight; the join follows. No heartbeats, nothing is owned."
    )
    STABLE = (
        "What the coordinator assigned is owned, save topics whose names the metadata does not know yet; its acknowledgement may be "
        "in flight. Heartbeats flow. No callbacks."
    )
    REVOKING = (
        "on_partitions_revoked runs, in the user's next poll(), for what the target assignment takes away; the rest is read on. A newer "
        "target is looked at when it has returned. Heartbeats flow."
    )
    ASSIGNING = (
        "on_partitions_assigned runs, in the user's next poll(), for what was added. When it has returned, the coordinator is told what is "
        "owned, and a newer target is looked at. Heartbeats flow."
    )
    LOSING = (
        "The coordinator no longer knows this member, or fenced its epoch. on_partitions_lost runs, in the user's next poll(), behind a "
        "callback that was open; then it joins with epoch 0 and the same member id. No heartbeats."
    )
    EXPIRED = (
        "The user has not polled for max.poll.interval.ms and the group was left, so that others can go on. The next poll runs "
        "on_partitions_lost if partitions were owned, then it joins. No heartbeats."
    )
    LEAVING = (
        "The heartbeat with epoch -1 (static: -2) is in flight, or the coordinator that is to have it is being found; a bounded number of "
        "tries. No other heartbeats, no callbacks: the listener was called before."
    )
    FAILED = (
        "The coordinator refuses this member in a way that no retry mends; poll() raises it, and on_partitions_lost runs if partitions "
        "were owned. No heartbeats. A poll after that tries again."
    )
    FENCED = (
        "Another member runs with the same group.instance.id. As FAILED, but polls raise it again and never join: the two would go on "
        "fencing each other."
    )

    def __repr__(self) -> str:
        return f"ConsumerState.{self.name}"


HEARTBEATING: Final = frozenset({ConsumerState.STABLE, ConsumerState.REVOKING, ConsumerState.ASSIGNING})
"""This is a member here: there is an epoch, and heartbeats flow as long as the coordinator is known."""

Ways: TypeAlias = dict[type, frozenset[ConsumerState]]

_S = ConsumerState
_JOIN: Final = frozenset({_S.JOINING, _S.FINDING, _S.UNSUBSCRIBED})
_REFUSED: Final = frozenset({_S.FAILED, _S.FENCED})
_EXPIRED: Final[Ways] = {PollExpired: frozenset({_S.EXPIRED})}
_LEAVE: Final[Ways] = {Leave: frozenset({_S.LEAVING, _S.UNSUBSCRIBED})}
_GONE: Final = _JOIN | _REFUSED | {_S.LOSING}  # with nothing owned the join comes at once
_OPEN_REQUEST_DONE: Final[Ways] = {
    ConsumerHeartbeatAnswered: _JOIN,
    RequestFailed: _JOIN - {_S.JOINING},  # the coordinator is searched for first
}
_CALLBACK_DONE: Final[Ways] = dict.fromkeys((RevocationDone, LossDone, AssignmentDone), _JOIN)

TRANSITIONS: Final[dict[ConsumerState, Ways]] = {
    _S.UNSUBSCRIBED: {event: frozenset({_S.JOINING, _S.FINDING}) for event in (Subscribe, SubscribeRegex)},
    _S.FINDING: {
        CoordinatorFound: frozenset({_S.JOINING, _S.UNSUBSCRIBED}),
        CoordinatorLost: frozenset({_S.BACKING_OFF}),
        **_EXPIRED,
        **_LEAVE,
    },
    _S.BACKING_OFF: {Tick: _JOIN, **_EXPIRED, **_LEAVE},
    _S.JOINING: {
        ConsumerHeartbeatAnswered: _REFUSED | {_S.BACKING_OFF, _S.RELEASING, _S.STABLE, _S.ASSIGNING},
        RequestFailed: frozenset({_S.BACKING_OFF}),
        **_EXPIRED,
        **_LEAVE,
    },
    _S.RELEASING: {
        ConsumerHeartbeatAnswered: _JOIN | {_S.BACKING_OFF, _S.FAILED},
        RequestFailed: frozenset({_S.BACKING_OFF}),
        **_EXPIRED,
        **_LEAVE,
    },
    _S.STABLE: {
        ConsumerHeartbeatAnswered: _GONE | {_S.REVOKING, _S.ASSIGNING},
        TopicNames: frozenset({_S.REVOKING, _S.ASSIGNING}),
        **_EXPIRED,
        **_LEAVE,
    },
    _S.REVOKING: {
        RevocationDone: frozenset({_S.REVOKING, _S.ASSIGNING, _S.STABLE}),
        ConsumerHeartbeatAnswered: _REFUSED | {_S.LOSING},
        **_EXPIRED,
        **_LEAVE,
    },
    _S.ASSIGNING: {
        AssignmentDone: frozenset({_S.STABLE, _S.REVOKING, _S.ASSIGNING}),
        ConsumerHeartbeatAnswered: _REFUSED | {_S.LOSING},
        **_EXPIRED,
        **_LEAVE,
    },
    _S.LOSING: {**_CALLBACK_DONE, **_OPEN_REQUEST_DONE, **_LEAVE},
    _S.EXPIRED: {PollProgress: _JOIN, **_CALLBACK_DONE, **_OPEN_REQUEST_DONE, **_LEAVE},
    _S.LEAVING: {
        event: frozenset({_S.UNSUBSCRIBED})
        for event in (ConsumerHeartbeatAnswered, RequestFailed, CoordinatorLost)
    },
    _S.FAILED: {PollProgress: _JOIN, **_LEAVE},
    _S.FENCED: {Leave: frozenset({_S.UNSUBSCRIBED})},  # there is nothing of its own to leave
}
"""Per state and kind of event, the states that may follow. An event that is not listed leaves the state as it is; a step that is not
listed raises: it is a mistake of the machine, not of its peer. What is due by time counts as Tick, whatever event came with it."""
