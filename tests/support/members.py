"""Consumers in processes of their own, from the side that starts, hurts and watches them. See tests/support/member.py."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tools.kafka.java import LIGHT_JVM
from tools.kafka.kafka import compile_java, java_command

from tests.support.history import Commit, Event, Given, Place, Read, Taken

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
JAVA_SOURCE = HERE / "java" / "Member.java"
JAVA_CLASSES = ROOT / ".kafka" / "test-classes"
END_TIMEOUT_S = 30.0
KINDS = ("penstock", "java", "confluent", "kafka-python")

JAVA_ASSIGNORS = {
    "range": "org.apache.kafka.clients.consumer.RangeAssignor",
    "roundrobin": "org.apache.kafka.clients.consumer.RoundRobinAssignor",
    "sticky": "org.apache.kafka.clients.consumer.StickyAssignor",
    "cooperative-sticky": "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
}


@dataclass(slots=True)
class Member:
    """One process. `events` grows by look(), `reads` counts the records among them; `owned` is what it says that it owns now."""

    name: str
    kind: str
    process: subprocess.Popen[bytes]
    notes: Path
    events: list[Event] = field(default_factory=list)
    reads: int = 0
    errors: list[str] = field(default_factory=list)
    owned: set[Place] = field(default_factory=set)
    closed: bool = False
    killed: bool = False
    hurt: bool = False
    _rest: bytes = b""
    _file: IO[bytes] | None = None
    _commits: dict[int, int] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def look(self) -> Member:
        """Take in what it has noted since the last look."""
        if self._file is None:
            self._file = self.notes.open("rb")
        data = self._rest + self._file.read()
        lines = data.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._take(json.loads(line))
        return self

    def _take(self, note: Mapping[str, Any]) -> None:
        at, event = int(note["t"]), note["e"]
        if event == "read":
            self.events += [Read(self.name, at, Place(t, p), o, value) for t, p, o, value in note["r"]]
            self.reads += len(note["r"])
        elif event in ("given", "taken", "lost"):
            places = frozenset(Place(*place) for place in note["p"])
            if event == "given":
                self.owned |= places
                self.events.append(Given(self.name, at, places))
            else:
                self.owned -= places
                self.events.append(Taken(self.name, at, places, event == "lost"))
        elif event == "commit":
            self._commits[note["id"]] = len(self.events)
            self.events.append(Commit(self.name, at, {Place(t, p): o for t, p, o in note["o"]}))
        elif event == "committed":
            index = self._commits.pop(note["id"])
            begun = self.events[index]
            assert isinstance(begun, Commit)
            self.events[index] = Commit(self.name, begun.begun_ns, begun.offsets, at, note["x"])
        elif event == "error":
            self.errors.append(note["x"])
        elif event == "closed":
            self.closed = True

    # -- faults
    def kill(self) -> None:
        """kill -9: it neither commits nor leaves."""
        self.killed = True
        self.process.kill()
        self.process.wait(END_TIMEOUT_S)

    def pause(self) -> None:
        self.hurt = True
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    # -- the end
    def ask_to_stop(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
            self.process.stdin = None

    def stop(self) -> None:
        """Have it leave in order; AssertionError if it does not, or says that it failed."""
        self.ask_to_stop()
        try:
            code = self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {END_TIMEOUT_S} s:\n{self.told()}"
            ) from None
        self.look()
        assert code == 0 and self.closed, f"{self.name} ended with {code}:\n{self.told()}"

    def told(self, characters: int = 3_000) -> str:
        """The end of what it wrote beside its notes."""
        return self.notes.with_suffix(".err").read_text(errors="replace")[-characters:]

    def end(self) -> None:
        """Whatever state it is in."""
        if self.running:
            self.process.kill()
            self.process.wait(END_TIMEOUT_S)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self._file is not None:
            self._file.close()


class Members:
    """All members of one test. With a `with` statement: none of them outlives it."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.all: list[Member] = []
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-members-")

    def start(
        self,
        kind: str,
        group: str | None,
        *,
        assign: Sequence[int] | None = None,
        pace_ms: int = 0,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Member:
        """A member of that kind; `pace_ms` is how long it takes for what one poll returned."""
        name = name or f"{kind}-{len(self.all)}"
        notes = Path(self._folder.name, f"{name}.jsonl")
        options = dict(config or {})
        if kind == "java":
            command = self._java(group, options, notes)
        else:
            given = {
                "kind": kind,
                "bootstrap": self.bootstrap,
                "group": group,
                "topic": self.topic,
                "assign": None if assign is None else list(assign),
                "pace_ms": pace_ms,
                "config": options,
            }
            command = [sys.executable, "-m", "tests.support.member", json.dumps(given)]
        with notes.open("wb") as out, notes.with_suffix(".err").open("wb") as told:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=told, cwd=ROOT)
        member = Member(name, kind, process, notes)
        self.all.append(member)
        return member

    def _java(self, group: str | None, options: dict[str, Any], notes: Path) -> list[str]:
        classes = compile_java([JAVA_SOURCE], JAVA_CLASSES)
        strategy = options.pop("partition.assignment.strategy", "range")
        if options.get("group.protocol") != "consumer":  # there the coordinator assigns (KIP-848)
            options["partition.assignment.strategy"] = JAVA_ASSIGNORS[strategy]
        config = {
            "bootstrap.servers": self.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": "false",
            **options,
        }
        command = java_command(
            "Member", notes.with_suffix(".log"), jvm_args=("-Xmx96m", *LIGHT_JVM), classpath=[classes]
        )
        return [*command, self.topic, *(f"{name}={value}" for name, value in config.items())]

    @property
    def running(self) -> list[Member]:
        return [member for member in self.all if member.running]

    def look(self) -> None:
        for member in self.all:
            member.look()

    def events(self) -> dict[str, list[Event]]:
        """Of all members that ever were; for a History."""
        self.look()
        return {member.name: member.events for member in self.all}

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
        """Look until the condition holds. Members that ended without having been told to fail the test at once."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.look()
            if condition():
                return
            for member in self.all:
                if not member.killed and not member.closed and not member.running:
                    raise AssertionError(f"{member.name} ended by itself:\n{member.look().told()}")
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s; {self.state()}"
            time.sleep(0.05)

    def state(self) -> str:
        """For a message: who owns what, who complained, and what they logged last."""
        return "\n".join(
            f"{m.name}: {'running' if m.running else 'ended'}, owns {sorted(p.partition for p in m.owned)}, "
            f"{len(m.events)} events, errors {m.errors[-3:]}\n{m.told(1_500)}"
            for m in self.all
        )

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.all:
            if member.running and member.hurt:
                member.resume()
            member.end()
        self._folder.cleanup()
