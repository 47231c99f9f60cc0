"""How long a training process may be silent, by phase. Pure."""

import math
from collections import deque

from trainer.wire.process import Phase

IMPORT_S = 120.0
RENDEZVOUS_S = 180.0
"""The coordinator ends a rendezvous that failed 60 s after the last member started; this is the bound without a coordinator."""
COMPILE_S = 900.0
RESTORE_S = 1800.0
"""The task loads its data first; and a store that does not answer is asked for 10 min (checkpoint/restore.py)."""
RESTORE_BYTES_PER_S = 50e6
FIRST_EVALUATION_S = 1800.0
WRITER_ANSWER_S = 60.0
"""A writer that does not answer in time is replaced first: its process must not be taken for the one that hangs."""
LAST_SAVE_S = 60.0
"""On top of checkpoint.last_save_timeout, in which the writer ends the save or gives it up."""
SAVE_BYTES_PER_S = 1e6
"""A writer that is slower than this counts the store as away."""
TASK_S = 1800.0
"""For the task's own code: a batch that is read, data that is skipped, a callback. A time of the user's own counts instead."""
EXPORT_S = 900.0
FIRST_BLOCK_S = 120.0
"""No block has told yet how long one takes: a step of a large model may take many seconds."""
LEAST_S = 10.0
FACTOR = 10.0


class Watchdog:
    """Holds what was seen of one process and says how long it may be silent now."""

    def __init__(
        self, hang_timeout_s: float | None, *, last_save_timeout_s: float = 900.0, command: bool = False
    ) -> None:
        """`hang_timeout_s`: restarts.hang_timeout, None for auto. `last_save_timeout_s`: checkpoint.last_save_timeout. `command`:
        a program of the user's own, which tells no phases, may be silent for ever unless a time is given."""
        self._command = command
        self._hang_timeout_s = hang_timeout_s
        self._last_save_s = LAST_SAVE_S + last_save_timeout_s
        self._state_bytes = 0
        self._blocks: deque[float] = deque(maxlen=20)
        self._evaluation_s: float | None = None
        self._waits = False
        self.phase = Phase.IMPORT

    @property
    def longest_block_s(self) -> float:
        """Of the last 20 blocks; 0 before the first."""
        return max(self._blocks, default=0.0)

    def entered(self, phase: Phase, state_bytes: int = 0, *, waits: bool = False) -> None:
        """The process announced a phase, and once it knows it the size of its state. `waits`: the save is one that the chief
        waits for, behind another one that may be in flight, and all others for the chief; else only the copy is waited for."""
        self.phase = phase
        self._waits = waits
        self._state_bytes = state_bytes or self._state_bytes

    def block(self, seconds: float) -> None:
        """A block took so long."""
        self._blocks.append(seconds)

    def saving(self, size_bytes: int) -> None:
        """A snapshot of this size was handed to the writer."""
        self._state_bytes = size_bytes

    def evaluated(self, seconds: float) -> None:
        """An evaluation took so long."""
        self._evaluation_s = seconds

    def limit_s(self) -> float:
        """Seconds of silence after which the process counts as hung."""
        if self._command:
            return math.inf if self._hang_timeout_s is None else self._hang_timeout_s
        match self.phase:
            case Phase.IMPORT:
                return IMPORT_S
            case Phase.RENDEZVOUS:
                return RENDEZVOUS_S
            case Phase.RESTORE:
                return RESTORE_S + self._state_bytes / RESTORE_BYTES_PER_S
            case Phase.COMPILE:
                return COMPILE_S
            case Phase.EVALUATE:
                if self._evaluation_s is None:
                    return FIRST_EVALUATION_S
                return max(FACTOR * self._evaluation_s, LEAST_S)
            case Phase.SAVE if not self._waits:
                return self._of_training_s() + self._state_bytes / RESTORE_BYTES_PER_S
            case Phase.SAVE:
                return WRITER_ANSWER_S + self._last_save_s + self._state_bytes / SAVE_BYTES_PER_S
            case Phase.EXPORT:
                # The other workers are here already while the chief still waits for its last save.
                return EXPORT_S + WRITER_ANSWER_S + self._last_save_s + self._state_bytes / SAVE_BYTES_PER_S
            case Phase.TRAIN:
                return self._of_training_s()
            case Phase.DATA | Phase.CALLBACK | Phase.SCRIPT:
                return self._hang_timeout_s or TASK_S

    def _of_training_s(self) -> float:
        if self._hang_timeout_s is not None:
            return self._hang_timeout_s
        if not self._blocks:
            return FIRST_BLOCK_S
        return max(FACTOR * self.longest_block_s, LEAST_S)
