"""Drives `trainer.process` without an agent: socket pairs, Start messages, a memfd, and the writer called in this process.

A test may answer snapshots itself: `answer` gets the Run and the Snapshot, and returns a message or None.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from trainer.agent.ports import free_port
from trainer.checkpoint.writer import Writer
from trainer.cluster import tf_config
from trainer.config import TrainConfig
from trainer.rundir.attempts import AttemptRecord, CommitRef, Launch, Member, append_record
from trainer.rundir.open import open_store
from trainer.wire.lines import encode
from trainer.wire.process import Block, Evaluated, Failure, Prepare, Result, Start, Stop, from_process
from trainer.wire.writer import Saved, SaveFailed, Snapshot, WriterStart

DEADLINE_S = 120.0
SAVE_S = 30.0


@dataclass
class Worker:
    """One training process and what it said."""

    index: int
    process: subprocess.Popen[bytes]
    socket: socket.socket
    log: Path
    messages: list[Any] = field(default_factory=list)
    rest: bytes = b""
    closed: bool = False

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def failure(self) -> Failure | None:
        return next(iter(self.of(Failure)), None)

    @property
    def result(self) -> Result:
        found = self.of(Result)
        assert found, self.output()
        result: Result = found[0]
        return result

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, message: Any) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(encode(message))


class Run:
    """The workers of one attempt."""

    def __init__(
        self,
        folder: Path,
        train: Mapping[str, Any],
        *,
        workers: int = 1,
        attempt: int = 1,
        restore: CommitRef | None = None,
        checkpoint: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        task_root: Path | None = None,
        python: str = sys.executable,
        answer: Callable[["Run", Snapshot], Any] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run").mkdir(exist_ok=True)
        self._answer = answer or Run.commit
        self.attempt = attempt
        config = TrainConfig(
            name="test",
            train=dict(train),
            checkpoint=dict(checkpoint or {"every": 100000}),
            run_directory=str(folder / "run"),
            workers=workers,
            task_root=str(task_root or folder),
        )
        path = folder / f"config-{attempt}.json"
        path.write_text(config.model_dump_json())
        members = [
            Member(index=index, uid=f"uid-{index}", address="127.0.0.1", port=free_port("127.0.0.1", index, workers))
            for index in range(workers)
        ]
        record = AttemptRecord(
            number=attempt,
            nonce="n",
            launch=Launch(id="l", started=datetime.now(UTC)),
            created=datetime.now(UTC),
            members=members,
            restore=restore,
            world_size=workers,
        )
        append_record(open_store(f"{folder}/run"), record)
        self.memory = os.memfd_create("test-snapshot")
        self.saved: dict[str, np.ndarray] = {}
        """The state of the last snapshot, by key."""
        self.workers = [self._start(index, path, record, dict(environment or {}), python) for index in range(workers)]

    def commit(self, snapshot: Snapshot) -> Saved | SaveFailed:
        """What the real writer does with a snapshot."""
        answers: list[Any] = []
        Writer(
            WriterStart(
                run_directory=str(self.folder / "run"),
                attempt=self.attempt,
                nonce="n",
                keep=1000,
                shard_size_bytes=1 << 20,
                memory_fd=self.memory,
                last_save_timeout_s=SAVE_S,
            ),
            answers.append,
        ).save(snapshot)
        return next(answer for answer in answers if isinstance(answer, Saved | SaveFailed))

    def _start(self, index: int, config: Path, record: AttemptRecord, extra: dict[str, str], python: str) -> Worker:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "ORCH_CHANNEL_FD": str(theirs.fileno()),
            "ORCH_PARENT_PID": str(os.getpid()),
            "CUDA_VISIBLE_DEVICES": "-1",
            **extra,
        }
        log = self.folder / f"worker-{index}.attempt-{record.number}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [python, "-P", "-m", "trainer.process"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=[theirs.fileno(), self.memory],
                start_new_session=True,
                cwd=Path(__file__).parents[1],
            )
        theirs.close()
        worker = Worker(index, process, ours, log)
        cluster = tf_config(record.members, index)
        memory_fd = self.memory if index == 0 else None
        worker.send(Prepare(config=str(config), memory_fd=memory_fd))
        worker.send(Start(tf_config=cluster, record=record, index=index))
        return worker

    def wait(self, until: Callable[["Run"], bool] | None = None, deadline_s: float = DEADLINE_S) -> list[int]:
        """Read messages and answer snapshots until `until` holds, or until all have ended; their exit codes then.

        After the deadline: stacks of all threads into the logs, then SIGKILL by pid, and an error.
        """
        end = time.monotonic() + deadline_s
        while not (until and until(self)):
            open_workers = [worker for worker in self.workers if not worker.closed]
            if not open_workers:
                break
            if time.monotonic() > end:
                self._give_up()
            for ready in select.select([worker.socket for worker in open_workers], [], [], 0.2)[0]:
                self._read(next(worker for worker in open_workers if worker.socket is ready))
        if until and not all(worker.closed for worker in self.workers):
            return []
        return [worker.process.wait(timeout=30) for worker in self.workers]

    def stop(self, index: int = 0, reason: str = "test") -> None:
        self.workers[index].send(Stop(reason=reason))

    def kill(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()

    def _read(self, worker: Worker) -> None:
        try:
            data = worker.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            worker.closed = True
            return
        *lines, worker.rest = (worker.rest + data).split(b"\n")
        for line in lines:
            message = from_process.validate_json(line)
            worker.messages.append(message)
            if isinstance(message, Snapshot):
                # Before it is answered: then the memory is the process's again, and after the last save it is gone.
                self.saved = {
                    tensor.key: np.frombuffer(
                        os.pread(self.memory, tensor.size_bytes, tensor.offset), tensor.dtype
                    ).reshape(tensor.shape)
                    for tensor in message.tensors
                }
                answer = self._answer(self, message)
                if answer is not None:
                    worker.send(answer)

    def _give_up(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        self.kill()
        logs = "\n".join(f"--- worker {worker.index}\n{worker.output()}" for worker in self.workers)
        raise AssertionError(f"no end in time\n{logs}")


@contextlib.contextmanager
def run(folder: Path, train: Mapping[str, Any], **options: Any) -> Iterator[Run]:
    """A Run whose processes do not outlive the block."""
    started = Run(folder, train, **options)
    try:
        yield started
    finally:
        started.kill()
        os.close(started.memory)


__all__ = ["Block", "Evaluated", "Run", "SaveFailed", "Saved", "Snapshot", "json", "run"]
