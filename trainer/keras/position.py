"""Where a script is in its calls of `fit`: what a checkpoint knows of it beside the variables. Free of TensorFlow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.rundir.attempts import CommitRef

KEY = "fit"
"""Of host_state."""
Logs = dict[str, Any]


@dataclass(frozen=True)
class Position:
    """After a batch, an epoch, or a call of fit. Calls, epochs and batches count from 0."""

    call: int = 0
    """Calls of fit that came before this one."""
    step: int = 0
    """Steps done, in all calls."""
    epoch: int | None = None
    """The epoch that goes on, or begins; None: the first one."""
    batch: int = 0
    """Its batches that are done."""
    over: bool = False
    """Whether the call is done."""
    pass_batches: int | None = None
    """Batches of one pass over the data, where the first pass has told."""
    stopped: bool = False
    """Whether a callback has set model.stop_training."""
    logs: Logs = field(default_factory=dict)
    """Of the last batch."""
    epoch_logs: Logs | None = None
    """Of the last epoch that is done."""
    marks: dict[str, str] = field(default_factory=dict)
    """What the call was given (marks.py)."""
    ends: Mapping[int, CommitRef] = field(default_factory=dict)
    """The last commit of each earlier call, from which it is gone on with to its end."""

    def written(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "logs": _written(self.logs),
            "epoch_logs": _written(self.epoch_logs) if self.epoch_logs is not None else None,
            "ends": {str(call): [ref.step, ref.attempt] for call, ref in self.ends.items()},
        }

    @classmethod
    def read(cls, host_state: Mapping[str, Any]) -> "Position":
        """From a commit's host_state."""
        stored = host_state[KEY]
        return cls(
            **{name: stored[name] for name in _PLAIN},
            logs=_read(stored["logs"]),
            epoch_logs=_read(stored["epoch_logs"]) if stored["epoch_logs"] is not None else None,
            ends={int(call): CommitRef(step=step, attempt=number) for call, (step, number) in stored["ends"].items()},
        )


_PLAIN = ("call", "step", "epoch", "batch", "over", "pass_batches", "stopped", "marks")


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _written(part) for name, part in value.items()}
    array = np.asarray(value)
    if array.ndim:
        return {"array": array.tolist(), "dtype": array.dtype.name}
    number = array.item()
    return {"number": str(number)} if isinstance(number, float) and not math.isfinite(number) else number


def _read(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"array", "dtype"}:
        return np.array(value["array"], value["dtype"])
    if set(value) == {"number"}:
        return float(value["number"])
    return {name: _read(part) for name, part in value.items()}
