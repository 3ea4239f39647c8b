"""penstock broker, and what every command has."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import penstock as package
from penstock import Admin
from penstock.cli.start import Start, StartKind, parse_start
from tests.cli.conftest import START, TIMEOUT_S, CommandLine


def address_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_runs_until_it_is_told_to_end(penstock: CommandLine, number: signal.Signals, code: int) -> None:
    process = penstock.start("broker", "--port", "0", "--topic", "orders:3", "--topic", "visits")
    with Admin(bootstrap_servers=address_of(process)) as admin:
        sizes = {name: len(topic.partitions) for name, topic in admin.describe_topics().items()}
    assert sizes == {"orders": 3, "visits": 1}
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (code, b"")
    assert b"Traceback" not in err and b"production is a Kafka cluster" in err


def test_data_dir_keeps_records(penstock: CommandLine, tmp_path: Path) -> None:
    arguments = ("broker", "--port", "0", "--data-dir", str(tmp_path / "data"), "--topic", "orders:2")
    first = penstock.start(*arguments)
    penstock("produce", "orders", "-b", address_of(first), input="kept\n")
    first.kill()
    first.wait(TIMEOUT_S)
    second = penstock.start(*arguments)
    assert penstock("consume", "orders", "-e", "-b", address_of(second)).stdout == "kept\n"


def test_a_taken_port(penstock: CommandLine) -> None:
    port = penstock.broker.bootstrap_servers.rpartition(":")[2]
    assert "error:" in penstock("broker", "--port", port, code=1).stderr


def test_wrong_calls(penstock: CommandLine) -> None:
    penstock("broker", "--port", "70000", code=2)
    penstock("broker", "--port", "0", "--topic", "orders:many", code=2)
    penstock("broker", "--port", "0", "--topic", "spaces are wrong", code=2)
    penstock("broker", "--port", "0", "-X", "num.partitons=3", code=2)


def test_no_broker(penstock: CommandLine) -> None:
    quick = ("-b", "127.0.0.1:1", "-X", "default.api.timeout.ms=800", "-X", "request.timeout.ms=600")
    for arguments in (
        ("topics", "list"),
        ("consume", "orders"),
        ("consume", "orders", "-g", "g"),
        ("groups", "list"),
    ):
        assert "127.0.0.1:1" in penstock(*arguments, *quick, code=1).stderr
    assert "127.0.0.1:1" in penstock(
        "produce", "orders", "-b", "127.0.0.1:1", "-X", "max.block.ms=300", input="x\n", code=1
    ).stderr  # fmt: skip


def test_options_are_checked(penstock: CommandLine) -> None:
    assert "client.id" in penstock("topics", "list", "-X", "client.idd=x", code=1).stderr
    assert "NAME=VALUE" in penstock("topics", "list", "-X", "client.id", code=2).stderr


def test_help_and_version(penstock: CommandLine) -> None:
    assert penstock("--version").stdout == f"penstock {package.__version__}\n"
    for command in ((), ("topics",), ("produce",), ("consume",), ("groups",), ("broker",)):
        assert "Usage: penstock" in penstock(*command, "--help").stdout
    assert "Examples" in penstock("consume", "--help").stdout


def test_without_the_extra_it_says_what_to_install(penstock: CommandLine) -> None:
    code = f"import sys; sys.modules['typer'] = None; {START}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "the command line needs the package typer: pip install 'penstock[cli]'\n"


def test_help_imports_no_client() -> None:
    """Completion and help are waited for by people: the engine, kio and rich's progress come when they are needed."""
    code = "import sys, penstock.cli.app; print([m for m in sys.modules if m.startswith(('kio', 'penstock.engine', 'asyncio'))])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert done.stdout.strip() == "[]"


def test_places() -> None:
    assert parse_start("beginning") == Start(StartKind.BEGINNING)
    assert parse_start("end") == Start(StartKind.END)
    assert parse_start("0") == Start(StartKind.OFFSET, 0)
    assert parse_start("-0") == Start(StartKind.LAST, 0)
    assert parse_start("-12") == Start(StartKind.LAST, 12)
    assert parse_start("1970-01-01T00:00:01.5Z") == Start(StartKind.TIME, 1500)
    assert parse_start("1970-01-01T02:00:00+02:00") == Start(StartKind.TIME, 0)
    for wrong in ("", "start", "1.5", "2026-13-01"):
        with pytest.raises(ValueError, match="beginning, end, an offset"):
            parse_start(wrong)
