"""Run by test_snapshot_state.py, in a process of its own: two logical CPUs, or two workers, must be set up before TensorFlow
starts. Prints one JSON object: for each check of its mode "ok" or a traceback.

    python support_state_program.py mirrored
    TF_CONFIG=... python support_state_program.py workers FOLDER
"""

import copy
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.checkpoint.restore import Restored
from trainer.checkpoint.snapshot import SnapshotMemory
from trainer.checkpoint.state import StatesDiffer, TrainingState, without_numbers
from trainer.errors import ConfigError
from trainer.rundir.commits import Commit, StoredTensor

CHECKS: dict[str, list[str]] = {"mirrored": [], "workers": []}
DATA = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)


def check(mode: str) -> Any:
    def register(function: Any) -> Any:
        CHECKS[mode].append(function.__name__)
        return function

    return register


class Training:
    """BatchNormalization, Dropout and Adam under `strategy`; each replica sees its own examples."""

    def __init__(self, strategy: tf.distribute.Strategy, *, units: int = 3, seed: int = 1) -> None:
        keras.utils.set_random_seed(seed)
        self.strategy = strategy
        with strategy.scope():
            self.model = keras.Sequential(
                [
                    keras.layers.Input((4,)),
                    keras.layers.Dense(units),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dropout(0.5),
                    keras.layers.Dense(1),
                ]
            )
            self.optimizer = keras.optimizers.Adam(0.01)
            self.optimizer.build(self.model.trainable_variables)
            self.metric = keras.metrics.Mean()
            self.counter = tf.Variable(
                0,
                dtype=tf.int64,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            # TensorFlow 2.21 cannot broadcast the first value of a bfloat16 variable to other workers.
            half = tf.float16 if "TF_CONFIG" in os.environ else tf.bfloat16
            self.half = tf.Variable(tf.constant([seed, 0.5], half))
        self.extra = [*self.metric.variables, self.counter, self.half]
        self.state = TrainingState(strategy, self.model, self.optimizer, self.extra)

        @tf.function
        def step(batch: tf.Tensor) -> None:
            def one(rows: tf.Tensor) -> None:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(self.model(rows, training=True) ** 2)
                gradients = tape.gradient(loss, self.model.trainable_variables)
                self.optimizer.apply(gradients, self.model.trainable_variables)
                self.counter.assign_add(tf.cast(tf.reduce_sum(rows) * 1000, tf.int64))

            strategy.run(one, args=(batch,))

        self._step = step

    def train(self, first: int, steps: int) -> None:
        for number in range(first, first + steps):
            values = self.strategy.experimental_distribute_values_from_function(
                lambda context, number=number: tf.constant(
                    np.roll(DATA, -8 * (number * 4 + int(context.replica_id_in_sync_group)), axis=0)[:8]
                )
            )
            self._step(values)

    def saved(self) -> Restored:
        """A save and a restore, without the store between."""
        fd = os.memfd_create("state")
        result = self.state.copy(SnapshotMemory(fd))
        assert result is not None
        tensors, size = result
        assert size <= self.state.size_bytes
        data = os.pread(fd, size, 0)
        os.close(fd)
        arrays = {}
        for tensor in tensors:
            dtype = tf.as_dtype(tensor.dtype).as_numpy_dtype
            flat = np.frombuffer(data, dtype, int(np.prod(tensor.shape)), tensor.offset)
            arrays[tensor.key] = flat.reshape(tensor.shape)
        commit = Commit(
            step=1,
            attempt=1,
            nonce="n",
            created=datetime.now(UTC),
            epoch=0,
            examples_seen=0,
            seed=0,
            global_batch_size=8,
            world_size=1,
            replicas=self.strategy.num_replicas_in_sync,
            shards=[],
            tensors=[
                StoredTensor(key=item.key, path=item.path, dtype=item.dtype, shape=item.shape, shard=0)
                for item in tensors
            ],
        )
        return Restored(commit, arrays)

    def everything(self) -> list[bytes]:
        """All bytes of all local copies."""
        variables = [*self.model.variables, *self.optimizer.variables, *self.extra]
        return [
            component.numpy().tobytes()
            for variable in variables
            for component in self.strategy.experimental_local_results(
                variable if isinstance(variable, tf.Variable) else variable.value
            )
        ]


def mirrored(devices: int = 2) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)])


def keys_with_replicas(restored: Restored) -> set[str]:
    return {key.partition("@")[0] for key in restored.arrays if "@" in key}


@check("mirrored")
def resumed_training_is_bit_identical() -> None:
    undisturbed = Training(mirrored())
    undisturbed.train(0, 6)
    first = Training(mirrored())
    first.train(0, 3)
    restored = first.saved()
    second = Training(mirrored(), seed=99)
    second.state.assign(restored)
    second.state.check_equal()
    second.train(3, 3)
    assert second.everything() == undisturbed.everything()


@check("mirrored")
def saving_changes_nothing() -> None:
    training = Training(mirrored())
    training.train(0, 2)
    before = training.everything()
    training.saved()
    training.state.weights_sha256()
    assert training.everything() == before


@check("mirrored")
def only_what_differs_is_kept_once_a_replica() -> None:
    training = Training(mirrored())
    fresh = training.saved()
    assert not keys_with_replicas(fresh)
    training.train(0, 2)
    restored = training.saved()
    paths = {tensor.path.rsplit("/", 1)[-1] for tensor in restored.commit.tensors if "@" in tensor.key}
    assert {"moving_mean", "moving_variance"} <= paths, paths
    assert "kernel" not in paths
    assert "seed_generator_state" not in paths
    assert any(key.startswith("task/") for key in keys_with_replicas(restored))
    assert all(f"{key}@replica/{index}" in restored.arrays for key in keys_with_replicas(restored) for index in (0, 1))


@check("mirrored")
def another_number_of_replicas_gets_the_mean() -> None:
    two = Training(mirrored())
    two.train(0, 2)
    restored = two.saved()
    one = Training(mirrored(1), seed=5)
    one.state.assign(restored)
    for index, variable in enumerate(one.model.variables):
        key = f"model/{index}"
        if f"{key}@replica/0" in restored.arrays:
            expected = np.mean([restored.arrays[f"{key}@replica/{replica}"] for replica in (0, 1)], axis=0)
        else:
            expected = restored.arrays[key]
        np.testing.assert_allclose(
            np.asarray(variable.value.numpy(), np.float64), np.asarray(expected, np.float64), rtol=1e-6
        )
    assert one.state.weights_sha256() != Training(mirrored(1)).state.weights_sha256()


@check("mirrored")
def a_checkpoint_of_another_model_is_refused_whole() -> None:
    restored = Training(mirrored()).saved()
    other = Training(mirrored(), units=5)
    before = other.everything()
    with pytest.raises(ConfigError) as caught:
        other.state.assign(restored)
    assert "dense/kernel" in without_numbers(str(caught.value)), caught.value
    assert "shape [4, 5], in the checkpoint [4, 3]" in str(caught.value)
    assert other.everything() == before
    lacking = copy.deepcopy(restored.commit.model_dump())
    lacking["tensors"] = lacking["tensors"][1:]
    with pytest.raises(ConfigError) as caught:
        Training(mirrored()).state.assign(Restored(Commit.model_validate(lacking), restored.arrays))
    assert "is new in the model" in str(caught.value)


@check("mirrored")
def evaluation_sees_means_and_training_gets_its_own_back() -> None:
    training = Training(mirrored())
    training.train(0, 2)
    before = training.everything()
    sha256 = training.state.weights_sha256()
    with training.state.mean_unsynchronised():
        moving = next(v for v in training.model.variables if v.path.endswith("moving_mean"))
        first, second = training.strategy.experimental_local_results(moving.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())
        assert training.everything() != before
        assert training.state.weights_sha256() == sha256
    assert training.everything() == before


@check("mirrored")
def what_is_changed_meanwhile_is_afterwards_as_before() -> None:
    training = Training(mirrored())
    training.train(0, 2)
    before = training.everything()
    with training.state.kept():
        training.train(2, 2)
        assert training.everything() != before
    assert training.everything() == before
    rows = tf.Variable(np.arange(40, dtype=np.float32).reshape(10, 4))
    state = TrainingState(tf.distribute.get_strategy(), keras.Sequential(), None, extra=[rows])
    first = rows.numpy().tobytes()

    @tf.function(jit_compile=True)
    def compiled() -> None:
        rows.assign_add(rows * 2)

    # Each way in which TensorFlow writes to a variable, twice: in its place, where nobody else holds the value.
    changes: list[Callable[[], Any]] = [
        lambda: rows.assign_add(tf.ones_like(rows)),
        lambda: rows.scatter_add(tf.IndexedSlices(tf.ones((1, 4)), tf.constant([3]))),
        lambda: rows[2:4].assign(tf.zeros((2, 4))),
        compiled,
        lambda: rows.assign(tf.zeros_like(rows)),
    ]
    for change in changes:
        with state.kept():
            change()
            change()
            assert rows.numpy().tobytes() != first
        assert rows.numpy().tobytes() == first


@check("mirrored")
def replicas_that_differ_are_named() -> None:
    training = Training(mirrored())
    training.state.check_equal()
    components = training.strategy.experimental_local_results(training.model.trainable_variables[0].value)
    components[1].assign_add(tf.ones_like(components[1]))
    with pytest.raises(StatesDiffer) as caught:
        training.state.check_equal()
    assert "replica 1" in caught.value.message
    assert "kernel" in caught.value.message


@check("mirrored")
def a_plain_strategy_and_no_optimizer_work() -> None:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2), keras.layers.Dropout(0.1)])
    state = TrainingState(tf.distribute.get_strategy(), model, None)
    fd = os.memfd_create("state")
    copied = state.copy(SnapshotMemory(fd))
    os.close(fd)
    assert copied is not None
    assert [tensor.key for tensor in copied[0]] == ["model/0", "model/1", "model/2"]
    assert state.copy(None) is None
    with state.mean_unsynchronised():
        state.check_equal()


@check("workers")
def workers_agree_and_resume_bit_identically() -> None:
    folder = Path(sys.argv[2])
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    undisturbed = Training(strategy)
    undisturbed.state.check_equal()
    undisturbed.train(0, 6)
    expected = undisturbed.everything()

    first = Training(strategy)
    first.train(0, 3)
    before = first.everything()
    if index == 0:
        restored = first.saved()
        assert keys_with_replicas(restored)
        arrays = {
            key: (str(array.dtype), list(array.shape), array.tobytes().hex()) for key, array in restored.arrays.items()
        }
        (folder / "new").write_text(json.dumps({"commit": restored.commit.model_dump_json(), "arrays": arrays}))
        os.rename(folder / "new", folder / "restored")
    else:
        assert first.state.copy(None) is None
    assert first.everything() == before
    deadline = time.monotonic() + 60
    while not (folder / "restored").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    read = json.loads((folder / "restored").read_text())
    restored = Restored(
        Commit.model_validate_json(read["commit"]),
        {
            key: np.frombuffer(bytes.fromhex(data), tf.as_dtype(dtype).as_numpy_dtype).reshape(shape)
            for key, (dtype, shape, data) in read["arrays"].items()
        },
    )
    second = Training(strategy, seed=7)
    second.state.assign(restored)
    assert second.everything() == before
    second.state.check_equal()
    second.train(3, 3)
    assert second.everything() == expected
    sha256 = second.state.weights_sha256()
    with second.state.mean_unsynchronised():
        moving = next(v for v in second.model.variables if v.path.endswith("moving_mean"))
        (folder / f"moving-{index}").write_bytes(np.asarray(moving.value.numpy()).tobytes() + sha256.encode())
    assert second.everything() == expected
    kernel = second.strategy.experimental_local_results(second.model.trainable_variables[0].value)[0]
    if index == 1:
        kernel.assign_add(tf.ones_like(kernel))
    with pytest.raises(StatesDiffer) as caught:
        second.state.check_equal()
    assert "replica 1" in caught.value.message


def main() -> None:
    mode = sys.argv[1]
    if mode == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    results = {}
    for name in CHECKS[mode]:
        try:
            globals()[name]()
            results[name] = "ok"
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
