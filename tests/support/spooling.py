"""A processor with a spool in a process of its own, and what it leaves on disk."""

from __future__ import annotations

import json
import signal
import uuid
from pathlib import Path
from typing import Any

from penstock.processing.spool.format import decode_entries
from penstock.processing.spool.journal import JournalState

from . import processors


class Child:
    """A processor of tests.support.processors in a process of its own, and what it has noted."""

    def __init__(self, bootstrap_servers: str, topic: str, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.notes = folder.parent / f"notes-{uuid.uuid4().hex[:8]}"
        self._child = processors.child(
            "spool",
            bootstrap_servers,
            f"g-{topic}",
            topic,
            str(folder),
            str(self.notes),
            json.dumps(options),
        )

    def __enter__(self) -> Child:
        self.process = self._child.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._child.__exit__(*error)

    def handled(self) -> list[int]:
        """Offsets, in the order of the calls."""
        if not self.notes.exists():
            return []
        return [int(line.split()[1]) for line in self.notes.read_text().splitlines()]

    def journal(self) -> JournalState:
        """What stands in the journal of the partition now."""
        found = JournalState()
        for path in self.folder.glob("*/*/*/journal"):
            data = path.read_bytes()
            identity_ends = 12 + int.from_bytes(data[4:8], "little")
            found = JournalState.of(decode_entries(data, identity_ends)[0])
        return found

    def done(self) -> int:
        """How many records the journal calls done."""
        return sum(end - start for start, end in self.journal().ranges(None))

    def records_on_disk(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.folder.rglob("*.records"))

    def kill(self) -> str:
        return processors.ended(self.process, signal.SIGKILL)

    def stop(self) -> str:
        return processors.ended(self.process, signal.SIGTERM)
