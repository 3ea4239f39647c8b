"""How a command ends: errors without tracebacks, pipes that close, signals."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec

import typer

from ..errors import KafkaError

P = ParamSpec("P")

EXIT_TERMINATED = 128 + signal.SIGTERM


def fail(message: str) -> NoReturn:
    """End the command with exit code 1."""
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


def warn(message: str) -> None:
    """Something the user should know, beside the output."""
    typer.secho(f"warning: {message}", err=True, fg=typer.colors.YELLOW)


def command(function: Callable[P, None]) -> Callable[P, None]:
    """A function as a command: what it raises for the user becomes a message and an exit code.

    Ctrl-C is left to typer, which ends with 130. A reader of our output that closed the pipe has what it wanted: 0.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _terminable():
                function(*args, **kwargs)
                sys.stdout.flush()
        except BrokenPipeError:
            _discard_output()
        except KafkaError as error:
            fail(str(error))
        except OSError as error:
            fail(str(error))

    return run


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds the stack as Ctrl-C does, so that a consumer leaves its group and a producer flushes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, _frame: object) -> None:
        raise SystemExit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_output() -> None:
    """Point standard output at nothing, else the interpreter's last flush would complain about the closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more: without records to write, nothing else would tell."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poller = select.poll()
    poller.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
