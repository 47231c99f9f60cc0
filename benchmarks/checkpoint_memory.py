"""The memory of a run with a large state, killed once and resumed: what `checkpoint.py --memory` prints, and a test holds.

Read from /proc every few milliseconds, for the training process and the writer together: anonymous and file pages of each, and
the shared memory between them once. The bound is that of docs/fault-tolerance.md: the state, one copy of it, one shard, and
0.6 GB for TensorFlow.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import checkpoint as benchmark

from trainer.checkpoint.restore import load
from trainer.rundir.attempts import AttemptRecord, read_records
from trainer.rundir.checksum import crc32c
from trainer.rundir.store import open_store

TENSORFLOW_BYTES = 600_000_000
EVERY, STEPS = 5, 15
SAMPLE_S = 0.01
DEADLINE_S = 900.0

TASK = (
    benchmark.TASK
    + """
    def callbacks(self):
        import json, keras, numpy, pathlib
        from trainer.rundir.checksum import crc32c

        class Digest(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                optimizer = self.model.optimizer
                parts = (("model", self.model.variables), ("optimizer", optimizer.variables))
                found = {{
                    f"{{part}}/{{index}}": crc32c([numpy.asarray(variable.numpy())])
                    for part, variables in parts
                    for index, variable in enumerate(variables)
                }}
                pathlib.Path({folder!r}, f"digests-{{int(optimizer.iterations)}}.json").write_text(json.dumps(found))

        return [Digest()]
"""
)


@dataclass
class Peaks:
    """Most bytes at one moment, of the attempts in their order."""

    anonymous: list[int] = field(default_factory=list)
    """Without file pages, which the system can take back: anonymous ones, and the shared memory once."""
    resident: list[int] = field(default_factory=list)
    """The same with file pages: TensorFlow's libraries, and the export while it is copied."""


@dataclass(frozen=True)
class Measured:
    """One run: 15 steps, saved every 5, killed after the first commit, resumed, finished, exported."""

    state_bytes: int
    shard_bytes: int
    peaks: Peaks
    state: str
    restored_step: int
    differing: list[str]
    """Variables that did not hold the checkpoint's bytes after the restore."""
    left_bytes: int
    """Shared memory at the end, when the model is exported."""

    @property
    def bound_bytes(self) -> int:
        """What docs/fault-tolerance.md says a worker needs at most."""
        return 2 * self.state_bytes + self.shard_bytes + TENSORFLOW_BYTES

    def text(self) -> str:
        """For a person."""
        verdict = "yes" if max(self.peaks.anonymous) <= self.bound_bytes else "NO"
        lines = [f"{self.state_bytes / 1e6:.0f} MB of state, shards up to {self.shard_bytes / 1e6:.0f} MB; MB at most:"]
        for name, anonymous, resident in zip(
            ("from nothing", "resumed"), self.peaks.anonymous, self.peaks.resident, strict=True
        ):
            lines.append(f"  {name:14} {anonymous / 1e6:8.0f}   with files' pages {resident / 1e6:8.0f}")
        lines += [
            f"  bound          {self.bound_bytes / 1e6:8.0f}   held: {verdict}",
            f"restored step {self.restored_step}: {len(self.differing)} variables with other bytes; {self.state}",
        ]
        return "\n".join(lines)


def measure(folder: Path, size_mb: float) -> Measured:
    """Run, kill the training process after the first commit, let it resume, and look at /proc all the time."""
    benchmark.write_job(folder, size_mb, steps=STEPS, every=EVERY, keep=5, task=TASK.replace("{folder!r}", repr(str(folder))))
    run = folder / "runs/large"
    peaks, shared, trainers = Peaks(), 0, list[int]()
    killed = False
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", "run", "job.yaml", "-o", "json"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + DEADLINE_S
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise TimeoutError((folder / "output").read_text())
                now = {pid: pages for pid in descendants(process.pid) if (pages := pages_of(pid)) is not None}
                for pid, pages in now.items():
                    if pages.trainer and pid not in trainers:
                        trainers.append(pid)
                        peaks.anonymous.append(0)
                        peaks.resident.append(0)
                if peaks.anonymous and now:
                    shared = max(pages.shared for pages in now.values())
                    anonymous = sum(pages.anonymous for pages in now.values()) + shared
                    resident = anonymous + sum(pages.files for pages in now.values())
                    peaks.anonymous[-1] = max(peaks.anonymous[-1], anonymous)
                    peaks.resident[-1] = max(peaks.resident[-1], resident)
                if not killed and trainers and any((run / "checkpoints/commits").glob("*.json")):
                    os.kill(trainers[0], signal.SIGKILL)
                    killed = True
                time.sleep(SAMPLE_S)
            result = json.loads(process.stdout.read() if process.stdout else "")
        finally:
            if process.poll() is None:
                for pid in [*descendants(process.pid), process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
    store = open_store(str(run))
    resumed = [record for record in read_records(store) if isinstance(record, AttemptRecord)][-1]
    assert resumed.restore is not None, (folder / "output").read_text()
    restored = load(store, resumed.restore)
    held = json.loads((folder / f"digests-{resumed.restore.step}.json").read_text())
    differing = [key for key, array in restored.arrays.items() if held.get(key) != crc32c([array])]
    return Measured(
        state_bytes=sum(array.nbytes for array in restored.arrays.values()),
        shard_bytes=max(shard.size_bytes for shard in restored.commit.shards),
        peaks=peaks,
        state=result["state"],
        restored_step=resumed.restore.step,
        differing=differing,
        left_bytes=shared,
    )


@dataclass(frozen=True)
class Pages:
    """What one process of a worker holds in memory, in bytes."""

    trainer: bool
    anonymous: int
    files: int
    shared: int


def pages_of(pid: int) -> Pages | None:
    """The pages of a training process or a writer; None for any other process."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2]
        if command not in (b"trainer.worker", b"trainer.checkpoint.writer"):
            return None
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        anonymous, files, shared = (
            int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "RssShmem")
        )
    except (OSError, KeyError):
        return None
    return Pages(command == b"trainer.worker", anonymous, files, shared)


def descendants(pid: int) -> list[int]:
    """Process ids of all that a process started, directly or not."""
    found = _children(pid)
    for child in found:
        found += _children(child)
    return found


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
