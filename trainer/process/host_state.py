"""What a checkpoint tells beside its variables: order of data, last evaluation, early stopping, and back."""

import logging
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.checkpoint import restore
from trainer.checkpoint.made_with import KEY as MADE_WITH
from trainer.checkpoint.made_with import MadeWith
from trainer.checkpoint.state import TrainingState
from trainer.config import TrainConfig
from trainer.data.load import TaskData
from trainer.errors import ConfigError
from trainer.process.best import KEY as BEST
from trainer.process.best import Best
from trainer.process.plan import EarlyStopping, Plan, Progress
from trainer.program.logs import Scores
from trainer.rundir.attempts import CommitRef
from trainer.rundir.commits import Commit
from trainer.rundir.store import Store

log = logging.getLogger(__name__)


def host_state(
    progress: Progress, plan: Plan, data: TaskData, early: EarlyStopping | None, best: Best | None, made: MadeWith
) -> dict[str, Any]:
    """As JSON can hold it."""
    evaluation = progress.evaluation
    return {
        "order": data.order(),
        "evaluation": evaluation and {"step": evaluation["step"], "metrics": _written(evaluation["metrics"])},
        "early_stopping": early.state() if early else None,
        "finished": {"reason": progress.finished, "total_steps": plan.total_steps} if progress.finished else None,
        "scores": _written(progress.scores),
        BEST: best.state() if best is not None else None,
        MADE_WITH: made.model_dump(mode="json"),
    }


def restore_state(state: TrainingState, store: Store, ref: CommitRef, config: TrainConfig, data: TaskData) -> Commit:
    """Load, verify and assign. What was read is let go before this returns: a save needs the room."""
    began = time.monotonic()
    restored = restore.load(store, ref)
    _check_same_order(restored.commit, config, data)
    state.assign(restored)
    log.info(
        "restored commit=%s size_mb=%.1f seconds=%.2f",
        ref.name,
        restored.commit.size_bytes / 1e6,
        time.monotonic() - began,
    )
    return restored.commit


def _check_same_order(commit: Commit, config: TrainConfig, data: TaskData) -> None:
    data.check_order(commit.host_state.get("order"))
    for name, now in (("global_batch_size", config.train.global_batch_size), ("seed", config.train.seed)):
        then = getattr(commit, name)
        if then != now and not (name == "global_batch_size" and data.order()["batched"]):
            raise ConfigError(
                f"the checkpoint {commit.ref.name} was made with train.{name} {then}, and the job file says {now}: the "
                "order of the data would break off",
                remedy=f"Set train.{name} to {then}, or start from nothing (--fresh, or another run.directory).",
            )


def restore_progress(
    progress: Progress, early: EarlyStopping | None, step: int, host_state: Mapping[str, Any], total: int
) -> None:
    """From the host_state of a commit of `step`. `total`: the steps that the job has now."""
    progress.step = step
    evaluation = host_state.get("evaluation")
    if evaluation:
        progress.evaluation = {"step": int(evaluation["step"]), "metrics": _read(evaluation["metrics"])}
    progress.scores = _read(host_state.get("scores") or {})
    finished = host_state.get("finished")
    if early is not None:
        early.restore(host_state.get("early_stopping"))
    # Asked for another length, a job that had ended early goes on.
    if finished and finished["total_steps"] == total:
        progress.finished = finished["reason"]


def _written(scores: Scores) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in scores.items()}


def _read(scores: Mapping[str, Any]) -> Scores:
    return {name: np.array(value) if isinstance(value, list) else float(value) for name, value in scores.items()}


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    try:
        ours = metadata.version("orch")
    except metadata.PackageNotFoundError:
        ours = "unknown"
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "orch": ours,
    }
