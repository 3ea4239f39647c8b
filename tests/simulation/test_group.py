"""Seeded rebalances of groups: safety while faults last, convergence once they stop.

A failure names its seed and the command that replays it with a trace. `make soak` runs more seeds.
"""

from __future__ import annotations

import pytest

from penstock.group import messages as g

from . import checkers
from .host import Host, Settings
from .scenarios import WORLDS, SeedFailed, make_world, run
from .world import World

SEEDS = 50  # in a chunk
CHUNKS = {"eager": 7, "cooperative": 7, "rolling": 7, "consumer": 2, "migration": 3}
AT_LEAST = {"eager": 400, "cooperative": 450, "rolling": 440, "consumer": 2_500, "migration": 1_600}
"""Rebalances in a chunk that moved partitions or members."""


@pytest.mark.parametrize(
    ("world", "chunk"), [(world, chunk) for world, chunks in CHUNKS.items() for chunk in range(chunks)]
)
def test_groups_survive(world: str, chunk: int) -> None:
    seeds = range(chunk * SEEDS, (chunk + 1) * SEEDS)
    counts = [run(world, seed) for seed in seeds]
    assert sum(each.rebalances for each in counts) >= AT_LEAST[world]
    assert sum(each.revoked for each in counts) > 200
    assert sum(each.lost for each in counts) > 20
    assert sum(each.commits for each in counts) > 1_000


def test_the_runs_are_ten_thousand_rebalances() -> None:
    assert CHUNKS.keys() == WORLDS.keys()
    assert sum(chunks * AT_LEAST[world] for world, chunks in CHUNKS.items()) >= 10_000


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_replays(world: str) -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run(world, 7, trace.append)
    assert len(traces[0]) > 100
    assert traces[0] == traces[1]


# ---------------------------------------------------------------- what the search has met, told as a story


def member(
    world: World, name: str, topics: tuple[str, ...], strategy: str = "range", instance: str | None = None
) -> Host:
    host = Host(world, name, topics, Settings((strategy,), instance))
    host.user.begin()
    return host


def rest(world: World, for_ms: int = 20_000) -> None:
    world.clock.run(world.clock.now_ms + for_ms, lambda: checkers.no_two_current_owners(world))


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_static_member_that_comes_back_with_other_topics_reads_those(seed: int, others: int) -> None:
    """The coordinator gives it its predecessor's assignment without a rebalance (KIP-345), which is not what it wants."""
    world = make_world(seed)
    world.no_records_after_ms = 10_000
    for number in range(others):
        member(world, f"other-{number}", ("t", "u"))
    first = member(world, "static", ("t",), instance="instance")
    rest(world)
    first.die()
    back = member(world, "static", ("u",), instance="instance")
    rest(world)
    assert {tp.topic for tp in back.handles} == {"u"}
    assert checkers.unconverged(world) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_static_leader_that_was_silent_still_gives_new_partitions_away(seed: int) -> None:
    """It heard of them before its poll interval passed; its own place is given back to it without a rebalance."""
    world = make_world(seed)
    world.no_records_after_ms = 10_000
    leader = member(world, "static", ("t",), instance="instance")
    member(world, "other", ("t",))
    rest(world)
    assert leader.machine.is_leader
    leader.feed(g.PollExpired())
    world.grow("t")
    rest(world)
    assert checkers.unconverged(world) is None


def test_a_failure_names_its_seed_and_its_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(world: World) -> None:
        raise AssertionError("broken on purpose")

    monkeypatch.setattr(checkers, "no_two_current_owners", broken)
    with pytest.raises(
        SeedFailed, match=r"seed 3, .* broken on purpose\nreplay: make sim WORLD=eager SEED=3"
    ):
        run("eager", 3)
