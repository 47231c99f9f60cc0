"""The image of our Dockerfile as a plain container: a Pod that orch did not submit, with one worker.

Its root is read-only, it runs as user 1000, and the namespace enforces Pod Security restricted. A second container beside it
reads the run directory after it ended.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_cluster import KILL_TRAINING, Manifest, Room, orch, what_is_missing
from support_recovery import NOTE
from support_training import CHECKPOINT, PACED, PACED_TRAIN, STEPS, TRAIN

from orchestrator.manifests.yaml_writer import to_yaml
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord, parse_record, read_records
from trainer.rundir.commits import list_commits
from trainer.rundir.open import open_store
from trainer.wire.termination import LastWords

pytestmark = pytest.mark.e2e

DISK = "/run/training"
GRACE_S = 30
KEPT = "orch.example/kept"
"""A finalizer: how the pod ended can be read after it was deleted."""
LIMIT_BYTES = 1_000_000_000

HUNGRY = """
import keras

from trainer.tasks.digits import Digits


class Eat(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        kept = []
        while True:
            kept.append(b"x" * 50_000_000)


class Hungry(Digits):
    def callbacks(self):
        return [Eat()]
"""
WAIT = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); signal.sigwait([15])"
KILL_AGENT = """
import os, signal
for pid in filter(str.isdecimal, os.listdir("/proc")):
    if b"trainer.agent" in open(f"/proc/{pid}/cmdline", "rb").read() and int(pid) != os.getpid():
        os.kill(int(pid), signal.SIGKILL)
"""
READ_RECORDS = f"""
import json
from trainer.rundir.attempts import read_records
from trainer.rundir.open import open_store
print(json.dumps([record.model_dump(mode="json") for record in read_records(open_store("{DISK}"))]))
"""


class Container:
    """A Pod of one worker, as somebody could write it who has the image alone."""

    def __init__(self, room: Room, name: str, *, train: Manifest, directory: str = DISK, **settings: Any) -> None:
        """`settings`: `checkpoint` and `memory_limit_bytes` of the configuration, fields of the Pod's spec."""
        self._room = room
        self.name = name
        config = {
            "name": name,
            "train": train,
            "run_directory": directory,
            "grace_s": GRACE_S,
            "checkpoint": settings.pop("checkpoint", CHECKPOINT),
            "memory_limit_bytes": settings.pop("memory_limit_bytes", None),
        }
        files = {"config.json": json.dumps(config), "token": "of no use to anybody"}
        room.api.create_namespaced_config_map(room.namespace, {"metadata": {"name": name}, "data": files})
        metadata = {"name": name, "finalizers": settings.pop("finalizers", [])}
        spec = _pod(room.image, name, config["memory_limit_bytes"]) | settings
        room.api.create_namespaced_pod(room.namespace, {"metadata": metadata, "spec": spec})

    def status(self) -> Any:
        """Of the container."""
        found = self._room.api.read_namespaced_pod(self.name, self._room.namespace).status.container_statuses or []
        return next((status for status in found if status.name == "trainer"), None)

    def run(self, container: str, code: str) -> str:
        """What a Python program prints in one of the containers."""
        return self._room.exec(self.name, "python", "-c", code, container=container)

    def step(self) -> int:
        """How far it is, by its own word; 0 before it says any."""
        said = self._room.exec(self.name, "python", "-P", "-m", "trainer.agent", "state") if self.log() else ""
        return int(json.loads(said)["step"]) if said.startswith("{") else 0

    def records(self) -> list[AttemptRecord | EndRecord]:
        """Of the run directory on its disk."""
        return [parse_record(json.dumps(record).encode()) for record in json.loads(self.run("beside", READ_RECORDS))]

    def wait_for_save(self) -> None:
        """Until its agent said that a checkpoint was saved."""
        self._room.wait_for("a checkpoint", lambda: "saved commit=" in self.log(), timeout_s=180)

    def log(self) -> str:
        """What it printed; nothing before it started."""
        status = self.status()
        if status is None or not (status.state.running or status.state.terminated):
            return ""
        read = self._room.api.read_namespaced_pod_log
        text: str = read(self.name, self._room.namespace, container="trainer")
        return text

    def ended(self) -> tuple[int, LastWords, str]:
        """Waits for its end: exit code, termination message, Kubernetes' own reason."""

        def over() -> bool:
            status = self.status()
            return status is not None and status.state.terminated is not None

        self._room.wait_for(f"the end of {self.name}", over, timeout_s=180)
        ended = self.status().state.terminated
        words = LastWords.model_validate_json(ended.message) if ended.message else LastWords()
        return ended.exit_code, words, ended.reason


def _pod(image: str, name: str, limit_bytes: int | None) -> Manifest:
    environment = {
        "ORCH_CONFIG": "/etc/orch/config.json",
        "ORCH_TOKEN_FILE": "/etc/orch/token",
        "ORCH_TERMINATION_LOG": "/dev/termination-log",
        "ORCH_INDEX": "0",
        "ORCH_LAUNCH": "by-hand",
        "ORCH_COORDINATOR": "127.0.0.1:8471",
        "ORCH_ADDRESS": "127.0.0.1",
    }
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        environment["STORAGE_EMULATOR_HOST"] = os.environ["STORAGE_EMULATOR_HOST"]
    container: Manifest = {
        "image": image,
        "volumeMounts": [{"name": "disk", "mountPath": DISK}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    trainer = container | {
        "name": "trainer",
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "volumeMounts": [
            {"name": "disk", "mountPath": DISK},
            {"name": "config", "mountPath": "/etc/orch"},
            {"name": "code", "mountPath": "/app/code"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "home", "mountPath": "/home/trainer"},
        ],
        "resources": {"limits": {"memory": str(limit_bytes)}} if limit_bytes else {},
    }
    empty: list[Manifest] = [{"name": volume, "emptyDir": {}} for volume in ("disk", "tmp", "home")]
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {"runAsNonRoot": True, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [trainer, container | {"name": "beside", "command": ["python", "-c", WAIT]}],
        "volumes": [
            *empty,
            {"name": "config", "configMap": {"name": name}},
            {"name": "code", "configMap": {"name": "code"}},
        ],
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights that the same job ends with as one process of this machine."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    folder: Path = tmp_path_factory.mktemp("alone")
    job = folder / "job.yaml"
    job.write_text(to_yaml([{"name": "alone", "train": TRAIN, "checkpoint": CHECKPOINT}]))
    done = orch(folder, os.environ, "run", str(job), "-o", "json", timeout_s=120)
    assert done.code == 0, done.stderr
    return str(done.json()["weights_sha256"])


def test_a_container_whose_process_is_killed_trains_on_to_the_weights_of_a_local_run(
    room: Room, alone: str, record_property: Callable[[str, object], None]
) -> None:
    room.mount_code("paced.py", PACED)
    container = Container(room, "killed", train=PACED_TRAIN)
    container.wait_for_save()
    who = container.run("trainer", "import os; print(os.getuid(), open('/proc/1/cmdline').read().split(chr(0))[1:4])")
    assert who.split(maxsplit=1) == ["1000", "['-P', '-m', 'trainer.agent']\n"]
    assert "Read-only file system" in container.run("trainer", "open('/app/written', 'w')")
    container.run("trainer", KILL_TRAINING)

    code, words, _ = container.ended()
    assert (code, words.code, words.step) == (0, 0, STEPS)
    first, second, end = container.records()
    assert isinstance(second, AttemptRecord)
    assert isinstance(end, EndRecord)
    assert second.previous is not None
    assert (first.number, second.previous.code) == (1, ExitCode.KILLED)
    assert second.restore is not None
    assert (end.state, end.step, end.weights_sha256) == ("succeeded", STEPS, alone)
    assert container.status().restart_count == 0
    images = [image for node in room.api.list_node().items for image in node.status.images or []]
    size_bytes = next((image.size_bytes for image in images if room.image in (image.names or [])), None)
    if size_bytes:
        record_property(NOTE, f"image {room.image}: {size_bytes / 1e6:.0f} MB, as the nodes tell it")


def test_a_container_whose_agent_is_killed_too_goes_on_when_it_is_started_again(room: Room, alone: str) -> None:
    # As under cgroup v2, where a container that is out of memory dies as a whole. A process in the same namespace cannot kill
    # the first one of it, so that here this is the pod's, and not the agent.
    room.mount_code("paced.py", PACED)
    container = Container(
        room, "agent-killed", train=PACED_TRAIN, shareProcessNamespace=True, restartPolicy="OnFailure"
    )
    container.wait_for_save()
    container.run("beside", KILL_AGENT)
    room.wait_for("the container to be started again", lambda: container.status().restart_count == 1)
    before = container.status().last_state.terminated
    assert before.exit_code == ExitCode.KILLED
    assert "attempt 1 runs" in before.message, "its last words were written ahead"

    code, words, _ = container.ended()
    assert (code, words.step, words.attempt) == (0, STEPS, 2)
    _, second, end = container.records()
    assert isinstance(second, AttemptRecord)
    assert isinstance(end, EndRecord)
    assert second.restore is not None
    assert end.weights_sha256 == alone


def test_a_deleted_container_saves_and_ends_with_143_within_its_grace_period(room: Room) -> None:
    room.mount_code("paced.py", PACED)
    directory = f"{room.run_root}/deleted"
    store = open_store(directory)
    # No save is due by itself: the one there is was made because it was told to leave.
    container = Container(
        room, "deleted", train=PACED_TRAIN, directory=directory, checkpoint={"every": 600.0}, finalizers=[KEPT]
    )
    try:
        room.wait_for("the first steps", lambda: container.step() > 0, timeout_s=180)
        room.api.delete_namespaced_pod("deleted", room.namespace)
        code, words, _ = container.ended()
    finally:
        room.api.patch_namespaced_pod("deleted", room.namespace, {"metadata": {"finalizers": None}})
    assert (code, words.code) == (ExitCode.STOPPED, ExitCode.STOPPED)
    assert words.step > 0
    assert [ref.step for ref in list_commits(store)] == [words.step]
    assert [record.kind for record in read_records(store)] == ["attempt"], "who is told to leave writes no end"


def test_a_container_that_runs_out_of_memory_says_so(room: Room) -> None:
    room.mount_code("hungry.py", HUNGRY)
    train = TRAIN | {"task": "code/hungry.py:Hungry"}
    container = Container(room, "hungry", train=train, memory_limit_bytes=LIMIT_BYTES)
    room.wait_for("it to run", lambda: bool(container.log()))
    version2 = container.run("beside", "import os; print(os.path.exists('/sys/fs/cgroup/cgroup.controllers'))")
    code, words, reason = container.ended()
    if version2.strip() == "True":
        assert (code, reason) == (ExitCode.KILLED, "OOMKilled")
        return
    # Linux killed the training process and spared its agent, which tried again, twice.
    assert code == ExitCode.GIVEN_UP
    assert "crash loop" in words.reason
    assert "out of memory" in words.reason
    assert words.memory_limit_bytes == LIMIT_BYTES
    assert words.memory_peak_bytes > LIMIT_BYTES / 2
    assert "memory" in words.remedy
