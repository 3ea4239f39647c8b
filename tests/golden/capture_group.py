"""What Kafka's own assignors give and the bytes that its members exchange: `java_group.json`.

python -m tests.golden.capture_group
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tools.kafka.kafka import compile_java, java_tool

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "java" / "GroupCapture.java"
CASES = HERE / "java_group.json"


def capture(into: Path) -> None:
    """Write every case into one file."""
    with tempfile.TemporaryDirectory() as classes:
        compile_java([SOURCE], Path(classes))
        java_tool("GroupCapture", [str(into)], classpath=[Path(classes)])


if __name__ == "__main__":
    capture(CASES)
    print(f"{CASES.stat().st_size} bytes in {CASES}", file=sys.stderr)
