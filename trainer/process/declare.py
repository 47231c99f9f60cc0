"""`python -P -m trainer.process.declare`: prints what a checkpoint of a job would be made with, without training.

It loads the task's data and model as training would. The agent asks (agent/changed.py).
"""

import json
import os

from trainer.checkpoint.made_with import MARK, MadeWith
from trainer.config import TrainConfig
from trainer.lifeline import die_with_parent


def main() -> None:
    """Print what the task of ORCH_CONFIG makes now."""
    die_with_parent()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    config = TrainConfig.load(os.environ["ORCH_CONFIG"])
    print(MARK + json.dumps(made_with_now(config).model_dump(mode="json")), flush=True)
    os._exit(0)


def made_with_now(config: TrainConfig) -> MadeWith:
    """What a checkpoint of this job would be made with, without training."""
    import tensorflow as tf

    from trainer.data.load import TaskData
    from trainer.model.build import build_model
    from trainer.process.fingerprint import made_with
    from trainer.task import load_task

    train = config.train
    assert train.task is not None
    task = load_task(train.task, train.params, config.task_root)
    data = TaskData(task, train)
    strategy = tf.distribute.get_strategy()
    model = build_model(strategy, task, train.seed, lambda model: data.fit_to(model, train.global_batch_size))
    return made_with(config, data.source, data.evaluation, model.optimizer)


if __name__ == "__main__":
    main()
