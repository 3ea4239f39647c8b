"""Apache Kafka's jars: brought by Maven, kept in `.kafka/<version>/libs`, checked against `jars.lock`.

python tools/kafka/jars.py            bring the jars if needed and check them
python tools/kafka/jars.py --write    bring them anew and write jars.lock (after a change of pom.xml)
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from tools.maven import ROOT, Jars, ServerToolError

HERE = Path(__file__).resolve().parent
KAFKA = Jars("Apache Kafka", HERE, ROOT / ".kafka", "kafka.version")
KafkaToolError = ServerToolError


def kafka_version() -> str:
    """The version that pom.xml names."""
    return KAFKA.version()


@cache
def ensure_jars() -> Path:
    """The folder of the jars, brought by Maven when they are missing, every one checked against jars.lock."""
    return KAFKA.ensure()


if __name__ == "__main__":
    sys.exit(KAFKA.main())
