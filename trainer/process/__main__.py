"""The training process, `python -P -m trainer.process`: from the agent's Prepare and Start messages to an exit code.

TensorFlow is imported between the two, after the agent was told that this begins. The process ends by os._exit: under several
workers TensorFlow's own shutdown may hang or abort.
"""

import faulthandler
import importlib
import io
import logging
import os
import signal
import sys
from types import TracebackType
from typing import Any

from trainer import faults
from trainer.config import TrainConfig
from trainer.errors import DamagedCheckpoint, OrchError
from trainer.exit_codes import ExitCode, code_of_exception
from trainer.lifeline import die_with_parent
from trainer.process.channel import Channel
from trainer.process.copies import leave_copy, name_process
from trainer.process.tracebacks import full_traceback, message_of, origin, user_traceback
from trainer.wire.process import LOG_ONLY, SPARE, Copy, Failure, Phase, Prepare, Start

log = logging.getLogger("trainer.process")

_FOR_SCRIPTS = "trainer.keras.script"
"""Stands on top of this room, whose parts it uses: so this program knows it by name alone."""
_MESSAGE_CHARS = 2000
_TRACEBACK_CHARS = 8000


def main() -> None:
    """Train, and exit with what came of it."""
    die_with_parent()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the agent reads UTF-8, whatever the locale of this machine
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    logging.basicConfig(
        stream=sys.stderr, level=os.environ.get("LOG_LEVEL", "INFO").upper(), format="%(levelname)s %(message)s"
    )
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    channel = Channel.from_environment()
    try:
        config = import_tensorflow(channel, channel.read_prepare())
        while isinstance(order := channel.read_order(), Copy):
            channel = leave_copy(channel, order)
        channel.listen()
        code = train(channel, order, config)
    except BaseException as error:
        code = tell(channel, error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def import_tensorflow(channel: Channel, prepare: Prepare) -> TrainConfig:
    """All that can be done before an attempt is known, and takes longest."""
    name_process(SPARE if prepare.spare else "orch-train")
    channel.enter(Phase.IMPORT)
    config = TrainConfig.load(prepare.config)
    from trainer.process.strategy import set_deterministic_environment

    if config.train.deterministic:
        set_deterministic_environment()
    import tensorflow  # noqa: F401  (its import is what this phase is about)

    importlib.import_module(_FOR_SCRIPTS if config.train.script is not None else "trainer.process.setup")
    return config


def train(channel: Channel, start: Start, config: TrainConfig) -> ExitCode:
    """Everything between Start and the end.

    Raises whatever ended training; exit_codes.code_of_exception says what that means.
    """
    from trainer.process.strategy import make_strategy, set_up_devices

    name_process("orch-train")
    if start.tf_config is not None:
        os.environ["TF_CONFIG"] = start.tf_config
    faults.reach("process.imported")

    set_up_devices(config)
    channel.enter(Phase.RENDEZVOUS)
    strategy = make_strategy(tpu=config.tpu)
    faults.reach("process.rendezvous")
    if config.train.script is not None:
        code: ExitCode = importlib.import_module(_FOR_SCRIPTS).run(channel, start, config, strategy)
        return code
    return train_task(channel, start, config, strategy)


def train_task(channel: Channel, start: Start, config: TrainConfig, strategy: Any) -> ExitCode:
    """Train the job's task under the strategy."""
    from trainer.process.setup import prepare
    from trainer.process.training import Training

    training: Training = prepare(channel, start, config, strategy)
    done = training.loop.run()
    if done:
        training.finish()
    # Also after a stop: who leaves while a peer still copies its state would break the collective within.
    training.loop.collective.leave(start.index, start.record.world_size)
    faults.reach("process.left")
    if not done:
        training.stop()
    return ExitCode.DONE if done else ExitCode.STOPPED


def tell(channel: Channel, error: BaseException) -> ExitCode:
    """Send the failure to the agent, print all of it for the log, and return the exit code."""
    error = origin(error)
    code = code_of_exception(error)
    message, shown = message_of(error), user_traceback(error)
    remedy = error.remedy if isinstance(error, OrchError) else ""
    if code == ExitCode.STOPPED:
        log.info("leaving: %s", message)
    else:
        # A traceback ends with the exception; an OrchError may have that of its cause before it.
        alone = isinstance(error, OrchError) and error.__cause__ is None
        full = f"{type(error).__name__}: {error}" if alone else full_traceback(error)
        print("".join(f"{LOG_ONLY}{line}\n" for line in full.splitlines()), end="", file=sys.stderr, flush=True)
        if isinstance(error, OrchError):
            shown += f"{type(error).__name__}: {message}\n{remedy}".rstrip()
    channel.send(
        Failure(
            code=code,
            exception=type(error).__name__,
            message="\n".join(part for part in (message[:_MESSAGE_CHARS], remedy) if part),
            remedy=remedy,
            traceback=shown[-_TRACEBACK_CHARS:],
            step=channel.step,
            bad_commit=error.commit if isinstance(error, DamagedCheckpoint) else None,
        )
    )
    return code


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Before there is a channel, an OrchError is still one message, not a traceback."""
    if isinstance(error, OrchError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.excepthook = _uncaught
    main()
