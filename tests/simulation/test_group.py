"""Seeded rebalances of a classic group: safety while faults last, convergence once they stop.

PENSTOCK_SEEDS=5000 runs more seeds; a failure names its seed, and test_group_survives(seed) replays it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from penstock.group import messages as g

from . import checkers
from .world import SESSION_MS, Host, World

SEEDS = int(os.environ.get("PENSTOCK_SEEDS", "150"))
TOPICS = {"t": 4, "u": 3}
FAULTY_MS, QUIET_MS = 120_000, 100_000


def wanted_topics(rng: random.Random) -> tuple[str, ...]:
    return rng.choice([("t",), ("u",), ("t", "u"), ("t", "u", "missing")])


class Trouble:
    """Does something to the group every few seconds. `rough`: also what breaks connections and processes."""

    def __init__(self, world: World, rough: bool) -> None:
        self.world, self.rough, self.over = world, rough, False
        self._members = 0
        for _ in range(world.random.randrange(1, 5)):
            self.add()
        self._later()

    def _later(self) -> None:
        self.world.clock.after(self.world.random.randrange(100, 8_000), self._do)

    def _do(self) -> None:
        if self.over:
            return
        gentle: list[Callable[[], None]] = [self.add, self.close, self.subscribe, self.rejoin, self.grow]
        rough: list[Callable[[], None]] = [self.die, self.bounce, self.cut, self.isolate, self.move]
        self.world.random.choice(gentle + rough if self.rough else gentle)()
        self._later()

    def add(self, instance: str | None = None) -> None:
        if sum(host.alive for host in self.world.hosts) < 6:
            self._members += 1
            name = f"m{self._members}"
            if instance is None and self.world.random.random() < 0.3:
                instance = f"static-{name}"
            Host(self.world, name, wanted_topics(self.world.random), instance)

    def _one(self) -> Host | None:
        alive = [host for host in self.world.hosts if host.alive]
        return self.world.random.choice(alive) if alive else None

    def close(self) -> None:
        if (host := self._one()) is not None:
            host.close()

    def die(self) -> None:
        if (host := self._one()) is not None:
            host.die()

    def bounce(self) -> None:
        """kill -9, and the same again at once, as a container restarts."""
        if (host := self._one()) is not None:
            host.die()
            self.add(host.instance)

    def cut(self) -> None:
        if (host := self._one()) is not None:
            host.cut()

    def isolate(self) -> None:
        """Cut one off from the coordinator, often for longer than its session."""
        if (host := self._one()) is not None:
            host.cut(self.world.random.randrange(1_000, 3 * SESSION_MS))

    def move(self) -> None:
        self.world.moved_until_ms = self.world.clock.now_ms + self.world.random.randrange(100, 6_000)

    def subscribe(self) -> None:
        if (host := self._one()) is not None:
            host.topics = wanted_topics(self.world.random)
            host.feed(g.Subscribe(host.topics))

    def rejoin(self) -> None:
        if (host := self._one()) is not None:
            host.feed(g.Rejoin("the test asks for it"))

    def grow(self) -> None:
        topic = self.world.random.choice(sorted(self.world.partitions))
        self.world.partitions[topic] += 1
        for host in self.world.hosts:
            self.world.clock.after(self.world.delay_ms(), host.metadata_changed)


def run(seed: int, *, rough: bool, each: Callable[[World], None]) -> World:
    world = World(seed, TOPICS)
    world.faults = world.random.choice([0.01, 0.05, 0.15]) if rough else 0.0
    trouble = Trouble(world, rough)
    world.clock.run(FAULTY_MS, lambda: each(world))
    trouble.over, world.faults = True, 0.0
    trouble.add()  # at least one member is left
    world.clock.after(
        QUIET_MS // 2, trouble.grow
    )  # and the leader sees new partitions, with nothing else to rebalance for
    world.clock.run(FAULTY_MS + QUIET_MS, lambda: each(world))
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_group_survives(seed: int) -> None:
    world = run(seed, rough=True, each=checkers.no_two_current_owners)
    checkers.callbacks_are_paired(world)
    checkers.commits_never_go_back(world)
    checkers.converged(world)


@pytest.mark.parametrize("seed", range(SEEDS // 3))
def test_without_faults_nothing_is_lost_or_owned_twice(seed: int) -> None:
    world = run(seed, rough=False, each=checkers.no_two_owners)
    checkers.callbacks_are_paired(world)
    checkers.commits_never_go_back(world)
    checkers.converged(world)
    assert [call for host in world.hosts for call, _ in host.seen.calls if call == "lost"] == []
    assert [code for host in world.hosts for code in host.errors] == []


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_static_member_that_comes_back_with_other_topics_reads_those(seed: int, others: int) -> None:
    """The coordinator gives it its predecessor's assignment without a rebalance (KIP-345), which is not what it wants."""
    world = World(seed, TOPICS)
    for number in range(others):
        Host(world, f"other-{number}", ("t", "u"))
    first = Host(world, "static", ("t",), "instance")
    world.clock.run(20_000, lambda: None)
    first.die()
    back = Host(world, "static", ("u",), "instance")
    world.clock.run(40_000, lambda: None)
    assert {tp.topic for tp in back.seen.owned} == {"u"}
    checkers.callbacks_are_paired(world)
    checkers.converged(world)


def test_the_runs_are_worth_their_time() -> None:
    """Enough happens in them: rebalances, losses, commits, static members back in their place."""
    worlds = [run(seed, rough=True, each=lambda world: None) for seed in range(20)]
    calls = [
        call for world in worlds for host in world.hosts for call, partitions in host.seen.calls if partitions
    ]
    assert calls.count("revoked") > 100
    assert calls.count("lost") > 15
    assert sum(len(world.accepted) for world in worlds) > 500


def test_a_seed_replays() -> None:
    first, second = (run(7, rough=True, each=lambda world: None) for _ in range(2))
    assert [host.seen.calls for host in first.hosts] == [host.seen.calls for host in second.hosts]
    assert first.accepted == second.accepted
