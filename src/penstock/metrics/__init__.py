"""What a client measures, under Java's names, and its form on the wire. No clock, no threads: time is a parameter."""

from .consumer import Consumed, ConsumerMetrics, Place
from .names import Metric, MetricName, Scope, Stat, Unit
from .sensors import Sensor, Windows
from .table import METRICS

__all__ = [
    "METRICS",
    "Consumed",
    "ConsumerMetrics",
    "Metric",
    "MetricName",
    "Place",
    "Scope",
    "Sensor",
    "Stat",
    "Unit",
    "Windows",
]
