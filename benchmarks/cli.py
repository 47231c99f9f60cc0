"""How long the command line takes: bare Python, `orch --help`, `orch status` of a run directory, `orch render` of a job of 1,000
workers, and peers' --help.

    python benchmarks/cli.py [--runs 15] [--peer "torchx --help"]...

All rows are measured in turn, round by round, so that a busy machine slows all of them alike; what counts is the median.
Times are wall time from start to exit, Python's own start included. torchx is measured where it is on PATH.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trainer.rundir.attempts import AttemptRecord, EndRecord, Launch, append_record
from trainer.rundir.open import open_store

START = datetime(2026, 1, 1, tzinfo=UTC)

JOB = """\
name: benchmark
image: {ref: registry.example/train:1}
train: {command: [python, train.py]}
run: {directory: gs://bucket/benchmark}
resources: {workers: 1000, cpu: 8, memory: 32Gi, accelerator: nvidia-l4:2, capacity: spot}
scheduling: {queue: team-a, max_runtime: 12h}
env: {LOG_LEVEL: info}
"""


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of one run. Raises CalledProcessError when it fails: a time of a failure would mean nothing."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=120)
    return time.perf_counter() - started


def leave_run(directory: Path) -> None:
    """A run that has ended well, as `orch run` leaves it, with the metrics of an hour of training."""
    store = open_store(str(directory))
    launch = Launch(id="one", started=START)
    append_record(
        store,
        AttemptRecord(number=1, nonce="a", launch=launch, created=START, members=[], restore=None, world_size=1),
    )
    blocks = [{"time": START.timestamp() + at, "type": "block", "step": 10 * at, "seconds": 1.0} for at in range(3600)]
    store.put("metrics/attempt-1/segment-000001.jsonl", "".join(json.dumps(block) + "\n" for block in blocks).encode())
    append_record(
        store,
        EndRecord(
            number=2, nonce="b", launch=launch, created=START + timedelta(hours=1), state="succeeded", code=0,
            reason="trained 36000 steps", step=36_000, attempts=1, restarts=0, weights_sha256="ab" * 32,
        ),
    )  # fmt: skip


def measured(rows: dict[str, list[str]], runs: int, folder: Path) -> dict[str, list[float]]:
    """Row -> its times, after one run that warms the caches of files."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for command in rows.values():
        seconds(command, folder)
    for _ in range(runs):
        for name, command in rows.items():
            times[name].append(seconds(command, folder))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="runs of each row (default 15)")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="COMMAND", help="another command to measure beside"
    )
    arguments = parser.parse_args()

    orch = str(Path(sys.executable).with_name("orch"))
    rows = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "orch --help": [orch, "--help"],
        "orch status, run directory": [orch, "status", "runs/benchmark"],
        "orch render, 1,000 workers": [orch, "render", "job.yaml", "-n", "default"],
    }
    peers: list[str] = arguments.peer or (["torchx --help"] if shutil.which("torchx") else [])
    rows |= {f"{peer} (peer)": shlex.split(peer) for peer in peers}

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "job.yaml").write_text(JOB, encoding="utf-8")
        leave_run(Path(folder, "runs", "benchmark"))
        times = measured(rows, arguments.runs, Path(folder))

    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{arguments.runs} runs each, in turn; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}; seconds of wall time"
    )
    print(f"{'':32} {'median':>8} {'least':>8} {'most':>8}")
    for name, values in times.items():
        print(f"{name:32} {medians[name]:8.3f} {min(values):8.3f} {max(values):8.3f}")
    if not peers:
        print('no peer on PATH (torchx); name one with --peer "torchx --help"')
    more = medians["orch render, 1,000 workers"] - medians["orch --help"]
    print(f"\nexpected: orch --help <= 0.120 s: {verdict(medians['orch --help'] <= 0.12)}")
    print(f"expected: render <= 0.500 s more than --help ({more:.3f} s): {verdict(more <= 0.5)}")


def verdict(holds: bool) -> str:
    """A word for a table."""
    return "yes" if holds else "NO"


if __name__ == "__main__":
    main()
