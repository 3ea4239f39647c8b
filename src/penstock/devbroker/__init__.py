"""The embedded broker: Kafka's protocol in one process, for the first run and for tests. Production is a Kafka cluster."""

from .broker import DevBroker, run
from .server import CLOSE, Delay

__all__ = ["CLOSE", "Delay", "DevBroker", "run"]
