"""docs/group-states.md is what the table of transitions says, and the table is whole."""

from __future__ import annotations

from tools.generate_group_states import PAGE, page

from penstock.group.messages import Leave
from penstock.group.states import TRANSITIONS, State


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make docs"


def test_every_state_has_a_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {State.UNSUBSCRIBED}
    while True:
        further = {
            t for state in reached for targets in TRANSITIONS[state].values() for t in targets
        } | reached
        if further == reached:
            break
        reached = further
    assert reached == set(State)


def test_every_state_can_be_left_by_leaving() -> None:
    ways = {state for state, events in TRANSITIONS.items() if Leave in events}
    assert ways == set(State) - {State.UNSUBSCRIBED, State.LEAVING}
