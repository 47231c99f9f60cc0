"""What the workers of a run printed, from the segments in its run directory: all of it, or what pods printed that are gone.
Local paths and gs:// alike."""

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from orchestrator.diagnose.trouble import workers_text
from orchestrator.logs.lines import Line, Wanted, last_of_each
from orchestrator.runs.lock import holder
from trainer.errors import ConfigError, ObjectNotFound
from trainer.rundir.attempts import AttemptRecord, EndRecord, read_records
from trainer.rundir.bucket import is_bucket
from trainer.rundir.open import open_store
from trainer.rundir.store import Entry, Store

FOLLOW_S = 0.5
FOLLOW_BUCKET_S = 5.0
"""A bucket gets a segment a minute, and each look is a listing that costs money."""
GONE_STORE_S = 5.0
"""So long one answer about pods that are gone is waited for: those that are there are read after them."""
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
        """Its place among all."""
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
        time.sleep(FOLLOW_BUCKET_S if is_bucket(directory) else FOLLOW_S)
        over = not _live(directory, store)
        for line in reader.new(over=over):
            if wanted.shows(line):
                yield line


@dataclass(frozen=True)
class LinesOfGonePods:
    """What is left of pods that are gone."""

    lines: Iterator[Line]
    """In order of time: each has that at which its segment was written. Raises StoreError."""
    missing: str
    """What was not kept of them, for a person."""


def of_gone_pods(directory: str, wanted: Wanted, *, launch: str, present: Collection[str]) -> LinesOfGonePods:
    """What the pods of a launch printed, as far as it lies in the run directory, but for those that are `present` (UIDs).

    Raises:
        StoreError: the run directory cannot be read.
    """
    store = open_store(directory, timeout_s=GONE_STORE_S, on_trouble=lambda _: None)
    gone = {
        (member.index, f"attempt-{record.number}"): (record.number, member.uid)
        for record in read_records(store)
        if isinstance(record, AttemptRecord) and record.launch.id == launch
        for member in record.members
        if member.uid not in present
        and wanted.worker(member.index)
        and (wanted.attempt is None or record.number == wanted.attempt)
    }
    if not gone:
        return LinesOfGonePods(iter(()), "")
    # A pod's UID names the words of its agent, too.
    streams = {*gone, *((worker, f"agent-{uid[:8]}") for (worker, _), (_, uid) in gone.items())}
    segments = [segment for segment in _segments(store, wanted) if (segment.worker, segment.stream) in streams]
    missing = ""
    if not wanted.since_ns and wanted.tail is None:
        kept = {(segment.worker, segment.stream) for segment in segments}
        without = [place for place in gone if place not in kept]
        if without:
            attempts = sorted({gone[place][0] for place in without})
            missing = (
                f"{workers_text(sorted({worker for worker, _ in without}))} in attempt{'s' if len(attempts) > 1 else ''} "
                f"{', '.join(map(str, attempts))}"
            )
    return LinesOfGonePods(_by_time(store, segments), missing)


def _by_time(store: Store, segments: list["_Segment"]) -> Iterator[Line]:
    last = {(segment.worker, segment.stream): segment.number for segment in segments}
    rests: defaultdict[tuple[int, str], bytes] = defaultdict(bytes)
    for segment in sorted(segments, key=lambda segment: (segment.entry.written_ns, segment.order)):
        stream = (segment.worker, segment.stream)
        try:
            data = store.get(segment.entry.name)
        except ObjectNotFound:
            data = b""  # deleted a moment ago
        *lines, rests[stream] = (rests[stream] + data).split(b"\n")
        if segment.number == last[stream] and rests[stream]:
            lines.append(rests[stream])
        for text in lines:
            yield Line(segment.worker, text.decode(errors="replace"), segment.entry.written_ns, segment.attempt)


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
        segments = _segments(self.store, self.wanted)
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


def _segments(store: Store, wanted: Wanted) -> list[_Segment]:
    """Those that are asked for: attempts in order, and within an attempt worker by worker."""
    found = []
    for entry in store.list("logs/"):
        match = _LOG_NAME.fullmatch(entry.name)
        if match is None or not wanted.worker(int(match[1])):
            continue
        attempt = int(match[3]) if match[3] else None
        if wanted.attempt is not None and attempt != wanted.attempt:
            continue
        if entry.written_ns and entry.written_ns < wanted.since_ns:
            continue
        found.append(_Segment(entry, int(match[1]), match[2], attempt, int(match[4])))
    return sorted(found, key=lambda segment: segment.order)


def _live(directory: str, store: Store) -> bool:
    running = bool(holder(directory))
    records = read_records(store)
    if records and isinstance(records[-1], EndRecord) and not running:
        return False
    return running or is_bucket(directory)
