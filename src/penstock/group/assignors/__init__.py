"""Who reads what: assignors, run by the group's leader."""

from __future__ import annotations

from collections.abc import Sequence

from .interface import Assignor
from .range import RangeAssignor
from .roundrobin import RoundRobinAssignor

__all__ = ["Assignor", "RangeAssignor", "RoundRobinAssignor", "assignors_for"]

_KNOWN: dict[str, type[Assignor]] = {"range": RangeAssignor, "roundrobin": RoundRobinAssignor}


def assignors_for(names: Sequence[str]) -> tuple[Assignor, ...]:
    """The assignors of `partition.assignment.strategy`, which the configuration has checked, in order of preference."""
    return tuple(_KNOWN[name]() for name in names)
