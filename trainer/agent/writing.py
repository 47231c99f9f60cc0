"""The chief's writer in one attempt, and whoever takes its place: a writer that dies or stands still costs a save only time.

The bytes of the save in flight lie in a memfd that the agent keeps open, so a new writer is given the same snapshot again.
What the writer says is read in attempt.py.
"""

import logging
import os
from collections.abc import Mapping

from trainer.agent.child import Child
from trainer.agent.protocol import LastSave, Snapshot, WriterStart
from trainer.exit_codes import code_of_status, title_of

log = logging.getLogger(__name__)

STOPPED_S = 5.0
"""A process that a signal has stopped (SIGSTOP) for so long is ended: nothing else will wake it."""
AGAIN_MAX_S = 30.0


class Writing:
    """Starts writers, one after the other, until the last save is done or given up."""

    def __init__(self, start: WriterStart, environment: Mapping[str, str]) -> None:
        """Takes `start.memory_fd` over, and closes it in `close`.

        Raises:
            OSError: a process cannot be started.
        """
        self._start = start
        self._environment = environment
        self._in_flight: Snapshot | None = None
        self._finishing = False
        self._until: float | None = None
        self._again_at: float | None = None
        self._again_s = 0.5
        self.child = self._begin()

    def _begin(self) -> Child:
        child = Child.module("trainer.checkpoint.writer", self._environment, inherit=[self._start.memory_fd])
        child.send(self._start)
        return child

    def save(self, snapshot: Snapshot) -> None:
        """Hand over a snapshot that lies in the memfd, whole."""
        self._in_flight = snapshot
        self.child.send(snapshot)

    def answered(self) -> None:
        """The writer told what became of the save in flight."""
        self._in_flight = None
        self._again_s = 0.5

    def finish(self, until: float) -> None:
        """No snapshot follows: the writer ends once the one in flight is saved, at `until` at the latest."""
        if not self._finishing:
            self._finishing = True
            self.child.send(LastSave())
        self.limit(until)

    def limit(self, until: float) -> None:
        """It may go on until then, where that is earlier than what was said before."""
        self._until = min(until, self._until) if self._until is not None else until

    def tick(self, now: float) -> str:
        """Time passed. Returns why the writer is replaced just now, or nothing."""
        if self.child.status is None:
            if self._finishing and self._until is not None and now > self._until:
                log.warning("writer killed: its save was not done in time attempt=%d", self._start.attempt)
                self.child.kill_group()
            elif self.child.stopped_s(now) > STOPPED_S:
                log.warning("writer killed: a signal had stopped it attempt=%d", self._start.attempt)
                self.child.kill_group()
            return ""
        if self.ended(now):
            return ""
        if self._again_at is None:
            self._again_at = now + self._again_s
            self._again_s = min(self._again_s * 2, AGAIN_MAX_S)
            return f"the writer ended: {title_of(code_of_status(self.child.status))}; another one takes its place"
        if now >= self._again_at:
            self._again_at = None
            self._replace()
        return ""

    def _replace(self) -> None:
        self.child.close()
        try:
            self.child = self._begin()
        except OSError as error:
            log.error("no writer can be started: %s", error)
            return
        if self._in_flight is not None:
            self.child.send(self._in_flight)
        if self._finishing:
            self.child.send(LastSave())

    def ended(self, now: float) -> bool:
        """Whether no writer runs and none will."""
        if self.child.status is None or not self._finishing:
            return False
        return self._in_flight is None or (self._until is not None and now > self._until)

    def close(self) -> None:
        """Kill what still runs, give the memory back."""
        self.child.kill_group()
        self.child.close()
        os.close(self._start.memory_fd)
