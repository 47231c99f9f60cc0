"""From what the environment has to a tf.distribute.Strategy. Imports TensorFlow when called."""

import json
import logging
import os
import socket
import time
from typing import Any

from trainer.config import TrainConfig
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

LEADER_S = 30.0


def set_deterministic_environment() -> None:
    """Pin the instruction set that kernels choose by. Only before TensorFlow is imported."""
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_max_isa" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_max_isa=AVX2".strip()


def set_up_devices(config: TrainConfig) -> None:
    """Threads by the CPU limit (TensorFlow sees the host's cores), memory of GPUs as needed, op determinism where asked.

    Before anything else of TensorFlow runs.
    """
    import tensorflow as tf

    if config.cpu_limit is not None:
        threads = max(1, round(config.cpu_limit))
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(max(2, threads))
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()


def make_strategy(*, tpu: bool = False) -> Any:
    """The strategy for this process. Under several workers, blocks until all of them are there.

    TF_CONFIG with more than one worker: MultiWorkerMirroredStrategy, worker 0 being the chief. Several GPUs of one host:
    MirroredStrategy. One device: TensorFlow's default strategy.

    Args:
        tpu: use this host's TPU, which is never chosen by itself.

    Raises:
        ConfigError: a TPU is asked for and there is none, or there are several workers, which is not built yet; TF_CONFIG makes
            no sense.
    """
    workers = _workers_of_tf_config()
    if tpu and workers > 1:
        raise ConfigError(
            f"this job has {workers} TPU hosts, and training on a slice of several hosts is not built yet: each host would "
            "train alone",
            remedy="Use a slice of one host, such as v5litepod-8.",
        )
    import tensorflow as tf

    if tpu:
        return _tpu_strategy()
    gpus = tf.config.list_logical_devices("GPU") if workers < 2 else []
    if workers > 1:
        _wait_for_leader()
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif len(gpus) > 1:
        strategy = tf.distribute.MirroredStrategy()
    else:
        strategy = tf.distribute.get_strategy()
    log.info(
        "strategy=%s workers=%d replicas=%d", type(strategy).__name__, max(workers, 1), strategy.num_replicas_in_sync
    )
    return strategy


def check_batch(global_batch_size: int, replicas: int) -> None:
    """Raises ConfigError unless the global batch divides by the number of replicas."""
    if global_batch_size % replicas:
        below = global_batch_size - global_batch_size % replicas
        choices = " or ".join(str(size) for size in (below, below + replicas) if size)
        raise ConfigError(
            f"train.global_batch_size {global_batch_size} does not divide by the {replicas} replicas",
            remedy=f"Use {choices}, or another number of workers.",
        )


def _wait_for_leader() -> None:
    """Until worker 0 listens, LEADER_S at most: whoever calls it too early is made to wait a whole second by gRPC."""
    told = json.loads(os.environ["TF_CONFIG"])
    if told["task"]["index"] == 0:
        return
    host, _, port = told["cluster"]["worker"][0].rpartition(":")
    until = time.monotonic() + LEADER_S
    while time.monotonic() < until:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return


def _workers_of_tf_config() -> int:
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 1
    try:
        cluster = json.loads(text)["cluster"]
        others = sorted(set(cluster) - {"worker"})
        count = len(cluster["worker"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"TF_CONFIG makes no sense: {error}", remedy="orch sets it; do not set it yourself."
        ) from None
    if others:
        raise ConfigError(
            f"TF_CONFIG has tasks of the type {', '.join(others)}; orch's workers are all of the type worker",
            remedy="orch sets TF_CONFIG; do not set it yourself.",
        )
    return count


def _tpu_strategy() -> Any:
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"a TPU is asked for, and this machine has none that TensorFlow can use: {first}",
            remedy="Run in the tpu image on a TPU host, or leave the accelerator out.",
        ) from None
