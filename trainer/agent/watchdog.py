"""How long a training process may be silent, by phase. Pure."""

from collections import deque

from trainer.agent.protocol import Phase

IMPORT_S = 120.0
RENDEZVOUS_S = 180.0
"""The coordinator ends a rendezvous that failed 60 s after the last member started; this is the bound without a coordinator."""
COMPILE_S = 900.0
RESTORE_S = 600.0
RESTORE_BYTES_PER_S = 50e6
FIRST_EVALUATION_S = 1800.0
LAST_SAVE_S = 960.0
"""The writer tries the last save for 15 min."""
EXPORT_S = 900.0
FIRST_BLOCK_S = 120.0
"""No block has told yet how long one takes: a step of a large model may take many seconds."""
LEAST_S = 10.0
FACTOR = 10.0


class Watchdog:
    """Holds what was seen of one process and says how long it may be silent now."""

    def __init__(self, hang_timeout_s: float | None) -> None:
        """`hang_timeout_s`: restarts.hang_timeout, None for auto."""
        self._hang_timeout_s = hang_timeout_s
        self._state_bytes = 0
        self._blocks: deque[float] = deque(maxlen=20)
        self._evaluation_s: float | None = None
        self.phase = Phase.IMPORT

    def entered(self, phase: Phase, state_bytes: int = 0) -> None:
        """The process announced a phase, and once it knows it the size of its state."""
        self.phase = phase
        self._state_bytes = state_bytes or self._state_bytes

    def block(self, seconds: float) -> None:
        """A block took so long."""
        self._blocks.append(seconds)

    def evaluated(self, seconds: float) -> None:
        """An evaluation took so long."""
        self._evaluation_s = seconds

    def limit_s(self) -> float:
        """Seconds of silence after which the process counts as hung."""
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
            case Phase.SAVE:
                return LAST_SAVE_S
            case Phase.EXPORT:
                return EXPORT_S
            case Phase.TRAIN:
                if self._hang_timeout_s is not None:
                    return self._hang_timeout_s
                if not self._blocks:
                    return FIRST_BLOCK_S
                return max(FACTOR * max(self._blocks), LEAST_S)
