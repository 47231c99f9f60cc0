"""What is said of a job: by its coordinator while it lives, by its end record afterwards, by Kubernetes where neither answers."""

import json
from datetime import UTC, datetime
from typing import Any

from orchestrator.runs.past import Past
from orchestrator.status.judge import judge
from orchestrator.status.model import JobStatus
from orchestrator.status.observation import Observation
from orchestrator.status.text import status_lines
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, EndRecord, Launch, Member
from trainer.rundir.history import restarts_of
from trainer.rundir.ledger import Ledger, Row
from trainer.wire.coordinator import AgentReport, JobState
from trainer.wire.process import Phase
from trainer.wire.termination import SIZE_MAX_BYTES, LastWords, remedy_for

Manifest = dict[str, Any]
RUN = "gs://acme/digits"
LAUNCH = Launch(id="job-1", started=datetime(2026, 1, 1, tzinfo=UTC))
FIELDS = {
    "name",
    "state",
    "code",
    "reason",
    "step",
    "attempts",
    "restarts",
    "run_directory",
    "metrics",
    "weights_sha256",
    "history",
    "goodput",
    "steps_lost",
    "save_error",
    "export",
    "load",
    "total_steps",
    "rate",
    "finished_before",
    "traceback",
    "remedy",
    "save_troubles",
    "broken_off",
    "unread",
}


def job(*conditions: tuple[str, str], suspend: bool = False, message: str = "") -> Manifest:
    entries = [{"type": kind, "status": "True", "reason": reason, "message": message} for kind, reason in conditions]
    return {
        "kind": "Job",
        "metadata": {"name": "digits", "uid": "job-1", "annotations": {"orch/run-directory": RUN}},
        "spec": {"parallelism": 2, "suspend": suspend},
        "status": {"conditions": entries},
    }


def pod(
    index: int, state: Manifest, *, uid: str = "", created: str = "2026-01-01T00:00:00Z", ending: bool = False
) -> Manifest:
    return {
        "metadata": {
            "name": f"digits-{index}-{uid or 'first'}",
            "uid": uid or f"pod-{index}",
            "creationTimestamp": created,
            "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
        }
        | ({"deletionTimestamp": "2026-01-01T00:05:00Z"} if ending else {}),
        "spec": {"nodeName": f"node{index + 1}", "containers": [{"name": "trainer", "image": "trainer"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": state}]},
    }


def terminated(code: int, **words: Any) -> Manifest:
    return {"terminated": {"exitCode": code, "reason": "Error", "message": json.dumps({"code": code} | words)}}


def live(state: str = "running", **changes: Any) -> JobState:
    worker = AgentReport(
        launch="job-1",
        index=0,
        uid="pod-0",
        address="10.0.0.1",
        port=20001,
        state="running",
        attempt=2,
        phase=Phase.TRAIN,
    )
    fields: dict[str, Any] = {
        "name": "digits",
        "launch": "job-1",
        "state": state,
        "reason": "",
        "attempt": 2,
        "restarts": 1,
        "budget_used": 0,
        "budget_max": 20,
        "step": 120,
        "total_steps": 600,
        "rate": 55.5,
        "metrics": {"loss": 0.5},
        "workers": [worker.model_copy(update={"step": 120})],
    }
    return JobState.model_validate(fields | changes)


def end(state: str = "succeeded", code: int = 0, launch: Launch = LAUNCH, **changes: Any) -> EndRecord:
    fields: dict[str, Any] = {
        "number": 3,
        "nonce": "n",
        "launch": launch,
        "created": LAUNCH.started,
        "state": state,
        "code": code,
        "reason": "all steps are done",
        "step": 600,
        "attempts": 2,
        "restarts": 1,
        "metrics": {"val_accuracy": 0.97},
        "weights_sha256": "ab" * 32,
    }
    return EndRecord.model_validate(fields | changes)


def attempt(launch: Launch = LAUNCH, chief: str = "earlier") -> AttemptRecord:
    return AttemptRecord(
        number=2,
        nonce="n",
        launch=launch,
        created=LAUNCH.started,
        members=[Member(index=0, uid=chief, address="10.0.0.1", port=20001)],
        restore=None,
        world_size=2,
        restarts=1,
    )


def test_json_has_the_same_fields_whoever_is_asked() -> None:
    status = judge(Observation(job=job(), pods=[pod(0, {"running": {}})], live=live()))
    assert set(status.to_json()) == FIELDS | {"workers", "troubles"}
    json.dumps(status.to_json(), allow_nan=False)


def test_a_running_job_is_told_by_its_coordinator() -> None:
    status = judge(Observation(job=job(), pods=[pod(0, {"running": {}}), pod(1, {"running": {}})], live=live()))
    assert (status.state, status.step, status.attempts, status.restarts) == ("running", 120, 2, 1)
    assert [(worker.index, worker.state, worker.step) for worker in status.workers] == [
        (0, "train", 120),
        (1, "starting", 0),
    ]


def test_what_kubernetes_says_explains_what_the_coordinator_waits_for() -> None:
    pulling = {"waiting": {"reason": "InvalidImageName", "message": "bad"}}
    waits = live("waiting", reason="waiting for worker 1")
    status = judge(Observation(job=job(), pods=[pod(0, {"running": {}}), pod(1, pulling)], live=waits))
    assert status.state == "waiting"
    assert status.reason == "worker 1: trainer is no valid name of an image"
    assert status.troubles[0].remedy


def test_a_job_that_is_over_is_told_by_the_end_record_of_its_launch() -> None:
    over = job(("Complete", "CompletionsReached"))
    status = judge(Observation(job=over, pods=[], records=[attempt(), end()]))
    assert (status.state, status.code, status.step, status.restarts) == ("succeeded", 0, 600, 1)
    assert status.weights_sha256 == "ab" * 32
    assert status.metrics == {"val_accuracy": 0.97}


def test_the_end_of_an_earlier_launch_is_not_the_end_of_this_one() -> None:
    earlier = Launch(id="job-0", started=LAUNCH.started)
    status = judge(Observation(job=job(), pods=[], records=[attempt(earlier), end(launch=earlier)]))
    assert status.state == "waiting"
    assert status.weights_sha256 is None


def test_the_end_counts_before_kubernetes_has_noticed_it() -> None:
    status = judge(Observation(job=job(), pods=[pod(0, {"running": {}})], live=live("succeeded", end=end())))
    assert (status.state, status.step) == ("succeeded", 600)


def test_without_the_run_directory_the_last_words_of_the_pods_tell_the_end() -> None:
    failed = job(("Failed", "PodFailurePolicy"), message="Container trainer failed with exit code 70")
    pods = [
        pod(0, terminated(143, reason="stopped by SIGTERM", step=40, attempt=1)),
        pod(1, terminated(70, reason="worker 1: ValueError: bad label", step=41, attempt=1, traceback="Traceback ...")),
    ]
    status = judge(Observation(job=failed, pods=pods, records_error="no permission"))
    assert (status.state, status.code, status.reason) == ("failed", 70, "worker 1: ValueError: bad label")
    assert (status.step, status.attempts, status.traceback) == (41, 1, "Traceback ...")
    assert status.unread == "no permission"
    assert "  the run directory cannot be read: no permission" in status_lines(status, "digits")


def test_a_job_that_failed_without_a_word_of_ours_is_told_by_kubernetes() -> None:
    late = judge(Observation(job=job(("Failed", "DeadlineExceeded")), pods=[]))
    assert (late.state, late.code, late.reason) == ("failed", 77, "scheduling.max_runtime is over")
    index = judge(Observation(job=job(("Failed", "FailedIndexes"), message="Job has failed indexes"), pods=[]))
    assert (index.code, index.reason) == (77, "Job has failed indexes")


def test_worker_0_on_its_way_back_is_a_restart_in_words() -> None:
    starting = pod(0, {"waiting": {"reason": "ContainerCreating"}})
    status = judge(Observation(job=job(), pods=[starting, pod(1, {"running": {}})], records=[attempt()]))
    assert (status.state, status.attempts, status.restarts) == ("restarting", 2, 1)
    assert "worker 0 starts" in status.reason


def test_the_first_start_is_told_step_by_step() -> None:
    def reason(pods: list[Manifest]) -> str:
        status = judge(Observation(job=job(), pods=pods, live_error="the coordinator does not answer: gaierror"))
        assert status.state == "waiting"
        return status.reason

    assert reason([]) == "no pods yet; Kubernetes is to create 2"
    assert "pulling the image" in reason([pod(0, {"waiting": {"reason": "ContainerCreating"}})])
    assert "coordinator could not be asked" in reason([pod(0, {"running": {}})])
    assert "worker 0 has no pod" in reason([pod(1, {"running": {}})])


def test_the_replacement_counts_and_not_the_pod_that_is_being_ended() -> None:
    old = pod(1, {"running": {}}, uid="old", created="2026-01-01T00:01:00Z", ending=True)
    new = pod(1, {"running": {}}, uid="new", created="2026-01-01T00:00:30Z")
    status: JobStatus = judge(Observation(job=job(), pods=[old, new, pod(0, {"running": {}})], live=live()))
    assert [worker.pod for worker in status.workers] == ["digits-0-first", "digits-1-new"]


def test_a_suspended_job_is_stopped_and_one_in_a_queue_only_when_it_was_cancelled() -> None:
    suspended = job(suspend=True)
    assert judge(Observation(job=suspended, pods=[])).state == "stopped"
    queued = suspended | {"metadata": suspended["metadata"] | {"labels": {"kueue.x-k8s.io/queue-name": "q"}}}
    for records in ([], [attempt()]):  # before it ran, and preempted
        for workload in (None, {"spec": {"active": True}}, {"spec": {}}):
            assert judge(Observation(job=queued, pods=[], records=records, workload=workload)).state == "waiting"
        cancelled = Observation(job=queued, pods=[], records=records, workload={"spec": {"active": False}})
        assert judge(cancelled).state == "stopped"


def test_a_coordinator_that_may_not_be_asked_runs_all_the_same() -> None:
    pods = [pod(0, {"running": {}}), pod(1, {"running": {}})]
    status = judge(
        Observation(job=job(), pods=pods, records=[attempt(chief="pod-0")], live_error="forbidden: pods/exec")
    )
    assert (status.state, status.attempts) == ("running", 2)
    assert "forbidden: pods/exec" in status.reason


def test_what_a_worker_does_before_its_first_block_is_not_called_training() -> None:
    starting = live().workers[0].model_copy(update={"phase": Phase.COMPILE})
    status = judge(Observation(job=job(), pods=[pod(0, {"running": {}})], live=live(workers=[starting])))
    assert "being compiled" in status.reason


def restarted() -> list[AttemptRecord | EndRecord]:
    """Two attempts of this launch: worker 1 was killed at step 40, before there was a checkpoint."""
    first = attempt().model_copy(update={"number": 1, "restarts": 0})
    why = AttemptEnd(attempt=1, code=137, reason="worker 1: killed (SIGKILL)", worker=1, step=40, at=LAUNCH.started)
    return [first, attempt().model_copy(update={"previous": why})]


def test_restarts_are_told_by_the_coordinator_or_by_the_records() -> None:
    pods = [pod(0, {"running": {}})]
    told = live(history=restarts_of(restarted(), LAUNCH.id))
    for seen in (
        Observation(job=job(), pods=pods, live=told),
        Observation(job=job(), pods=pods, records=[*restarted(), end()]),
        Observation(job=job(), pods=pods, records=restarted()),
    ):
        status = judge(seen)
        assert [(item.attempt, item.worker, item.steps_lost) for item in status.history] == [(1, 1, 40)]
        assert status.to_json()["history"][0]["reason"] == "worker 1: killed (SIGKILL)"


def test_goodput_is_shown_where_the_run_directory_tells_it() -> None:
    ledger = Ledger(LAUNCH.started, 4.0, 1, steps_lost=7)
    ledger.microseconds |= {Row.KEPT: 3_000_000, Row.DOWN: 1_000_000}
    shown = judge(Observation(job=job(), pods=[], records=restarted(), past=Past(ledger=ledger))).to_json()
    assert (shown["goodput"], shown["steps_lost"]) == (0.75, 7)
    assert judge(Observation(job=job(), pods=[], records=restarted())).to_json()["goodput"] is None


def test_saves_that_fail_are_a_trouble_while_training_goes_on() -> None:
    report = live().workers[0].model_copy(update={"save_error": "bucket acme: no permission\nask for it"})
    status = judge(Observation(job=job(), pods=[pod(0, {"running": {}})], live=live(workers=[report])))
    assert (status.state, status.reason) == ("running", "training")
    assert status.save_error == "bucket acme: no permission"
    assert status.troubles[-1].text == "saves fail: bucket acme: no permission"
    assert "tries again" in status.troubles[-1].remedy


def test_what_the_failed_worker_said_is_to_be_done_comes_before_what_its_code_says() -> None:
    failed = job(("Failed", "PodFailurePolicy"))
    words = {"reason": "worker 1: configuration", "remedy": "Train the model that was saved."}
    for seen in (
        Observation(job=failed, pods=[pod(1, terminated(78, **words))]),
        Observation(job=failed, pods=[pod(1, terminated(78, **words))], records=[attempt(), end("failed", 78)]),
    ):
        assert judge(seen).remedy == words["remedy"]
    general = {"reason": "worker 1: configuration", "remedy": remedy_for(78, memory_limit_bytes=None)}
    assert judge(Observation(job=failed, pods=[pod(1, terminated(78, **general))])).remedy == ""


def test_last_words_fit_into_what_kubernetes_keeps_and_say_what_to_do() -> None:
    long = LastWords(code=70, reason="ü" * 5000, traceback="früh " * 2000 + "ValueError: the end", remedy="x" * 900)
    data = long.encode()
    assert len(data) <= SIZE_MAX_BYTES
    assert LastWords.model_validate_json(data).traceback.endswith("ValueError: the end")
    assert (
        remedy_for(78, "Train the model that was saved.", memory_limit_bytes=None) == "Train the model that was saved."
    )
    assert "correct the task" in remedy_for(70, "one", memory_limit_bytes=None)
    for code in (70, 77, 78):
        remedy = remedy_for(code, memory_limit_bytes=None, command=True)
        assert remedy.endswith("the command runs from its start")
        # A status that does not know of the command has it from the pod's last words.
        assert LastWords(code=code, remedy=remedy).own_remedy(code) == remedy
    assert "resources.memory" in remedy_for(137, memory_peak_bytes=95, memory_limit_bytes=100)
    assert "resources.memory" in remedy_for(77, out_of_memory=True, memory_limit_bytes=None)
    assert remedy_for(75, memory_limit_bytes=None) == "nothing: the job goes on by itself"
    assert remedy_for(None, memory_limit_bytes=None) == ""
