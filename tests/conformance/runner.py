"""Runs tasks in processes that are kept: one after the other in each, with a deadline for every task.

A process that fails or does not answer in time prints its stacks, is killed by its pid, and another goes on with the rest. Of
the pair of workers both are, since one that fails leaves the other in a collective. Free of TensorFlow.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.catalogue import RUNS
from tests.conformance.outcome import Outcome
from trainer.agent.ports import free_port
from trainer.cluster import tf_config
from trainer.rundir.attempts import Member

START_S = 120.0
TASK_S = 240.0
PEER_S = 10.0
"""How long a worker may take after the other has failed."""

Job = tuple[str, str]
"""A task's id and a mode."""


class _Workers:
    """The processes of one kind: two for `two`, else one."""

    def __init__(self, kind: str, out: Path, python: str) -> None:
        self.kind, self.log = kind, out / f"{kind}.log"
        count = 2 if kind == "two" else 1
        members = [
            Member(index=n, uid=f"u{n}", address="127.0.0.1", port=free_port("127.0.0.1", n, count))
            for n in range(count)
        ]
        self.processes, self.answers, self._rest = [], [], [b""] * count
        for index in range(count):
            mine, theirs = os.pipe()
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "0"}
            cluster = tf_config(members, index) if count > 1 else None
            environment.pop("TF_CONFIG", None)
            if cluster:
                environment["TF_CONFIG"] = cluster
            with self.log.open("ab") as log:
                command = [python, "-m", "tests.conformance.process", kind, str(out), str(theirs), str(index)]
                self.processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, pass_fds=[theirs],
                        cwd=Path(__file__).parents[2], start_new_session=True,
                    )
                )  # fmt: skip
            os.close(theirs)
            self.answers.append(mine)

    def run(self, job: Job) -> list[str]:
        """The answers of all: `done ID MODE [refused|failed]`, or why there is none."""
        for process in self.processes:
            assert process.stdin is not None
            try:
                process.stdin.write(f"{job[0]} {job[1]}\n".encode())
                process.stdin.flush()
            except OSError:
                return ["its process had ended"]
        return self.wait(TASK_S)

    def wait(self, limit_s: float) -> list[str]:
        """A line of each."""
        until = time.monotonic() + limit_s
        lines: dict[int, str] = {}
        while len(lines) < len(self.answers):
            waiting = [fd for index, fd in enumerate(self.answers) if index not in lines]
            left_s = until - time.monotonic()
            if left_s <= 0:
                lines |= {self.answers.index(fd): "no answer in time" for fd in waiting}
                break
            for fd in select.select(waiting, [], [], min(left_s, 1.0))[0]:
                index = self.answers.index(fd)
                data = os.read(fd, 4096)
                self._rest[index] += data
                if b"\n" in self._rest[index]:
                    line, _, self._rest[index] = self._rest[index].partition(b"\n")
                    lines[index] = line.decode().strip()
                elif not data:
                    lines[index] = f"its process ended with {self.processes[index].wait()}"
                if index in lines and not lines[index].endswith((" refused", *self.fine)):
                    until = min(until, time.monotonic() + PEER_S)
        return [lines[index] for index in sorted(lines)]

    fine = ("ready", *(f" {mode}" for mode in RUNS))

    def kill(self) -> None:
        """Stacks into the log, then the end."""
        running = [process for process in self.processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGUSR1)
        if running:
            time.sleep(1.0)
        for process in self.processes:
            process.kill()
            process.wait()
        for fd in self.answers:
            os.close(fd)


def has(out: Path, job: Job) -> bool:
    """Whether a job's outcome is there."""
    return (out / job[0] / job[1]).with_suffix(".json").exists()


def run_all(jobs: Sequence[Job], kind: str, out: Path, python: str = sys.executable) -> None:
    """All jobs of one kind, in their order. Outcomes are files in `out`."""
    workers: _Workers | None = None
    for job in jobs:
        if workers is None:
            workers = _Workers(kind, out, python)
            told = workers.wait(START_S)
            if told != ["ready"] * len(told):
                workers.kill()
                raise RuntimeError(f"processes of kind {kind} do not start: {told}; see {workers.log}")
        (out / job[0]).mkdir(parents=True, exist_ok=True)
        path = out / job[0] / job[1]
        path.with_suffix(".json").unlink(missing_ok=True)
        began = time.monotonic()
        answers = workers.run(job)
        print(f"{time.monotonic() - began:5.1f} s  {job[1]:7} {job[0]}  {_said(answers)}", flush=True)
        if all(answer.startswith("done") for answer in answers):
            lost = kind in ("four", "two") and any(answer.endswith("failed") for answer in answers)
        else:
            lost = True
            Outcome(error=f"NoAnswer: {'; '.join(answers)}").save(path)
        if lost:
            workers.kill()
            workers = None
    if workers is not None:
        workers.kill()


def run_lanes(lanes: Sequence[Sequence[tuple[str, Sequence[Job]]]], out: Path, python: str = sys.executable) -> None:
    """Lanes at once, each its kinds one after the other."""
    out.mkdir(parents=True, exist_ok=True)
    errors: list[BaseException] = []

    def lane(kinds: Sequence[tuple[str, Sequence[Job]]]) -> None:
        try:
            for kind, jobs in kinds:
                run_all(jobs, kind, out, python)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=lane, args=(kinds,)) for kinds in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _said(answers: Sequence[str]) -> str:
    odd = {answer.split()[-1] if answer.startswith("done") else answer for answer in answers}
    return "; ".join(sorted(odd.difference(RUNS)))
