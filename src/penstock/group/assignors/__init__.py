"""Who reads what: assignors, run by the group's leader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...errors import ConfigError
from .claims import withhold
from .interface import Assignor, RebalanceProtocol
from .range import RangeAssignor
from .roundrobin import RoundRobinAssignor
from .sticky import CooperativeStickyAssignor, StickyAssignor

__all__ = [
    "Assignor",
    "CooperativeStickyAssignor",
    "RangeAssignor",
    "RebalanceProtocol",
    "RoundRobinAssignor",
    "StickyAssignor",
    "assignors_for",
    "common_protocol",
    "withhold",
]

_KNOWN: dict[str, type[Assignor]] = {
    "range": RangeAssignor,
    "roundrobin": RoundRobinAssignor,
    "sticky": StickyAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}
_JAVA_PACKAGE = "org.apache.kafka.clients.consumer."


def assignors_for(entries: Iterable[str | type[Assignor] | Assignor]) -> tuple[Assignor, ...]:
    """The assignors of `partition.assignment.strategy`, in order of preference.

    An entry is the name of one of Kafka's assignors or of its Java class, a subclass of Assignor (made without arguments), or
    an Assignor, which then belongs to one member. ConfigError for anything else, and where two have the same name.
    """
    found: dict[str, Assignor] = {}
    for entry in entries:
        assignor = _assignor(entry)
        if assignor.name in found:
            raise ConfigError(
                f"partition.assignment.strategy has two assignors named {assignor.name!r}: a group tells them apart by name only"
            )
        found[assignor.name] = assignor
    return tuple(found.values())


def _assignor(entry: object) -> Assignor:
    if isinstance(entry, Assignor):
        return entry
    if isinstance(entry, type) and issubclass(entry, Assignor):
        return entry()
    if isinstance(entry, str):
        simple = entry.removeprefix(_JAVA_PACKAGE)
        for name, known in _KNOWN.items():
            if entry == name or (simple != entry and simple == known.__name__):
                return known()
    raise ConfigError(
        f"partition.assignment.strategy: {entry!r} is no assignor; one of {', '.join(_KNOWN)} is wanted, or an Assignor"
    )


def common_protocol(assignors: Sequence[Assignor]) -> RebalanceProtocol:
    """The highest protocol that all of them support: what a member with these assignors rebalances by (KIP-429).

    ConfigError where they have none in common.
    """
    shared = set(RebalanceProtocol).intersection(*(assignor.rebalance_protocols for assignor in assignors))
    if not shared:
        said = "; ".join(f"{a.name}: {', '.join(p.name for p in a.rebalance_protocols)}" for a in assignors)
        raise ConfigError(
            f"partition.assignment.strategy: its assignors have no rebalance protocol in common ({said})"
        )
    return max(shared, key=lambda protocol: protocol.value)
