"""A namespace of a real cluster for one test, a user who may do what k8s/setup allows, and `orch` run as that user."""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

from orchestrator.image.name import parse_reference
from orchestrator.kube.objects import index_of
from orchestrator.manifests.yaml_writer import to_yaml

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]
JOBSETS = ("jobset.x-k8s.io", "v1alpha2", "jobsets")
EXEC_S = 60
KILL_TRAINING = """
import os, signal
for pid in filter(str.isdecimal, os.listdir("/proc")):
    if open(f"/proc/{pid}/comm").read().strip() == "orch-train":
        os.kill(int(pid), signal.SIGKILL)
"""
"""A Python program that kills the training process of the container in which it runs."""


@dataclass
class Done:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Room:
    """A namespace under Pod Security restricted, and what tests do in it."""

    namespace: str
    image: str
    run_root: str
    kubeconfig: Path
    """Of the submitter: the roles of k8s/setup and nothing else."""
    folder: Path
    api: client.CoreV1Api
    batch: client.BatchV1Api
    network: client.NetworkingV1Api
    said: list[str] = field(default_factory=list)
    """What each command printed, for the report of a failure."""

    def job_file(self, name: str, **changes: Any) -> Path:
        """A job file on two nodes with a run directory of its own; `changes` replace sections, keys of `kubernetes` and `env`."""
        spec: Manifest = {
            "name": name,
            "image": {"ref": self.image},
            "train": {"task": "trainer.tasks.digits:Digits", "steps": 200},
            "run": {"directory": f"{self.run_root}/{name}"},
            "resources": {"workers": 2, "cpu": 0.9, "memory": "1500Mi"},
            "env": {},
            "kubernetes": {"pod": {"spec": _one_worker_a_node(name)}},
        }
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            spec["env"]["STORAGE_EMULATOR_HOST"] = os.environ["STORAGE_EMULATOR_HOST"]
        path = self.folder / f"{name}.yaml"
        for section in ("kubernetes", "env"):
            changes[section] = spec[section] | changes.get(section, {})
        path.write_text(to_yaml([spec | changes]))
        return path

    def mount_code(self, file: str, text: str) -> Manifest:
        """Put a user's file beside the job file and, through a ConfigMap, into the pods: the sections of the job file for it."""
        (self.folder / "code").mkdir(exist_ok=True)
        (self.folder / "code" / file).write_text(text)
        self.api.create_namespaced_config_map(self.namespace, {"metadata": {"name": "code"}, "data": {file: text}})
        return {"volumes": [{"name": "code", "mount": "/app/code", "config_map": "code", "read_only": True}]}

    def orch(self, *arguments: str, timeout_s: float = 120, check: bool = True, cluster: bool = True) -> Done:
        """Run a command as the submitter; with `check`, anything but exit code 0 fails the test."""
        words = [*arguments, "-n", self.namespace] if cluster else list(arguments)
        done = orch(self.folder, self._environment(), *words, timeout_s=timeout_s)
        self.said.append(f"$ orch {' '.join(arguments)}   # {done.code}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        assert not check or done.code == 0, f"orch {' '.join(arguments)}: {done.code}\n{done.stderr}"
        return done

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command in this room's folder, as the submitter."""
        return start_orch(self.folder, self._environment(), *arguments, "-n", self.namespace)

    def _environment(self) -> dict[str, str]:
        return os.environ | {"KUBECONFIG": str(self.kubeconfig), "NO_COLOR": "1"}

    def status(self, name: str) -> Manifest:
        """`orch status -o json`."""
        answer: Manifest = self.orch("status", name, "-o", "json").json()
        return answer

    def wait_for(self, what: str, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        """Until the condition holds; fails at the deadline."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
            time.sleep(0.2)

    def wait_for_status(self, name: str, wanted: Callable[[Manifest], bool], timeout_s: float = 180) -> Manifest:
        """The first status that is as wanted. Fails at the deadline, or as soon as the job is over without it."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status(name)
            if wanted(status):
                return status
            over = status["state"] in ("succeeded", "failed")
            late = time.monotonic() > deadline
            assert not over, f"over, without what was waited for: {json.dumps(status, indent=2)}"
            assert not late, f"not what was waited for in {timeout_s} s: {json.dumps(status, indent=2)}"
            time.sleep(1)

    def pods(self, name: str) -> dict[int, Any]:
        """Worker -> its newest pod, of those that are not being ended."""
        found = self.api.list_namespaced_pod(self.namespace, label_selector=f"app.kubernetes.io/instance={name}").items
        found.sort(key=lambda pod: pod.metadata.creation_timestamp)
        plain = self.api.api_client.sanitize_for_serialization
        return {index_of(plain(pod)): pod for pod in found if pod.metadata.deletion_timestamp is None}

    def exec(self, pod: str, *command: str, container: str = "trainer") -> str:
        """What a command in a container prints, to stdout and stderr alike."""
        session = stream(
            self.api.connect_get_namespaced_pod_exec,
            pod,
            self.namespace,
            container=container,
            command=list(command),
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
        try:
            session.run_forever(timeout=EXEC_S)
            return str(session.read_all())
        finally:
            session.close()

    def objects(self) -> list[str]:
        """All that is in the namespace but what Kubernetes itself and this room put there."""
        lists = {
            "Job": self.batch.list_namespaced_job(self.namespace),
            "Pod": self.api.list_namespaced_pod(self.namespace),
            "Service": self.api.list_namespaced_service(self.namespace),
            "ConfigMap": self.api.list_namespaced_config_map(self.namespace),
            "Secret": self.api.list_namespaced_secret(self.namespace),
            "NetworkPolicy": self.network.list_namespaced_network_policy(self.namespace),
        }
        names = [f"{kind} {item.metadata.name}" for kind, found in lists.items() for item in found.items]
        if self.serves("jobset.x-k8s.io"):
            found = client.CustomObjectsApi().list_namespaced_custom_object(*JOBSETS[:2], self.namespace, JOBSETS[2])
            names += [f"JobSet {item['metadata']['name']}" for item in found["items"]]
        return sorted(set(names) - {"ConfigMap kube-root-ca.crt", "ConfigMap code"})

    def serves(self, group: str) -> bool:
        """Whether the cluster has an API that is not Kubernetes' own."""
        return group in {item.name for item in client.ApisApi().get_api_versions().groups}

    def report(self) -> str:
        """Commands, pods, events and logs: what one needs to see when a test failed."""
        parts = ["=== commands", *self.said[-12:], "=== pods"]
        pods = self.api.list_namespaced_pod(self.namespace).items
        for pod in pods:
            states = [str(status.state.to_dict()) for status in pod.status.container_statuses or []]
            deleted = f" deleted {pod.metadata.deletion_timestamp}" if pod.metadata.deletion_timestamp else ""
            parts.append(
                f"{pod.metadata.name} {pod.status.phase} on {pod.spec.node_name}{deleted}: {'; '.join(states)}"
            )
        parts.append("=== events")
        events = self.api.list_namespaced_event(self.namespace).items
        parts += [f"{event.involved_object.name}: {event.reason}: {event.message}" for event in events[-60:]]
        for pod in pods:
            parts.append(f"=== log of {pod.metadata.name}")
            try:
                parts.append(self.api.read_namespaced_pod_log(pod.metadata.name, self.namespace, tail_lines=60) or "")
            except ApiException as error:
                parts.append(f"({error.reason})")
        return "\n".join(parts)


def place_of(image: str) -> str:
    """Registry and path of an image, without its own name: where another one can be pushed. Empty where it names no registry,
    as an image that was loaded into the nodes by hand."""
    place = image.rpartition("/")[0]
    return place if place and image.startswith(parse_reference(image).registry) else ""


def absent_tag(image: str) -> str:
    """The same repository at a tag that nobody pushed."""
    return str(replace(parse_reference(image), tag="does-not-exist", digest=None))


def start_orch(folder: Path, environment: Mapping[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """Start an `orch` command."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator.cli.main", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def orch(folder: Path, environment: Mapping[str, str], *arguments: str, timeout_s: float) -> Done:
    """Run an `orch` command to its end; one that takes longer fails the test with what it had said."""
    process = start_orch(folder, environment, *arguments)
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        command = " ".join(arguments)
        raise AssertionError(
            f"orch {command} took longer than {timeout_s} s\n{stdout[-3000:]}{stderr[-3000:]}"
        ) from None
    return Done(process.returncode, stdout, stderr)


def what_is_missing() -> str:
    """Why these tests cannot run here; empty when they can."""
    missing = [name for name in ("ORCH_TEST_IMAGE", "ORCH_TEST_RUN_ROOT") if not os.environ.get(name)]
    if not os.environ.get("KUBECONFIG") and not Path("~/.kube/config").expanduser().is_file():
        missing.insert(0, "KUBECONFIG")
    return (
        f"no cluster was given: {', '.join(missing)} not set (CONTRIBUTING.md, Tests on a cluster)" if missing else ""
    )


def open_room(folder: Path) -> Room:
    """Create the namespace, the submitter, and the submitter's kubeconfig."""
    config.load_kube_config()
    api, rbac = client.CoreV1Api(), client.RbacAuthorizationV1Api()
    namespace = f"orch-e2e-{secrets.token_hex(3)}"
    setup = ROOT / "k8s" / "setup"
    body = yaml.safe_load((setup / "namespace.yaml").read_text())
    body["metadata"]["name"] = namespace
    api.create_namespace(body)
    rbac.create_namespaced_role(namespace, yaml.safe_load((setup / "role-submitter.yaml").read_text()))
    binding = yaml.safe_load((setup / "binding-submitters.yaml").read_text())
    submitter = {"kind": "ServiceAccount", "name": "submitter", "namespace": namespace}
    binding["subjects"] = [submitter]
    rbac.create_namespaced_role_binding(namespace, binding)
    # Under a name of this room: another test, or the cluster's owner, may have the role under its own.
    reader = yaml.safe_load((setup / "role-reader.yaml").read_text())
    rbac.create_cluster_role(reader | {"metadata": {"name": namespace}})
    binding = yaml.safe_load((setup / "binding-readers.yaml").read_text())
    binding["metadata"]["name"] = binding["roleRef"]["name"] = namespace
    rbac.create_cluster_role_binding(binding | {"subjects": [submitter]})
    api.create_namespaced_service_account(namespace, {"metadata": {"name": "submitter"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    token = api.create_namespaced_service_account_token("submitter", namespace, request).status.token
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(api.api_client.configuration, namespace, token)))
    kubeconfig.chmod(0o600)
    return Room(
        namespace=namespace,
        image=os.environ["ORCH_TEST_IMAGE"],
        run_root=f"{os.environ['ORCH_TEST_RUN_ROOT'].rstrip('/')}/{namespace}",
        kubeconfig=kubeconfig,
        folder=folder,
        api=api,
        batch=client.BatchV1Api(),
        network=client.NetworkingV1Api(),
    )


def close_room(room: Room) -> None:
    """Delete the namespace, and with it whatever a failed test left.

    Jobs first: of a namespace that is deleted whole the pods go before them, and the Job controller lets go of a failed pod only
    once it has made another, which such a namespace refuses.
    """
    if room.serves(JOBSETS[0]):
        client.CustomObjectsApi().delete_collection_namespaced_custom_object(*JOBSETS[:2], room.namespace, JOBSETS[2])
    room.batch.delete_collection_namespaced_job(room.namespace, propagation_policy="Background")
    room.wait_for("the jobs to go", lambda: not room.batch.list_namespaced_job(room.namespace).items)
    room.api.delete_namespace(room.namespace)
    rbac = client.RbacAuthorizationV1Api()
    rbac.delete_cluster_role_binding(room.namespace)
    rbac.delete_cluster_role(room.namespace)


def _kubeconfig(configuration: Any, namespace: str, token: str) -> Manifest:
    cluster: Manifest = {"server": configuration.host}
    if configuration.ssl_ca_cert:
        cluster["certificate-authority-data"] = base64.b64encode(Path(configuration.ssl_ca_cert).read_bytes()).decode()
    else:
        cluster["insecure-skip-tls-verify"] = not configuration.verify_ssl
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "clusters": [{"name": "e2e", "cluster": cluster}],
        "users": [{"name": "submitter", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "submitter", "namespace": namespace}}],
    }


def _one_worker_a_node(name: str) -> Manifest:
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": name}},
    }
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}
