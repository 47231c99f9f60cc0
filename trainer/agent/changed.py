"""Whether a job that is started again behind its end is still the one that ended.

A process of its own (process/declare.py) loads the task's data and model as training would, and prints what they are: code that
did not change may read files that did.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping

from trainer.checkpoint.made_with import MARK, MadeWith, changes, of_host_state, of_job
from trainer.config import TrainConfig, TrainSection
from trainer.errors import OrchError
from trainer.lifeline import PARENT_VARIABLE
from trainer.rundir.attempts import EndRecord
from trainer.rundir.commits import Commit, read_commit
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

TASK_LOOK_S = 120.0
"""How long the task's data is waited for; then it counts as unchanged."""


def since_the_end(
    end: EndRecord, config: TrainConfig, store: Store, config_path: str, environment: Mapping[str, str]
) -> list[str]:
    """What is not as it was when the job ended, a line each.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    found = _of_the_plan(end, config.train)
    if config.train.command is not None or end.commit is None:
        return found
    try:
        commit = read_commit(store, end.commit)
    except OrchError as error:
        log.warning("whether the job has changed cannot be told: %s", error)
        return found
    found += _of_the_order(commit, config.train)
    then = of_host_state(commit.host_state)
    if then is None:
        return found
    found += changes(then, of_job(config.train, config.task_root))
    # A TPU is taken by whoever imports TensorFlow; and what a script makes is known to nobody who does not run it.
    if found or config.tpu or config.train.script is not None:
        return found
    now = _look(config_path, config.task_root, environment)
    return changes(then, now) if now is not None else []


def _of_the_plan(end: EndRecord, train: TrainSection) -> list[str]:
    if train.steps is not None and end.steps_asked is not None and train.steps < end.steps_asked:
        return [f"train.steps {end.steps_asked} -> {train.steps}"]
    if train.epochs is not None and end.epochs_asked is not None and train.epochs < end.epochs_asked:
        return [f"train.epochs {end.epochs_asked} -> {train.epochs}"]
    return []


def _of_the_order(commit: Commit, train: TrainSection) -> list[str]:
    pairs = [("seed", commit.seed, train.seed)]
    if train.script is None:  # which has its own
        pairs.insert(0, ("global_batch_size", commit.global_batch_size, train.global_batch_size))
    return [f"train.{name} {then} -> {now}" for name, then, now in pairs if then != now]


def _look(config_path: str, folder: str | None, environment: Mapping[str, str]) -> MadeWith | None:
    """What the task's own code makes now; None where that cannot be had."""
    own = {**environment, "CUDA_VISIBLE_DEVICES": "-1", "ORCH_CONFIG": config_path, PARENT_VARIABLE: str(os.getpid())}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "trainer.process.declare"],
            env=own,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TASK_LOOK_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("whether the data has changed cannot be told: %s", error)
        return None
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith(MARK):
            return MadeWith.model_validate_json(line.removeprefix(MARK))
    log.warning("whether the data has changed cannot be told: %s", done.stderr.decode(errors="replace")[-500:])
    return None
