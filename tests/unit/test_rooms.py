"""What import-linter cannot see, since the native module is no Python source: who may import it."""

from __future__ import annotations

import ast
from pathlib import Path

import penstock

ROOT = Path(penstock.__file__).parent
MAY = {"engine", "consumer", "producer", "cli", "processing", "sinks"}


def test_only_the_engine_and_the_shells_know_the_native_plane() -> None:
    seen = set()
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            if any(name.split(".")[-1] == "_native" for name in named):
                seen.add(room)
    assert seen >= {"engine", "consumer"}, "the search itself finds nothing"
    assert seen - MAY <= {"__init__.py"}
