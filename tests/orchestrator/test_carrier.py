"""A JobSet is read in the shape of a Job. The objects are those that JobSet 0.11 makes, cut to what is read."""

from typing import Any

from orchestrator.diagnose.job import diagnose
from orchestrator.kube.carrier import as_job, event_sources, owner_reference
from orchestrator.kube.objects import index_of

Manifest = dict[str, Any]


def jobset(*conditions: Manifest, suspend: bool = False) -> Manifest:
    child = {"parallelism": 3, "completions": 3, "template": {"spec": {"containers": []}}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "digits", "uid": "set-1", "labels": {"kueue.x-k8s.io/queue-name": "team"}},
        "spec": {
            "suspend": suspend,
            "replicatedJobs": [{"name": "worker", "replicas": 2, "template": {"spec": child}}],
        },
        "status": {"conditions": list(conditions), "replicatedJobsStatus": [{"name": "worker", "active": 2}]},
    }


def condition(kind: str, **more: str) -> Manifest:
    return {"type": kind, "status": "True"} | more


def child(group: int, *conditions: Manifest, active: int = 0) -> Manifest:
    return {
        "metadata": {"name": f"digits-worker-{group}"},
        "status": {"active": active, "conditions": list(conditions)},
    }


def test_a_job_is_its_own_view() -> None:
    job = {"kind": "Job", "metadata": {"name": "digits", "uid": "job-1"}, "spec": {"parallelism": 2}}
    assert as_job(job) is job
    assert event_sources(job) == [("Job", "digits")]
    assert owner_reference(job)["apiVersion"] == "batch/v1"


def test_a_jobset_is_seen_as_a_job_with_the_workers_of_all_its_groups() -> None:
    view = as_job(jobset(suspend=True))
    assert view["kind"] == "JobSet"
    assert view["metadata"]["uid"] == "set-1"
    assert view["spec"]["parallelism"] == view["spec"]["completions"] == 6
    assert view["spec"]["suspend"] is True
    assert view["spec"]["template"] == {"spec": {"containers": []}}
    assert event_sources(view) == [("JobSet", "digits"), ("Job", "digits-worker-0"), ("Job", "digits-worker-1")]
    assert owner_reference(view) == {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "name": "digits",
        "uid": "set-1",
        "controller": True,
    }


def test_active_pods_are_counted_by_the_jobs_where_they_are_known() -> None:
    assert as_job(jobset())["status"]["active"] == 2
    assert as_job(jobset(), [child(0, active=3), child(1, active=1)])["status"]["active"] == 4


def test_a_completed_jobset_is_complete_as_a_job_is() -> None:
    types = [entry["type"] for entry in as_job(jobset(condition("Completed")))["status"]["conditions"]]
    assert types == ["Complete"]


def test_a_failed_jobset_says_why_its_first_job_failed() -> None:
    rule = condition("Failed", reason="FailJobSetPolicy", message="a rule applied")
    late = condition("Failed", reason="PodFailurePolicy", message="echo", lastTransitionTime="2026-01-01T00:00:09Z")
    first = condition("Failed", reason="DeadlineExceeded", message="late", lastTransitionTime="2026-01-01T00:00:01Z")
    (seen,) = as_job(jobset(rule), [child(0, late), child(1, first)])["status"]["conditions"]
    assert (seen["type"], seen["reason"], seen["message"]) == ("Failed", "DeadlineExceeded", "late")
    (alone,) = as_job(jobset(rule))["status"]["conditions"]
    assert alone["reason"] == "FailJobSetPolicy"


def pod(group: str | None, index: str) -> Manifest:
    labels = {"batch.kubernetes.io/job-completion-index": index}
    annotations = {}
    if group is not None:
        labels["jobset.sigs.k8s.io/job-index"] = group
        annotations["orch/workers-per-group"] = "3"
    return {"metadata": {"name": f"digits-worker-{group}-{index}", "labels": labels, "annotations": annotations}}


def test_workers_are_counted_through_the_groups() -> None:
    pods = [pod(group, index) for group in "01" for index in "012"]
    assert [index_of(item) for item in pods] == [0, 1, 2, 3, 4, 5]
    assert index_of(pod(None, "7")) == 7
    assert index_of({"metadata": {"name": "stranger"}}) == -1


def event(about: str, reason: str, message: str) -> Manifest:
    return {"involvedObject": {"name": about}, "reason": reason, "message": message}


def test_pods_that_are_refused_to_a_group_are_told() -> None:
    refused = event("digits-worker-1", "FailedCreate", 'pods "x" is forbidden: exceeded quota: small')
    (trouble,) = diagnose(as_job(jobset()), [], [refused])
    assert "exceeded quota: small" in trouble.reason
    jobs = event("digits", "JobCreationFailed", 'jobs "x" is forbidden: exceeded quota: no jobs')
    (trouble,) = diagnose(as_job(jobset()), [], [jobs])
    assert "exceeded quota: no jobs" in trouble.reason


def test_pods_that_wait_for_the_first_of_their_group_are_no_trouble() -> None:
    for message in (
        'admission webhook "vpod.kb.io" denied the request: follower pod node selector not set',
        "leader pod not yet scheduled, not creating follower pod. this is an expected, transient error",
    ):
        assert diagnose(as_job(jobset()), [], [event("digits-worker-0", "FailedCreate", message)]) == []
