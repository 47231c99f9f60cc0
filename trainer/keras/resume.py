"""`Resume`: orch's checkpoints, and its way to go on at the next batch, for a `fit` in plain `python train.py`."""

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer.callbacks.stock import flattened
from trainer.checkpoint import restore
from trainer.checkpoint.writer import Writer
from trainer.config import CheckpointSection, TrainConfig, TrainSection, parse_duration
from trainer.errors import ConfigError, DamagedCheckpoint
from trainer.keras.epochs import Epochs
from trainer.keras.install import followed_by
from trainer.keras.session import Session
from trainer.process.channel import Channel
from trainer.rundir.attempts import (
    AttemptRecord,
    CommitRef,
    Launch,
    Member,
    Wire,
    append_record,
    new_nonce,
    now,
    read_records,
)
from trainer.rundir.commits import list_commits
from trainer.rundir.lineage import NoGoodCommit, restore_point
from trainer.rundir.open import open_store
from trainer.rundir.store import Store
from trainer.wire.process import Phase, Start
from trainer.wire.writer import Saved, SaveFailed, Snapshot, WriterStart


class Resume(keras.callbacks.Callback):  # type: ignore[misc]
    """Among the callbacks of `model.fit`: what is trained is saved, and the script started again goes on at the next batch.

        model.fit(x, y, epochs=10, callbacks=[Resume("runs/x")])

    The script starts again from its first line; the weights, the order of the data, what other callbacks remember, `history` and
    the numbers of each epoch are those of a run that nothing disturbed. SIGTERM saves first. Several calls of fit may have it,
    with one directory; those that are done are not trained again. Under `orch run` and `orch submit` it does nothing, since
    these do the same with every fit.
    """

    def __init__(self, directory: str, every: int | str = "60s", keep: int = 3) -> None:
        """
        Args:
            directory: of the checkpoints: a path or gs://bucket/prefix.
            every: steps between saves, or a duration ("5m").
            keep: how many checkpoints are kept, 2 at least.

        Raises:
            ConfigError: several replicas, or a Keras that is not known: use `orch run`.
            DamagedCheckpoint: none of the checkpoints can be read.
        """
        super().__init__()
        self.directory = directory
        if Session.current is None:
            Session.current = _begin(directory, every, keep)
        elif isinstance(Session.current, _Outside) and Session.current.directory != _absolute(directory):
            raise ConfigError(
                f"Resume({directory!r}) beside Resume({Session.current.directory!r})",
                remedy="A process has one run directory: give all calls of fit the same.",
            )


class _Outside(Session):
    """A session of a process that has no agent."""

    directory = ""

    def fit(self, keras_fit: Any, model: keras.Model, arguments: dict[str, Any]) -> Any:
        if model.distribute_strategy.num_replicas_in_sync > 1:
            raise ConfigError(
                "Resume is for one device, and this model has several replicas",
                remedy="Use train.script and `orch run`.",
            )
        return super().fit(keras_fit, model, arguments)


def _begin(directory: str, every: int | str, keep: int) -> _Outside:
    url = _absolute(directory)
    config = TrainConfig(
        name=Path(directory).name,
        train=TrainSection(script=sys.argv[0] or "script"),
        checkpoint=CheckpointSection(every=every if isinstance(every, int) else parse_duration(every), keep=keep),
        run_directory=url,
    )
    store = open_store(url)
    record = _next_record(store)
    memory = os.memfd_create("orch-snapshot")
    channel = _Alone(store, record, config.checkpoint, memory)
    start = Start(tf_config=None, record=record, index=0, memory_fd=memory)
    session = _Outside(channel, start, config, tf.distribute.get_strategy(), store)
    session.directory = url
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: channel.stop("SIGTERM"))
    return session


def _next_record(store: Store) -> AttemptRecord:
    """The record of this start, which ends whatever start came before it."""
    records, bad = read_records(store), list[str]()
    while True:
        point = restore_point(records, list_commits(store), bad=bad)
        if isinstance(point, NoGoodCommit):
            raise ConfigError(point.reason, remedy="Start from nothing, in another directory.")
        if point is None or _good(store, point):
            break
        bad.append(point.name)
    number = max((record.number for record in records), default=0) + 1
    record = AttemptRecord(
        number=number,
        nonce=new_nonce(),
        launch=Launch(id=new_nonce()[:8], started=now()),
        created=now(),
        members=[Member(index=0, uid=str(os.getpid()), address=socket.gethostname(), port=0)],
        restore=point,
        world_size=1,
        bad=bad,
    )
    if append_record(store, record) != record:
        raise ConfigError(
            f"another process began in {store.url} at the same moment", remedy="Let one of them train there."
        )
    return record


def _good(store: Store, ref: CommitRef) -> bool:
    try:
        restore.verify(store, ref)
    except DamagedCheckpoint:
        return False
    return True


def _absolute(directory: str) -> str:
    return directory if "://" in directory else os.path.abspath(directory)


class _WithResume:
    """Follows those calls of fit that have a Resume. In place before there is one: Python looks `model.fit` up earlier."""

    def fit(self, keras_fit: Any, model: keras.Model, arguments: dict[str, Any]) -> Any:
        given = flattened(arguments["callbacks"])
        if Session.current is None or not any(isinstance(one, Resume) for one in given):
            return keras_fit(model, **arguments)
        return Session.current.fit(keras_fit, model, arguments)

    def callbacks(self, *arguments: Any, **named: Any) -> keras.callbacks.CallbackList:
        make = keras.callbacks.CallbackList if Session.current is None else Session.current.callbacks
        return make(*arguments, **named)

    def epochs(self, *arguments: Any, **named: Any) -> Epochs:
        make = Epochs if Session.current is None else Session.current.epochs
        return make(*arguments, **named)


class _Alone(Channel):
    """In the place of an agent: a thread that writes checkpoints; there is nobody else to tell anything."""

    def __init__(self, store: Store, record: AttemptRecord, config: CheckpointSection, memory: int) -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(ours)
        self._snapshots: queue.Queue[Snapshot] = queue.Queue()
        self._writer = Writer(
            WriterStart(
                run_directory=store.url,
                attempt=record.number,
                nonce=record.nonce,
                keep=config.keep,
                shard_size_bytes=config.shard_size_mb << 20,
                memory_fd=memory,
                last_save_timeout_s=config.last_save_timeout,
            ),
            self._answered,
        )
        threading.Thread(target=self._write, name="checkpoints", daemon=True).start()

    def stop(self, reason: str) -> None:
        """Have training end, with a save."""
        self._stop_reason = reason

    def send(self, message: Wire, *, droppable: bool = False) -> None:
        if isinstance(message, Snapshot):
            self._snapshots.put(message)

    def enter(self, phase: Phase, step: int = 0, detail: str = "") -> None:
        self.step, self.phase = step, phase

    @contextlib.contextmanager
    def within(self, phase: Phase) -> Any:
        yield

    def _answered(self, message: Wire) -> None:
        if isinstance(message, Saved | SaveFailed):
            with self._changed:
                self._answer = message
                self._changed.notify_all()

    def _write(self) -> None:
        while True:
            if self._writer.save(self._snapshots.get()):
                self._writer.retain()


_followed = contextlib.ExitStack()
"""For as long as the process lives."""
if Session.current is None:
    _followed.enter_context(followed_by(_WithResume()))
