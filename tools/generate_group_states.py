"""Draws docs/group-states.md from the tables of transitions: python tools/generate_group_states.py"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path

from penstock.group import consumer_states, states

PAGE = Path(__file__).resolve().parent.parent / "docs" / "group-states.md"
_HEAD = """\
# The states of a group's member

<!-- Generated from src/penstock/group/states.py and consumer_states.py by tools/generate_group_states.py: edit there. -->

Two machines, one for each protocol: [classic](#the-classic-protocol) (`group/classic.py`) and [consumer](#the-consumer-protocol)
(KIP-848, `group/consumer.py`). The names on the arrows are the events that lead from one state to the next; an event that is on no arrow of
a state leaves it as it is. `Leave` leads from every state but LEAVING to LEAVING, or to UNSUBSCRIBED where nobody need be told; these
arrows are left out.
"""
_CLASSIC = """\
## The classic protocol

Members join together, and one of them divides the partitions among all, eagerly or cooperatively (KIP-429).
"""
_CONSUMER = """\
## The consumer protocol

The coordinator divides the partitions, and each member goes from what it owns to what it was assigned at its own pace, by heartbeats alone.
"""

Table = Mapping[Enum, Mapping[type, frozenset[Enum]]]


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield _CLASSIC
    yield from _machine({**states.TRANSITIONS}, states.HEARTBEATING)
    yield _CONSUMER
    yield from _machine({**consumer_states.TRANSITIONS}, consumer_states.HEARTBEATING)


def _machine(table: Table, heartbeating: Collection[Enum]) -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    [*] --> UNSUBSCRIBED"
    for state, ways in table.items():
        for target in table:
            causes = [event.__name__ for event, targets in ways.items() if target in targets]
            shown = [cause for cause in causes if cause != "Leave"]
            if shown:
                yield f"    {state.name} --> {target.name}: {', '.join(shown)}"
    yield "```\n"
    for state in table:
        yield f"### {state.name}\n"
        yield f"{state.value}\n"
        before = [other.name for other in table if state in set().union(*table[other].values())]
        yield f"*Comes after {', '.join(before) or 'nothing'}. Heartbeats: {'yes' if state in heartbeating else 'no'}.*\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
