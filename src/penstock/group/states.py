"""The states of a classic membership, and every way between them.

All that decides which state may follow which is in this file; docs/group-states.md is drawn from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from .messages import (
    AssignmentDone,
    CoordinatorFound,
    CoordinatorLost,
    HeartbeatAnswered,
    JoinAnswered,
    Leave,
    LeaveAnswered,
    LossDone,
    PartitionCounts,
    PollExpired,
    PollProgress,
    Rejoin,
    RequestFailed,
    RevocationDone,
    Subscribe,
    SyncAnswered,
    Tick,
)


class State(Enum):
    """Where a membership stands. The value says how it is entered, whether heartbeats flow and which callbacks run."""

    UNSUBSCRIBED = (
        "At first, and after the group was left. No heartbeats, no callbacks; late answers are ignored."
    )
    FINDING = (
        "It is to join and the coordinator is not known: FindCoordinator is under way. No heartbeats: the membership, if there is one, "
        "is renewed by the join."
    )
    BACKING_OFF = "A search or a join failed in a way that time may mend; it is tried again when the backoff is over. No heartbeats."
    JOINING = (
        "JoinGroup is in flight; the coordinator holds it until all members have joined. No heartbeats: the join stands for "
        "them, and an answer would wait behind it on the same connection. An eager member owns nothing here; a cooperative one reads on."
    )
    COUNTING = "This member leads and looks up how many partitions the topics have, to divide them. No heartbeats; it is short."
    SYNCING = (
        "SyncGroup is in flight; the coordinator holds it until the leader's has come. No heartbeats: the coordinator counts a "
        "member that waits for its answer as alive."
    )
    ASSIGNING = (
        "The assignment is here and on_partitions_assigned runs, in the user's next poll(). Heartbeats flow. A rebalance waits for the "
        "callback; a loss does not, its callback follows behind."
    )
    STABLE = "Partitions are read. Heartbeats flow. No callbacks."
    PREPARING = (
        "on_partitions_revoked or on_partitions_lost runs, in the user's next poll(); the join comes after it. Heartbeats flow after a "
        "revocation, since the membership is alive and the user may take long; not after a loss. A cooperative member comes here for a "
        "loss, or for topics that it no longer subscribes to."
    )
    REVOKING = (
        "Cooperative: the assignment is here, and on_partitions_revoked runs, in the user's next poll(), for what it takes away; the "
        "rest is read on. ASSIGNING comes after it, then another join, which gives to others what was revoked. Heartbeats flow."
    )
    EXPIRED = (
        "The user has not polled for max.poll.interval.ms and the group was left, so that others can go on. No heartbeats; partitions, if "
        "there were any, were lost before. The next poll joins."
    )
    LEAVING = (
        "LeaveGroup is in flight, or the coordinator that is to have it is being found, or the join is still to be answered that brings "
        "the member id to leave with; a bounded number of tries. No heartbeats, no callbacks: the listener was called before. A static "
        "member never comes here: it keeps its place (KIP-345)."
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
        return f"State.{self.name}"


HEARTBEATING: Final = frozenset({State.ASSIGNING, State.STABLE, State.PREPARING, State.REVOKING})
"""Heartbeats flow here, as long as there is a generation to send them for."""

Ways: TypeAlias = dict[type, frozenset[State]]

_S = State
_JOIN: Final = frozenset({_S.JOINING, _S.FINDING})
_LOSE: Final = _JOIN | {_S.PREPARING}  # with nothing owned the join comes at once
_REFUSED: Final = frozenset({_S.FAILED, _S.FENCED})
_LEAVE: Final[Ways] = {Leave: frozenset({_S.LEAVING, _S.UNSUBSCRIBED})}
_EXPIRE: Final = frozenset(
    {_S.EXPIRED, _S.PREPARING}
)  # with partitions owned, the user hears of their loss first
_TRY_AGAIN: Final = _EXPIRE | {_S.BACKING_OFF}

TRANSITIONS: Final[dict[State, Ways]] = {
    _S.UNSUBSCRIBED: {Subscribe: _JOIN},
    _S.FINDING: {
        CoordinatorFound: frozenset({_S.JOINING}),
        CoordinatorLost: frozenset({_S.BACKING_OFF}),
        PollExpired: _EXPIRE,
        **_LEAVE,
    },
    _S.BACKING_OFF: {Tick: _JOIN, PollExpired: _EXPIRE, **_LEAVE},
    _S.JOINING: {
        JoinAnswered: _JOIN | _REFUSED | _TRY_AGAIN | {_S.COUNTING, _S.SYNCING},
        RequestFailed: _TRY_AGAIN,
        **_LEAVE,
    },
    _S.COUNTING: {PartitionCounts: _EXPIRE | {_S.SYNCING, _S.FAILED}, **_LEAVE},
    _S.SYNCING: {
        SyncAnswered: _JOIN | _REFUSED | _TRY_AGAIN | {_S.ASSIGNING, _S.REVOKING},
        RequestFailed: _TRY_AGAIN,
        **_LEAVE,
    },
    _S.ASSIGNING: {
        AssignmentDone: frozenset({_S.STABLE}),
        HeartbeatAnswered: _LOSE | _REFUSED,
        PollExpired: _EXPIRE,
        **_LEAVE,
    },
    _S.STABLE: {
        Rejoin: _LOSE,  # whatever asked for it: a heartbeat's answer, other topics, other partitions, the user
        HeartbeatAnswered: _LOSE | _REFUSED,
        PollExpired: _EXPIRE,
        **_LEAVE,
    },
    _S.PREPARING: {RevocationDone: _JOIN, LossDone: _JOIN, HeartbeatAnswered: _REFUSED, **_LEAVE},
    _S.REVOKING: {
        RevocationDone: frozenset({_S.ASSIGNING}),
        HeartbeatAnswered: _REFUSED | {_S.PREPARING},
        PollExpired: frozenset({_S.PREPARING}),
        **_LEAVE,
    },
    _S.EXPIRED: {
        PollProgress: _JOIN,
        Leave: frozenset({_S.UNSUBSCRIBED}),
    },  # the coordinator was told already
    _S.LEAVING: {
        event: frozenset({_S.UNSUBSCRIBED})
        for event in (LeaveAnswered, JoinAnswered, RequestFailed, CoordinatorLost, Tick)
    },
    _S.FAILED: {PollProgress: _JOIN, **_LEAVE},
    _S.FENCED: {**_LEAVE},
}
"""Per state and kind of event, the states that may follow. An event that is not listed leaves the state as it is; a step that is not
listed raises: it is a mistake of the machine, not of its peer. What is due by time counts as Tick, whatever event came with it."""
