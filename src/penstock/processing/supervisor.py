"""Several processes of one processor: performs what Supervision asks for."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from .supervision import Effect, Finish, Kill, Promote, Say, Start, Supervision

_MOST_LINE_BYTES = 1_000_000


class _Child:
    """A process, and what it has said and not ended a line with."""

    def __init__(self, process: subprocess.Popen[bytes], status_fd: int) -> None:
        self.process = process
        self.status_fd = status_fd
        self.rest = b""


class Supervisor:
    """`run()` until all have ended. Belongs to the main thread, whose signals it takes."""

    def __init__(
        self,
        where: str,
        *,
        instances: int,
        standbys: int = 0,
        grace_s: float = 30.0,
        static: bool = False,
        options: tuple[str, ...] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        """`where`: MODULE:NAME. `static`: each instance has a group.instance.id of its own, <group.id>-<number>. `options`: NAME=VALUE."""
        self._where = where
        self._static = static or standbys > 0
        self._options = options
        self._say = say
        self._machine = Supervision(instances, standbys, grace_s * 1000)
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._asked = 0  # signals to stop that have come
        self._exit_code: int | None = None

    def health(self) -> dict[str, object]:
        """For probes; from any thread."""
        return self._machine.health()

    def run(self) -> int:
        """The exit code: 0 if all ended as they should after a signal to stop."""
        with self._signals():
            self._perform(self._machine.begin(_now_ms()))
            answered = 0
            while self._exit_code is None:
                for key, _ in self._selector.select(self._wait_s()):
                    key.data()
                while answered < self._asked and self._exit_code is None:
                    answered += 1
                    self._perform(self._machine.stop(_now_ms()))
                self._reap()
                if self._exit_code is None:
                    self._perform(self._machine.tick(_now_ms()))
        for child in list(self._children.values()):  # standbys
            self._end(child)
        return self._exit_code

    def _wait_s(self) -> float:
        now_ms = _now_ms()
        return max(0.0, (self._machine.next_tick_ms(now_ms) - now_ms) / 1000)

    # ------------------------------------------------------------ effects

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(number):
                    self._start(number)
                case Promote(pid, number):
                    self._promote(pid, number)
                case Kill(pid, how):
                    if pid in self._children:
                        self._children[pid].process.send_signal(how)
                case Say(text):
                    self._say(text)
                case Finish(exit_code):
                    self._exit_code = exit_code

    def _start(self, number: int) -> None:
        ours, theirs = os.pipe()
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        process = subprocess.Popen(
            [
                sys.executable, "-m", "penstock.processing.instance", self._where, str(theirs), str(number), level,
                "static" if self._static else "dynamic", *self._options,
            ],
            stdin=subprocess.PIPE,
            pass_fds=(theirs,),
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(ours, False)
        child = self._children[process.pid] = _Child(process, ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(child))
        self._machine.started(number, process.pid, _now_ms())

    def _promote(self, pid: int, number: int) -> None:
        child = self._children[pid]
        assert child.process.stdin is not None
        with contextlib.suppress(OSError):  # it has just died, and is reaped next
            child.process.stdin.write(b"%d\n" % number)
            child.process.stdin.flush()

    # ------------------------------------------------------------ what happens

    def _hear(self, child: _Child) -> None:
        try:
            data = os.read(child.status_fd, 65_536)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(child.status_fd)
            os.close(child.status_fd)
            child.status_fd = -1
            return
        *lines, child.rest = (child.rest + data).split(b"\n")
        child.rest = child.rest[-_MOST_LINE_BYTES:]
        for line in lines:
            with contextlib.suppress(ValueError):
                self._perform(self._machine.said(child.process.pid, json.loads(line), _now_ms()))

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            exit_code = child.process.poll()
            if exit_code is not None:
                self._end(child)
                self._perform(self._machine.exited(pid, exit_code, _now_ms()))

    def _end(self, child: _Child) -> None:
        self._children.pop(child.process.pid, None)
        if child.status_fd >= 0:
            self._selector.unregister(child.status_fd)
            os.close(child.status_fd)
            child.status_fd = -1
        if child.process.stdin is not None:
            with contextlib.suppress(OSError):
                child.process.stdin.close()
        try:
            child.process.wait(5.0)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop, the second one at once; SIGCHLD wakes."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)

        def stop(number: int, frame: object) -> None:
            self._asked += 1

        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, stop),
                (signal.SIGINT, stop),
                (signal.SIGCHLD, lambda number, frame: None),
            )
        }
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def drain() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 4096)

        self._selector.register(reader, selectors.EVENT_READ, drain)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.unregister(reader)
            os.close(reader)
            os.close(writer)


def _now_ms() -> float:
    return time.monotonic() * 1000
