"""A consumer in a process of its own that does what it is told, one step at a time; and the side that tells it.

    python -m tests.support.stepwise '{"client.id": "a", ...}' TOPIC

Each line on standard input is a command in JSON, each line on standard output its answer: {"done": ...} or {"refused": the error's name}.
In between it polls, so that it takes part in rebalances, but all its partitions are paused: only the command "poll" reads. After
"hang" it polls no more until "wake" or "poll".
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
END_TIMEOUT_S = 30.0


class Refused(Exception):
    """What was asked of the consumer raised an error of this name."""


class Actor:
    """One consumer, from outside."""

    def __init__(self, topic: str, config: Mapping[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stepwise", json.dumps(dict(config)), topic],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have it done; Refused with the name of the error that it raised."""
        self.tell(command, **arguments)
        return self.hear()

    def tell(self, command: str, **arguments: Any) -> None:
        """Have it begin; hear() waits for the end."""
        assert self.process.stdin is not None
        print(json.dumps({"command": command, **arguments}), file=self.process.stdin, flush=True)

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the consumer ended by itself, with {self.process.wait(END_TIMEOUT_S)}"
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["done"]

    def crash(self) -> None:
        """kill -9: it neither commits nor leaves."""
        self.process.kill()
        self.end()

    def close(self) -> None:
        self.ask("close")
        self.end()

    def end(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_TIMEOUT_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


# ------------------------------------------------------------ in the process


class Steps:
    """The consumer, from inside. Offsets are by partition number, for there is one topic."""

    def __init__(self, topic: str, config: Mapping[str, Any]) -> None:
        from penstock import KafkaConsumer

        self.hangs = False
        self.open = True
        self._topic = topic
        self._calls: list[str] = []
        self._consumer = KafkaConsumer(**config)
        self._consumer.subscribe([topic], listener=self)

    def on_partitions_assigned(self, partitions: list[Any]) -> None:
        self._calls.append("assigned")
        self._consumer.pause(*partitions)

    def on_partitions_revoked(self, partitions: list[Any]) -> None:
        self._calls.append("revoked")

    def on_partitions_lost(self, partitions: list[Any]) -> None:
        self._calls.append("lost")

    def calls(self) -> list[str]:
        """What the listener was told, since the last time this was asked."""
        told, self._calls = self._calls, []
        return told

    def member(self) -> tuple[str, int]:
        """The member id and the generation (or member epoch)."""
        me = self._consumer.group_metadata()
        return me.member_id, me.generation_id

    def idle(self) -> None:
        self._consumer.poll(timeout=20)

    def owned(self) -> list[int]:
        return sorted(tp.partition for tp in self._consumer.assignment())

    def hang(self) -> None:
        self.hangs = True

    def hold_the_gil(self, for_s: int) -> None:
        """As C code does that computes without giving it back: no other thread of this process runs a line of Python."""
        ctypes.PyDLL(None).sleep(for_s)

    def poll(self, ends: list[int]) -> list[tuple[int, int]]:
        """All that there is, up to these ends of the partitions: (partition, offset) of each record."""
        self.hangs = False
        consumer, found = self._consumer, []
        mine = consumer.assignment()
        consumer.resume(*mine)
        while any(consumer.position(tp) < ends[tp.partition] for tp in mine):
            found += [(record.partition, record.offset) for record in consumer.poll(timeout=50)]
        consumer.pause(*mine)
        return found

    def commit(self, partition: int | None = None, offset: int = 0, allow_rewind: bool = False) -> None:
        from penstock import TopicPartition

        wanted = None if partition is None else {TopicPartition(self._topic, partition): offset}
        self._consumer.commit(wanted, allow_rewind=allow_rewind)

    def wake(self) -> None:
        self.hangs = False

    def close(self) -> None:
        self.open = False
        self._consumer.close()


def main() -> None:
    from penstock.errors import KafkaError

    steps = Steps(sys.argv[2], json.loads(sys.argv[1]))
    commands = selectors.DefaultSelector()
    commands.register(0, selectors.EVENT_READ)
    while steps.open:
        if not commands.select(None if steps.hangs else 0):
            steps.idle()
            continue
        line = sys.stdin.readline()
        if not line:
            os._exit(1)  # nobody is left to tell it anything
        asked = json.loads(line)
        try:
            answer: dict[str, Any] = {"done": getattr(steps, asked.pop("command"))(**asked)}
        except KafkaError as error:
            answer = {"refused": type(error).__name__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
