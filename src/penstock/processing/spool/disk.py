"""A spool's files: appended to, read, cut, deleted. Blocking calls, all of one thread; an OSError is the caller's to judge."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .format import (
    HEAD_BYTES,
    JOURNAL,
    SEGMENT,
    FrameHead,
    Identity,
    decode_entries,
    decode_head,
    encode_head,
)
from .journal import JournalState
from .shelf import Segment

_MOST_OPEN = 64
JOURNAL_NAME = "journal"
SEGMENT_SUFFIX = ".records"


class DamagedError(Exception):
    """A file does not hold what was written to it."""


class Frame(NamedTuple):
    head: FrameHead
    payload: bytes


class Disk:
    """Files that are appended to stay open, the latest of them."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, BinaryIO] = OrderedDict()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    # ------------------------------------------------------------ writing

    def append_frame(self, path: Path, header: bytes, payload: bytes, *head: int) -> None:
        """`header`: of a file that is to be made, else empty. No fsync: what a crash of the machine takes away is fetched again."""
        if header:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._append(path, (header, encode_head(payload, *head), payload))

    def append(self, parts: Iterable[tuple[Path, bytes]]) -> None:
        for path, data in parts:
            self._append(path, (data,))

    def _append(self, path: Path, parts: Iterable[bytes]) -> None:
        file = self._open.pop(path, None)
        if file is None:
            file = path.open("ab", buffering=0)
            if len(self._open) >= _MOST_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open[path] = file
        data = memoryview(b"".join(parts))
        while data:
            data = data[os.write(file.fileno(), data) :]

    def delete(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._forget(path)
            path.unlink(missing_ok=True)

    def delete_folder(self, folder: Path) -> None:
        for path in [path for path in self._open if path.parent == folder]:
            self._forget(path)
        if folder.exists():
            shutil.rmtree(folder)

    def _forget(self, path: Path) -> None:
        file = self._open.pop(path, None)
        if file is not None:
            file.close()

    # ------------------------------------------------------------ reading

    def read(
        self, path: Path, position: int, offset: int, most_bytes: int, most_records: int
    ) -> tuple[list[Frame], int]:
        """Frames from `position` on that end beyond `offset`, as many as fit, but at least one; and the position after them. DamagedError
        where there is none, or one that is not what was written."""
        frames: list[Frame] = []
        with _readable(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(position)
            while position < size:
                head = decode_head(file.read(HEAD_BYTES), size - position - HEAD_BYTES)
                if head is None:
                    raise DamagedError(f"{path}: no frame at {position}")
                if frames and (head.length > most_bytes or head.records > most_records):
                    break
                position += HEAD_BYTES + head.length
                if head.next_offset <= offset:
                    file.seek(position)
                    continue
                payload = file.read(head.length)
                if len(payload) != head.length or zlib.crc32(payload) != head.crc:
                    raise DamagedError(f"{path}: the frame before {position} is damaged")
                frames.append(Frame(head, payload))
                most_bytes -= head.length
                most_records -= head.records
        if not frames:
            raise DamagedError(f"{path}: it ends at {position}")
        return frames, position

    # ------------------------------------------------------------ what a run before has left

    def found(self, folder: Path, identity: Identity) -> tuple[list[Segment], JournalState]:
        """The segments of this partition, cut where they stop making sense, and its journal; files of anything else are deleted."""
        segments, state = [], JournalState()
        header = identity.header(SEGMENT)
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            self._forget(path)
            if path.suffix == SEGMENT_SUFFIX:
                segment = self._scanned(path, header)
                if segment is not None and segment.name == path.name:
                    segments.append(segment)
                else:
                    path.unlink()
            elif path.name == JOURNAL_NAME:
                state = self._journal(path, identity)
            else:
                path.unlink()
        return segments, state

    @staticmethod
    def _scanned(path: Path, header: bytes) -> Segment | None:
        """Heads alone are looked at: a payload is checked when it is read."""
        size = path.stat().st_size
        with path.open("r+b") as file:
            if file.read(len(header)) != header:
                return None
            at, segment = len(header), None
            while head := decode_head(file.read(HEAD_BYTES), size - at - HEAD_BYTES):
                if segment is None:
                    segment = Segment(head.start, head.start, at, 0)
                elif head.start != segment.end:
                    break
                segment.end, segment.leader_epoch = head.next_offset, head.leader_epoch
                segment.records += head.records
                at += HEAD_BYTES + head.length
                segment.size_bytes = at
                file.seek(at)
            if at < size:
                file.truncate(at)
        return segment

    @staticmethod
    def _journal(path: Path, identity: Identity) -> JournalState:
        header, data = identity.header(JOURNAL), path.read_bytes()
        if not data.startswith(header):
            return JournalState()
        return JournalState.of(decode_entries(data, len(header))[0])

    def write_journal(self, folder: Path, identity: Identity, state: JournalState | None) -> int:
        """Begin the journal anew with this (None: with what it comes to itself), in one step; its size."""
        path = folder / JOURNAL_NAME
        if state is None:
            state = self._journal(path, identity).compacted()
        folder.mkdir(parents=True, exist_ok=True)
        self._forget(path)
        data = identity.header(JOURNAL) + state.entries()
        beside = folder / "journal.new"
        beside.write_bytes(data)
        beside.replace(path)
        return len(data)


def _readable(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:  # whoever has deleted it: the disk is well
        raise DamagedError(f"{path} is gone") from None


def size_of(folder: Path) -> int:
    """Of all files in it."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
