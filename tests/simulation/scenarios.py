"""The worlds that seeds are run in, and the run: safety while faults last, then convergence within a bound."""

from __future__ import annotations

import random
from collections.abc import Callable

from penstock.devbroker.groups import GroupLimits

from . import checkers
from .trouble import TOPICS, Stage, Trouble
from .world import Counts, Violation, World

FAULTY_MS = 90_000
CONVERGED_WITHIN_MS = 240_000
LOOK_EVERY_MS = 1_000
RESTS_FOR_MS = 4_000

COOPERATIVE = ("cooperative-sticky",)
EAGER = (("range",), ("range", "roundrobin"), ("range", "sticky"))
STICKY = (("sticky",), ("sticky", "range"), ("sticky", "roundrobin"))
BOTH = ("cooperative-sticky", "range")


def eager(chance: random.Random) -> tuple[Stage, ...]:
    return (Stage(0, chance.choice((EAGER, STICKY, (("roundrobin",),)))),)


def cooperative(chance: random.Random) -> tuple[Stage, ...]:
    return (Stage(0, (COOPERATIVE,)),)


def rolling(chance: random.Random) -> tuple[Stage, ...]:
    """From eager to cooperative in two rolling bounces (KIP-429)."""
    return Stage(0, (("range",),)), Stage(10_000, (BOTH,)), Stage(45_000, (COOPERATIVE,))


def consumer(chance: random.Random) -> tuple[Stage, ...]:
    """By the protocol of KIP-848."""
    return (Stage(0, (None,), (None, "uniform", "range"), pattern=True),)


def migration(chance: random.Random) -> tuple[Stage, ...]:
    """From the classic protocol to that of KIP-848, and back, member by member."""
    classic = chance.choice(((("range",),), (COOPERATIVE,), (BOTH, ("range",)), STICKY))
    return Stage(0, classic), Stage(15_000, (None,)), Stage(50_000, classic)


WORLDS: dict[str, Callable[[random.Random], tuple[Stage, ...]]] = {
    "eager": eager,
    "cooperative": cooperative,
    "rolling": rolling,
    "consumer": consumer,
    "migration": migration,
}


class SeedFailed(AssertionError):
    """A seed, what it broke and when, and how to see it again."""


def run(name: str, seed: int, trace: Callable[[str], None] | None = None) -> Counts:
    """One seed in one world. SeedFailed says what did not hold."""
    world = make_world(seed, trace)
    try:
        play(world, WORLDS[name](world.random))
    except Exception as error:
        what = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        raise SeedFailed(
            f"world {name}, seed {seed}, at {world.clock.now_ms} ms: {what}\nreplay: make sim WORLD={name} SEED={seed}"
        ) from error
    return world.counts


def make_world(seed: int, trace: Callable[[str], None] | None = None) -> World:
    chance = random.Random(f"limits {seed}")
    limits = GroupLimits(
        initial_rebalance_delay_ms=chance.choice((0, 0, 500)),
        consumer_heartbeat_interval_ms=chance.choice((500, 1_000, 3_000)),
        consumer_session_timeout_ms=chance.choice((6_000, 10_000, 20_000)),
    )
    return World(seed, TOPICS, limits, trace)


def play(world: World, stages: tuple[Stage, ...]) -> None:
    rough = world.random.random() < 0.85
    world.faults = world.random.choice((0.0, 0.01, 0.05, 0.15)) if rough else 0.0
    world.note("run", lambda: f"rough: {rough}, faults: {world.faults}, {stages}")
    trouble = Trouble(world, stages, rough=rough)
    owners = checkers.no_two_current_owners if rough or len(stages) > 1 else checkers.no_two_owners

    def each() -> None:
        if world.changed:
            world.changed = False
            owners(world)

    world.clock.run(FAULTY_MS, each)
    calm_down(world, trouble)
    come_to_rest(world, each)
    if not rough and len(stages) == 1 and world.counts.lost:
        raise Violation(f"without faults, {world.counts.lost} assignments were lost")


def calm_down(world: World, trouble: Trouble) -> None:
    """No more faults; and at least one member."""
    world.note("run", lambda: "faults stop")
    world.faults = 0.0
    world.no_records_after_ms = world.clock.now_ms + LOOK_EVERY_MS
    for host in world.hosts:
        host.link.deaf_until_ms = host.link.mute_until_ms = 0
    trouble.stop()
    world.clock.after(LOOK_EVERY_MS, trouble.grow)  # the leader, or the coordinator, sees new partitions


def come_to_rest(world: World, each: Callable[[], None]) -> None:
    """Safety holds on the way. Once at rest the group stays so."""
    until_ms = world.clock.now_ms + CONVERGED_WITHIN_MS
    world.clock.run(world.clock.now_ms + 2 * LOOK_EVERY_MS, each)
    while (why := checkers.unconverged(world)) is not None:
        if world.clock.now_ms >= until_ms:
            raise Violation(f"not converged {CONVERGED_WITHIN_MS} ms after the faults stopped: {why}")
        world.clock.run(world.clock.now_ms + LOOK_EVERY_MS, each)
    world.note("run", lambda: "at rest")
    world.clock.run(world.clock.now_ms + RESTS_FOR_MS, each)
    if (why := checkers.unconverged(world)) is not None:
        raise Violation(f"at rest, and then not: {why}")
