"""A process that runs tasks one after the other: `python -m tests.conformance.process KIND OUT FD [INDEX]`.

It reads lines `id mode` and answers each on FD when the files of its outcome are there. KIND one: no strategy, and the oracle.
four: MirroredStrategy over four logical CPUs. two: one of two workers; TF_CONFIG is set. One strategy serves all tasks.
"""

import faulthandler
import gc
import itertools
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf

from tests.conformance import base, oracle, room
from tests.conformance.catalogue import Entry, load
from tests.conformance.outcome import Outcome
from trainer import exported
from trainer.checkpoint.replicas import Replicas
from trainer.errors import ConfigError
from trainer.process.__main__ import origin
from trainer.wire.process import Block, Evaluated, Result

ROOT = Path(__file__).parents[2]
_runs = itertools.count(1)
SAVED_AT = 5
KILLED_AT = 7


def main() -> None:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    kind, out, answers = sys.argv[1], Path(sys.argv[2]), os.fdopen(int(sys.argv[3]), "w")
    index = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = _strategy(kind)
    entries = load()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        id, mode = line.split()
        folder = out / id / mode
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(entries[id], mode, folder, strategy, index=index, workers=2 if kind == "two" else 1)
        outcome.save(out / id / (f"{mode}.worker-1" if index else mode))
        print(
            "done",
            id,
            mode,
            "refused" if outcome.config_error else "failed" if outcome.error else "",
            file=answers,
            flush=True,
        )
    os._exit(0)


def _strategy(kind: str) -> Any:
    if kind == "four":
        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(4)])
    if kind == "two":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def train_section(entry: Entry, mode: str) -> dict[str, Any]:
    """The job file's train section of a task in a mode."""
    train = {
        "task": entry.task,
        "params": dict(entry.params),
        "seed": 3,
        "global_batch_size": 8,
        "evaluate": {"every": "epoch"},
        "compile": "auto" if mode == "xla" else "graph",
    }
    if "steps" not in entry.train:
        train["epochs"] = 2
    return train | entry.train


def run(entry: Entry, mode: str, folder: Path, strategy: Any, *, index: int = 0, workers: int = 1) -> Outcome:
    """One task in one mode; modes `oracle` and `oracle-xla` are Keras' fit."""
    _clear()
    base.Case.folder = folder
    base.stepped = False
    train = train_section(entry, mode)
    try:
        if mode.startswith("oracle"):
            task = _task(entry)
            task.by_oracle = True
            return oracle.fit(task, train, jit=mode == "oracle-xla")
        if mode == "script":
            return _as_script(entry, folder, train, strategy, index, workers)
        return _trained(entry, mode, folder, train, strategy, index, workers)
    except BaseException as error:
        told = origin(error)
        folder.joinpath(f"traceback-{index}").write_text("".join(traceback.format_exception(error)))
        message = f"{told.message.rstrip('.')}. {told.remedy}" if isinstance(told, ConfigError) else str(told)
        early = isinstance(told, ConfigError) and not base.stepped
        calls = [list(call) for call in base.heard] if base.built and base.built[0].every_call else []
        return Outcome(error=f"{type(told).__name__}: {message}", config_error=early, calls=calls)


def _clear() -> None:
    keras.utils.clear_session()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    if next(_runs) % 5 == 0:
        gc.collect()
    base.heard.clear()


def _task(entry: Entry) -> base.Case:
    from trainer.task import load_task

    task = load_task(entry.task, entry.params, ROOT)
    assert isinstance(task, base.Case)
    return task


def _as_script(entry: Entry, folder: Path, train: dict[str, Any], strategy: Any, index: int, workers: int) -> Outcome:
    task = _task(entry)
    task.by_oracle = True
    replicas = Replicas(strategy)
    with room.script(folder, train, strategy, index=index, workers=workers) as channel:
        try:
            return oracle.fit(task, train, read=lambda variable: np.array(replicas.local_values(variable)[0]))
        finally:
            base.stepped = any(isinstance(message, Block) for message in channel.messages)


def _trained(
    entry: Entry, mode: str, folder: Path, train: dict[str, Any], strategy: Any, index: int, workers: int
) -> Outcome:
    messages: list[Any] = []
    options: dict[str, Any] = {"index": index, "workers": workers}
    try:
        if mode == "killed":
            try:
                with room.attempt(folder, train, strategy, every=SAVED_AT, kill_at=KILLED_AT, **options) as (
                    training,
                    _,
                ):
                    training.loop.run()
                raise AssertionError("it came to its end before it was killed")
            except room.Killed:
                pass
            _clear()
            options |= {"number": 2, "every": SAVED_AT}
        with room.attempt(folder, train, strategy, **options) as (training, channel):
            messages = channel.messages
            assert training.loop.run()
            training.finish()
        task = base.built[0]
        with training.loop.state.mean_unsynchronised():
            outcome = oracle.outcome_of(task, room.model_of(training))
        outcome.compiled = training.loop.block.mode
        outcome.evaluations = [base.plain(one.metrics) for one in messages if isinstance(one, Evaluated)]
        for result in [one for one in messages if isinstance(one, Result)]:
            outcome.last = base.plain(result.metrics)
            if task.predicts:
                outcome.predictions = oracle.predictions(task, exported.load(str(folder / "run"), task_root=str(ROOT)))
        return outcome
    finally:
        base.stepped = any(isinstance(message, Block) for message in messages)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
