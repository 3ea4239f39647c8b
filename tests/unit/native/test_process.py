"""What befalls a whole process: signals, forks, finalizers that call back, its end."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock._native import EVENT_CONNECTED, Connection, EventQueue, Fetcher

from .scripted import PATIENCE_S, Bench, Part, batch

MakeBench = Callable[..., Bench]


@pytest.fixture
def bench() -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(*args: Any, **settings: Any) -> Bench:
        made.append(Bench(*args, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


SIGINT_CHILD = """
import os, signal, threading
from penstock._native import EventQueue, Fetcher

fetcher = Fetcher(EventQueue(), client_id="c")

def interrupt():
    while not fetcher.stats()["polls"]:  # until the main thread is inside poll()
        pass
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    fetcher.poll(1, 3_600_000)
except KeyboardInterrupt:
    print("interrupted", len(fetcher.poll(1, 0)))
"""


def test_ctrl_c_interrupts_poll() -> None:
    child = subprocess.run(
        [sys.executable, "-c", SIGINT_CHILD], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (child.stdout, child.stderr, child.returncode) == ("interrupted 0\n", "", 0)


FORK_CHILD = textwrap.dedent(
    """
    import os, sys
    from penstock._native import Connection, EventQueue, Fetcher
    from penstock.errors import ForkedError
    events = EventQueue()
    fetcher = Fetcher(events, client_id="c")
    handle = fetcher.assign("t", bytes(16), 0)
    connection = Connection(events, 1, "127.0.0.1", int(sys.argv[1]))
    fetcher.set_leader(handle, 1, 0)
    fetcher.seek(handle, 0)
    fetcher.attach(1, connection, 12)
    assert events.wait(20_000)[0][0] == 1
    child = os.fork()
    if child == 0:
        calls = [
            lambda: fetcher.poll(1, 1000), lambda: fetcher.seek(handle, 1), lambda: connection.send(1, b"x"),
            lambda: events.wait(1000),
        ]
        caught = []
        for call in calls:
            try:
                call()
            except ForkedError as error:
                assert str(os.getpid()) in str(error), error
                caught.append(error)
        fetcher.close()
        connection.close()
        del fetcher, connection, events
        os._exit(len(caught))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 4, status
    assert fetcher.poll(1, 20_000)[0].offset == 0, "the parent is unharmed"
    print("done")
    """
)


def test_a_forked_child_is_told_and_the_parent_goes_on(bench: MakeBench) -> None:
    b = bench()
    b.broker.fetch()
    child = subprocess.Popen(
        [sys.executable, "-c", FORK_CHILD, str(b.broker.port)], stdout=subprocess.PIPE, text=True
    )
    b.broker.fetch().answer(Part(records=batch(0, 1)))
    output, _ = child.communicate(timeout=PATIENCE_S)
    assert (output, child.returncode) == ("done\n", 0)


def test_the_interpreter_ends_with_everything_open() -> None:
    code = (
        "from penstock._native import *\n"
        "import penstock._native as n\n"
        "q = n.EventQueue(); f = n.Fetcher(q, client_id='c'); c = n.Connection(q, 1, '127.0.0.1', 9)\n"
        "f.attach(1, c, 12)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)


def test_the_peer_hears_of_the_end_although_a_forked_child_has_the_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        events = EventQueue()
        connection = Connection(events, 1, "127.0.0.1", server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            peer.settimeout(PATIENCE_S)
            assert events.wait(int(PATIENCE_S * 1000))[0][0] == EVENT_CONNECTED
            child = os.fork()
            if child == 0:
                signal.pause()
            try:
                connection.close()
                assert peer.recv(1) == b""
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


FINALIZER_CHILD = textwrap.dedent(
    """
    from penstock._native import EventQueue, Fetcher

    fetcher = Fetcher(EventQueue(), client_id="c")
    handle = fetcher.assign("t", bytes(16), 0)
    seen = []

    class Last:
        def __del__(self):
            seen.append(fetcher.position(handle))

    def fail():
        error = ValueError("no more")
        error.last = Last()
        fetcher.fail(handle, error)

    fetcher.seek(handle, 0)
    fail()
    fail()
    assert seen == [(0, -1)], seen
    fetcher.seek(handle, 5)
    assert seen == [(0, -1), (5, -1)], seen
    fail()
    fetcher.cut(handle, 3)
    assert len(seen) == 3, seen
    fail()
    fetcher.unassign([handle])
    assert seen[3:] == [None], seen
    print("done")
    """
)


def test_what_is_forgotten_may_call_back_when_it_ends() -> None:
    """An error that was raised holds the frames that it went through, and what is in them: one may even close the consumer."""
    child = subprocess.run(
        [sys.executable, "-c", FINALIZER_CHILD],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (child.stdout, child.stderr) == ("done\n", "")


def test_a_closed_fetcher_and_those_who_made_it_can_be_collected() -> None:
    """A deserializer that is a method of the object that has the consumer: a circle."""

    class Service:
        def __init__(self) -> None:
            events = EventQueue()
            self.fetcher = Fetcher(events, client_id="c", value_deserializer=self.read)
            self.fetcher.assign("t", bytes(16), 0)

        def read(self, value: bytes) -> bytes:
            return value

    service = Service()
    service.fetcher.close()
    gone = weakref.ref(service)
    del service
    gc.collect()
    assert gone() is None
