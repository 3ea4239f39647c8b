"""How a processor is, for probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Health:
    """`ready`: it handles records, or would if there were any. `alive`: it needs no restart. `reason`: for people."""

    ready: bool
    alive: bool
    reason: str
    details: Mapping[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"ready": self.ready, "alive": self.alive, "reason": self.reason, **self.details}
