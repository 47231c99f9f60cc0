"""The memory of a run with a large state, killed once and resumed: what `checkpoint.py --memory` prints, and a test holds.

Read from /proc every few milliseconds: anonymous pages of the training process and of the writer, and the shared memory between
them once. The bounds are those of docs/fault-tolerance.md.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import checkpoint as benchmark

from trainer.checkpoint.restore import load
from trainer.rundir.attempts import AttemptRecord, read_records
from trainer.rundir.checksum import crc32c
from trainer.rundir.open import open_store

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
                parts = (
                    ("model", self.model.variables),
                    ("optimizer", optimizer.variables),
                    ("metrics", self.model.metrics_variables),
                )
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
    """Most bytes at one moment. File pages are left out, since the system can take them back: TensorFlow's libraries, the
    export while it is copied."""

    restore: int = 0
    """The training process that resumes, until the memory of its saves is reserved."""
    training: int = 0
    """The training process alone while it trains: state, gradients, activations, TensorFlow."""
    saving: int = 0
    """What saves add to it: the copy of the state, and the writer."""
    export: int = 0
    """The training process once that memory is given back."""
    total: int = 0
    """All together."""

    def observe(self, trainer: "Pages", writer: "Pages | None", *, resumed: bool, reserved_before: bool) -> None:
        """One look at an attempt. `reserved_before`: whether it had memory for its saves at any earlier look."""
        shared = max(trainer.shared, writer.shared if writer else 0)
        others = shared + (writer.anonymous if writer else 0)
        self.total = max(self.total, trainer.anonymous + others)
        if shared:
            self.training = max(self.training, trainer.anonymous)
            self.saving = max(self.saving, others)
        elif reserved_before:
            self.export = max(self.export, trainer.anonymous)
        elif resumed:
            self.restore = max(self.restore, trainer.anonymous)


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

    @property
    def restore_bound(self) -> int:
        """State, the copy that was read, one shard, TensorFlow."""
        return 2 * self.state_bytes + self.shard_bytes + TENSORFLOW_BYTES

    @property
    def total_bound(self) -> int:
        """The same while training goes on: the copy is that of a save, and gradients are as large as the weights."""
        return self.restore_bound + self.state_bytes // 3

    @property
    def saving_bound(self) -> int:
        """One copy of the state, one shard on its way."""
        return self.state_bytes + self.shard_bytes

    def text(self) -> str:
        """For a person."""
        peaks = self.peaks
        rows = [
            ("restore", peaks.restore, self.restore_bound),
            ("training, without saves", peaks.training, None),
            ("what saves add", peaks.saving, self.saving_bound),
            ("export", peaks.export, peaks.training + self.saving_bound),
            ("all together", peaks.total, peaks.training + self.saving_bound),
        ]
        lines = [f"{self.state_bytes / 1e6:.0f} MB of state, shards up to {self.shard_bytes / 1e6:.0f} MB; MB at most:"]
        for name, found, bound in rows:
            verdict = "" if bound is None else f"   at most {bound / 1e6:6.0f}: {'yes' if found <= bound else 'NO'}"
            lines.append(f"  {name:24}{found / 1e6:6.0f}{verdict}")
        same = "same bytes" if not self.differing else f"{len(self.differing)} VARIABLES WITH OTHER BYTES"
        lines.append(f"restored step {self.restored_step}: {same}; {self.state}")
        return "\n".join(lines)


def measure(folder: Path, size_mb: float) -> Measured:
    """Run, kill the training process after the first commit, let it resume, and look at /proc all the time."""
    benchmark.write_job(
        folder, size_mb, steps=STEPS, every=EVERY, keep=5, task=TASK.replace("{folder!r}", repr(str(folder)))
    )
    run = folder / "runs/large"
    peaks, trainers, reserved = Peaks(), list[int](), set[int]()
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
                seen = {pid: pages for pid in descendants(process.pid) if (pages := pages_of(pid)) is not None}
                writer = next((pages for pages in seen.values() if not pages.trainer), None)
                for pid, pages in seen.items():
                    if not pages.trainer:
                        continue
                    if pid not in trainers:
                        trainers.append(pid)
                    peaks.observe(pages, writer, resumed=trainers[0] != pid, reserved_before=pid in reserved)
                    if pages.shared:
                        reserved.add(pid)
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
    variables = {key: array for key, array in restored.arrays.items() if not key.startswith("host/")}
    differing = [key for key, array in variables.items() if held.get(key) != crc32c([array])]
    return Measured(
        state_bytes=sum(array.nbytes for array in restored.arrays.values()),
        shard_bytes=max(shard.size_bytes for shard in restored.commit.shards),
        peaks=peaks,
        state=result["state"],
        restored_step=resumed.restore.step,
        differing=differing,
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
        if command not in (b"trainer.process", b"trainer.checkpoint.writer"):
            return None
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        anonymous, files, shared = (int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "RssShmem"))
    except (OSError, KeyError):
        return None
    return Pages(command == b"trainer.process", anonymous, files, shared)


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
