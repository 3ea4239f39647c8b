"""penstock's annotations as its users' type checkers see them: installed, not as sources beside the code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = Path(__file__).with_name("users_code.py")
CACHE = ROOT / "build" / "typing"
LIMIT_S = 300


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_the_package_says_that_it_is_typed() -> None:
    package = files("penstock")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("_native.pyi").is_file()


@pytest.mark.timeout(LIMIT_S + 10)
def test_mypy_takes_what_users_write(tmp_path: Path) -> None:
    copy = tmp_path / CODE.name
    copy.write_text(CODE.read_text())
    done = run(
        "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={CACHE / 'mypy'}", str(copy), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(LIMIT_S + 10)
def test_pyright_takes_what_users_write(tmp_path: Path) -> None:
    copy = tmp_path / CODE.name
    copy.write_text(CODE.read_text())
    settings = {
        "include": [CODE.name],
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": False,  # those are mypy's
        "reportUnnecessaryTypeIgnoreComment": "error",
        "pythonVersion": "3.11",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run("-m", "pyright", "--pythonpath", sys.executable, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
