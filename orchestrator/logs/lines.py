"""Lines of logs, and which of them are shown: time stamps, where a reader has got to, attempts, filters. Pure: no cluster,
no clock, no store.
"""

import functools
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from trainer.wire import log_events
from trainer.wire.log_events import Event


@dataclass(frozen=True)
class Line:
    """One line of a worker."""

    worker: int
    text: str
    time_ns: int = 0
    """Since 1970, by the clock of the worker's node; 0 where nothing tells it."""
    attempt: int | None = None
    """The attempt whose process printed it; None for what the agent says between attempts."""


@dataclass(frozen=True)
class Note:
    """Something about the job that is not a line of a worker."""

    text: str


@dataclass(frozen=True)
class Wanted:
    """What a person asked to see."""

    workers: frozenset[int] | None = None
    """None: all."""
    attempt: int | None = None
    since_ns: int = 0
    """Nothing that was printed before."""
    pattern: re.Pattern[str] | None = None
    tail: int | None = None
    """So many lines of each worker, of what is there already; what comes later is shown whole."""

    def worker(self, index: int) -> bool:
        """Whether this worker is asked for."""
        return self.workers is None or index in self.workers

    def shows(self, line: Line) -> bool:
        """Whether a line is; of `tail` nothing is decided here."""
        return (
            self.worker(line.worker)
            and (self.attempt is None or line.attempt == self.attempt)
            and (line.time_ns == 0 or line.time_ns >= self.since_ns)
            and (self.pattern is None or self.pattern.search(line.text) is not None)
        )

    @property
    def skips(self) -> bool:
        """Whether some lines of a worker are shown and others are not."""
        return self.attempt is not None or self.pattern is not None or self.since_ns > 0


def last_of_each(lines: Iterable[Line], most: int | None) -> Iterator[Line]:
    """The last `most` lines of each worker, in their order; all of them where `most` is None. Holds no more than these."""
    if most is None:
        yield from lines
        return
    kept: dict[int, deque[tuple[int, Line]]] = {}
    for number, line in enumerate(lines):
        kept.setdefault(line.worker, deque(maxlen=most)).append((number, line))
    for _, line in sorted((item for of_one in kept.values() for item in of_one), key=lambda item: item[0]):
        yield line


_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")


@dataclass(frozen=True)
class Stamped:
    """A line as the API server gives it."""

    time_ns: int
    """0 for a line without a stamp: a word of the kubelet itself."""
    text: str


def parse(line: str) -> Stamped:
    """`2026-01-02T03:04:05.678901234Z text`, in any time zone: nodes write in their own."""
    match = _STAMP.match(line)
    if match is None:
        return Stamped(0, line)
    second, fraction, zone = match.groups()
    return Stamped(_seconds(second, zone) * 10**9 + int((fraction or "").ljust(9, "0")), line[match.end() :])


@functools.lru_cache(maxsize=256)
def _seconds(second: str, zone: str) -> int:
    return int(datetime.fromisoformat(second + ("+00:00" if zone == "Z" else zone)).timestamp())


def stamp(time_ns: int) -> str:
    """The second of that time, as the API takes it. It would drop the fraction anyway on its way to the kubelet."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Cursor:
    """How far a container's log was read. Reading goes on by time, and time is no key: several lines may have the same.

    So the newest time is kept with all lines that have it, and of a later answer are dropped: what is older, and each of
    those lines as often as it was seen.
    """

    time_ns: int = 0
    _lines: Counter[str] = field(default_factory=Counter)

    @property
    def since(self) -> str:
        """From where to read on; empty for the beginning."""
        return stamp(self.time_ns) if self.time_ns else ""

    def follow(self, answer: Iterable[Stamped]) -> Iterator[Stamped]:
        """Of one answer, from `since` on, what was not seen before."""
        catching_up = self.time_ns > 0
        seen = self._lines.copy()
        for line in answer:
            if catching_up and line.time_ns < self.time_ns:
                continue
            if catching_up and line.time_ns == self.time_ns and seen[line.text]:
                seen[line.text] -= 1
                continue
            # Within one answer lines are in the order in which they were written, also where a clock was set back.
            catching_up = catching_up and line.time_ns == self.time_ns
            if line.time_ns > self.time_ns:
                self.time_ns = line.time_ns
                self._lines = Counter()
            if line.time_ns == self.time_ns:
                self._lines[line.text] += 1
            yield line


@dataclass
class Attempts:
    """Which attempt the lines of one pod belong to, from its first line on."""

    _running: int | None = None

    def of(self, text: str) -> int | None:
        """The attempt of the next line; the two events of its process's start and end belong to it."""
        logged = log_events.read(text)
        if logged is None or logged.event not in (Event.ATTEMPT_STARTS, Event.PROCESS_ENDED):
            return self._running
        attempt = int(logged.fields["attempt"])
        self._running = attempt if logged.event is Event.ATTEMPT_STARTS else None
        return attempt


def workers_of(text: str) -> frozenset[int]:
    """`0,3`, `0-3`, `0-3,9`.

    Raises:
        ValueError: it is no such list.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f'"{text}" is no list of workers; write 0,3 or 0-3')
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)
