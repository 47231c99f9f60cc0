"""Records, snapshots and a real writer process, for tests of checkpoints."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np

from trainer.checkpoint import restore
from trainer.checkpoint.snapshot import NamedArray, SnapshotMemory
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Launch, append_record, close_attempt
from trainer.rundir.open import open_store
from trainer.rundir.store import Store
from trainer.wire.lines import encode
from trainer.wire.writer import LastSave, Retained, Saved, SaveFailed, SaveTrouble, Snapshot, WriterStart, from_writer

LAUNCH = Launch(id="launch", started=datetime(2025, 1, 1, tzinfo=UTC))


def ref(step: int, attempt: int) -> CommitRef:
    """A commit's name."""
    return CommitRef(step=step, attempt=attempt)


def attempt(
    number: int, restore: CommitRef | None = None, *, fresh: bool = False, bad: tuple[str, ...] = ()
) -> AttemptRecord:
    """A record of an attempt."""
    return AttemptRecord(
        number=number,
        nonce=f"nonce-{number}",
        launch=LAUNCH,
        created=LAUNCH.started,
        members=[],
        restore=restore,
        fresh=fresh,
        world_size=1,
        bad=list(bad),
    )


def end(number: int) -> EndRecord:
    """A record of the end."""
    return EndRecord(
        number=number,
        nonce=f"nonce-{number}",
        launch=LAUNCH,
        created=LAUNCH.started,
        state="succeeded",
        code=0,
        reason="done",
        step=0,
    )


def begin(store: Store, *records: AttemptRecord | EndRecord) -> None:
    """Write records as coordinators do: an attempt is closed before the next one is recorded."""
    for record in records:
        if isinstance(record, AttemptRecord) and record.number > 1:
            close_attempt(store, record.number - 1, by="test")
        assert append_record(store, record) is record


def state_of_step(step: int, size: int = 50_000) -> list[NamedArray]:
    """Different for every step: three tensors of `size`, `size` and 7 elements, and a scalar."""
    random = np.random.default_rng(step)
    return [
        NamedArray("model/0", "dense/kernel", random.standard_normal((size // 10, 10)).astype(np.float32)),
        NamedArray("model/1", "seed/state", random.integers(0, 2**31, 7).astype(np.int64)),
        NamedArray("optimizer/0", "adam/m", random.standard_normal(size).astype(np.float32)),
        NamedArray("optimizer/1", "adam/iteration", np.asarray(step, np.int64)),
    ]


def assert_holds(run_url: str, commit: CommitRef) -> None:
    """The commit restores to exactly the state of its step."""
    restored = restore.load(open_store(run_url), commit, patience_s=10)
    expected = {named.key: named.array for named in state_of_step(commit.step)}
    assert restored.arrays.keys() == expected.keys()
    for key, array in expected.items():
        assert restored.arrays[key].dtype == array.dtype
        np.testing.assert_array_equal(restored.arrays[key], array)


# The program as it is, but for how long it waits for one answer of the store.
_PROGRAM = """
import sys, trainer.checkpoint.writer as writer
writer._CALL_TIMEOUT_S = float(sys.argv[1])
sys.exit(writer.main())
"""


class WriterProcess:
    """The real program, spoken to as an agent does."""

    def __init__(
        self,
        run_url: str,
        number: int,
        *,
        keep: int = 3,
        shard_size_bytes: int = 220_000,
        call_timeout_s: float = 30,
        save_timeout_s: float = 60,
        last_save_timeout_s: float = 900,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment`: what is added to this process's own."""
        self.fd = os.memfd_create("snapshot")
        self.memory = SnapshotMemory(self.fd)
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(call_timeout_s)],
            pass_fds=(self.fd, theirs.fileno()),
            env=os.environ
            | {"ORCH_CHANNEL_FD": str(theirs.fileno()), "ORCH_PARENT_PID": str(os.getpid())}
            | dict(environment or {}),
        )
        theirs.close()
        self._channel = ours
        ours.settimeout(60)
        self._lines: BinaryIO = ours.makefile("rb")
        start = WriterStart(
            run_directory=run_url,
            attempt=number,
            nonce=f"writer-{number}",
            keep=keep,
            shard_size_bytes=shard_size_bytes,
            memory_fd=self.fd,
            save_timeout_s=save_timeout_s,
            last_save_timeout_s=last_save_timeout_s,
        )
        ours.sendall(encode(start))

    def snapshot(self, step: int, why: str = "interval", arrays: list[NamedArray] | None = None, **extra: Any) -> None:
        """Copy the state of `step`, and tell the writer."""
        tensors, size = self.memory.write(state_of_step(step) if arrays is None else arrays)
        message = Snapshot(
            step=step,
            epoch=1,
            examples_seen=step * 32,
            why=why,  # type: ignore[arg-type]
            tensors=tensors,
            size_bytes=size,
            **extra,
        )
        self._channel.sendall(encode(message))

    def answer(self) -> Saved | SaveFailed | Retained | SaveTrouble:
        """The next message."""
        text = self._lines.readline()
        assert text, f"the writer ended with {self.process.wait(10)}"
        return from_writer.validate_json(text)

    def next_answer(self) -> Saved | SaveFailed | Retained | SaveTrouble | None:
        """The next message; None once the process has ended, which it is asked to do after a Retained."""
        if not (text := self._lines.readline()):
            return None
        message = from_writer.validate_json(text)
        if isinstance(message, Retained):
            self._channel.sendall(encode(LastSave()))
        return message

    def save(self, step: int, why: str = "interval") -> Saved | SaveFailed:
        """Snapshot and wait for its outcome; other messages are skipped."""
        self.snapshot(step, why)
        while not isinstance(message := self.answer(), Saved | SaveFailed):
            pass
        return message

    def finish(self) -> int:
        """LastSave, and the exit code."""
        with contextlib.suppress(BrokenPipeError):
            self._channel.sendall(encode(LastSave()))
        return self.process.wait(60)

    def close(self) -> None:
        """Kill whatever is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._lines.close()
        self._channel.close()
        os.close(self.fd)


@contextlib.contextmanager
def writer_process(run_url: str, number: int, **options: Any) -> Iterator[WriterProcess]:
    """A writer of attempt `number`, dead at the end of the block."""
    writer = WriterProcess(run_url, number, **options)
    try:
        yield writer
    finally:
        writer.close()
