"""The training process, `python -P -m trainer.worker`: from the agent's Prepare and Start messages to an exit code.

TensorFlow is imported between the two, after the agent was told that this begins. The process ends by os._exit: under several
workers TensorFlow's own shutdown may hang or abort.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType

from trainer import faults
from trainer.agent.protocol import Failure, Phase, Prepare, Start
from trainer.channel import Channel
from trainer.config import TrainConfig
from trainer.errors import DamagedCheckpoint, OrchError
from trainer.exit_codes import ExitCode, code_of_exception
from trainer.lifeline import die_with_parent

log = logging.getLogger("trainer.worker")

_MESSAGE_CHARS = 2000
_TRACEBACK_CHARS = 16_000


def main() -> None:
    """Train, and exit with what came of it."""
    die_with_parent()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(
        stream=sys.stderr, level=os.environ.get("LOG_LEVEL", "INFO").upper(), format="%(levelname)s %(message)s"
    )
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    channel = Channel.from_environment()
    try:
        config = import_tensorflow(channel, channel.read_prepare())
        start = channel.read_start()
        channel.listen()
        code = train(channel, start, config)
    except BaseException as error:
        code = tell(channel, error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def import_tensorflow(channel: Channel, prepare: Prepare) -> TrainConfig:
    """All that can be done before an attempt is known, and takes longest."""
    name_process("orch-spare" if prepare.spare else "orch-train")
    channel.enter(Phase.IMPORT)
    config = TrainConfig.load(prepare.config)
    from trainer.strategy import set_deterministic_environment

    if config.train.deterministic:
        set_deterministic_environment()
    import tensorflow  # noqa: F401  (its import is what this phase is about)

    import trainer.setup  # noqa: F401

    return config


def train(channel: Channel, start: Start, config: TrainConfig) -> ExitCode:
    """Everything between Start and the end.

    Raises whatever ended training; exit_codes.code_of_exception says what that means.
    """
    from trainer.setup import Training, prepare
    from trainer.strategy import make_strategy, set_up_devices

    name_process("orch-train")
    if start.tf_config is not None:
        os.environ["TF_CONFIG"] = start.tf_config
    faults.reach("process.imported")

    set_up_devices(config)
    channel.enter(Phase.RENDEZVOUS)
    strategy = make_strategy(tpu=config.tpu)
    faults.reach("process.rendezvous")
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


def name_process(name: str) -> None:
    """The name that ps and top show, 15 characters at most. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def tell(channel: Channel, error: BaseException) -> ExitCode:
    """Send the failure to the agent, print it, and return the exit code."""
    error = origin(error)
    code = code_of_exception(error)
    shown = user_traceback(error)
    message = error.message if isinstance(error, OrchError) else str(error)
    remedy = error.remedy if isinstance(error, OrchError) else ""
    if code == ExitCode.STOPPED:
        log.info("leaving: %s", message)
    else:
        # A traceback ends with the exception; an OrchError may have that of its cause before it.
        said = (
            f"{type(error).__name__}: {message}\n{remedy}".rstrip() if isinstance(error, OrchError) or not shown else ""
        )
        print("\n".join(part for part in (shown.rstrip(), said) if part), file=sys.stderr, flush=True)
    channel.send(
        Failure(
            code=code,
            exception=type(error).__name__,
            message="\n".join(part for part in (message[:_MESSAGE_CHARS], remedy) if part),
            traceback=shown[-_TRACEBACK_CHARS:],
            step=channel.step,
            bad_commit=error.commit if isinstance(error, DamagedCheckpoint) else None,
        )
    )
    return code


def origin(error: BaseException) -> BaseException:
    """The exception as it was raised: AutoGraph raises another one in its place, of another class where it must."""
    while hasattr(error.__context__, "ag_error_metadata"):
        assert error.__context__ is not None
        error = error.__context__
    return error


def user_traceback(error: BaseException) -> str:
    """The traceback as its reader needs it: the user's own frames where there are any, else all. Of an OrchError without a
    cause nothing: it speaks for itself."""
    if isinstance(error, OrchError):
        if error.__cause__ is None:
            return ""
        error = error.__cause__
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "__autograph_" not in frame.filename]
    converted = getattr(getattr(error, "ag_error_metadata", None), "translated_stack", [])
    frames += [
        traceback.FrameSummary(frame.filename, frame.lineno, frame.function_name, line=frame.code)
        for frame in reversed(converted)
    ]
    own = [frame for frame in frames if _is_users(frame.filename)]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(own or frames)]
    return "".join(lines + traceback.format_exception_only(error))


def _is_users(filename: str) -> bool:
    ours = os.path.dirname(os.path.abspath(__file__)) + os.sep
    builtin = filename.startswith(ours) and not filename.startswith(os.path.join(ours, "tasks"))
    return not (
        builtin or filename.startswith(("<", os.path.dirname(os.__file__) + os.sep)) or "site-packages" in filename
    )


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Before there is a channel, an OrchError is still one message, not a traceback."""
    if isinstance(error, OrchError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.excepthook = _uncaught
    main()
