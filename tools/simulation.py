"""The simulation of groups (tests/simulation), outside pytest: one seed with a trace, or seeds by the thousand.

python tools/simulation.py --world cooperative --seed 7
python tools/simulation.py --rebalances 1000000 [--processes 2] [--first-seed 0] [--worlds eager,consumer]

The second ends at the first seed that fails, with the command that replays it.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file: the repository stands in for this folder.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tests.simulation.scenarios import WORLDS, SeedFailed, run

SEEDS_AT_A_TIME = 20
PROGRESS_EVERY_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Seeded rebalances under a virtual clock")
    parser.add_argument("--world", choices=sorted(WORLDS), default="cooperative", help="for --seed")
    parser.add_argument("--seed", type=int, help="replay this seed, with a trace")
    parser.add_argument("--rebalances", type=int, default=10_000, help="without --seed: run at least so many")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--first-seed", type=int, help="without --seed: begin here (by default anywhere)")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="without --seed: in these worlds")
    given = parser.parse_args()
    if given.seed is not None:
        return replay(given.world, given.seed)
    names = given.worlds.split(",")
    if unknown := sorted(set(names) - WORLDS.keys()):
        parser.error(f"no such worlds: {', '.join(unknown)}; there are {', '.join(WORLDS)}")
    first = random.randrange(10**9) if given.first_seed is None else given.first_seed
    return search(names, first, given.rebalances, given.processes)


def replay(world: str, seed: int) -> int:
    """The run's trace: when, who, which event, the state after it; under it the effects."""
    try:
        counts = run(world, seed, lambda line: print(readable(line)))
    except SeedFailed as error:
        print(error)
        return 1
    print(f"held: {counts}")
    return 0


def readable(line: str) -> str:
    """Partitions by short names, and no encoded bytes."""
    line = re.sub(r"TopicPartition\(topic='(\w+)', partition=(\d+)\)", r"\1-\2", line)
    line = re.sub(r"\(b'(\w+)\.+', (\d+)\)", r"\1-\2", line)
    return re.sub(r"""b(?:'[^']*\\x[^']*'|"[^"]*\\x[^"]*")""", "...", line)


def search(names: list[str], first: int, wanted: int, processes: int) -> int:
    """Seeds from `first` on in each world, until they have made as many rebalances as wanted, or one fails."""
    started_s = told_s = time.monotonic()
    done = seeds = 0
    print(
        f"{wanted} rebalances in {processes} processes, seeds from {first} on: {', '.join(names)}", flush=True
    )
    chunks = chunks_of(names, first)
    with ProcessPoolExecutor(processes) as pool:
        running: set[Future[int]] = {pool.submit(run_chunk, *next(chunks)) for _ in range(2 * processes)}
        while done < wanted:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for each in finished:
                try:
                    done += each.result()
                except SeedFailed as error:
                    print(error, flush=True)
                    pool.shutdown(cancel_futures=True)
                    return 1
                seeds += SEEDS_AT_A_TIME
                running.add(pool.submit(run_chunk, *next(chunks)))
            if time.monotonic() - told_s >= PROGRESS_EVERY_S:
                told_s = time.monotonic()
                print(f"{told_s - started_s:7.0f} s  {seeds} seeds, {done} rebalances", flush=True)
        pool.shutdown(cancel_futures=True)
    print(f"{time.monotonic() - started_s:7.0f} s  {seeds} seeds, {done} rebalances: all held", flush=True)
    return 0


def chunks_of(names: list[str], first: int) -> Iterator[tuple[str, int]]:
    for number in count():
        for name in names:
            yield name, first + number * SEEDS_AT_A_TIME


def run_chunk(world: str, first: int) -> int:
    return sum(run(world, seed).rebalances for seed in range(first, first + SEEDS_AT_A_TIME))


if __name__ == "__main__":
    sys.exit(main())
