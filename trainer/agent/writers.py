"""The chief's writer in one attempt, and whoever takes its place: a writer that dies or stands still costs a save only time.

The bytes of the save in flight lie in a memfd that the agent keeps open, so a new writer is given the same snapshot again.
What the writer says is read in attempt.py.
"""

import logging
from collections.abc import Mapping

from trainer.agent.child import Child
from trainer.agent.stopped import STOPPED_S
from trainer.agent.watchdog import LAST_SAVE_S, SAVE_BYTES_PER_S
from trainer.exit_codes import title_of
from trainer.retry import Backoff
from trainer.wire.writer import LastSave, SaveFailed, SaveTrouble, Snapshot, WriterStart

log = logging.getLogger(__name__)

WRITER_AGAIN_S = 0.5
AGAIN_MAX_S = 30.0
"""Between a writer's end and the next one: twice as long after each, until one has saved something."""
NO_WRITER_S = 5.0
"""Between tries to start one, where none can be started."""
WRITERS_MAX = 3
"""So many may die over one save; then it has failed, and the next one gets another."""


class Writers:
    """Starts writers, one after the other, until the last save is done or given up."""

    def __init__(self, start: WriterStart, environment: Mapping[str, str]) -> None:
        """Raises OSError where a process cannot be started."""
        self._start = start
        self._environment = environment
        self._in_flight: Snapshot | None = None
        self._finishing = False
        self._until: float | None = None
        self._again_at: float | None = None
        self._silent_at = 0.0
        self._writers_of_save = 0
        self._backoff = Backoff(WRITER_AGAIN_S, AGAIN_MAX_S)
        self._killed: Child | None = None
        self.child = self._begin()

    def _begin(self) -> Child:
        child = Child.module("trainer.checkpoint.writer", self._environment, inherit=[self._start.memory_fd])
        child.send(self._start)
        return child

    def save(self, snapshot: Snapshot, now: float) -> None:
        """Hand over a snapshot that lies in the memfd, whole."""
        self._in_flight = snapshot
        self._writers_of_save = 1
        if self._again_at is not None:
            self._again_at = min(self._again_at, now + WRITER_AGAIN_S)
        self._write(snapshot, now)

    def _write(self, snapshot: Snapshot, now: float) -> None:
        start = self._start
        patience_s = start.save_timeout_s if snapshot.why == "interval" else start.last_save_timeout_s
        self._silent_at = now + patience_s + LAST_SAVE_S + snapshot.size_bytes / SAVE_BYTES_PER_S
        self.child.send(snapshot)

    def answered(self) -> None:
        """The writer told what became of the save in flight."""
        self._in_flight = None
        self._backoff.reset()

    def finish(self, until: float) -> None:
        """No snapshot follows: the writer ends once the one in flight is saved, at `until` at the latest."""
        if not self._finishing:
            self._finishing = True
            self.child.send(LastSave())
        self.limit(until)

    def limit(self, until: float) -> None:
        """It may go on until then, where that is earlier than what was said before."""
        self._until = min(until, self._until) if self._until is not None else until

    def tick(self, now: float) -> SaveTrouble | SaveFailed | None:
        """Time passed. Tells of a writer that has died, and of a save that is given up for it."""
        if self.child.status is None:
            self._watch(now)
            return None
        if self.ended(now):
            return None
        if self._again_at is not None:
            if now >= self._again_at:
                self._replace(now)
            if self._in_flight is not None and self.child.status is not None and now > self._silent_at:
                step, self._in_flight = self._in_flight.step, None
                return SaveFailed(step=step, error="no writer could be started")
            return None
        idle = self._in_flight is None
        self._again_at = now + (self._backoff.next_s() if idle else self._backoff.pause_s)
        step = self._in_flight.step if self._in_flight is not None else 0
        error = f"the writer ended: {title_of(self.child.status)}"
        if self._in_flight is not None and self._writers_of_save == WRITERS_MAX:
            self._in_flight = None
            return SaveFailed(step=step, error=f"{error}, as {WRITERS_MAX - 1} others before it in this save")
        return SaveTrouble(step=step, error=f"{error}; another one takes its place")

    def _watch(self, now: float) -> None:
        why = ""
        if self._finishing and self._until is not None and now > self._until:
            why = "its save was not done in time"
        elif self._in_flight is not None and now > self._silent_at:
            why = "it does not answer"
        elif self.child.stopped_s(now) > STOPPED_S:
            why = "a signal had stopped it"
        if why and self._killed is not self.child:
            log.warning("writer killed: %s attempt=%d", why, self._start.attempt)
            self._killed = self.child
            self.child.kill_group()

    def _replace(self, now: float) -> None:
        self._again_at = None
        self.child.close()
        try:
            self.child = self._begin()
        except OSError as error:
            log.error("no writer can be started: %s", error)
            self._again_at = now + NO_WRITER_S
            return
        if self._in_flight is not None:
            self._writers_of_save += 1
            self._write(self._in_flight, now)
        if self._finishing:
            self.child.send(LastSave())

    def stood_still(self, seconds: float) -> None:
        """Nobody looked for so long."""
        self._silent_at += seconds

    def ended(self, now: float) -> bool:
        """Whether no writer runs and none will."""
        if self.child.status is None or not self._finishing:
            return False
        return self._in_flight is None or (self._until is not None and now > self._until)

    def close(self) -> None:
        """Kill what still runs, give the files back."""
        self.child.kill_group()
        self.child.close()
