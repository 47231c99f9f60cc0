"""What happened to a job, from Kubernetes' events and the restarts of training; and the lists of jobs and workers."""

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.status.events import concerns, line, merged, of_events, of_restarts
from orchestrator.status.listing import listed, table, with_live
from orchestrator.status.model import WorkerStatus
from orchestrator.status.text import rows_of
from trainer.rundir.history import Restart
from trainer.wire.coordinator import JobState

Manifest = dict[str, Any]
JOB: Manifest = {
    "kind": "Job",
    "metadata": {
        "name": "digits",
        "namespace": "research",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {},
        "annotations": {"orch/run-directory": "gs://acme/digits"},
    },
    "spec": {"parallelism": 2},
}


def event(kind: str, name: str, at: str = "2026-01-01T00:01:00Z", **fields: Any) -> Manifest:
    facts = {"reason": "Killing", "message": "Stopping\ncontainer", "type": "Normal", "lastTimestamp": at}
    return {"metadata": {"uid": f"{kind}-{name}-{at}"}, "involvedObject": {"kind": kind, "name": name}} | facts | fields


@pytest.mark.parametrize(
    "kind, name, wanted",
    [
        ("Job", "digits", True),
        ("Job", "digits-worker-3", True),
        ("JobSet", "digits", True),
        ("Pod", "digits-0-abcde", True),
        ("Pod", "digits-worker-1-12-ab3de", True),
        ("Workload", "job-digits-1a2b3", True),
        ("Job", "digits-2", False),
        ("Pod", "digits-2-0-abcde", False),
        ("Pod", "other-0-abcde", False),
        ("Workload", "job-digits-2-1a2b3", False),
        ("Node", "digits", False),
    ],
)
def test_an_event_is_of_the_job_or_of_another_one_with_a_similar_name(kind: str, name: str, wanted: bool) -> None:
    assert concerns(event(kind, name), JOB) is wanted


def test_events_come_in_order_with_their_count_and_none_of_an_earlier_job() -> None:
    before = event("Job", "digits", "2025-12-31T23:59:59Z")
    late = event("Pod", "digits-0-abcde", "2026-01-01T00:02:00Z", type="Warning", count=3)
    found = of_events([late, before, event("Job", "digits")], JOB)
    assert [happening.source for happening in found] == ["Job digits", "Pod digits-0-abcde"]
    assert line(found[1]) == "2026-01-01T00:02:00Z  Pod digits-0-abcde  Killing: Stopping container (x3)"
    assert found[1].warning
    assert not found[0].warning


def test_restarts_stand_among_the_events() -> None:
    restart = Restart(
        attempt=1,
        at=datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC),
        worker=1,
        reason="worker 1: killed (SIGKILL)",
        code=137,
        step=50,
        resumed_step=40,
        steps_lost=10,
    )
    events = of_events([event("Job", "digits"), event("Pod", "digits-1-abcde", "2026-01-01T00:02:00Z")], JOB)
    told = [line(happening) for happening in merged(events, of_restarts([restart]))]
    assert told[1] == (
        "2026-01-01T00:01:30Z  training  Restart: attempt 1: worker 1: killed (SIGKILL); went on from step 40, 10 steps lost"
    )


def ready_pod(index: int) -> Manifest:
    return {
        "metadata": {"name": f"digits-{index}", "labels": {"batch.kubernetes.io/job-completion-index": str(index)}},
        "status": {"containerStatuses": [{"name": "trainer", "ready": True, "state": {"running": {}}}]},
    }


def test_a_listed_job_is_what_kubernetes_knows_and_what_its_coordinator_says() -> None:
    assert listed(JOB, [ready_pod(0)]).state == "waiting"
    running = listed(JOB, [ready_pod(0), ready_pod(1)])
    assert (running.state, running.ready, running.workers) == ("running", 2, 2)
    live = JobState(
        name="digits", launch="a", state="restarting", reason="", attempt=2, restarts=1, budget_used=0, budget_max=9,
        step=40, total_steps=100, rate=0.0, metrics={}, workers=[],
    )  # fmt: skip
    shown = table([with_live(running, live)], datetime(2026, 1, 1, 0, 1, 5, tzinfo=UTC), all_namespaces=True)
    assert shown[1] == ("research", "digits", "restarting", "2/2", "40/100", "1 min 5 s", "", "gs://acme/digits")


@pytest.mark.parametrize(
    "queue, conditions, state",
    [
        ("", [], "stopped"),
        ("training", [], "waiting"),
        ("", [{"type": "Complete", "status": "True"}], "succeeded"),
        ("", [{"type": "Failed", "status": "True"}], "failed"),
    ],
)
def test_a_listed_job_without_pods(queue: str, conditions: list[Manifest], state: str) -> None:
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    job = {
        "metadata": JOB["metadata"] | {"labels": labels},
        "spec": {"parallelism": 2, "suspend": True},
        "status": {"conditions": conditions},
    }
    assert listed(job, []).state == state
    if state == "waiting":
        assert listed(job, [], {"spec": {"active": False}}).state == "stopped", "it was cancelled"


def test_of_many_workers_those_that_do_not_train_are_shown() -> None:
    workers = [WorkerStatus(index, "pending" if index in (70, 90) else "train") for index in range(100)]
    assert [shown.index for shown in rows_of(workers, 4)] == [0, 1, 70, 90]
    assert [shown.index for shown in rows_of(workers[:3], 4)] == [0, 1, 2]
