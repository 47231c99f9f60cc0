"""Seconds and bytes from a change of the code to its image in the registry: `orch package`, and beside it a builder.

    python benchmarks/package.py 127.0.0.1:5000/trainer:dev 127.0.0.1:5000/bench --builder buildah

The first image must hold the trainer; the second name is a repository that this may push to. Runs alternate.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = """\
name: bench
image: {{repository: "{repository}", build: ., base: "{base}"}}
train: {{task: "task.py:Mine", steps: 1}}
run: {{directory: gs://none/bench}}
"""


def main() -> None:
    """Measure, and print one line a builder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("repository")
    parser.add_argument("--builder", choices=["docker", "podman", "buildah"])
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    builders = ["none", *([given.builder] if given.builder else [])]
    took: dict[str, list[float]] = {name: [] for name in builders}
    sent = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.yaml").write_text(JOB.format(repository=given.repository, base=given.base))
        for run in range(given.runs + 1):
            for builder in builders:
                (folder / "task.py").write_text(f"class Mine: pass  # {run} {builder} {time.time_ns()}\n")
                command = [
                    sys.executable,
                    "-m",
                    "orchestrator.cli.main",
                    "package",
                    "job.yaml",
                    "--builder",
                    builder,
                    "-o",
                    "json",
                ]
                started = time.monotonic()
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    sys.exit(done.stderr)
                if run:  # the first one of each fills caches and pushes the base
                    took[builder].append(time.monotonic() - started)
                    sent = json.loads(done.stdout)["pushed_bytes"] or sent
    for builder, seconds in took.items():
        pushed = f", layers pushed: {sent} bytes" if builder == "none" else ""
        who = "orch package" if builder == "none" else f"with {builder}"
        print(f"{who}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}){pushed}")


if __name__ == "__main__":
    main()
