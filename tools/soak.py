"""A long run under faults: the demo on three real brokers, of which one after another is killed and started again.

python tools/soak.py [--minutes 30] [--rate 5000] [--seed 1]

It passes if in the end every record that was acknowledged is stored once and committed, which the demo itself judges.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file: the repository stands in for this folder.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tools.kafka.kafka import KafkaCluster, KafkaToolError

ROOT = Path(__file__).resolve().parent.parent
BROKERS = 3
CALM_S = (10.0, 20.0)
CATCH_UP_S = 180.0
SETTINGS = {"default.replication.factor": "3", "min.insync.replicas": "2"}


def main() -> int:
    parser = argparse.ArgumentParser(description="The demo, while brokers die and come back")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=int, default=5_000, help="orders a second (default 5,000)")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="which broker, when")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {given.seed}", flush=True)
    try:
        with KafkaCluster(BROKERS, SETTINGS) as cluster:
            return run(cluster, given.minutes * 60, given.rate, random.Random(given.seed))
    except KeyboardInterrupt:
        return 130
    except KafkaToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(cluster: KafkaCluster, seconds: float, rate: int, chance: random.Random) -> int:
    """The demo's exit code; 1 if it does not end."""
    environment = {**os.environ, "KAFKA": cluster.bootstrap_servers}
    command = [sys.executable, "-m", "examples.demo", "--seconds", str(seconds), "--rate", str(rate)]
    started = time.monotonic()
    demo = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        while demo.poll() is None and time.monotonic() - started < seconds:
            if _ended_within(demo, chance.uniform(*CALM_S)):
                break
            victim = chance.choice(sorted(cluster.nodes))
            print(f"{time.monotonic() - started:7.1f} s  kill -9 of broker {victim}", flush=True)
            cluster.kill(victim)
            _ended_within(demo, chance.uniform(1.0, CALM_S[0]))
            cluster.restart(victim)
        return demo.wait(seconds + CATCH_UP_S)
    except subprocess.TimeoutExpired:
        print(f"error: the demo did not end within {CATCH_UP_S:.0f} s after its time", file=sys.stderr)
        return 1
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait()


def _ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
