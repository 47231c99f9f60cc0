"""A job of 1,000 workers as objects, without a container: what render, submit, status, list, events and delete take.

    python benchmarks/scale.py IMAGE [--workers 1000]

KUBECONFIG names the cluster; a namespace of its own is made there and deleted again. No node takes the pods (they ask for a node
that does not exist), half of them are told to run by their status. Beside it `kubectl get pods`, as a table and as JSON.
Seconds are wall-clock, memory is the highest resident set of the command's process.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client, config

NAME = "wide"
CREATE_S = 600
WATCH_S = 20.0
PATCHES_AT_ONCE = 8


@dataclass(frozen=True)
class Took:
    """A command that ended."""

    seconds: float
    memory_mb: float
    output: str


def take(folder: Path, *command: str, over_s: float | None = None) -> Took:
    """Run a command to its end, or interrupt it after `over_s`."""
    began = time.monotonic()
    with (folder / "output").open("w+") as output, (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=errors)
        timer = threading.Timer(over_s or CREATE_S, process.terminate)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        seconds = time.monotonic() - began
        output.seek(0)
        errors.seek(0)
        if over_s is None and status != 0:
            sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}\n{errors.read()[-3000:]}")
        return Took(seconds, usage.ru_maxrss / 1024, output.read())


def orch(*arguments: str) -> tuple[str, ...]:
    """The command line of orch."""
    return sys.executable, "-m", "orchestrator.cli.main", *arguments


def line(what: str, took: Took, more: str = "") -> None:
    """One line of the report."""
    print(f"{what:40}  {took.seconds:7.2f} s  {took.memory_mb:6.0f} MB  {more}", flush=True)


def wait_until(what: str, condition: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > CREATE_S:
            sys.exit(f"waited {CREATE_S} s for {what}")
        time.sleep(1)
    return time.monotonic() - began


def told_to_run(api: client.CoreV1Api, namespace: str, pods: list[Any]) -> None:
    """Give these pods the status of pods that run."""
    now = datetime.now(UTC).isoformat()
    container = {
        "name": "trainer",
        "image": "none",
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": now}},
    }
    status = {"status": {"phase": "Running", "startTime": now, "containerStatuses": [container]}}
    with ThreadPoolExecutor(PATCHES_AT_ONCE) as pool:
        list(pool.map(lambda pod: api.patch_namespaced_pod_status(pod.metadata.name, namespace, status), pods))


def measure(folder: Path, namespace: str, workers: int) -> None:
    """Measure, and print a line a command."""
    api = client.CoreV1Api()
    where = ("-n", namespace)
    job = ("job.yaml", *where)
    took = take(folder, *orch("render", "job.yaml"))
    line("orch render", took, f"{len(took.output)} bytes")
    line("orch submit --dry-run=server", take(folder, *orch("submit", *job, "--dry-run=server", "--skip", "all")))
    line("orch submit", take(folder, *orch("submit", *job, "--skip", "all")))

    def pods() -> list[Any]:
        items: list[Any] = api.list_namespaced_pod(namespace).items
        return items

    seconds = wait_until("the pods", lambda: len(pods()) >= workers)
    print(f"{'(the Job controller makes the pods)':40}  {seconds:7.2f} s")
    told_to_run(api, namespace, pods()[1 : workers // 2 + 1])

    table = take(folder, "kubectl", "get", "pods", *where)
    line("kubectl get pods", table, f"{len(table.output.splitlines())} lines")
    whole = take(folder, "kubectl", "get", "pods", *where, "-o", "json")
    line("kubectl get pods -o json", whole, f"{len(whole.output) / 1e6:.1f} MB of JSON")
    shown = take(folder, *orch("status", NAME, *where))
    line("orch status", shown, f"{len(shown.output.splitlines())} lines")
    found = take(folder, *orch("status", NAME, *where, "-o", "json"))
    states = [worker["state"] for worker in json.loads(found.output)["workers"]]
    line("orch status -o json", found, f"{len(states)} workers, {states.count('pending')} of them pending")
    line("orch list", take(folder, *orch("list", *where)))
    events = take(folder, *orch("events", NAME, *where))
    line("orch events", events, f"{len(events.output.splitlines())} lines")
    watched = take(folder, *orch("status", NAME, *where, "-w", "-o", "json"), over_s=WATCH_S)
    line(f"orch status -w, for {WATCH_S:.0f} s", watched)
    line("orch delete", take(folder, *orch("delete", NAME, *where)))


def main() -> None:
    """Make the namespace, measure, delete it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help="any that the registry has: no pod starts it")
    parser.add_argument("--workers", type=int, default=1000)
    given = parser.parse_args()
    config.load_kube_config()
    api = client.CoreV1Api()
    namespace = f"orch-scale-{secrets.token_hex(3)}"
    spec = {
        "name": NAME,
        "image": {"ref": given.image},
        "train": {"task": "trainer.tasks.digits:Digits", "steps": 10, "global_batch_size": given.workers},
        "run": {"directory": "gs://none/wide"},
        "resources": {"workers": given.workers, "cpu": 1, "memory": "1Gi"},
        "kubernetes": {"pod": {"spec": {"nodeSelector": {"example.com/node": "none"}}}},
    }
    api.create_namespace({"metadata": {"name": namespace}})
    try:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "job.yaml").write_text(json.dumps(spec))
            measure(Path(name), namespace, given.workers)
    finally:
        client.BatchV1Api().delete_collection_namespaced_job(namespace, propagation_policy="Background")
        api.delete_namespace(namespace)


if __name__ == "__main__":
    main()
