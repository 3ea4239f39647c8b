"""docs/group-states.md is what the tables of transitions say, and the tables are whole."""

from __future__ import annotations

from typing import Any

import pytest
from tools.generate_group_states import PAGE, page

from penstock.group import consumer_states, states
from penstock.group.messages import Leave

both = pytest.mark.parametrize(
    ("table", "kind"),
    [
        (states.TRANSITIONS, states.State),
        (consumer_states.TRANSITIONS, consumer_states.ConsumerState),
    ],
    ids=["classic", "consumer"],
)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make docs"


@both
def test_every_state_has_a_row_and_can_be_reached(table: Any, kind: Any) -> None:
    assert set(table) == set(kind)
    reached = {kind.UNSUBSCRIBED}
    while True:
        further = {t for state in reached for targets in table[state].values() for t in targets} | reached
        if further == reached:
            break
        reached = further
    assert reached == set(kind)


@both
def test_every_state_can_be_left_by_leaving(table: Any, kind: Any) -> None:
    ways = {state for state, events in table.items() if Leave in events}
    assert ways == set(kind) - {kind.UNSUBSCRIBED, kind.LEAVING}
