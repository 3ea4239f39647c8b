"""`make demo`, in a short form: what it promises, how it ends, and that it leaves nothing running."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from examples.demo.__main__ import summarize
from examples.demo.children import DemoError
from examples.demo.store_orders import INSERT, store_orders
from examples.demo.view import Picture

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 90

# A test run in a shell's background inherits an ignored SIGINT, and Python then leaves it ignored.
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from examples.demo.__main__ import main; sys.exit(main())"
)


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("KAFKA", "POSTGRES")}
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


def balance(out: str) -> tuple[int, int, int]:
    found = re.search(r"^produced ([\d,]+)  stored ([\d,]+)  committed ([\d,]+) ", out, re.MULTILINE)
    assert found is not None, out
    produced, stored, committed = (int(number.replace(",", "")) for number in found.groups())
    return produced, stored, committed


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"the demo never said {word!r}")


@pytest.mark.postgres
def test_every_record_is_stored_and_committed() -> None:
    process = start("--seconds", "5", "--rate", "2000")
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, ""), out + err
    produced, stored, committed = balance(out)
    assert produced == stored == committed > 3000
    assert re.search(r"owners .*consumer-[12]", out), out


@pytest.mark.postgres
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_processes(number: signal.Signals, code: int) -> None:
    process = start("--seconds", "60", "--rate", "500")
    wait_for(process, "consumer-")
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 4
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.postgres
def test_a_process_that_dies_fails_the_demo() -> None:
    process = start("--seconds", "60", "--rate", "500")
    wait_for(process, "consumer-")
    family = psutil.Process(process.pid).children(recursive=True)
    victim = next(child for child in family if "consumer-2" in child.cmdline())
    victim.kill()
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "the process consumer-2 failed (exit code -9)" in err
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.parametrize(("rows", "committed"), [(9, 10), (10, 9), (11, 10)])
def test_what_does_not_come_out_even_is_an_error(rows: int, committed: int) -> None:
    picture = Picture(0.0, {0: 10}, {0: committed}, {}, "stable", rows)
    with pytest.raises(DemoError):
        summarize(10, picture, 1.0)


def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(DemoError):
        summarize(0, Picture(0.0, {}, {}, {}, "stable", 0), 1.0)


def test_the_readme_shows_the_consumer_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text()
    source = inspect.getsource(store_orders)
    assert source.strip() in readme
    assert INSERT.strip() in readme
