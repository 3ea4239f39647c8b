"""Record sets written by Kafka's own Java classes, and what those classes read in them: `java_batches/`.

python -m tests.golden.capture_java
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tools.kafka.kafka import compile_java, java_tool

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "java" / "Capture.java"
BATCHES = HERE / "java_batches"


def capture(into: Path) -> None:
    """Write every case into a folder: NAME.bin, expected.json and murmur2.json."""
    with tempfile.TemporaryDirectory() as classes:
        compile_java([SOURCE], Path(classes))
        java_tool("Capture", [str(into)], classpath=[Path(classes)])


if __name__ == "__main__":
    capture(BATCHES)
    print(f"{len(list(BATCHES.iterdir()))} files in {BATCHES}", file=sys.stderr)
