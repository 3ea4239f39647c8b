"""Draws docs/group-states.md from the table of transitions: python tools/generate_group_states.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.group.states import HEARTBEATING, TRANSITIONS, State

PAGE = Path(__file__).resolve().parent.parent / "docs" / "group-states.md"
_HEAD = """\
# The states of a group's member

<!-- Generated from src/penstock/group/states.py by tools/generate_group_states.py: edit there. -->

A member of a group with the classic protocol, rebalancing eagerly (`group/classic.py`). The names on the arrows are the events
that lead from one state to the next; an event that is on no arrow of a state leaves it as it is. `Leave` leads from every
state but LEAVING to LEAVING, or to UNSUBSCRIBED where nobody need be told; these arrows are left out.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.UNSUBSCRIBED.name}"
    for state in State:
        for target in State:
            causes = [event.__name__ for event, targets in TRANSITIONS[state].items() if target in targets]
            shown = [cause for cause in causes if cause != "Leave"]
            if shown:
                yield f"    {state.name} --> {target.name}: {', '.join(shown)}"
    yield "```\n"
    for state in State:
        yield f"## {state.name}\n"
        yield f"{state.value}\n"
        before = [other.name for other in State if state in set().union(*TRANSITIONS[other].values())]
        yield f"*Comes after {', '.join(before) or 'nothing'}. Heartbeats: {'yes' if state in HEARTBEATING else 'no'}.*\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
