"""What an agent writes into the run directory as it goes on: its own log, what its processes print, and the chief's metrics."""

import json
import time

from trainer.agent.output import Segments
from trainer.rundir.attempts import Wire
from trainer.rundir.metrics import ALIVE_S
from trainer.rundir.store import Store
from trainer.wire.metrics import Alive

METRICS_S = 20.0
"""Metrics that matter most go to a bucket at once, but not more often than this."""
_AT_ONCE = ("saved", "save_failed", "save_trouble")


class RunFiles:
    """Of one agent's life. Nothing of it may hold training up: see output.py."""

    def __init__(self, store: Store, index: int, uid: str, *, local: bool, hold_output: bool) -> None:
        """`local`: the run directory is a path, where writing costs nothing. `hold_output`: what processes print is only for the
        case that they fail."""
        self._store = store
        self._index = index
        self._local = local
        self._hold_output = hold_output
        self.log = Segments(store, f"logs/worker-{index}/agent-{uid[:8]}/", ".log", immediate=local)
        self._output: Segments | None = None
        self._metrics: Segments | None = None
        self._metrics_at_s = self._flushed_at_s = 0.0

    def begin(self, attempt: int, now: float) -> None:
        """The files of an attempt."""
        folder = f"attempt-{attempt}/"
        hold = self._hold_output
        self._output = Segments(
            self._store, f"logs/worker-{self._index}/{folder}", ".log", immediate=self._local, hold=lambda: hold
        )
        if self._index == 0:
            self._metrics = Segments(self._store, f"metrics/{folder}", ".jsonl", immediate=self._local)
            self._metrics_at_s = now
            self._flushed_at_s = now - METRICS_S

    def print(self, line: bytes) -> None:
        """A line that a process of the attempt printed."""
        if self._output is not None:
            self._output.write(line)

    def record(self, message: Wire) -> None:
        """A line of the metrics, the chief's alone."""
        if self._metrics is None:
            return
        self._metrics_at_s = time.monotonic()
        line = message.model_dump(mode="json")
        self._metrics.write(json.dumps({"time": time.time(), **line}).encode() + b"\n")
        # A bucket is written once a minute; what this agent would least like to take with it goes sooner.
        telling = line.get("phase") == "train" or line["type"] in _AT_ONCE
        if telling and not self._local and self._metrics_at_s - self._flushed_at_s > METRICS_S:
            self._flushed_at_s = self._metrics_at_s
            self._metrics.flush()

    def sign_of_life(self, step: int, now: float) -> None:
        """Where nothing was recorded for a while: the agent is there."""
        if now - self._metrics_at_s > ALIVE_S:
            self.record(Alive(step=step))

    def end(self, timeout_s: float, *, failed: bool) -> None:
        """The attempt is over. `failed`: what was held back is told after all."""
        if failed and self._output is not None:
            self._output.flush()
        for segments in (self._output, self._metrics):
            if segments is not None:
                segments.close(timeout_s)
        self._output = self._metrics = None
