"""What happens to a group: members come, go, change their minds, hang and die; the network and the brokers fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from penstock.group import messages as g

from .host import Host, Settings
from .world import World

MOST_MEMBERS = 6
MOST_PARTITIONS = 8
TOPICS = {"t": 4, "u": 3}
MAY_COME = ("v", "w")
WISHES = (("t",), ("u",), ("t", "u"), ("t", "u", "v"), ("u", "v", "w"))

Act = Callable[[], None]


@dataclass(frozen=True)
class Stage:
    """How members are configured from a time on; in a rolling change there are several."""

    from_ms: int
    strategies: tuple[tuple[str, ...] | None, ...]
    server_assignors: tuple[str | None, ...] = (None,)
    pattern: bool = False


class Trouble:
    """Does something to the group every now and then. `rough`: also what breaks connections and processes."""

    def __init__(self, world: World, stages: tuple[Stage, ...], *, rough: bool) -> None:
        self.world, self.rough, self.over = world, rough, False
        self.stages = stages
        self.stage = 0
        self._stage_of: dict[Host, int] = {}
        self._members = 0
        self._deleted: set[str] = set()
        chance = world.random
        self._longest_ms = chance.choice((600, 1_500, 4_000))
        self._wanted_members = chance.choice((2, 3, 4))
        self._max_poll_ms = chance.choice((8_000, 20_000, 40_000))
        gentle: list[Act] = [self.add, self.close, self.subscribe, self.rejoin, self.grow, self.leave_somehow]
        rough_: list[Act] = [
            self.die, self.bounce, self.cut, self.isolate, self.one_way, self.move, self.restart, self.delete, self.twin,
        ]  # fmt: skip
        self._acts = 3 * gentle + rough_ if rough else gentle
        for _ in range(chance.randrange(1, 5)):
            self.add()
        self._later()

    def _later(self) -> None:
        self.world.clock.after(self.world.random.randrange(50, self._longest_ms), self._do)

    def _do(self) -> None:
        if self.over:
            return
        if not self._roll():
            few = len(self._alive()) < self._wanted_members and self.world.flips()
            act = self.add if few else self.world.random.choice(self._acts)
            self.world.note("trouble", lambda: act.__name__)
            act()
        self._later()

    def stop(self) -> None:
        """No more of it; at least one member stays."""
        self.over = True
        instances: set[str] = set()
        for host in self._alive():
            if host.instance in instances:
                self._close(host, None)
            elif host.instance is not None:
                instances.add(host.instance)
        self._start("last", self.settings(None))

    # ------------------------------------------------------------ rolling changes

    def _roll(self) -> bool:
        """Replace one member that is configured as before, sometimes; a stage begins when the one before is through."""
        if self.stage + 1 < len(self.stages):
            later = self.stages[self.stage + 1]
            if self.world.clock.now_ms >= later.from_ms and not self._of_before():
                self.stage += 1
        old = self._of_before()
        if not old or self.world.random.random() < 0.5:
            return False
        host = self.world.random.choice(old)
        self.world.note("trouble", lambda: f"roll {host.name}")
        if self.rough and self.world.flips():
            host.die()
            self.add(host.instance)
        else:
            self._close(host, None)
            self.world.clock.after(
                self.world.random.randrange(4_000), lambda: None if self.over else self.add(host.instance)
            )
        return True

    def _of_before(self) -> list[Host]:
        return [host for host in self._alive() if self._stage_of[host] < self.stage]

    # ------------------------------------------------------------ members

    def _alive(self) -> list[Host]:
        return [host for host in self.world.hosts if host.alive and host.user.closing is None]

    def _one(self) -> Host | None:
        alive = self._alive()
        return self.world.random.choice(alive) if alive else None

    def settings(self, instance: str | None) -> Settings:
        chance, stage = self.world.random, self.stages[self.stage]
        return Settings(
            chance.choice(stage.strategies),
            instance,
            chance.choice(stage.server_assignors),
            session_ms=chance.choice((6_000, 10_000, 20_000)),
            heartbeat_ms=chance.choice((500, 1_000, 3_000)),
            max_poll_ms=self._max_poll_ms,
            request_ms=chance.choice((2_000, 5_000)),
            auto_commit=chance.random() < 0.7,
        )

    def add(self, instance: str | None = None) -> None:
        if sum(host.alive for host in self.world.hosts) >= MOST_MEMBERS:
            return
        chance = self.world.random
        self._members += 1
        name = f"m{self._members}"
        if instance is None and chance.random() < 0.3:
            instance = f"static-{name}"
        self._start(name, self.settings(instance))

    def _start(self, name: str, settings: Settings) -> Host:
        chance = self.world.random
        host = Host(self.world, name, chance.choice(WISHES), settings)
        host.pattern = self.stages[self.stage].pattern and not host.is_classic and chance.random() < 0.2
        self._stage_of[host] = self.stage
        self.world.hosts[:] = [each for each in self.world.hosts if each.alive]
        self.world.note(name, lambda: f"starts with {settings}")
        host.user.begin()
        return host

    @staticmethod
    def _close(host: Host, leave_group: bool | None) -> None:
        host.user.closing = (leave_group,)

    def close(self) -> None:
        if (host := self._one()) is not None:
            self._close(host, None)

    def leave_somehow(self) -> None:
        if (host := self._one()) is not None:
            self._close(host, self.world.random.choice((True, False)))

    def die(self) -> None:
        if (host := self._one()) is not None:
            host.die()

    def bounce(self) -> None:
        """kill -9, and the same again at once, as a container restarts."""
        if (host := self._one()) is not None:
            host.die()
            self.add(host.instance)

    def twin(self) -> None:
        """A second process under the same instance id, for a while. By the classic protocol the first is fenced, and gives up."""
        host = self._one()
        if host is None or host.instance is None:
            return
        self._members += 1
        twin = self._start(f"m{self._members}", replace(self.settings(host.instance)))
        self.world.clock.after(
            self.world.random.randrange(500, 15_000), lambda: None if self.over else self._close(twin, None)
        )

    def subscribe(self) -> None:
        if (host := self._one()) is not None:
            host.topics, host.pattern = self.world.random.choice(WISHES), False
            host.feed(g.Subscribe(host.topics))

    def rejoin(self) -> None:
        if (host := self._one()) is not None:
            host.feed(g.Rejoin("the test asks for it"))

    # ------------------------------------------------------------ the network and the brokers

    def cut(self) -> None:
        if (host := self._one()) is not None:
            host.cut()

    def isolate(self) -> None:
        """Cut one off from all brokers, often for longer than its session."""
        if (host := self._one()) is not None:
            until_ms = self.world.clock.now_ms + self.world.random.randrange(500, 30_000)
            host.link.deaf_until_ms = host.link.mute_until_ms = until_ms
            if self.world.flips():
                host.cut()

    def one_way(self) -> None:
        """What it sends arrives and the answers do not, or the other way round."""
        if (host := self._one()) is not None:
            until_ms = self.world.clock.now_ms + self.world.random.randrange(500, 20_000)
            if self.world.flips():
                host.link.deaf_until_ms = until_ms
            else:
                host.link.mute_until_ms = until_ms

    def move(self) -> None:
        self.world.move_coordinator(self.world.random.randrange(4_000))

    def restart(self) -> None:
        self.world.restart_coordinator(self.world.random.randrange(4_000))

    # ------------------------------------------------------------ topics

    def grow(self) -> None:
        name = self.world.random.choice([name for name in (*TOPICS, *MAY_COME) if name not in self._deleted])
        topic = self.world.topics.get(name)
        if topic is None or len(topic.logs) < MOST_PARTITIONS:
            self.world.grow(name)

    def delete(self) -> None:
        """One of those that came; it does not come again: offsets are committed by name."""
        names = [name for name in MAY_COME if name in self.world.topics]
        if names and self.world.random.random() < 0.2:
            name = self.world.random.choice(names)
            self._deleted.add(name)
            self.world.delete(name)
