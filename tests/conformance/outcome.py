"""What came of one run of a task, kept as files, and how far two of them are from each other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_SMALL = 1e-3
"""Below this, a number of the logs is compared absolutely."""


@dataclass
class Outcome:
    """Numbers of one run. `error` is set where it did not come to its end."""

    error: str = ""
    """What ended it: the exception's class and message."""
    config_error: bool = False
    """Whether that was a ConfigError, before any step: a refusal."""
    compiled: str = ""
    """How the trainer compiled it."""
    weights: list[np.ndarray] = field(default_factory=list)
    """All variables of the model."""
    optimizer: list[np.ndarray] = field(default_factory=list)
    predictions: list[np.ndarray] = field(default_factory=list)
    """Of the held-out examples; the trainer's by the exported model, loaded again."""
    epochs: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The logs of each epoch's end."""
    last: dict[str, Any] = field(default_factory=dict)
    """What the job says at its end: training's metrics and the evaluation's."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    """Every call that callbacks got, where the task has it compared."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a task says of itself at the end (a file's lines, what a callback remembers)."""

    def save(self, path: Path) -> None:
        """Two files, path.json and path.npz."""
        groups = {"weights": self.weights, "optimizer": self.optimizer, "predictions": self.predictions}
        arrays = {f"{name}-{index:04}": array for name, group in groups.items() for index, array in enumerate(group)}
        np.savez(path.with_suffix(".npz"), **arrays)
        rest = {
            name: getattr(self, name)
            for name in ("error", "config_error", "compiled", "last", "evaluations", "calls", "facts")
        }
        rest["epochs"] = sorted(self.epochs.items())
        path.with_suffix(".json").write_text(json.dumps(rest))

    @classmethod
    def load(cls, path: Path) -> "Outcome":
        rest = json.loads(path.with_suffix(".json").read_text())
        rest["epochs"] = {int(epoch): logs for epoch, logs in rest["epochs"]}
        outcome = cls(**rest)
        with np.load(path.with_suffix(".npz")) as arrays:
            for key in sorted(arrays):
                getattr(outcome, key.partition("-")[0]).append(arrays[key])
        return outcome


def distance(ours: list[np.ndarray], theirs: list[np.ndarray], floor: float = 0.0) -> float:
    """The largest difference of arrays, each relative to the largest value of its own, or to `floor` where that is more."""
    if [array.shape for array in ours] != [array.shape for array in theirs]:
        return float("inf")
    return max((_apart(a, b, floor) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def largest(arrays: list[np.ndarray]) -> float:
    """The largest value of all."""
    floats = [array.astype(np.float64) for array in arrays if array.dtype.kind in "fV" and array.size]
    return max((float(np.nanmax(np.abs(array))) for array in floats), default=0.0)


def _apart(ours: np.ndarray, theirs: np.ndarray, floor: float) -> float:
    if ours.dtype.kind not in "fV" or theirs.dtype.kind not in "fV":
        return 0.0 if np.array_equal(ours, theirs) else float("inf")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if not a.size or np.array_equal(a, b, equal_nan=True):
        return 0.0
    scale = max(float(np.nanmax(np.abs(b))), floor)
    apart = np.abs(a - b)
    return float(np.max(apart)) / scale if scale and np.isfinite(apart).all() else float("inf")


def of_logs(ours: dict[str, Any], theirs: dict[str, Any], without: Sequence[str] = ()) -> tuple[float, str]:
    """The largest difference of logs, relative to each value, and the name that has it. Other names: infinite."""
    ours, theirs = _flat(ours), _flat(theirs)
    if set(ours) != set(theirs):
        missing, more = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
        return float("inf"), f"without {missing}, with {more}"
    worst = (0.0, "")
    for name, value in theirs.items():
        if name.removeprefix("val_") in without:
            continue
        mine = ours[name]
        if mine != value and not (mine != mine and value != value):
            apart = abs(mine - value) / max(abs(value), _SMALL)
            worst = max(worst, (apart if apart == apart else float("inf"), f"{name} {mine:.9g} for {value:.9g}"))
    return worst


def _flat(logs: dict[str, Any]) -> dict[str, float]:
    """A value of several numbers as several values, as a job tells them: f1[0], f1[1]."""
    flat = {}
    for name, value in logs.items():
        array = np.asarray(value, np.float64)
        if array.ndim:
            flat |= {f"{name}[{index}]": float(one) for index, one in enumerate(array.ravel())}
        elif name != "learning_rate":  # put into the logs by a callback of Keras, and no score
            flat[name] = float(array)
    return flat
