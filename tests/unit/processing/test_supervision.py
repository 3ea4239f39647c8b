"""Who runs, who waits and who is started again, on a clock of the test's own."""

from __future__ import annotations

import random
import signal

from penstock.processing.supervision import Finish, Kill, Promote, Say, Start, State, Supervision

READY = {"ready": True, "alive": True}


def without_words(effects: list[object]) -> list[object]:
    return [effect for effect in effects if not isinstance(effect, Say)]


def running(instances: int, standbys: int = 0) -> Supervision:
    machine = Supervision(instances, standbys, grace_ms=10_000)
    for pid, effect in enumerate(machine.begin(0), 100):
        assert isinstance(effect, Start)
        machine.started(effect.number, pid, 0)
        machine.said(pid, READY, 0)
    return machine


def test_an_instance_that_ends_is_started_again_with_its_number() -> None:
    machine = running(2)
    assert without_words(machine.exited(100, -9, 1_000)) == []
    assert machine.instances[0].state is State.RESTING
    assert machine.tick(1_100) == []
    assert machine.tick(1_200) == [Start(1)]


def test_a_standby_takes_the_number_at_once_and_another_is_made() -> None:
    machine = running(2, standbys=1)
    assert without_words(machine.exited(101, 1, 1_000)) == [Promote(102, 2), Start(0)]
    assert machine.instances[1].pid == 102


def test_one_that_ends_again_and_again_waits_longer_and_takes_no_more_standbys() -> None:
    machine = running(1, standbys=1)
    now_ms, pid, next_pid, promoted, waits = 0.0, 100, 102, 0, []
    for _ in range(8):
        now_ms += 1_000  # it runs for a second
        effects = without_words(machine.exited(pid, 1, now_ms))
        began_ms = now_ms
        while not any(isinstance(effect, (Start, Promote)) for effect in effects):
            now_ms = machine.next_tick_ms(now_ms)
            effects = machine.tick(now_ms)
        for effect in effects:
            if isinstance(effect, Promote):
                promoted += 1
                pid = effect.pid
            elif isinstance(effect, Start):
                machine.started(effect.number, next_pid, now_ms)
                if effect.number:
                    pid = next_pid
                    waits.append(now_ms - began_ms)
                machine.said(next_pid, READY, now_ms)
                next_pid += 1
        machine.said(pid, READY, now_ms)
    assert promoted == 3
    assert waits == [1_600, 3_200, 6_400, 12_800, 25_600]
    now_ms += 60_000  # it runs well for once
    machine.said(pid, READY, now_ms)
    assert Promote(101 + 3, 1) in machine.exited(pid, -9, now_ms)


def test_an_instance_that_never_gets_ready_is_given_up_after_some_tries() -> None:
    machine = Supervision(1, 0, grace_ms=1_000, most_vain_starts=3)
    now_ms, pid, effects, waits = 0.0, 0, machine.begin(0.0), []
    while Finish(1) not in effects:
        assert without_words(effects) == [Start(1)]
        pid += 1
        machine.started(1, pid, now_ms)
        effects = without_words(machine.exited(pid, 1, now_ms))
        while not effects:
            before = now_ms
            now_ms = machine.next_tick_ms(now_ms)
            waits.append(now_ms - before)
            effects = machine.tick(now_ms)
    assert pid == 3


def test_one_that_says_nothing_is_killed() -> None:
    machine = running(1)
    assert machine.tick(59_000) == []
    assert without_words(machine.tick(60_001)) == [Kill(100, signal.SIGKILL)]


def test_one_that_is_not_alive_is_killed() -> None:
    machine = running(1)
    assert without_words(machine.said(100, {"alive": False}, 1.0)) == [Kill(100, signal.SIGKILL)]


def test_stopping_is_kind_then_late_then_over() -> None:
    machine = running(2, standbys=1)
    assert without_words(machine.stop(0)) == [Kill(pid, signal.SIGTERM) for pid in (100, 101, 102)]
    assert machine.exited(102, 0, 1) == []
    assert machine.exited(100, 0, 2) == []
    assert machine.tick(10_000) == [Kill(101, signal.SIGKILL)]
    assert machine.exited(101, -9, 10_001) == [Finish(1)]


def test_asked_twice_it_kills() -> None:
    machine = running(1)
    machine.stop(0)
    assert machine.stop(1) == [Kill(100, signal.SIGKILL)]


def test_whatever_happens_each_number_has_one_process_and_all_end() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        machine = Supervision(3, chance.randint(0, 2), grace_ms=5_000, most_vain_starts=10**9)
        alive: dict[int, int] = {}
        now_ms, pids, finished = 0.0, iter(range(1, 10**6)), False

        def perform(effects: list[object]) -> None:
            nonlocal finished
            for effect in effects:
                match effect:
                    case Start(number):
                        pid = next(pids)  # noqa: B023
                        alive[pid] = number  # noqa: B023
                        machine.started(number, pid, now_ms)  # noqa: B023
                    case Promote(pid, number):
                        assert alive[pid] == 0  # noqa: B023
                        alive[pid] = number  # noqa: B023
                    case Kill(pid, signal.SIGKILL):
                        alive.pop(pid, None)  # noqa: B023
                        perform(machine.exited(pid, -9, now_ms))  # noqa: B023
                    case Finish():
                        finished = True

        perform(machine.begin(now_ms))
        for _ in range(200):
            now_ms += chance.random() * 1_000
            pid = chance.choice([*alive, 0])
            match chance.randint(0, 3):
                case 0 if pid:
                    del alive[pid]
                    perform(machine.exited(pid, chance.choice([0, 1, -9]), now_ms))
                case 1 | 2 if pid:
                    perform(machine.said(pid, READY, now_ms))
            perform(machine.tick(now_ms))
            numbers = [number for number in alive.values() if number]
            assert len(numbers) == len(set(numbers)), f"seed {seed}: two processes of a number"
        perform(machine.stop(now_ms))
        for pid in list(alive):
            alive.pop(pid)
            perform(machine.exited(pid, 0, now_ms))
        assert finished, f"seed {seed}"
