"""What Kubernetes says about pods that do not run becomes a reason and a remedy. Its texts are those of 1.34 and containerd."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.diagnose.ending import ended_by_memory
from orchestrator.diagnose.job import Surroundings, diagnose
from orchestrator.diagnose.remedy import of_cause
from orchestrator.diagnose.scheduling import amount, rooms
from orchestrator.diagnose.trouble import Trouble, workers_text
from trainer.agent import start
from trainer.rundir.attempts import AttemptEnd, EndRecord, Launch
from trainer.rundir.history import Restart
from trainer.wire.coordinator import AgentReport, ExitReport, JobState
from trainer.wire.log_events import Event, marked
from trainer.wire.termination import LastWords

Manifest = dict[str, Any]


def job(**spec: Any) -> Manifest:
    return {
        "kind": "Job",
        "metadata": {"name": "digits", "uid": "job-1", "labels": {}},
        "spec": {"parallelism": 1} | spec,
    }


def pod(index: int = 0, **status: Any) -> Manifest:
    resources = {"requests": {"cpu": "64", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    return {
        "metadata": {
            "name": f"digits-{index}-abcde",
            "uid": f"pod-{index}",
            "labels": {
                "app.kubernetes.io/instance": "digits",
                "batch.kubernetes.io/job-completion-index": str(index),
            },
        },
        "spec": {
            "containers": [{"name": "trainer", "image": "registry.example/trainer:1", "resources": resources}],
            "nodeName": "node2",
            "nodeSelector": {"pool": "training"},
        },
        "status": {"phase": "Pending"} | status,
    }


def in_state(index: int = 0, **state: Any) -> Manifest:
    return pod(index, containerStatuses=[{"name": "trainer", "state": state}])


def unscheduled(message: str, index: int = 0) -> Manifest:
    entry = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(index, conditions=[entry])


def event(name: str, reason: str, message: str, at: str = "2026-01-01T00:00:00Z") -> Manifest:
    return {"involvedObject": {"name": name}, "reason": reason, "message": message, "lastTimestamp": at}


def only(
    pods: list[Manifest],
    events: list[Manifest] | None = None,
    of: Manifest | None = None,
    around: Surroundings | None = None,
) -> Trouble:
    found = diagnose(of or job(), pods, events or [], around)
    assert len(found) == 1, found
    return found[0]


def test_a_pod_that_fits_no_node_says_which_resource_is_short_and_how_much_was_asked() -> None:
    trouble = only(
        [unscheduled("0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: none.")]
    )
    assert trouble.text == "worker 0: no node for it: 2 of 2 nodes have too little cpu free (a worker asks for 64)"
    assert "resources.cpu" in trouble.remedy


def test_labels_and_taints_that_keep_a_pod_off_all_nodes_are_named() -> None:
    message = (
        "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: web}, "
        "2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available."
    )
    trouble = only([unscheduled(message)])
    assert "{dedicated: web}" in trouble.reason
    assert "pool=training" in trouble.reason
    assert "scheduling.tolerations" in trouble.remedy
    assert "scheduling.node_selector" in trouble.remedy


def test_workers_with_the_same_trouble_are_told_in_one_line() -> None:
    message = "0/2 nodes are available: 2 Insufficient memory."
    trouble = only([unscheduled(message, index) for index in (0, 1, 2, 5)])
    assert trouble.text.startswith("workers 0-2, 5: no node for it")


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        ("failed to resolve reference: registry.example/trainer:1: not found", "there is no such image", "image.ref"),
        ("pull access denied, authorization failed: 401 Unauthorized", "refuses the node", "image.pull_secrets"),
        ("dial tcp: lookup registry.example: no such host", "no such host", "reach the registry"),
    ],
)
def test_an_image_that_cannot_be_pulled_says_why_also_while_the_kubelet_waits(
    said: str, reason: str, remedy: str
) -> None:
    waiting = in_state(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image"})
    events = [
        event("digits-0-abcde", "Failed", f'Failed to pull image "registry.example/trainer:1": {said}'),
        event("digits-0-abcde", "Failed", "Error: ImagePullBackOff", "2026-01-01T00:00:05Z"),
    ]
    trouble = only([waiting], events)
    assert reason in trouble.reason
    assert "registry.example/trainer:1" in trouble.reason
    assert remedy in trouble.remedy


def test_a_missing_secret_and_a_missing_key_are_named() -> None:
    missing = in_state(waiting={"reason": "CreateContainerConfigError", "message": 'secret "wandb" not found'})
    assert only([missing]).reason == "Secret wandb does not exist"
    message = "couldn't find key token in Secret research/wandb"
    no_key = in_state(waiting={"reason": "CreateContainerConfigError", "message": message})
    assert only([no_key]).reason == "Secret wandb has no key token"


def test_a_volume_that_cannot_be_mounted_is_told_by_its_event() -> None:
    message = 'MountVolume.SetUp failed for volume "settings" : configmap "settings" not found'
    creating = in_state(waiting={"reason": "ContainerCreating"})
    assert (
        only([creating], [event("digits-0-abcde", "FailedMount", message)]).reason
        == "configmap settings does not exist"
    )


def test_out_of_memory_names_the_limit() -> None:
    killed = in_state(terminated={"exitCode": 137, "reason": "OOMKilled"})
    trouble = only([killed])
    assert "limit of 4Gi" in trouble.reason
    assert "resources.memory" in trouble.remedy


def test_an_image_of_another_version_says_so_in_words_that_every_version_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "config.json").write_text('{"of": "a later version"}')
    monkeypatch.setattr(start, "die_with_parent", lambda: None)
    environment = {
        "ORCH_INDEX": "0", "ORCH_UID": "u", "ORCH_LAUNCH": "l", "ORCH_COORDINATOR": "127.0.0.1:8471",
        "ORCH_ADDRESS": "127.0.0.1", "ORCH_TOKEN_FILE": str(tmp_path / "token"),
        "ORCH_CONFIG": str(tmp_path / "config.json"),
    }  # fmt: skip
    assert start.main(environment) == 78
    message = capsys.readouterr().err
    assert message.startswith("error: the configuration in ORCH_CONFIG cannot be read: ")
    ended = in_state(terminated={"exitCode": 78, "reason": "Error", "message": message})
    assert "of another version than orch" in only([ended]).reason


def test_an_image_without_the_trainer_says_how_to_build_one() -> None:
    message = "/usr/bin/python: No module named trainer"
    ended = in_state(terminated={"exitCode": 1, "reason": "Error", "message": message})
    assert "Dockerfile" in only([ended]).remedy
    start = 'failed to create task: runc create failed: unable to start container process: exec: "python": not found in $PATH'
    cannot_start = in_state(terminated={"exitCode": 128, "reason": "StartError", "message": start})
    assert only([cannot_start]).reason == 'the container cannot start: exec: "python": not found in $PATH'


def test_an_evicted_pod_says_what_the_node_said() -> None:
    evicted = pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory. ")
    assert only([evicted]).reason == "the node evicted the pod: The node was low on resource: memory."


def test_a_silent_node_is_named_with_the_time() -> None:
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    lost = pod(phase="Running", conditions=[disruption])
    lost["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    trouble = only([lost])
    assert "node node2 is silent since 2026-01-01T00:00:00Z" in trouble.reason
    assert "orch replace digits --worker 0" in trouble.remedy
    assert "kubectl delete node node2" in trouble.remedy


def test_a_node_is_silent_before_its_pods_are_taken_away() -> None:
    not_ready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ready = {"name": "trainer", "state": {"running": {}}, "ready": True}
    lost = pod(phase="Running", conditions=[not_ready], containerStatuses=[ready])
    assert only([lost]).reason == "node node2 is silent since 2026-01-01T00:00:00Z"
    # A kubelet that lives says why a pod is not ready.
    starting = pod(
        phase="Running",
        conditions=[not_ready | {"reason": "ContainersNotReady"}],
        containerStatuses=[ready | {"ready": False}],
    )
    assert diagnose(job(), [starting], []) == []


def test_pods_that_may_not_be_created_are_told_from_the_events_of_the_job() -> None:
    message = 'Error creating: pods "digits-0-x" is forbidden: exceeded quota: small, requested: cpu=8, limited: cpu=4'
    trouble = only([], [event("digits", "FailedCreate", message)])
    assert trouble.reason.endswith("exceeded quota: small, requested: cpu=8, limited: cpu=4")
    assert "quota" in trouble.remedy


def test_a_queued_job_waits_for_its_queue() -> None:
    queued = job(suspend=True)
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    assert only([], of=queued).text == "waiting for queue team-a to admit the job"
    assert "kueue-system" in only([], of=queued).remedy


def test_pods_that_run_or_stopped_in_order_are_no_trouble() -> None:
    stopped = in_state(1, terminated={"exitCode": 143, "reason": "Error"})
    assert diagnose(job(), [in_state(running={}), stopped], []) == []


def test_workers_are_counted_as_people_do() -> None:
    assert workers_text([3]) == "worker 3"
    assert workers_text([1, 0]) == "workers 0, 1"
    assert workers_text([0, 1, 2, 3, 7, 9, 10]) == "workers 0-3, 7, 9, 10"


def node(name: str, cpu: str, memory: str, **labels: str) -> Manifest:
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def on_node(name: str, cpu: str, phase: str = "Running") -> Manifest:
    containers = [{"name": "x", "resources": {"requests": {"cpu": cpu}}}]
    return {"spec": {"nodeName": name, "containers": containers}, "status": {"phase": phase}}


def test_how_much_there_is_stands_beside_how_much_is_asked_for() -> None:
    message = "0/3 nodes are available: 3 Insufficient cpu."
    nodes = [
        node("a", "32", "64Gi", pool="training"),
        node("b", "96", "64Gi", pool="training"),
        node("c", "128", "1Gi"),
    ]
    busy = [on_node("a", "2500m"), on_node("b", "60"), on_node("b", "90", "Succeeded")]
    known = only([unscheduled(message)], around=Surroundings(nodes=rooms(nodes, busy)))
    # Node c does not carry the label that is asked for, so its size is of no help.
    assert "a worker asks for 64; the largest node has 96, most is free on b: 36" in known.reason
    assert "wait until others free theirs" in known.remedy
    small = only([unscheduled(message)], around=Surroundings(nodes=rooms(nodes[:1], None)))
    assert "the largest node has 32)" in small.reason
    assert "none of these can ever take it" in small.remedy
    gpu = unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    assert "no node has any nvidia.com/gpu" in only([gpu], around=Surroundings(nodes=rooms(nodes, None))).reason


def test_quantities_are_read_as_kubernetes_writes_them() -> None:
    read = [float(amount(text)) for text in ("500m", "2", "4Gi", "1e3", "16k", "1.5M", "", "x", "1Q")]
    assert read == [0.5, 2.0, 4 * 2.0**30, 1000.0, 16000.0, 1.5e6, 0.0, 0.0, 0.0]


def test_a_cordoned_node_and_one_that_is_not_ready_are_told_apart() -> None:
    message = (
        "0/3 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, "
        "1 node(s) were unschedulable, 1 node(s) didn't match pod anti-affinity rules. preemption: none."
    )
    trouble = only([unscheduled(message)])
    assert "1 of 3 are not-ready; 1 of 3 are cordoned; 1 of 3 hold a pod" in trouble.reason
    assert "kubectl uncordon" in trouble.remedy
    assert "scheduling.tolerations" not in trouble.remedy


# --- out of memory: cgroup v1 spares the agent, v2 does not


def oom_killed(index: int = 0, *, code: int = 137, words: LastWords | None = None) -> Manifest:
    message = words.encode().decode() if words else ""
    return in_state(index, terminated={"exitCode": code, "reason": "OOMKilled", "message": message})


PEAK = 3_900 * 2**20


def test_an_agent_that_died_with_its_process_left_the_peak_written_ahead() -> None:
    words = LastWords(reason="attempt 1 runs", step=40, memory_peak_bytes=PEAK, memory_limit_bytes=4 * 2**30)
    trouble = only([oom_killed(words=words)])
    assert trouble.reason == (
        "out of memory at step 40: Linux killed it at its limit of 4Gi; the training process had 3.8 GiB"
    )
    assert "resources.memory" in trouble.remedy


def test_an_agent_that_outlived_its_process_names_the_peak_itself() -> None:
    words = LastWords(code=137, reason="out of memory", memory_peak_bytes=PEAK, memory_limit_bytes=4 * 2**30)
    ended = in_state(terminated={"exitCode": 137, "reason": "Error", "message": words.encode().decode()})
    assert "the training process had 3.8 GiB" in only([ended]).reason


def test_while_a_replacement_starts_the_reason_its_last_pod_ended_is_told() -> None:
    creating = in_state(waiting={"reason": "ContainerCreating"})
    trouble = only([creating], around=Surroundings(earlier=[oom_killed()]))
    assert trouble.text == "worker 0: its last pod: out of memory: Linux killed it at its limit of 4Gi"
    assert diagnose(job(), [in_state(running={})], [], Surroundings(earlier=[oom_killed()])) == []


# --- taken away


def taken(reason: str, message: str = "") -> Manifest:
    entry = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    return pod(phase="Failed", conditions=[entry])


@pytest.mark.parametrize(
    ("reason", "message", "says"),
    [
        ("PreemptionByScheduler", "preempting to accommodate a higher priority pod", "a pod of higher priority"),
        ("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.", "was shut down"),
        ("EvictionByEvictionAPI", "evicting", "is being drained"),
        ("DeletionByPodGC", "PodGC: node no longer exists", "node node2 is gone"),
    ],
)
def test_who_took_a_pod_away_is_told_and_that_nothing_is_to_be_done(reason: str, message: str, says: str) -> None:
    trouble = only([taken(reason, message)])
    assert says in trouble.reason
    assert trouble.remedy.startswith("nothing: ")


def test_a_node_of_spot_capacity_is_called_that() -> None:
    lost = taken("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.")
    lost["spec"]["nodeSelector"] = {"cloud.google.com/gke-spot": "true"}
    assert "(spot capacity)" in only([lost]).reason


# --- queues


def workload(message: str = "", *conditions: Manifest, active: bool = True) -> Manifest:
    pending = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
    return {
        "metadata": {"name": "job-digits-1"},
        "spec": {"active": active},
        "status": {"conditions": [pending, *conditions] if message else [*conditions]},
    }


def in_queue(item: Manifest, ahead: int | None = None) -> Trouble:
    queued = job(suspend=True)
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    return only([], of=queued, around=Surroundings(workload=item, ahead=ahead))


NO_ROOM = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 1 more needed"


def test_a_job_in_a_queue_says_what_is_short_and_how_many_are_before_it() -> None:
    trouble = in_queue(workload(NO_ROOM), ahead=2)
    assert trouble.reason == (
        "waiting in queue team-a, 2 jobs before it: no room for cpu in flavor default (1 more needed)"
    )
    assert trouble.remedy.startswith("nothing: it starts when the queue has room")
    assert "team-a, next in line: no room" in in_queue(workload(NO_ROOM), ahead=0).reason
    assert "team-a: no room" in in_queue(workload(NO_ROOM)).reason


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("LocalQueue team-a doesn't exist", "scheduling.queue"),
        ("ClusterQueue all is inactive", "kubectl describe clusterqueue"),
        (
            "couldn't assign flavors to pod set main: insufficient quota for cpu in flavor default, previously considered "
            "podsets requests (0) + current podset request (100) > maximum capacity (8)",
            "ask for less",
        ),
        ("couldn't assign flavors to pod set main: flavor default doesn't match node affinity", "node_selector"),
    ],
)
def test_a_job_that_its_queue_will_never_admit_says_so(message: str, remedy: str) -> None:
    trouble = in_queue(workload(message))
    assert trouble.reason == f"queue team-a does not admit the job: {message}"
    assert remedy in trouble.remedy


def test_a_job_preempted_in_its_queue_says_so_while_it_waits() -> None:
    since = {"status": "True", "lastTransitionTime": "2026-01-01T12:30:05Z"}
    why = "Preempted to accommodate a workload (UID: u, JobUID: j) due to prioritization in the ClusterQueue; preemptor path: /x"
    trouble = in_queue(
        workload(
            NO_ROOM,
            since | {"type": "Evicted", "reason": "Preempted", "message": why},
            since | {"type": "Preempted", "reason": "InClusterQueue", "message": why},
        )
    )
    assert "preempted at 12:30:05 UTC by a job of the queues, prioritization in the ClusterQueue" in trouble.reason
    assert "last checkpoint" in trouble.reason


def test_a_cancelled_job_of_a_queue_names_the_way_back() -> None:
    assert in_queue(workload(active=False)).remedy.startswith("orch resume digits")


# --- agents run, training does not


def coordinator(state: str = "restarting", **changes: Any) -> JobState:
    fields: dict[str, Any] = {
        "name": "digits", "launch": "job-1", "state": state, "reason": "", "attempt": 3, "restarts": 2, "budget_used": 2,
        "budget_max": 20, "step": 0, "total_steps": 10, "rate": 0.0, "metrics": {}, "workers": [],
    }  # fmt: skip
    return JobState.model_validate(fields | changes)


def ended(code: int, step: int = 7, **changes: Any) -> AttemptEnd:
    return AttemptEnd(attempt=2, code=code, reason=f"worker 1: ended with {code}", worker=1, step=step, **changes)


def given_up(last: AttemptEnd | None) -> EndRecord:
    """The end of a job that was given up for how its last attempt ended."""
    launch = Launch(id="job-1", started=datetime(2026, 1, 1, tzinfo=UTC))
    return EndRecord(
        number=3, nonce="n", launch=launch, created=launch.started, state="failed", code=77, reason="", step=7, previous=last
    )  # fmt: skip


def restart(code: int, step: int = 7) -> Restart:
    return Restart(attempt=1, at=None, worker=1, reason="", code=code, step=step, resumed_step=0, steps_lost=step)


def test_attempts_that_end_alike_are_told_before_the_job_gives_up() -> None:
    live = coordinator(last_end=ended(139), history=[restart(139), restart(139)])
    trouble = only([in_state(running={})], around=Surroundings(live=live))
    assert trouble.reason.startswith("2 attempts ended alike at step 7, a third such end ends the job: worker 1: ended")
    assert "orch logs digits --worker 1" in trouble.remedy


def test_an_end_by_memory_is_told_before_the_pod_tells_it() -> None:
    limits = {"template": {"spec": {"containers": [{"resources": {"limits": {"memory": "1Gi"}}}]}}}
    end = given_up(ended(137, memory_full=True))
    trouble = ended_by_memory({"spec": limits}, end)
    assert trouble is not None
    assert end.cause is not None
    assert trouble.reason == "out of memory: Linux killed the training process at its limit of 1Gi"
    assert "resources.memory" in trouble.remedy
    assert "resources.memory" in of_cause("digits", end.cause)
    assert ended_by_memory({"spec": limits}, given_up(ended(137))) is None


def test_a_hang_names_the_stacks_and_memory_its_peak() -> None:
    hang = coordinator(last_end=ended(76), history=[restart(76)])
    assert "stacks of all threads" in only([in_state(running={})], around=Surroundings(live=hang)).remedy
    report = AgentReport(
        launch="job-1", index=1, uid="pod-1", address="10.0.0.2", port=1, state="idle", attempt=2,
        last_exit=ExitReport(attempt=2, code=137, memory_peak_bytes=PEAK),
    )  # fmt: skip
    full = coordinator(last_end=ended(137, memory_full=True), history=[restart(137)], workers=[report])
    trouble = only([in_state(running={})], around=Surroundings(live=full))
    assert trouble.reason == "worker 1 ran out of memory with 3.8 GiB (step 7)"
    assert "resources.memory" in trouble.remedy


def test_an_end_that_training_went_past_is_no_trouble_and_neither_is_a_lost_peer() -> None:
    for live in (
        coordinator("running", step=9, last_end=ended(139)),
        coordinator(last_end=ended(75)),
        coordinator(last_end=ended(137)),
    ):
        assert diagnose(job(), [in_state(running={})], [], Surroundings(live=live)) == []


def test_a_job_that_was_given_up_says_what_to_do_about_its_culprit() -> None:
    assert "resources.memory" in of_cause("digits", ended(137, memory_full=True))
    assert "orch logs digits --worker 1 shows the stacks" in of_cause("digits", ended(76))
    assert of_cause("digits", ended(143)) == ""
    assert given_up(None).cause is None, "no worker registered within 900 s"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "worker=1 WARNING worker 0 is not reached for 10 s: gaierror: [Errno -2] Name or service not known",
            "the name of worker 0, digits-0.digits, is not resolved: [Errno -2] Name or service not known",
        ),
        (
            "worker=1 INFO waiting for worker 0 for 60 s: TimeoutError: timed out",
            "worker 0 is not reached at digits-0.digits: timed out",
        ),
        (
            f"worker=1 WARNING no answer: OSError: no route {marked(Event.UNREACHED, error='OSError')}",
            "worker 0 is not reached at digits-0.digits: no route",
        ),
    ],
)
def test_a_worker_that_does_not_find_worker_0_says_whether_its_name_or_the_network_is_at_fault(
    line: str, reason: str
) -> None:
    around = Surroundings(live=coordinator("waiting"), log_tails={"pod-1": ["worker=1 INFO agent started", line]})
    trouble = only([in_state(0, running={}), in_state(1, running={})], around=around)
    assert trouble.text == f"worker 1: {reason}"
