"""Who reaches the workers, what they are allowed, and what is seen of their token.

One job serves all tests of this file: it trains until it is deleted.
"""

import base64
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client
from support_cluster import Room, close_room, open_room, what_is_missing
from support_cluster_faults import Faults, why_no_faults

from orchestrator.jobfile.accelerators import every
from orchestrator.jobfile.load import load
from orchestrator.jobfile.resolve import resolve_for_cluster
from orchestrator.kube.client import Cluster
from orchestrator.manifests.render import render
from orchestrator.manifests.yaml_writer import to_yaml
from orchestrator.preflight.pod import worker_pod
from trainer.rundir.attempts import AttemptRecord, read_records
from trainer.rundir.open import open_store

pytestmark = pytest.mark.e2e

NAME = "guarded"
PORT = 8471
ENFORCING = "ORCH_TEST_POLICY_NODES"
"""The nodes on which NetworkPolicies are enforced, by name, or `all`. Not set: nothing is expected to be refused."""
CONNECT = """
import json, socket, sys
def answers(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        return True
    except OSError:
        return False
print(json.dumps({address: answers(address) for address in sys.argv[1:]}))
"""
ASK = """
import json, sys, urllib.error, urllib.request
def status(method, url, token):
    headers = {"Authorization": "Bearer " + token} if token else {}
    body = b"{}" if method == "POST" else None
    try:
        return urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
own = open("/etc/orch/token/token").read()
calls = {"none": "", "wrong": "x" * 43, "own": own}
base = "http://" + sys.argv[1]
print(json.dumps({
    f"{path} {name}": status(method, base + path, token)
    for method, path in (("GET", "/healthz"), ("GET", "/metrics"), ("GET", "/v1/state"), ("POST", "/v1/poll"))
    for name, token in calls.items()
}))
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """A job of two workers on two nodes, and a stranger on each of the two."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    room = open_room(tmp_path_factory.mktemp("guarded"))
    try:
        long = {"task": "trainer.tasks.digits:Digits", "steps": 1_000_000}
        room.orch("submit", str(room.job_file(NAME, train=long, checkpoint={"every": 2000})))
        room.wait_for_status(NAME, lambda status: status["state"] == "running" and status["step"] > 0)
        for pod in room.pods(NAME).values():
            room.api.create_namespaced_pod(room.namespace, _stranger(room, pod.spec.node_name))
        room.wait_for("the strangers", lambda: all(pod.status.phase == "Running" for pod in _strangers(room)), 90)
        yield room
        room.orch("delete", NAME)
    finally:
        close_room(room)


def _stranger(room: Room, node: str) -> dict[str, Any]:
    """A pod of the same namespace that is not of the job, as Pod Security restricted has it."""
    container = {
        "name": "stranger",
        "image": room.image,
        "command": ["sleep", "3600"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "containers": [container],
        "securityContext": security,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
    }
    return {"metadata": {"name": f"stranger-{node}", "labels": {"app": "stranger"}}, "spec": spec}


def _strangers(room: Room) -> list[Any]:
    found: list[Any] = room.api.list_namespaced_pod(room.namespace, label_selector="app=stranger").items
    return found


def _run(room: Room, pod: str, container: str, script: str, *arguments: str) -> Any:
    return json.loads(
        Cluster(namespace=room.namespace).exec(pod, ["python", "-c", script, *arguments], container=container)
    )


def _reached(room: Room, pod: str, container: str, addresses: list[str]) -> set[str]:
    answers = _run(room, pod, container, CONNECT, *addresses)
    return {address for address, answered in answers.items() if answered}


def _addresses(room: Room) -> dict[str, str]:
    """Address -> node, of each worker's agent and of the port of its TensorFlow."""
    pods = room.pods(NAME)
    directory = room.status(NAME)["run_directory"]
    newest = [record for record in read_records(open_store(directory)) if isinstance(record, AttemptRecord)][-1]
    found = {f"{pod.status.pod_ip}:{PORT}": pod.spec.node_name for pod in pods.values()}
    return found | {f"{member.address}:{member.port}": pods[member.index].spec.node_name for member in newest.members}


def _served_to_peers(room: Room, addresses: dict[str, str]) -> None:
    for pod in room.pods(NAME).values():
        assert _reached(room, pod.metadata.name, "trainer", list(addresses)) == set(addresses)


def test_strangers_are_refused_on_enforcing_nodes_and_peers_are_served_everywhere(guarded: Room) -> None:
    addresses = _addresses(guarded)
    assert len(addresses) == 4
    assert len(set(addresses.values())) == 2, "workers on two nodes"
    _served_to_peers(guarded, addresses)
    enforcing = os.environ.get(ENFORCING, "")
    if not enforcing:
        pytest.skip(f"{ENFORCING} names no node on which NetworkPolicies are enforced (CONTRIBUTING.md)")
    nodes = set(addresses.values()) if enforcing == "all" else set(enforcing.split(","))
    expected = {address for address, node in addresses.items() if node not in nodes}
    for stranger in _strangers(guarded):
        # Engines take a moment to learn of new pods.
        guarded.wait_for(
            f"{stranger.metadata.name} to be refused",
            lambda name=stranger.metadata.name: _reached(guarded, name, "stranger", list(addresses)) == expected,  # type: ignore[misc]
        )


def test_without_an_engine_strangers_reach_the_ports_and_peers_are_served(guarded: Room, faults_of: Faults) -> None:
    with faults_of.stopped("policy"):
        # An engine that stops may leave its rules for the pods there are: workers that come afterwards meet none.
        for pod in guarded.pods(NAME).values():
            guarded.api.delete_namespaced_pod(pod.metadata.name, guarded.namespace)
        before = guarded.status(NAME)["attempts"]
        guarded.wait_for_status(NAME, lambda status: status["attempts"] > before and status["step"] > 0)
        addresses = _addresses(guarded)
        for stranger in _strangers(guarded):
            guarded.wait_for(
                f"{stranger.metadata.name} to reach all",
                lambda name=stranger.metadata.name: (
                    _reached(guarded, name, "stranger", list(addresses)) == set(addresses)
                ),  # type: ignore[misc]
            )
        _served_to_peers(guarded, addresses)


@pytest.fixture
def faults_of(guarded: Room) -> Iterator[Faults]:
    """As `faults`, for the room of this file."""
    if why_no_faults():
        pytest.skip(why_no_faults())
    given = Faults(guarded.api)
    yield given
    given.restore()


def test_the_agents_answer_nobody_without_the_token_but_for_health_and_figures(guarded: Room) -> None:
    pods = guarded.pods(NAME)
    chief = f"{pods[0].status.pod_ip}:{PORT}"
    answers = _run(guarded, pods[1].metadata.name, "trainer", ASK, chief)
    assert {answers[f"{path} {token}"] for path in ("/v1/state", "/v1/poll") for token in ("none", "wrong")} == {401}
    assert answers["/v1/state own"] == 200
    assert answers["/v1/poll own"] == 400, "the token opens the door; an empty report is none"
    assert {answers[f"{path} none"] for path in ("/healthz", "/metrics")} == {200}


def test_no_service_account_token_and_no_rights_in_the_pods(guarded: Room) -> None:
    look = (
        "import json, os; status = open('/proc/self/status').read(); "
        "print(json.dumps([os.path.exists('/var/run/secrets/kubernetes.io'), os.getuid(), os.access('/', os.W_OK), "
        "[line.split()[1] for line in status.splitlines() if line.startswith(('CapEff', 'NoNewPrivs', 'Seccomp:'))]]))"
    )
    for pod in guarded.pods(NAME).values():
        mounted, user, writable, rights = _run(guarded, pod.metadata.name, "trainer", look)
        assert (mounted, user, writable) == (False, 1000, False)
        assert rights == ["0" * 16, "1", "2"], "no capability, no new privileges, seccomp filter"


def test_the_token_shows_nowhere_but_in_its_secret(guarded: Room) -> None:
    room = guarded
    secret = room.api.read_namespaced_secret(f"{NAME}-token", room.namespace)
    token = base64.b64decode(secret.data["token"]).decode()
    assert len(token) >= 43
    for words in (["status", NAME], ["status", NAME, "-o", "json"], ["logs", NAME]):
        room.orch(*words)
    dry = room.orch("submit", str(room.folder / f"{NAME}.yaml"), "--dry-run=client")
    assert "drawn-at-submit" in dry.stdout
    seen = "\n".join(room.said)
    api = client.ApiClient()
    for found in (
        room.batch.list_namespaced_job(room.namespace),
        room.api.list_namespaced_pod(room.namespace),
        room.api.list_namespaced_config_map(room.namespace),
        room.api.list_namespaced_event(room.namespace),
        room.api.list_namespaced_service(room.namespace),
    ):
        seen += json.dumps(api.sanitize_for_serialization(found))
    for pod in room.pods(NAME).values():
        seen += room.api.read_namespaced_pod_log(pod.metadata.name, room.namespace)
    store = open_store(room.status(NAME)["run_directory"])
    names = [entry.name for entry in store.list("") if not entry.name.endswith(".safetensors")]
    assert any(name.startswith("attempts/") for name in names)
    seen += "".join(store.get(name).decode(errors="replace") for name in names)
    assert token not in seen


def test_the_submitter_reads_no_secret_and_runs_nothing_elsewhere(
    guarded: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig))
    cluster = Cluster(namespace=guarded.namespace)
    assert not any(cluster.can_i(verb, "Secret") for verb in ("get", "list", "watch", "patch"))
    assert not any(cluster.can_i(verb, "Node") for verb in ("create", "patch", "delete"))
    assert not any(cluster.elsewhere("default").can_i("create", kind) for kind in ("Job", "Pod", "Secret"))


def test_pods_for_every_kind_of_hardware_are_admitted_where_restricted_is_enforced(room: Room) -> None:
    kinds = {(item.kind, item.name.split("-")[0], item.multi_host): item for item in every()}
    asked: list[tuple[int, dict[str, Any]]] = [(1, {})]
    asked += [
        (item.chips, {"accelerator": item.name} | ({"topology": item.topology} if item.kind == "tpu" else {}))
        for item in kinds.values()
    ]
    more = {
        "secrets": [{"name": "s", "env": {"KEY": "key"}, "mount": "/keys"}],
        "volumes": [
            {"name": "a", "mount": "/a", "config_map": "c"},
            {"name": "b", "mount": "/b", "empty_dir": "1Gi"},
            {"name": "d", "mount": "/d", "claim": "p"},
        ],
    }
    for devices, resources in asked:
        job = room.folder / "hardware.yaml"
        train = {"task": "trainer.tasks.digits:Digits", "steps": 1, "global_batch_size": devices}
        body = {"name": "hardware", "image": {"ref": room.image}, "train": train, "run": {"directory": "gs://bucket/b"}}
        job.write_text(to_yaml([body | {"resources": resources} | more]))
        spec = load(job).spec
        carrier = render(spec, resolve_for_cluster(spec), namespace=room.namespace, token="")[-1]["spec"]
        template = (carrier["replicatedJobs"][0]["template"]["spec"] if "replicatedJobs" in carrier else carrier)[
            "template"
        ]
        pod = worker_pod(template, "hardware", room.namespace)
        room.api.create_namespaced_pod(room.namespace, pod, dry_run="All")
    pod["spec"] = pod["spec"] | {"hostNetwork": True}
    with pytest.raises(client.ApiException, match="violates PodSecurity"):
        room.api.create_namespaced_pod(room.namespace, pod, dry_run="All")
