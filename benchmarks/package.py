"""Seconds and bytes from a change of the code to its image in the registry: `orch package`, and beside it a builder.

    python benchmarks/package.py 127.0.0.1:5000/trainer:dev 127.0.0.1:5000/bench --builder buildah
    python benchmarks/package.py 127.0.0.1:5000/trainer:dev 127.0.0.1:5000/bench --builder buildah --submit gs://bucket/bench

The first image must hold the trainer; the second name is a repository that this may push to. Runs alternate.

With --submit the time ends in a pod instead: from the start of `orch submit`, which makes the image, to the container and to the
first line that the new code prints, as this machine sees them. KUBECONFIG names the cluster, where a namespace of its own is
made and deleted again; the argument is where the jobs' run directories go.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "bench"
JOB = """\
name: {name}
image: {image}
train: {{task: "task.py:Mine", steps: 1}}
run: {{directory: {directory}}}
resources: {{workers: 1, cpu: 1, memory: 1Gi}}
env: {env}
"""
TASK = """\
from trainer.tasks.digits import Digits

print("{mark}", flush=True)


class Mine(Digits):
    pass
"""
LIMIT_S = 120
POLL_S = 0.1


def command(*arguments: str) -> list[str]:
    """The command line of orch."""
    return [sys.executable, "-m", "orchestrator.cli.main", *arguments]


def package(folder: Path, builder: str) -> tuple[float, int | None]:
    """Seconds until the image is in the registry, and the bytes that were pushed, where that is known."""
    began = time.monotonic()
    done = subprocess.run(
        command("package", "job.yaml", "--builder", builder, "-o", "json"),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    return time.monotonic() - began, json.loads(done.stdout)["pushed_bytes"]


def submit(folder: Path, namespace: str, mark: str) -> tuple[float, float, str]:
    """Seconds until a container runs the new code and until that has printed `mark`; and what was pushed, as submit says it."""
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    api = client.CoreV1Api()
    began = time.monotonic()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command("submit", "job.yaml", "-n", namespace), cwd=folder, stderr=said)
        started_s = 0.0
        while True:
            now_s = time.monotonic() - began
            pods: list[Any] = api.list_namespaced_pod(namespace).items
            statuses = [(pod.metadata.name, status) for pod in pods for status in pod.status.container_statuses or []]
            for pod, status in statuses:
                if not status.state.running and not status.state.terminated:
                    continue
                started_s = started_s or now_s
                with contextlib.suppress(ApiException):
                    if mark in api.read_namespaced_pod_log(pod, namespace):
                        process.wait()
                        said.seek(0)
                        pushed = re.search(r"(\S+ \S+) of it pushed", said.read())
                        return started_s, time.monotonic() - began, pushed[1] if pushed else ""
            if process.poll() or now_s > LIMIT_S:
                process.kill()
                said.seek(0)
                sys.exit(said.read() or f"nothing was printed in {LIMIT_S} s")
            time.sleep(POLL_S)


@contextlib.contextmanager
def namespace_of_its_own() -> Iterator[str]:
    """Made, and deleted again."""
    from kubernetes import client, config

    config.load_kube_config()
    name = f"orch-package-{secrets.token_hex(3)}"
    api = client.CoreV1Api()
    api.create_namespace({"metadata": {"name": name}})
    try:
        yield name
    finally:
        api.delete_namespace(name)


def measure_images(given: argparse.Namespace, folder: Path, builders: list[str]) -> None:
    """Measure as far as the registry, and print one line a builder."""
    took: dict[str, list[float]] = {name: [] for name in builders}
    sent = 0
    image = json.dumps({"repository": given.repository, "build": ".", "base": given.base})
    (folder / "job.yaml").write_text(JOB.format(name=NAME, image=image, directory="gs://none/bench", env="{}"))
    for run in range(given.runs + 1):
        for builder in builders:
            (folder / "task.py").write_text(TASK.format(mark=f"{run} {builder} {time.time_ns()}"))
            seconds, pushed = package(folder, builder)
            if run:  # the first one of each fills caches and pushes the base
                took[builder].append(seconds)
                sent = pushed or sent
    for builder, seconds_of in took.items():
        pushed_text = f", layers pushed: {sent} bytes" if builder == "none" else ""
        who = "orch package" if builder == "none" else f"with {builder}"
        print(f"{who}: {spread(seconds_of)}{pushed_text}")


def measure_pods(given: argparse.Namespace, folder: Path, builders: list[str]) -> None:
    """Measure as far as the pod, and print one line a builder."""
    from orchestrator.image.builders import find_builder

    if given.builder and find_builder(None) != given.builder:
        sys.exit(f"a submit would build with {find_builder(None)}, the first builder that is there")
    images = {
        builder: {"repository": given.repository, "build": "."}
        | ({"base": given.base} if builder == "none" else {"dockerfile": "Dockerfile"})
        for builder in builders
    }
    (folder / "Dockerfile").write_text(f"FROM {given.base}\nCOPY task.py .\n")
    (folder / ".dockerignore").write_text("job.yaml\nsaid\n.dockerignore\n")
    env = {name: os.environ[name] for name in ("STORAGE_EMULATOR_HOST",) if name in os.environ}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in builders}
    sent = ""
    with namespace_of_its_own() as namespace:
        for run in range(given.runs + 1):
            for builder in builders:
                directory = f"{given.submit}/{namespace}-{run}-{builder}"
                job = JOB.format(name=NAME, image=json.dumps(images[builder]), directory=directory, env=json.dumps(env))
                (folder / "job.yaml").write_text(job)
                mark = f"{run} {builder} {time.time_ns()}"
                (folder / "task.py").write_text(TASK.format(mark=mark))
                started_s, printed_s, pushed = submit(folder, namespace, mark)
                subprocess.run(
                    command("delete", NAME, "-n", namespace), cwd=folder, check=True, stderr=subprocess.DEVNULL
                )
                if run:
                    took[builder].append((started_s, printed_s))
                    sent = pushed or sent
    for builder, times in took.items():
        pushed_text = f", layers pushed: {sent}" if builder == "none" else ""
        who = "orch submit" if builder == "none" else f"with {builder}"
        print(f"{who}: container after {spread([item[0] for item in times])}", end=", ")
        print(f"first line of the code after {spread([item[1] for item in times])}{pushed_text}")


def spread(seconds: list[float]) -> str:
    """Median, and from where to where."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Measure, and print one line a builder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("repository")
    parser.add_argument("--builder", choices=["docker", "podman", "buildah"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--submit", metavar="gs://BUCKET/PREFIX", help="go on to the first line in a pod")
    given = parser.parse_args()
    builders = ["none", *([given.builder] if given.builder else [])]
    with tempfile.TemporaryDirectory() as name:
        measure = measure_pods if given.submit else measure_images
        measure(given, Path(name), builders)


if __name__ == "__main__":
    main()
