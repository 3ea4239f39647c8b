"""What is read, from where on, and what a fetch error asks for. Pure: no I/O, no clock."""

from .error_action import FetchErrorAction, action_for
from .reset import reset_timestamp
from .subscription import SubscriptionState

__all__ = ["FetchErrorAction", "SubscriptionState", "action_for", "reset_timestamp"]
