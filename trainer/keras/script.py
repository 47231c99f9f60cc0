"""A script as `__main__` of the training process, unchanged: what `train.script` names, from its first line to its end."""

import contextlib
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer import faults
from trainer.config import TrainConfig
from trainer.errors import ConfigError, TaskError
from trainer.exit_codes import ExitCode, workers_part
from trainer.export.exportable import form_of
from trainer.export.exporter import Exporter, load_line
from trainer.keras.files import saved_by_one
from trainer.keras.install import followed_by
from trainer.keras.replicas import whole_batches
from trainer.keras.seeds import unseeded_by
from trainer.keras.session import Session
from trainer.process.channel import Channel
from trainer.rundir.open import open_store
from trainer.wire.process import Phase, Result, Start

log = logging.getLogger(__name__)

_OF_OUR_OWN = ("triggered tf.function retracing", "eagerly has significant overhead")
"""TensorFlow warns so of what orch does between steps."""


@contextlib.contextmanager
def _workers_part_told() -> Iterator[None]:
    """Within it, an operation of one worker that meets another one of its peer is the script's error, with the remedy."""
    try:
        yield
    except tf.errors.OpError as error:
        if not workers_part(error):
            raise
        raise TaskError(
            "the workers do not do the same: an operation of all (a step, an evaluation, a new variable) met another one",
            remedy="Under a strategy every worker makes the same models and variables, and calls fit and evaluate as often; "
            "print and write on one alone. What one worker does for itself, such as to load a saved model, belongs outside of "
            "strategy.scope(): make the strategy in the script, and open its scope only around what all workers make.",
        ) from error


@_workers_part_told()
def run(channel: Channel, start: Start, config: TrainConfig, strategy: Any) -> ExitCode:
    """Run the script, follow its calls of fit, and report. Raises what the script raises."""
    logging.getLogger("tensorflow").addFilter(lambda record: not any(one in str(record.msg) for one in _OF_OUR_OWN))
    store = open_store(config.run_directory)
    session = Session.current = Session(channel, start, config, strategy, store)
    channel.enter(Phase.SCRIPT, session.step)
    several = start.record.world_size > 1
    with contextlib.ExitStack() as stack:
        for each in (followed_by(session), whole_batches(session), unseeded_by(config.train.seed)):
            stack.enter_context(each)
        if several:
            stack.enter_context(saved_by_one(chief=start.index == 0))
        stack.enter_context(session.scope())
        run_as_main(_path(config), config.train.args)
    # Outside of the scope, in which a model that is made is made by all workers together.
    with followed_by(session), whole_batches(session):
        _report(session, channel, start, config, store)
    session.collective.leave(start.index, start.record.world_size)
    faults.reach("process.left")
    return ExitCode.DONE


def run_as_main(path: Path, arguments: list[str]) -> None:
    """As `python path arguments`, in this process.

    Raises:
        TaskError: the script exits with anything but 0.
    """
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except SystemExit as exit_:
        if exit_.code not in (None, 0):
            raise TaskError(
                f"{path.name} ended itself with sys.exit({exit_.code!r})",
                remedy="What it printed before says why: orch logs.",
            ) from None


def _path(config: TrainConfig) -> Path:
    assert config.train.script is not None
    path = Path(config.task_root or ".", config.train.script).resolve()
    if not path.is_file():
        raise ConfigError(f"there is no script {path}", remedy="Correct train.script: it is relative to the job file.")
    return path


def _report(session: Session, channel: Channel, start: Start, config: TrainConfig, store: Any) -> None:
    """Export the model that was fitted last, and tell what came of the job. All workers call it; the chief writes."""
    fit = session.last
    digest = ""
    channel.enter(Phase.EXPORT, session.step)
    if fit is not None and fit.has_trained:
        digest = fit.state.weights_sha256()
    if start.index:
        return
    metrics = fit.results if fit is not None else {}
    exported = None
    if fit is not None:
        exporter = Exporter(fit.model, store, start.record.number, form_of(fit.model), config)
        exported = exporter.write("model", session.step, metrics, patience_s=config.checkpoint.last_save_timeout)
        exporter.point(exported)
    session.close()
    channel.send(
        Result(
            step=session.step,
            total_steps=session.step,
            metrics=metrics,
            weights_sha256=digest,
            export=exported.url if exported is not None else None,
            load=load_line(exported) if exported is not None else "",
        )
    )
    faults.reach("process.reported")
