"""The trainer within this process: its own prepare, loop and finish, with a channel that answers at once by the real writer."""

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.checkpoint.writer import Writer
from trainer.config import TrainConfig
from trainer.keras.install import followed_by
from trainer.keras.replicas import whole_batches
from trainer.keras.seeds import unseeded_by
from trainer.keras.session import Session
from trainer.process.channel import Channel
from trainer.rundir.attempts import AttemptRecord, CommitRef, Launch, Member, append_record
from trainer.rundir.commits import list_commits
from trainer.rundir.open import open_store
from trainer.wire.lines import encode
from trainer.wire.process import Block, Start, from_process
from trainer.wire.writer import Saved, SaveFailed, Snapshot, WriterStart


class Killed(BaseException):
    """Nothing of the run goes on: no handler of the trainer catches it."""


class RoomChannel(Channel):
    """An agent that is never late. `kill_at`: the first block that ends at this step or later is the last."""

    def __init__(self, writer: Writer | None, answers: list[Any], kill_at: int | None) -> None:
        mine, self._other_end = socket.socketpair()
        super().__init__(mine)
        self._writer, self._answers, self._kill_at = writer, answers, kill_at
        self.messages: list[Any] = []

    def send(self, message: Any, *, droppable: bool = False) -> None:
        message = from_process.validate_json(encode(message))
        self.messages.append(message)
        if isinstance(message, Snapshot):
            assert self._writer is not None
            self._writer.save(message)
            with self._changed:
                self._answer = next(one for one in reversed(self._answers) if isinstance(one, Saved | SaveFailed))
                self._changed.notify_all()
        if isinstance(message, Block) and self._kill_at is not None and message.step >= self._kill_at:
            raise Killed

    def close(self) -> None:
        self._socket.close()
        self._other_end.close()


def model_of(training: Any) -> Any:
    """The model that is trained."""
    return training.loop.block._model


@contextlib.contextmanager
def attempt(folder: Path, train: dict[str, Any], strategy: Any, **agent: Any) -> Iterator[tuple[Any, RoomChannel]]:
    """A prepared training and its channel. Attempts after the first go on from the newest commit. `agent`: as of `_agent`."""
    from trainer.process.setup import prepare

    before = set(threading.enumerate())
    training = None
    with _agent(folder, train, **agent) as (channel, start, config):
        try:
            training = prepare(channel, start, config, strategy)
            yield training, channel
        finally:
            feed = getattr(getattr(getattr(training, "loop", None), "block", None), "_feed", None)
            if feed is not None:
                feed.close()
            for thread in set(threading.enumerate()) - before:
                if thread.name == "order":
                    thread.join(5)


@contextlib.contextmanager
def script(folder: Path, train: dict[str, Any], strategy: Any, *, index: int, workers: int) -> Iterator[RoomChannel]:
    """Within it, model.fit is followed as in a script of a job."""
    section = {"script": "none.py"} | {name: train[name] for name in ("seed", "on_nan") if name in train}
    with _agent(folder, section, index=index, workers=workers) as (channel, start, config):
        session = Session(channel, start, config, strategy, open_store(config.run_directory))
        with followed_by(session), whole_batches(session), unseeded_by(train["seed"]), session.scope():
            yield channel
        session.close()


@contextlib.contextmanager
def _agent(
    folder: Path,
    train: dict[str, Any],
    *,
    number: int = 1,
    index: int = 0,
    workers: int = 1,
    every: int = 100_000,
    kill_at: int | None = None,
    export: dict[str, Any] | None = None,
) -> Iterator[tuple[RoomChannel, Start, TrainConfig]]:
    """What an agent gives a process."""
    run = folder / "run"
    if number == 1 and index == 0:
        shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    store = open_store(str(run))
    config = TrainConfig(
        name="conformance",
        train=train,  # type: ignore[arg-type]
        checkpoint={"every": every},  # type: ignore[arg-type]
        export=export or {},  # type: ignore[arg-type]
        run_directory=str(run),
        workers=workers,
        task_root=str(Path(__file__).parents[2]),
    )
    restore: CommitRef | None = max(list_commits(store), key=lambda ref: ref.step) if number > 1 else None
    record = AttemptRecord(
        number=number,
        nonce="n",
        launch=Launch(id="l", started=datetime.now(UTC)),
        created=datetime.now(UTC),
        members=[Member(index=one, uid=f"u{one}", address="127.0.0.1", port=1 + one) for one in range(workers)],
        restore=restore,
        world_size=workers,
        restarts=number - 1,
    )
    memory = None
    answers: list[Any] = []
    writer = None
    if index == 0:
        append_record(store, record)
        memory = os.memfd_create("conformance")
        writer = Writer(
            WriterStart(
                run_directory=str(run), attempt=number, nonce="n", keep=1000, shard_size_bytes=1 << 20, memory_fd=memory
            ),
            answers.append,
        )
    channel = RoomChannel(writer, answers, kill_at)
    try:
        yield channel, Start(tf_config=None, record=record, index=index, memory_fd=memory), config
    finally:
        channel.close()
        if memory is not None:
            os.close(memory)
