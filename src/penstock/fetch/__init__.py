"""What is read, from where on, and what a fetch error asks for. Pure: no I/O, no clock."""

from .error_action import FetchErrorAction, action_for
from .reset import reset_timestamp
from .subscription import SubscriptionState
from .validation import EpochEnd, Judgement, Verdict, judge, needs_validation

__all__ = [
    "EpochEnd",
    "FetchErrorAction",
    "Judgement",
    "SubscriptionState",
    "Verdict",
    "action_for",
    "judge",
    "needs_validation",
    "reset_timestamp",
]
