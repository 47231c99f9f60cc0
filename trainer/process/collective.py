"""Sums over all workers, and the one vector of them by which workers agree on what to do next."""

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context  # the coordination service has no public name

from trainer.errors import ConfigError

_LEAVE_S = 5.0


@dataclass(frozen=True)
class Decision:
    """What all workers do after the present block: evaluate? save? stop? and the length of the next block."""

    stop: bool = False
    """Any worker's flag is enough. All others are the chief's."""
    next_steps: int = 0
    save: bool = False
    evaluate: bool = False
    finish: bool = False
    """Training has reached its end before its last step (stop_when, a callback)."""
    labels: int = 0
    """A checksum (data/checksum.py) of the labels that this worker read for the block or batches before."""
    same_labels: bool = True
    """Of what was decided: whether those of all workers are equal."""


class Collective:
    """Sums over the workers of a strategy. Every method must be called by all workers, in the same order."""

    def __init__(self, strategy: tf.distribute.Strategy, workers: int) -> None:
        self._strategy = strategy
        self._alone = workers == 1
        self._local = strategy.num_replicas_in_sync // workers
        self._sum = tf.function(self._sum_over_replicas, autograph=False)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of each worker's `values` (1-D, the same length and dtype on all)."""
        if self._alone:
            return values
        total = self._sum(tf.constant(values))
        # Every replica of a worker gave the same values.
        return np.asarray(self._strategy.experimental_local_results(total)[0].numpy() / self._local)

    def agree(self, mine: Decision, *, chief: bool) -> Decision:
        """The decision of all: the stop flag of any worker, everything else from the chief."""
        fields = [mine.next_steps, mine.save, mine.evaluate, mine.finish] if chief else [0, 0, 0, 0]
        labels = [1, mine.labels, mine.labels**2]
        stop, steps, save, evaluate, finish, *sums = self.sum(np.array([mine.stop, *fields, *labels], np.float64))
        workers, total, squares = (round(float(value)) for value in sums)
        same = workers * squares == total**2
        return Decision(stop > 0, round(float(steps)), save > 0, evaluate > 0, finish > 0, same_labels=same)

    def leave(self, index: int, workers: int) -> None:
        """Wait until all workers are here, and have noticed that all are. Its return means that they may exit."""
        if self._alone:
            return
        self.sum(np.zeros(1, np.float64))
        # Whoever leaves while a peer is still inside that sum breaks it. So each notes that it is through, and waits for
        # the notes of all, for a short time: from here on, that a peer is gone is no failure.
        thread = threading.Thread(target=_exchange_notes, args=(index, workers), name="leave", daemon=True)
        thread.start()
        thread.join(_LEAVE_S)

    def _sum_over_replicas(self, values: tf.Tensor) -> Any:
        return self._strategy.run(sum_over_replicas, (values,))


def data_differ(what: str, where: str) -> ConfigError:
    """The error of workers to which `what` gave different data."""
    return ConfigError(
        f"{what} gave one worker other examples than another, or in another order{where}: several workers train on the same "
        "batches, and each computes its part of them",
        remedy="Let it give the same each time: seed the random generators it uses (numpy.random.default_rng(seed)), and go "
        "through sets and folders in sorted order.",
    )


def sum_over_replicas(value: Any) -> Any:
    """The sum of each replica's `value`, on a replica."""
    # The identity puts the value on the replica's device; without one, TensorFlow finds no destination for the sum.
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def _exchange_notes(index: int, workers: int) -> None:
    service = context.context()
    with contextlib.suppress(tf.errors.OpError, RuntimeError):
        service.set_config_key_value(f"orch/through/{index}", "1")
        for peer in range(workers):
            service.get_config_key_value(f"orch/through/{peer}")
