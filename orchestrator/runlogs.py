"""What the workers of a run printed, from the segments in its run directory. Local paths and gs:// alike."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.loglines import Line, Wanted, last_of_each
from orchestrator.runlock import holder
from trainer.errors import ConfigError, ObjectNotFound
from trainer.rundir.attempts import EndRecord, read_records
from trainer.rundir.store import Entry, Store, open_store

FOLLOW_S = 0.5
FOLLOW_BUCKET_S = 5.0
"""A bucket gets a segment a minute, and each look is a listing that costs money."""
_LOG_NAME = re.compile(r"logs/worker-(\d+)/(attempt-(\d+)|agent-[0-9a-z-]+)/segment-(\d+)\.log")


@dataclass(frozen=True)
class _Segment:
    entry: Entry
    worker: int
    stream: str
    attempt: int | None
    """None: the agent's own words."""
    number: int

    @property
    def order(self) -> tuple[int, int, str, int]:
        """Attempts in order, and within an attempt worker by worker."""
        return self.attempt or 0, self.worker, self.stream, self.number


def read(directory: str, wanted: Wanted, *, follow: bool = False) -> Iterator[Line]:
    """What was printed, oldest attempt first; with `follow` also what comes, until the run is over.

    The lines have no times: `since` is about segments, of which one is written a minute.

    Raises:
        ConfigError: there are no logs. StoreError: the run directory cannot be read.
    """
    store = open_store(directory)
    over = not follow or not _live(directory, store)
    reader = _Reader(store, wanted)
    yield from last_of_each((line for line in reader.new(over=over) if wanted.shows(line)), wanted.tail)
    if not reader.found and not follow:
        raise ConfigError(f"{directory} holds no logs", remedy="Name a run directory, such as runs/digits.")
    while not over:
        time.sleep(FOLLOW_BUCKET_S if directory.startswith("gs://") else FOLLOW_S)
        over = not _live(directory, store)
        for line in reader.new(over=over):
            if wanted.shows(line):
                yield line


@dataclass
class _Reader:
    """Gives each line of the segments once."""

    store: Store
    wanted: Wanted
    found: bool = False
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Segment -> its generation, and how many of its bytes were read."""
    _rest: dict[tuple[int, str], bytes] = field(default_factory=dict)
    """Worker and stream -> the beginning of a line."""

    def new(self, *, over: bool) -> Iterator[Line]:
        """What was not read yet. With `over` nothing follows: lines that have begun are whole."""
        segments = self._segments()
        for position, segment in enumerate(segments):
            self.found = True
            stream = (segment.worker, segment.stream)
            *lines, rest = (self._rest.pop(stream, b"") + self._fresh(segment)).split(b"\n")
            following = segments[position + 1] if position + 1 < len(segments) else None
            more = following is not None and (following.worker, following.stream) == stream
            if over and rest and not more:
                lines.append(rest)
            elif rest:
                self._rest[stream] = rest
            for text in lines:
                yield Line(segment.worker, text.decode(errors="replace"), attempt=segment.attempt)

    def _fresh(self, segment: _Segment) -> bytes:
        entry = segment.entry
        generation, read = self._seen.get(entry.name, (0, 0))
        if generation == entry.generation:
            return b""
        try:
            data = self.store.get(entry.name)
        except ObjectNotFound:
            return b""  # written anew just now
        self._seen[entry.name] = (entry.generation, len(data))
        return data[read:]

    def _segments(self) -> list[_Segment]:
        found = []
        for entry in self.store.list("logs/"):
            match = _LOG_NAME.fullmatch(entry.name)
            if match is None or not self.wanted.worker(int(match[1])):
                continue
            attempt = int(match[3]) if match[3] else None
            if self.wanted.attempt is not None and attempt != self.wanted.attempt:
                continue
            if entry.written_ns and entry.written_ns < self.wanted.since_ns:
                continue
            found.append(_Segment(entry, int(match[1]), match[2], attempt, int(match[4])))
        return sorted(found, key=lambda segment: segment.order)


def _live(directory: str, store: Store) -> bool:
    running = bool(holder(directory))
    records = read_records(store)
    if records and isinstance(records[-1], EndRecord) and not running:
        return False
    return running or directory.startswith("gs://")
